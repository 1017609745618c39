"""Readiness as the caller sees it: the pid file, and the way to the background.

Theory of operation. To go to the background the process forks once, when it has the user and the user
namespace that it will have: the child does the rest of the start and serves, the parent waits. When the child
is ready it writes the pid file, makes a session of its own (setsid(2)), replaces standard input, output and
error by /dev/null, and tells the parent, which exits with status 0. So the exit means ready, and a caller
that reads our output to its end gets the end then. A child that fails prints the reason on standard error,
which it still shares with the parent; the parent exits with the child's status, or ends by the signal that
ended the child. The fork comes before all threads, which do not survive a fork(2), and before epoll, as a
signalfd in an epoll instance would report the parent's signals (signalfd(2)).

Where the kernel permits it, the child is PID 1 of a PID namespace of its own: it sees no process of the host,
and can signal none. Its PID as the caller sees it comes from the parent, for the pid file and for messages.
The kernel keeps signals with default actions from PID 1 (pid_namespaces(7)), so during the start handlers
end it (`signals.end_as_pid1`), with a status of which the parent makes the signal again.

If the parent is killed during the start, the kernel kills the child too (PR_SET_PDEATHSIG(2const)). The
kernel drops that setting when a process changes its credentials, so `Background.hold` sets it again and
checks that the parent is still there. At the end, when the parent's exit must no longer kill the child, both
agree: the child clears the setting, reports, and waits for the parent's consent, which the parent gives when
no signal can change its status any more.

The pid file is opened at the start, with the caller's rights and working directory, and emptied: content
means that the process is ready. Once ready, we never remove it; until then `StartFiles` does.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import struct

from passt import log
from passt.errors import ConfigError, HostError
from passt.host import descriptors, syscalls
from passt.log.output_file import open_output
from passt.process import signals
from passt.process.start_files import StartFiles

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from passt.process.service_manager import ServiceManager

_READY = b"\0"
_PID = struct.Struct("=i")
_NO_PARENT = "the process that started this one has ended"


class Background:
    """One start, from the first step to readiness; *pid_file* is a path, or None. Raises ConfigError."""

    def __init__(self, pid_file: str | None = None) -> None:
        self._path = pid_file
        self._pid = os.getpid()   # as the caller sees it
        self._pid_fd = -1
        self._parent_fd = -1
        self._consent_fd = -1
        self._null_fd = -1
        self._files = StartFiles()
        # Called in the parent with the child's PID, before the child goes on; returns a file that it made.
        self.on_fork: Callable[[int], str] | None = None
        # In the foreground: who waits for the process itself to say that it is ready.
        self.manager: ServiceManager | None = None
        if pid_file is not None:
            self._open(pid_file)

    def _open(self, path: str) -> None:
        self._files.watch()
        try:
            self._pid_fd, made = open_output(path, os.O_WRONLY)
            if made is not None:
                self._files.add(made)
            if stat.S_ISREG(os.fstat(self._pid_fd).st_mode):
                os.ftruncate(self._pid_fd, 0)
        except (OSError, ValueError) as error:
            self.fail()
            why = error.strerror if isinstance(error, OSError) else "not a path"
            raise ConfigError(f"option '--pid' {path}: cannot open the file for writing: {why}") from None

    def go_to_background(self, *, own_pids: bool) -> None:
        """Fork; return in the child only. The parent stays until the child is ready, or has ended.

        With *own_pids* the child gets a PID namespace of its own if that is permitted. Raises HostError.
        """
        readiness, ours = os.pipe()  # close-on-exec: Python's default
        self._consent_fd, consent = os.pipe()
        child = _fork(own_pids=own_pids)
        if child:
            os.close(ours)
            os.close(self._consent_fd)
            if self.on_fork is not None:
                self.has_made(self.on_fork(child))
            try:
                os.write(consent, _PID.pack(child))
            except OSError:
                os.close(consent)  # it has ended already, or will end when it reads
            self._wait(child, readiness, consent)
        os.close(readiness)
        os.close(consent)
        self._files.leave_to_parent()
        self._parent_fd = ours
        self._check_parent()
        data = os.read(self._consent_fd, _PID.size)
        if len(data) < _PID.size:
            raise HostError(_NO_PARENT)
        self._pid = _PID.unpack(data)[0]
        log.set_pid(self._pid)
        if os.getpid() == 1:
            signals.end_as_pid1()

    def expect_file(self) -> None:
        """Prepare for a file that the start will create; call with the caller's rights."""
        self._files.watch()

    def has_made(self, path: str) -> None:
        """Have *path*, a file that the start has created, removed if the start fails."""
        self._files.add(path)

    def prepare(self) -> None:
        """Do what `announce` needs paths for: open /dev/null, and leave the caller's directory.

        An empty root directory would take us out of it too, but that is not to be had everywhere.
        """
        if self._parent_fd >= 0:
            self._null_fd = descriptors.open_null()
            os.chdir("/")

    def hold(self) -> None:
        """Have the kernel kill us with the parent again; call after a change of credentials."""
        if self._parent_fd >= 0:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            self._check_parent()

    def announce(self) -> None:
        """Write the pid file, tell a service manager; in the background, leave the session of the caller.

        There the parent exits then, which is what its caller waits for.
        """
        if self._parent_fd >= 0:
            self.hold()
        if self._pid_fd >= 0:
            self._write_pid()
        if self._parent_fd >= 0:
            self._part()
        self._files.keep()
        if self._pid_fd >= 0:
            os.close(self._pid_fd)
            self._pid_fd = -1
        if self.manager is not None:
            self.manager.tell_ready()

    def fail(self) -> None:
        """Remove the files that the start has created, unless `announce` has been called."""
        self._files.remove()

    def _wait(self, child: int, readiness: int, consent: int) -> NoReturn:
        """Wait for the child: exit with 0 when it is ready, else as the child ended."""
        try:
            self._files.give_up_rights()
        except OSError:
            pass                  # the child will fail by that too, and says so
        if os.read(readiness, 1) == _READY:
            signals.block_all()
            # Before the consent: a kill between that and our exit would leave a program that has "failed".
            self._files.dismiss_guard()
            try:
                os.write(consent, _READY)
                os._exit(0)
            except OSError:
                os.close(consent)  # the child ended after its report
        status = os.waitpid(child, 0)[1]
        self.fail()
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number not in signals.ENDING:
                log.err(f"the process in the background was ended by signal {number} during its start")
            signals.die_by(number)
        if os.WEXITSTATUS(status) > signals.STATUS_OF_SIGNAL:
            signals.die_by(os.WEXITSTATUS(status) - signals.STATUS_OF_SIGNAL)
        os._exit(os.WEXITSTATUS(status) or 1)

    def _check_parent(self) -> None:
        poll = select.poll()
        poll.register(self._parent_fd, 0)
        if poll.poll(0):  # POLLERR: the parent's end of the pipe is closed
            raise HostError(_NO_PARENT)

    def _write_pid(self) -> None:
        try:
            os.write(self._pid_fd, f"{self._pid}\n".encode())
        except OSError as error:
            try:
                os.ftruncate(self._pid_fd, 0)
            except OSError:
                pass              # a device, which cannot be truncated
            raise HostError(f"option '--pid' {self._path}: cannot write the file: {error.strerror}") from None

    def _part(self) -> None:
        """Leave the caller's session and standard descriptors; then report to the parent."""
        os.setsid()
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
        for fd in range(3):       # standard error last: a failure can be printed until then
            os.dup2(self._null_fd, fd)
        log.leave_terminal()
        os.close(self._null_fd)
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


def _fork(*, own_pids: bool) -> int:
    """Fork as `syscalls.clone` does; return the child's PID, 0 in the child. Raises HostError."""
    try:
        if own_pids:
            try:
                return syscalls.clone(syscalls.CLONE_NEWPID, signal.SIGKILL)[0]
            except OSError as error:
                log.debug(f"no PID namespace of our own: {error.strerror}")
        return syscalls.clone(0, signal.SIGKILL)[0]
    except OSError as error:
        raise HostError(f"cannot go to the background: {error.strerror}") from None
