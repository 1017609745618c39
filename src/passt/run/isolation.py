"""Takes paths, namespaces, capabilities and system calls away from the main process.

Paths are closed by an empty root directory, by Landlock, or by both, as the kernel offers: neither is to be
had everywhere. Own namespaces take CAP_SYS_ADMIN in some user namespace, which a hardened host may refuse;
Landlock takes Linux 5.13 and may be switched off. One is enough, so a failure of the other is told with -d
only. Without both the filter of system calls alone keeps paths closed, and a warning says so.
"""

from __future__ import annotations

import errno

from passt import log
from passt.process import empty_root, interpreter, landlock, privileges
from passt.process.seccomp import CallFilter
from passt.process.stages import COMMAND

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.dataplane.engine import Engine
    from passt.process.stages import Progress


class Isolation:
    """Isolates the main process of one start: `close_paths`, threads are started, `finish`.

    *thread_program* is the filter for a thread in the namespace, from `close_paths` on; empty for none.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._filter: CallFilter | None = None
        self.thread_program = b""

    def close_paths(self) -> None:
        """Go through the stages from "namespaces" to "landlock".

        All is open and loaded by now, this is the only thread, and the process forks no more.
        """
        if not self._progress.is_off("filter"):
            self._filter = CallFilter(self._progress.form)
            self.thread_program = self._filter.thread_program
        interpreter.close_paths()
        closed_by = [name for name, is_closed in (("an empty root directory", self._enter_empty_root()),
                                                  ("Landlock", self._restrict())) if is_closed]
        if closed_by:
            log.debug(f"paths are closed by {' and '.join(closed_by)}")
        else:
            log.warning("this process keeps sight of the host's files: there is neither a mount namespace nor"
                        " Landlock, or both are switched off")
        log.leave_paths()

    def finish(self, engine: Engine) -> None:
        """Go through "capabilities" and "filter"; *engine* will log refused calls. Raises HostError."""
        self._progress.enter("capabilities")
        privileges.drop_privileges()
        if self._progress.enter("filter") and self._filter is not None:
            self._filter.watch(engine)
            self._filter.install()

    def _enter_empty_root(self) -> bool:
        """Enter own namespaces and the empty root; return whether the root is empty now."""
        has_namespaces = False
        if self._progress.enter("namespaces"):
            try:
                empty_root.enter_namespaces()
                has_namespaces = True
            except OSError as error:
                _tell("mount, IPC and UTS namespaces of our own", error)
        if not self._progress.enter("root") or not has_namespaces:
            return False
        try:
            empty_root.enter()
        except OSError as error:
            _tell("empty root directory", error)
            return False
        return True

    def _restrict(self) -> bool:
        """Have Landlock close all paths; return whether it does."""
        if not self._progress.enter("landlock"):
            return False
        try:
            # The main process has to be able to end the command's PID 1.
            version = landlock.restrict(signals=self._progress.form != COMMAND)
        except OSError as error:
            _tell("Landlock", error)
            return False
        log.debug(f"Landlock version {version}")
        return True


def _tell(what: str, error: OSError) -> None:
    """Log that the kernel does not offer *what*. Raises *error* again if only a descriptor is lacking."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error
    log.debug(f"no {what}: {error.strerror}")
