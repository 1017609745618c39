"""The begin of a process that helps the main one: the helper for low ports, the forwarder of names."""

from __future__ import annotations

import os

from passt import log
from passt.host import descriptors
from passt.process import signals
from passt.process.process_name import take_name

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable


def detach(name: str, keep: Iterable[int]) -> None:
    """Let go of the caller's terminal, directory and descriptors; those of *keep* stay, and the log's.

    The process is called *name* in lists of processes: who looks for pasta or passt wants the main one.
    Signals are blocked: such a process ends with its channel, or by SIGKILL. Raises OSError or HostError.
    """
    signals.block_all()
    take_name(name)
    os.setsid()
    os.chdir("/")
    descriptors.tidy_descriptors((*keep, *log.descriptors()))
    null = descriptors.open_null()
    for fd in range(descriptors.FIRST_OWN_FD):
        os.dup2(null, fd)
    os.close(null)
