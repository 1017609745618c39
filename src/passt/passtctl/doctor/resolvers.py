"""The name servers of resolv.conf, read as the programs do, and each asked whether it lives.

Each server is asked by UDP for the address of a root server, as dnsdist does by default to see whether a
server lives: any answer is one, a refusal too. Datagrams get lost, so the question is sent again after a
while. All servers are asked at once, on one thread and within `ASK_S` seconds; what does not answer the
question that was asked is not looked at, and does not lengthen that time.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

from passt.errors import HostError
from passt.host import resolvconf
from passt.passtctl.doctor.finding import ERROR, OK, WARNING, Finding

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from passt.facts.address import IPAddress
    from passt.passtctl.doctor.machine import Machine

SUBJECT = "name servers"
RESOLV_CONF = "/etc/resolv.conf"
ASK_S = 1.6
AGAIN_S = 0.6
DNS_PORT = 53

# RFC 1035 4.1.1: id, flags, four counts. Of the flags: a response, recursion desired, and the code.
_HEADER = struct.Struct("!HHHHHH")
_RESPONSE, _RECURSION, _CODE = 0x8000, 0x0100, 0x000F
_SERVFAIL = 2
_NAME = b"\x01a\x0croot-servers\x03net\x00"
_QUESTION = _NAME + struct.pack("!HH", 1, 1)     # type A, class IN
_MAX_DATAGRAM = 4096
_STUB, _RESOLVED = "127.0.0.53", "/run/systemd/resolve"     # systemd-resolved.service(8)


SILENT = "it did not answer"


def check(machine: Machine, ask: Callable[[Sequence[IPAddress]], list[str]] | None = None) -> list[Finding]:
    """Say which servers there are, which of them are dead, and what a guest has of those on loopback."""
    try:
        servers = resolvconf.read(machine.path(RESOLV_CONF)).servers
    except HostError as error:
        return [Finding(ERROR, SUBJECT, str(error))]
    if not servers:
        return [Finding(ERROR, SUBJECT, f"{RESOLV_CONF} names none, so names are not found",
                        (f"echo nameserver ADDRESS >>{RESOLV_CONF}",), as_root=True)]
    faults = (ask or ask_all)(servers)
    return [_judge(machine, server, fault, has_other="" in faults)
            for server, fault in zip(servers, faults, strict=True)]


def _judge(machine: Machine, server: IPAddress, fault: str, *, has_other: bool) -> Finding:
    """Say of one server that it answers, or what is wrong and whether others (*has_other*) answer."""
    if not fault:
        text = f"{server} answers"
        if server.is_loopback or server.is_unspecified:
            text += ("; it is the host's own, which a machine reaches by the gateway's address (with"
                     " --no-map-gw it needs --dns-forward), and a namespace by -U and -T, auto by default")
        return Finding(OK, SUBJECT, text)
    level, text = WARNING if has_other else ERROR, f"{server}: {fault}"
    if has_other and fault == SILENT:
        text += ", so names take seconds where it is asked first"
    if str(server) == _STUB and machine.exists(_RESOLVED):
        command = "systemctl restart systemd-resolved"
    elif has_other:
        command = _removal(machine, server)
    else:
        text += ", and no other server answers"
        command = (f"rest=$(grep -v ^nameserver {RESOLV_CONF});"
                   f""" printf '%s\\n' 'nameserver ADDRESS' "$rest" >{RESOLV_CONF}""")
    return Finding(level, SUBJECT, text, (command,), as_root=True)


def _removal(machine: Machine, server: IPAddress) -> str:
    """Write the command that takes a server out. It writes in place: the file may be a mount or a link."""
    word = str(server)
    for line in (machine.read(RESOLV_CONF) or "").splitlines():
        # As it is written there: 127.1 is a form of 127.0.0.1.
        if resolvconf.parse(line.encode()).servers == (server,):
            word = line.removeprefix("nameserver").replace("#", " ").replace(";", " ").split()[0]
            break
    word = word.partition("%")[0].replace(".", r"\.")
    return (f"rest=$(grep -vE '^nameserver[[:blank:]]+{word}([%#;[:blank:]]|$)' {RESOLV_CONF}) &&"
            f' echo "$rest" >{RESOLV_CONF}')


def ask_all(servers: Sequence[IPAddress], limit_s: float = ASK_S, port: int = DNS_PORT) -> list[str]:
    """Ask all servers at once, *limit_s* seconds at most; return what is wrong with each, or ""."""
    faults = [SILENT] * len(servers)
    waiting: dict[int, _Question] = {}
    for number, server in enumerate(servers):
        try:
            question = _Question(number, _connect(server, port))
        except OSError as error:
            faults[number] = _failure(error)
        else:
            waiting[question.sock.fileno()] = question
    try:
        for question in _answered(waiting, limit_s):
            faults[question.number] = question.fault or ""
    finally:
        for question in waiting.values():
            question.sock.close()
    return faults


def _answered(questions: Mapping[int, _Question], limit_s: float) -> Iterator[_Question]:
    """Send the *questions*, by descriptor, twice; give those of which something becomes known in time."""
    waiting = dict(questions)
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    begin = time.monotonic()
    sending_at = [begin + min(AGAIN_S, limit_s / 2), begin]
    while waiting and (now := time.monotonic()) < begin + limit_s:
        if sending_at and now >= sending_at[-1]:
            sending_at.pop()
            for question in waiting.values():
                question.send()
        wake_at = sending_at[-1] if sending_at else begin + limit_s
        if any(question.fault is not None for question in waiting.values()):
            wake_at = now             # one could not be sent
        for fd, _ in poll.poll(max(wake_at - now, 0) * 1000 + 1):
            waiting[fd].receive()
        for fd in [fd for fd, question in waiting.items() if question.fault is not None]:
            poll.unregister(fd)
            yield waiting.pop(fd)


class _Question:
    """The question to the server *number*, on a connected socket; *fault* is None until one is known."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number = number
        self.sock = sock
        self.fault: str | None = None
        self._id = int.from_bytes(os.urandom(2), "big")

    def send(self) -> None:
        """Send the question, for the first time or again."""
        try:
            self.sock.send(_HEADER.pack(self._id, _RECURSION, 1, 0, 0, 0) + _QUESTION)
        except BlockingIOError:
            return
        except OSError as error:
            self.fault = _failure(error)

    def receive(self) -> None:
        """Read one datagram, or the error of one that was sent."""
        try:
            data = self.sock.recv(_MAX_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            self.fault = _failure(error)
            return
        code = read_code(data, self._id)
        if code is not None:
            broken = "it answers that it finds no names (SERVFAIL): its own servers may be out of reach"
            self.fault = broken if code == _SERVFAIL else ""


def _failure(error: OSError) -> str:
    text = {errno.ECONNREFUSED: "there is no server: port 53 is closed",
            errno.ENETUNREACH: "there is no route to it",
            errno.EHOSTUNREACH: "it cannot be reached"}.get(error.errno or 0)
    return text or f"it cannot be asked: {error.strerror}"


def _connect(server: IPAddress, port: int) -> socket.socket:
    """Return a socket that sends to *server*; one that is unspecified is the host itself. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if server.version == 6 else socket.AF_INET,
                         socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.connect(_socket_address(server, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _socket_address(server: IPAddress, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return the address for a socket: with the scope's index for IPv6."""
    address, _, scope = str(server).partition("%")
    if server.version == 4:
        return address, port
    return address, port, 0, int(scope) if scope.isdecimal() else 0


def read_code(data: bytes, number: int) -> int | None:
    """Return the code of the response to question *number* (RFC 1035 4.1.1); None if *data* is none."""
    if len(data) < _HEADER.size:
        return None
    found, flags, _, _, _, _ = _HEADER.unpack_from(data)
    return flags & _CODE if found == number and flags & _RESPONSE else None
