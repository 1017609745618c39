"""Sockets of the host and of the namespace, and pipes."""
