"""Typing of the compiled link of vhost-user: what a session has to know of it; `Engine.attach_vhost` makes one."""

OFFERED_FEATURES: int
MAX_QUEUE_PAIRS: int

def prepare() -> None:
    """Do what a filter of system calls may forbid later. Raises OSError."""
