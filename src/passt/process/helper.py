"""The begin of a process that helps the main one: what each of them lets go of, and gives up.

They are the helper for low ports and the forwarder of names. The readers of files and the configurer are
programs of their own, and do the same by `src/helpers/confine.c`.
"""

from __future__ import annotations

import os

from passt import log
from passt.host import descriptors
from passt.host.process_name import take_name
from passt.process import empty_root, interpreter, landlock, privileges, signals
from passt.process.seccomp import CallFilter

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.process.identity import Identity


def detach(name: str, keep: Iterable[int], life: tuple[int, int]) -> None:
    """Let go of the caller's terminal, directory and descriptors; those of *keep* stay, and the log's.

    The process is called *name* in lists of processes: who looks for pasta or passt wants the main one.
    Signals are blocked: such a process ends with its channel, or by SIGKILL, which comes with the end of the
    main process: *life* is a pipe of its, read end and write end. Raises OSError or HostError.
    """
    signals.block_all()
    take_name(name)
    os.setsid()
    os.chdir("/")
    descriptors.tidy_descriptors((*keep, life[0], *log.descriptors()))
    null = descriptors.open_null()
    for fd in range(descriptors.FIRST_OWN_FD):
        os.dup2(null, fd)
    os.close(null)
    descriptors.end_with(life[0])


def confine(form: str, user: Identity | None = None, *, right: int | None = None,
            enters_empty_root: bool = False) -> None:
    """Give up all but the system calls of the filter *form*, and the capability *right* if there is one.

    The process becomes *user* before. Call when all is loaded, with one thread. Raises OSError or HostError.
    """
    if user is not None:
        user.assume()
    call_filter = CallFilter(form)
    interpreter.close_paths()
    try:
        if enters_empty_root:
            empty_root.enter_namespaces()
            empty_root.enter()
    except OSError:
        pass                       # Landlock closes paths then
    try:
        landlock.restrict(signals=True)
    except OSError:
        pass                       # the filter is there in any case
    if right is None:
        privileges.drop_privileges()
    else:
        privileges.keep_one(right)
    call_filter.install()
