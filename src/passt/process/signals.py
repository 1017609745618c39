"""Signals of the main process.

Until the loop runs, signals have their default actions, whatever the caller ignored or blocked, so each ends
a start at once and the kernel cleans up. Then they are blocked, and the loop reads them from a signalfd.
ASKING is blocked all the time. SIGCHLD must not be ignored during a start and beside a command: the kernel
would discard the status of every child that ends (wait(2), "NOTES"). The command gets back what the caller
ignored and blocked; of INTERPRETERS, which Python ignores before we can look, those that the launcher saw
(`facts.launcher`).
"""

from __future__ import annotations

import os
import signal
import struct

from passt.facts.launcher import INTERPRETERS, ignored_signals
from passt.host import syscalls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

# Prints the counters, and is passed on to a command that handles it; stays pending until the loop runs.
ASKING = signal.SIGUSR1
# Passed on to the command.
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2, signal.SIGTERM,
             signal.SIGCONT, signal.SIGTSTP, signal.SIGWINCH)
# Has a file of rules read again, where there is one.
RELOADING = signal.SIGHUP
# Would stop us when we change the terminal from a background process group.
TERMINAL_STOPS = (signal.SIGTTIN, signal.SIGTTOU)
# End pasta when there is no command to pass them on to.
ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
# A caller that ignores one of these means the start too: nohup(1), and background jobs without job control
# (POSIX, "Asynchronous Lists"). All others end a start, or are needed by us.
RESPECTED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
# End PID 1 of an own PID namespace during its start, which the kernel does not do: those by which a user, a
# terminal or a program such as timeout(1) ends another one. SIGKILL does it anyway.
ENDING_START = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR2, signal.SIGALRM)
# Do nothing to a program in the background, which has no terminal to lose, and reads no configuration again.
UNHEEDED = (signal.SIGHUP, signal.SIGUSR2, signal.SIGALRM)
STATUS_OF_SIGNAL = 128  # the exit status of a process that a signal ends is this plus the signal's number

# The C library keeps these from programs (nptl(7)), yet its posix_spawn(3), by which make starts programs,
# leaves them ignored.
LIBRARY_SIGNALS = (32, 33)

_SI_KERNEL = 0x80  # asm-generic/siginfo.h: sent by the kernel, here by a terminal
_SIGNALFD_SIGINFO = struct.Struct("=IiiI112x")  # signalfd(2): ssi_signo, ssi_errno, ssi_code, ssi_pid, ...


class CallerSignals:
    """Signals that the caller *ignored* and *blocked*, as the command gets them back."""

    __slots__ = ("blocked", "ignored")

    def __init__(self, ignored: Iterable[int] = (), blocked: Iterable[int] = ()) -> None:
        self.ignored = frozenset(ignored)
        self.blocked = frozenset(blocked)


class ReceivedSignal:
    """One signal; *code* is its si_code."""

    __slots__ = ("code", "number")

    def __init__(self, number: int, code: int) -> None:
        self.number = number
        self.code = code

    @property
    def is_from_kernel(self) -> bool:
        """Tell whether a terminal sent it, that is to a whole process group."""
        return self.code == _SI_KERNEL

    @property
    def is_from_user(self) -> bool:
        """Tell whether a process sent it (SI_USER, SI_QUEUE, SI_TKILL), not F_SETSIG of a descriptor."""
        return self.code <= 0


class SignalReader:
    """Blocks *numbers* and reads them from the descriptor *fd*."""

    def __init__(self, numbers: Iterable[int]) -> None:
        numbers = tuple(numbers)
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        self.fd = syscalls.signalfd(numbers)

    def read(self) -> list[ReceivedSignal]:
        """Return the pending signals, maybe none."""
        try:
            data = os.read(self.fd, 32 * _SIGNALFD_SIGINFO.size)
        except BlockingIOError:
            return []
        return [ReceivedSignal(number, code) for number, _, code, _ in _SIGNALFD_SIGINFO.iter_unpack(data)]

    def close(self) -> None:
        """Close the descriptor; the signals stay blocked."""
        os.close(self.fd)


def let_signals_end_us() -> CallerSignals:
    """Give all signals except RESPECTED their default actions, and unblock all except ASKING.

    Returns what the caller had set. Python's handler for SIGINT is removed; INTERPRETERS stay ignored.
    """
    ignored = [number for number in signal.valid_signals() if number not in INTERPRETERS
               and signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        if number not in RESPECTED:
            signal.signal(number, signal.SIG_DFL)
    if signal.SIGINT not in ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, (ASKING,))
    return CallerSignals(ignored_signals().union(ignored), blocked)


def end_as_pid1() -> None:
    """Have the signals ENDING_START end us, as PID 1 of our own PID namespace, with a status that names them.

    A signal that the caller ignores stays ignored.
    """
    for number in ENDING_START:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _exit_by)


def _exit_by(number: int, _: object) -> None:
    os._exit(STATUS_OF_SIGNAL + number)


def read_ending(*, in_background: bool, reloads: bool = False) -> SignalReader:
    """Have the signals ENDING read by the loop from now on; others are what they are by default.

    With *reloads* RELOADING is read, too.

    In the background UNHEEDED are ignored; PID 1 of a PID namespace ignores all others too
    (pid_namespaces(7)). SIGCHLD is ignored: nobody waits for a child any more.
    """
    reader = SignalReader((*ENDING, RELOADING) if reloads else ENDING)
    for number in ENDING_START:
        if signal.getsignal(number) == _exit_by:
            signal.signal(number, signal.SIG_DFL)
    for number in (*(UNHEEDED if in_background else ()), signal.SIGCHLD):
        if number != RELOADING or not reloads:
            signal.signal(number, signal.SIG_IGN)
    return reader


def block_all() -> None:
    """Block every signal that can be blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def restore(caller: CallerSignals) -> None:
    """Ignore and block exactly the signals that the *caller* did, for a command that starts."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in caller.ignored else signal.SIG_DFL)
    for own in LIBRARY_SIGNALS:
        syscalls.set_default_action(own)
    signal.pthread_sigmask(signal.SIG_SETMASK, caller.blocked)


def die_by(number: int) -> None:
    """End by signal *number*, as a program without a handler for it would; returns only if that fails.

    A shell that runs a script goes on after a command that exits, but not after one that died by SIGINT.
    """
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
