"""The control socket of --control: what the running program is and does, as JSON by HTTP on a UNIX socket.

`server` accepts clients, `client` talks HTTP with one of them (the package h11 knows the protocol), `routes`
is the table of what can be asked, `api` answers. Nothing here is imported unless --control is given, and all
of it before paths are closed.
"""
