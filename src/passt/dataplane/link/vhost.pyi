"""Typing of the link of vhost-user; `Engine.attach_vhost` makes one."""

def prepare() -> None:
    """Do what a filter of system calls may forbid later. Raises OSError."""
