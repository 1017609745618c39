"""The start that pasta and passt share: put the process in order, go to the background, run the program.

The programs are `run.pasta` and `run.passt`; each builds a `Network` and attaches its own kind of link to it.
Modules are imported where they are needed, to keep the start short.
"""

from __future__ import annotations

import os
import sys

from passt import log
from passt.host import descriptors
from passt.host.process_name import take_name
from passt.process import privileges, signals
from passt.process.background import Background

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.settings import Settings


def run(settings: Settings) -> int:
    """Run the program of *settings* until it ends; return the exit status.

    Call it once, early, with one thread: it closes all descriptors above 2 except those of the log, of --fd,
    and of a service manager for a port rule. Unless *settings* keep it in the foreground, the program forks
    and this returns in the child only; the parent exits with status 0 when the child is ready, else with the
    child's status. Raises PasstError. After Ctrl-C it may not return, but end the process by SIGINT.
    """
    sys.unraisablehook = _on_ignored
    take_name(settings.mode)
    privileges.close_to_others()
    handed_over = [] if settings.socket.fd is None else [settings.socket.fd]
    if settings.forwarding.takes_sockets:
        from passt.host import inherited_sockets

        handed_over += inherited_sockets.list_handed_over()
    descriptors.tidy_descriptors((*log.descriptors(), *handed_over))
    caller = privileges.Caller(descriptors.raise_file_limit(), signals.let_signals_end_us())
    background = Background(settings.process.pid_file)
    try:
        if "NOTIFY_SOCKET" in os.environ and settings.process.foreground:
            from passt.process.service_manager import ServiceManager

            background.manager = ServiceManager.from_environment()
        if settings.mode == "passt":
            from passt.run import passt

            return passt.run(settings, background)
        from passt.run import pasta

        return pasta.run(settings, caller, background)
    except BaseException:
        background.fail()
        raise


def _on_ignored(ignored: sys.UnraisableHookArgs) -> None:
    """Log an exception that no caller can catch (sys.unraisablehook): standard error may be closed."""
    if ignored.exc_value is None:
        return
    text = "; ".join(line.strip() for line in log.describe_failure(ignored.exc_value)[:2])
    log.limited(log.ERR, "ignored", f"an error was ignored in {ignored.object!r}: {text}")
