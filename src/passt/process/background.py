"""Readiness as the caller sees it: the pid file, and the way to the background.

Theory of operation. To go to the background the process forks once, at the very start: the child does the
whole start and serves, the parent waits. When the child is ready it writes the pid file, makes a session of
its own (setsid(2)), replaces standard input, output and error by /dev/null, and tells the parent, which exits
with status 0. So the exit means ready, and a caller that reads our output to its end gets the end then. A
child that fails prints the reason on standard error, which it still shares with the parent; the parent exits
with the child's status, or ends by the signal that ended the child. The fork comes early because threads do
not survive a fork(2), and a signalfd in an epoll instance would report the parent's signals (signalfd(2)).

If the parent is killed during the start, the kernel kills the child too (PR_SET_PDEATHSIG(2const)). The
kernel drops that setting when a process changes its credentials, so `Background.hold` sets it again and
checks that the parent is still there. At the end, when the parent's exit must no longer kill the child, both
agree: the child clears the setting, reports, and waits for the parent's consent, which the parent gives when
no signal can change its status any more.

The pid file is opened at the start, with the caller's rights and working directory, and emptied: content
means that the process is ready. Once ready, we never remove it.
"""

from __future__ import annotations

import os
import select
import signal
import stat

from passt import log
from passt.errors import ConfigError, HostError
from passt.host import descriptors, syscalls
from passt.log.output_file import open_output
from passt.process import signals

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import NoReturn

_READY = b"\0"
_NO_PARENT = "the process that started this one has ended"


class Background:
    """One start, from the first step to readiness; *pid_file* is a path, or None. Raises ConfigError."""

    def __init__(self, pid_file: str | None = None) -> None:
        self._path = pid_file
        self._pid_fd = -1
        self._parent_fd = -1
        self._consent_fd = -1
        self._made: str | None = None  # the path of the pid file, if we created it
        if pid_file is not None:
            self._open(pid_file)

    def _open(self, path: str) -> None:
        try:
            self._pid_fd, self._made = open_output(path, os.O_WRONLY)
            if stat.S_ISREG(os.fstat(self._pid_fd).st_mode):
                os.ftruncate(self._pid_fd, 0)
        except (OSError, ValueError) as error:
            self.fail()
            why = error.strerror if isinstance(error, OSError) else "not a path"
            raise ConfigError(f"option '--pid' {path}: cannot open the file for writing: {why}") from None

    def go_to_background(self) -> None:
        """Fork; return in the child only. The parent stays until the child is ready, or has ended."""
        readiness, ours = os.pipe()  # close-on-exec: Python's default
        self._consent_fd, consent = os.pipe()
        try:
            child, _ = syscalls.clone(0, signal.SIGKILL)
        except OSError as error:
            raise HostError(f"cannot go to the background: {error.strerror}") from None
        if child:
            os.close(ours)
            os.close(self._consent_fd)
            self._wait(child, readiness, consent)
        os.close(readiness)
        os.close(consent)
        self._parent_fd = ours
        self._check_parent()

    def hold(self) -> None:
        """Have the kernel kill us with the parent again; call after a change of credentials."""
        if self._parent_fd >= 0:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            self._check_parent()

    def announce(self) -> None:
        """Write the pid file and, in the background, leave the caller's session and let the parent exit."""
        if self._parent_fd >= 0:
            self.hold()
        if self._pid_fd >= 0:
            self._write_pid()
        self._made = None         # from now on the file is the caller's
        if self._parent_fd >= 0:
            self._part()
        if self._pid_fd >= 0:
            os.close(self._pid_fd)
            self._pid_fd = -1

    def fail(self) -> None:
        """Remove the pid file if we created it and `announce` has not been called."""
        if self._made is not None and self._parent_fd < 0:
            made, self._made = self._made, None
            try:
                os.unlink(made)
            except OSError:
                return

    def _wait(self, child: int, readiness: int, consent: int) -> NoReturn:
        """Wait for the child: exit with 0 when it is ready, else as the child ended."""
        if os.read(readiness, 1) == _READY:
            signals.block_all()
            try:
                os.write(consent, _READY)
                os._exit(0)
            except OSError:
                pass              # the child ended after its report
            os.close(consent)
        status = os.waitpid(child, 0)[1]
        self.fail()
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number not in signals.ENDING:
                log.err(f"the process in the background was ended by signal {number} during its start")
            signals.die_by(number)
        os._exit(os.WEXITSTATUS(status) or 1)

    def _check_parent(self) -> None:
        poll = select.poll()
        poll.register(self._parent_fd, 0)
        if poll.poll(0):  # POLLERR: the parent's end of the pipe is closed
            raise HostError(_NO_PARENT)

    def _write_pid(self) -> None:
        try:
            os.write(self._pid_fd, f"{os.getpid()}\n".encode())
        except OSError as error:
            try:
                os.ftruncate(self._pid_fd, 0)
            except OSError:
                pass              # a device, which cannot be truncated
            raise HostError(f"option '--pid' {self._path}: cannot write the file: {error.strerror}") from None

    def _part(self) -> None:
        """Leave the caller's session, directory and standard descriptors; then report to the parent."""
        os.setsid()
        os.chdir("/")
        null = descriptors.open_null()
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
        for fd in range(3):       # standard error last: a failure can be printed until then
            os.dup2(null, fd)
        log.leave_terminal()
        os.close(null)
        try:
            os.write(self._parent_fd, _READY)
            consent = os.read(self._consent_fd, 1)
        except OSError:
            consent = b""
        if consent != _READY:
            self._withdraw()
        os.close(self._parent_fd)
        os.close(self._consent_fd)
        self._parent_fd = self._consent_fd = -1

    def _withdraw(self) -> NoReturn:
        """Empty the pid file, as the parent ended before it could report readiness. Raises HostError."""
        if self._pid_fd >= 0:
            try:
                os.ftruncate(self._pid_fd, 0)
            except OSError:
                pass
        raise HostError(_NO_PARENT)
