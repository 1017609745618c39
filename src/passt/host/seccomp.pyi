"""Typing of the compiled loader of system call filters."""

MAX_CALL: int
LOADER: object
"""What `load` does, as a C function in a capsule, for a thread that runs no Python."""

def handle_refusals(event_fd: int) -> None:
    """Have refused calls return ENOSYS, and the first refusal of each add 1 to the eventfd *event_fd*.

    For the whole process and for good. Raises OSError.
    """

def load(program: bytes) -> None:
    """Put the calling thread under *program*, an array of struct sock_filter, for good; sets no_new_privs.

    Raises OSError: EINVAL or ENOSYS where the kernel has no filters, EPERM or EACCES where it is forbidden.
    """

def refusals() -> dict[int, tuple[int, ...]]:
    """Give all calls refused so far, by number, with the first arguments of the last refusal.

    Numbers above MAX_CALL are counted as MAX_CALL.
    """
