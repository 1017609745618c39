"""Starts a QEMU that cannot connect by itself, with its network on the socket of a running passt."""
