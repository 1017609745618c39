"""The protocol by which an emulator shares memory and rings with passt: QEMU, "Vhost-user Protocol".

`messages` turns bytes into values and back, `connection` reads and sends them with their descriptors, and
`session` carries requests out on a `facts.contracts.VhostDevice`. The front end is hostile: what it must not
do ends its session, with one line that names the request and what is wrong.
"""
