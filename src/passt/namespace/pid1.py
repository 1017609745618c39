"""PID 1 of the command's namespaces: sets them up, starts the command, reaps orphans, ends.

Life: `prepare_namespaces`, then the tap is made and handed over (`child.make_tap`), then `run_command`
waits for START and the command runs as a child. PID 1 itself blocks every signal and sleeps in poll(2)
on two descriptors, a signalfd for SIGCHLD and the channel to the main process, without a timeout.

* The main process ends: the kernel kills us (PR_SET_PDEATHSIG), then all other processes of the PID
  namespace.
* The command ends: we send its status to the main process, end at once with that status, and so end all
  other processes of the PID namespace (pid_namespaces(7)).
* The command stops or continues: we send a message, and the main process does the same.
* Orphans become our children and are reaped.

The command is root in these namespaces: it may mount over any path and send any message. So PID 1 is closed
to it (`privileges.close_to_others`), holds no descriptor of the host's network, and opens no path once the
command runs; with --conf-path it holds the directory of that socket, to remove its file (`socket_file`).

The command starts with the caller's ignored and blocked signals (see `signals.let_signals_end_us`), limits,
environment and working directory, and with the descriptors 0, 1 and 2 only.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket

from passt import log
from passt.errors import explain_refusal
from passt.host import descriptors, syscalls
from passt.namespace import terminal
from passt.namespace.child_channel import Channel, Kind
from passt.process import signals

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from passt.namespace.socket_file import SocketFile

EXIT_NOT_EXECUTABLE = 126  # as in POSIX, "Exit Status for Commands"
EXIT_NOT_FOUND = 127
HOSTNAME_PREFIX = "pasta-"
HOST_NAME_MAX = 64
START_OWN_GROUP = 1
START_FOREGROUND = 2

_MAX_STATUS_LEN = 1 << 16
_PING_GROUPS = "/proc/sys/net/ipv4/ping_group_range"


class Command:
    """What to run: *argv* (empty: a login shell), with the file limits and signals of the caller."""

    __slots__ = ("argv", "file_limits", "signals")

    def __init__(self, argv: Sequence[str], file_limits: tuple[int, int],
                 caller_signals: signals.CallerSignals) -> None:
        self.argv = tuple(argv)
        self.file_limits = file_limits
        self.signals = caller_signals


def prepare_namespaces(hostname: str = "") -> None:
    """Make the new namespaces usable: /proc, host name, ping sockets for everybody. Failures are warnings.

    *hostname* is cut to the kernel's limit; if it is empty, the name is made from the host's.
    Mounts are slaves of the host's: later mounts of the host appear here, mounts made here do not appear
    there.
    """
    try:
        syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_SLAVE)
        syscalls.mount(b"proc", b"/proc", b"proc",
                       syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    except OSError as error:
        # A container that covers parts of /proc may not mount another /proc (mount_namespaces(7)).
        log.warning(f"cannot mount /proc in the new namespaces: {error.strerror}")
    try:
        fd = os.open(_PING_GROUPS, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0 0")
        finally:
            os.close(fd)
    except OSError as error:
        log.warning(f"cannot write {_PING_GROUPS} in the new namespaces: {error.strerror}")
    try:
        name = hostname or HOSTNAME_PREFIX + socket.gethostname()
        syscalls.sethostname(os.fsencode(name)[:HOST_NAME_MAX])
    except OSError as error:
        log.warning(f"cannot set the host name in the new namespaces: {error.strerror}")


def run_command(channel: Channel, command: Command, socket_file: SocketFile | None = None) -> NoReturn:
    """Wait for START, run *command* until it ends, remove *socket_file*, and end with its status."""
    message = channel.receive(Kind.START, wait=True)
    if message is None:
        _end(1, socket_file)
    own_group = bool(message.payload[0] & START_OWN_GROUP)
    foreground = bool(message.payload[0] & START_FOREGROUND)
    try:
        kept = socket_file.descriptors() if socket_file is not None else ()
        descriptors.tidy_descriptors((channel.fileno(), *log.descriptors(), *kept))
        gate, opener = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(opener)
            os.read(gate, 1)
            _become(command, own_group=own_group, foreground=foreground)
        os.close(gate)
        keeper = _Keeper(channel, child, socket_file)
        descriptors.leave_stdio(descriptors.open_null())
        os.close(opener)          # the command runs from here on
        keeper.run()
    except OSError as error:
        # The main process no longer waits for FAILED.
        log.err(f"pasta: cannot run the command: {explain_refusal(error)}")
        _end(1, socket_file)


def _end(status: int, socket_file: SocketFile | None) -> NoReturn:
    """End with *status*, and all other processes of the namespace with us; remove *socket_file*."""
    if socket_file is not None:
        socket_file.remove()
    os._exit(status)


class _Keeper:
    """Watches the command, process *child*; made before that runs. Removes *socket_file* at the end."""

    def __init__(self, channel: Channel, child: int, socket_file: SocketFile | None = None) -> None:
        self._channel = channel
        self._socket_file = socket_file
        self._child = child
        self._status = open_status(child)
        self._terminal = terminal.open_terminal()
        self._child_signals = signals.SignalReader((signal.SIGCHLD,))

    def run(self) -> NoReturn:
        """Serve until the command or the main process ends."""
        poll = select.poll()
        poll.register(self._child_signals.fd, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        while True:
            self._reap()
            for fd, _ in poll.poll():
                if fd == self._child_signals.fd:
                    self._child_signals.read()
                else:
                    self._handle_message()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child:
                self._report(status)

    def _report(self, status: int) -> None:
        if os.WIFSTOPPED(status):
            self._channel.send(Kind.STOPPED, bytes((os.WSTOPSIG(status),)))
        elif os.WIFCONTINUED(status):
            self._channel.send(Kind.CONTINUED)
        else:
            self._channel.send_ended(status)
            _end(exit_status(status), self._socket_file)

    def _handle_message(self) -> None:
        # Does not block: the descriptor may be empty again after poll(2).
        message = self._channel.receive(Kind.SIGNAL, Kind.RESUME, wait=False)
        if message is None:
            if self._channel.has_ended:
                _end(1, self._socket_file)
            return
        try:
            if message.kind is Kind.SIGNAL:
                self._pass_on(message.payload[0], to_group=bool(message.payload[1]))
            else:
                self._resume(foreground=bool(message.payload[0]))
        except (ProcessLookupError, PermissionError):
            return                # it runs a set-user-ID program of another user

    def _pass_on(self, number: int, *, to_group: bool) -> None:
        # A terminal signals whole groups: a command in our group has got this signal already.
        if not (to_group and self._is_in_our_group()) and (
                number != signals.ASKING or handles(self._status, number)):
            os.kill(self._child, number)

    def _resume(self, *, foreground: bool) -> None:
        if self._is_in_our_group():
            os.kill(self._child, signal.SIGCONT)
            return
        group = os.getpgid(self._child)
        if foreground and self._terminal >= 0:
            terminal.give_terminal(self._terminal, group)
        os.killpg(group, signal.SIGCONT)

    def _is_in_our_group(self) -> bool:
        """Tell whether the command is in our process group, which comes from outside: 0 in our namespace."""
        return os.getpgid(self._child) == os.getpgrp()


def open_status(pid: int) -> int:
    """Open the status of process *pid* for `handles`; -1 if /proc is not of our PID namespace."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return -1
        return os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def handles(status: int, number: int) -> bool:
    """Tell whether a process, by its *status*, does something on signal *number*, so that it may be sent."""
    try:
        lines = os.pread(status, _MAX_STATUS_LEN, 0).splitlines()
    except OSError:
        return False
    return any(int(line.split()[1], 16) >> (number - 1) & 1
               for line in lines if line.startswith((b"SigIgn:", b"SigCgt:")))


def exit_status(status: int) -> int:
    """Return what a shell makes of a wait *status*: the exit status, or 128 + the signal."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _become(command: Command, *, own_group: bool, foreground: bool) -> NoReturn:
    """Turn this process into *command*; never returns."""
    status = 1
    try:
        if own_group:
            os.setpgid(0, 0)
            if foreground:
                fd = terminal.open_terminal()
                if fd >= 0:
                    terminal.give_terminal(fd, os.getpgrp())
        descriptors.restore_file_limit(command.file_limits)
        descriptors.close_descriptors(descriptors.FIRST_OWN_FD, 0xFFFF_FFFF)
        signals.restore(command.signals)
        status = execute(command.argv)
    except OSError as error:
        log.err(f"pasta: cannot start the command: {explain_refusal(error)}")
    except BaseException as error:  # noqa: BLE001 - this process must not go on as a copy of PID 1
        log.failure("pasta", error)
    finally:
        os._exit(status)


def execute(argv: Sequence[str]) -> int:
    """Replace this process by *argv*, or by a login shell if it is empty.

    Returns only if that fails, after one line on standard error, with the status that shells use: 127 if
    there is no such command, 126 if it cannot be executed.
    """
    if not argv:
        shell = os.environ.get("SHELL") or "/bin/sh"
        argv, name = (shell,), f"-{shell}"
    else:
        name = argv[0]
    error = _try_paths(argv, name)
    log.err(f"pasta: cannot run '{argv[0]}': {error.strerror}")
    return EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_EXECUTABLE


def _try_paths(argv: Sequence[str], name: str) -> OSError:
    """Try to execute argv[0] in each directory of PATH; return the most telling error."""
    program = argv[0]
    if not program:
        return OSError(errno.ENOENT, "command not found")
    if "/" in program:
        return _try_execute(program, argv, name)
    found: OSError | None = None
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = f"{directory}/{program}" if directory else f"./{program}"
        error = _try_execute(path, argv, name)
        # A directory of PATH that cannot be searched does not mean that the command exists.
        if error.errno not in (errno.ENOENT, errno.ENOTDIR) and found is None and os.path.lexists(path):
            found = error
    return found or OSError(errno.ENOENT, "command not found")


def _try_execute(path: str, argv: Sequence[str], name: str) -> OSError:
    """Execute *path*; a text file without an interpreter line is a script for sh, as in execvp(3)."""
    try:
        os.execv(path, (name, *argv[1:]))  # noqa: S606 - running the user's command is what we are for
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            return error
    try:
        os.execv("/bin/sh", ("sh", path, *argv[1:]))  # noqa: S606 - as above
    except OSError as error:
        return error
