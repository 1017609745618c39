"""Readiness as callers see it: the pid file, and the way to the background.

Theory of operation. To go to the background the process forks once, at the very start: the child does
all of the start and serves, the parent waits. When the child is ready it fills the pid file, becomes a
session of its own, lets go of standard input, output and error, and tells the parent, which exits with
status 0. So the exit means ready, and who waits for the end of our output gets it. A child that fails
has told its reason on standard error, which it shares with the parent until then; the parent exits
with its status, or dies by the signal that it died by. The fork comes early because neither threads nor
what an epoll instance knows of signals survive one.

The child does not outlive a parent that is killed during the start: the kernel ends it with the parent.
At the end, when the parent's exit must not end the child any more, both have to agree: the child waits for
the parent's consent, which is given when no signal can change the parent's status any more.
The kernel forgets that wish when a process changes its credentials (PR_SET_PDEATHSIG(2const)), hence
`Background.hold`; and before it announces itself the child looks whether the parent is still there.

The pid file is opened at the start, with the caller's rights, in the directory that a relative path
counts from, and emptied: content says that its process is ready. It is never removed after that.
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
        self._made = False
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
        readiness, ours = os.pipe()  # close-on-exec, as all that Python opens
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
        """End with the parent again, after credentials were changed."""
        if self._parent_fd >= 0:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            self._check_parent()

    def announce(self) -> None:
        """Tell everybody that all is ready, and part from the caller if we are in the background."""
        if self._parent_fd >= 0:
            self.hold()
        if self._pid_fd >= 0:
            self._write_pid()
        self._made = False  # from now on the file is the caller's
        if self._parent_fd >= 0:
            self._part()
        if self._pid_fd >= 0:
            os.close(self._pid_fd)
            self._pid_fd = -1

    def fail(self) -> None:
        """Take the pid file away again, if it was us who made it, and the start has not been announced."""
        if self._made and self._path is not None and self._parent_fd < 0:
            self._made = False
            try:
                os.unlink(self._path)
            except OSError:
                return

    def _wait(self, child: int, readiness: int, consent: int) -> NoReturn:
        """Exit when the child is ready, or as it did."""
        if os.read(readiness, 1) == _READY:
            signals.block_all()
            try:
                os.write(consent, _READY)
                os._exit(0)
            except OSError:
                pass              # it ended at the last moment
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
        if poll.poll(0):  # POLLERR: nobody reads the pipe
            raise HostError(_NO_PARENT)

    def _write_pid(self) -> None:
        try:
            os.write(self._pid_fd, f"{os.getpid()}\n".encode())
        except OSError as error:
            try:
                os.ftruncate(self._pid_fd, 0)
            except OSError:
                pass              # a device, which keeps nothing
            raise HostError(f"option '--pid' {self._path}: cannot write the file: {error.strerror}") from None

    def _part(self) -> None:
        """Let go of the caller: session, directory, standard descriptors; then tell the parent."""
        os.setsid()
        os.chdir("/")
        null = descriptors.open_null()
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
        for fd in range(3):       # standard error comes last: what is refused can be told until then
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
        """End, as the parent has: nobody was told that we are ready. Raises HostError, for a tidy end."""
        if self._pid_fd >= 0:
            try:
                os.ftruncate(self._pid_fd, 0)
            except OSError:
                pass
        raise HostError(_NO_PARENT)
