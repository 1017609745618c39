"""The process of the forwarder, and the main process's side of it.

Theory of operation. Messages of name servers are the only thing that strangers send for us to read, so a
process of its own reads them: forked with the caller's rights ("socket"), it gets the user that the main
process will have, no capability, Landlock as far as it is to be had, and a filter of its own
(tools/seccomp_policy.py): it may talk to servers, and nothing else. There is none without --dns-forward.

A container waits for the start of its pasta, and Podman always gives --dns-forward, while few containers ask
for names at once. So the process sleeps, without having read anything from anybody, until the main process
begins to serve; only then it loads its modules, and gives up its rights before it looks at its doors.

The guest's queries come to it as any flow comes to a service of the host: the doors are sockets on the host's
loopback, one for each family and protocol, to which `forward.policy` leads what is sent to --dns-forward. The
data plane knows nothing of it. IPv4 doors are on a random address of 127.0.0.0/8, so that no port of
127.0.0.1 is taken from anybody; other programs of the host may ask there, as they may ask the host's servers.
The main process holds the doors open, too, so nobody else can have them while flows may still lead there.

A host whose loopback interface is down has no doors, and if the process ends, they are closed: then queries
go to the host's first server as they are, as they do for addresses that are not of --dns-forward.

On the channel the process is told to begin, and gets another list of servers when the host has one
(`names.orders`). With rules of egress by name it asks there for pins of what it is about to answer, and waits
for them (`names.pinboard`), and tells what rules have refused (`names.refusals`). What it counts is in memory
that both share (`names.counts`).
"""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address

from passt import log
from passt.errors import HostError, WireError
from passt.facts.address import IP4_LEN, IP6_LEN
from passt.facts.contracts import Target
from passt.names.counts import Counts
from passt.names.orders import (
    GENERATIONS,
    MAX_PINS_LEN,
    REFUSED,
    build_rules,
    build_service,
    build_settled,
    parse_learned,
    parse_pins,
    parse_refused,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Protocol

    from passt.facts.egress import EgressRules, RefusedName
    from passt.facts.guest import GuestNet, NameService
    from passt.facts.settings import NameSettings
    from passt.process.identity import Identity

    class EngineLoop(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""


BEGIN = b"b"
RULES_ROOM = 1 << 20               # for all rules by name at once, as far as net.core.wmem_max allows
_BACKLOG = 128
_PROTOCOLS = ((socket.IPPROTO_UDP, socket.SOCK_DGRAM), (socket.IPPROTO_TCP, socket.SOCK_STREAM))


class NameForwarder:
    """The forwarder for *guest*, with the options *asked* and the rights of *user*; forked at once.

    *rules* of egress say which names may be asked for; None: all. Call with one thread, before any right is
    given up. `doors` are for `Policy.serve_names`. Raises
    HostError.
    """

    def __init__(self, asked: NameSettings, guest: GuestNet, user: Identity | None,
                 rules: EgressRules | None = None) -> None:
        assert guest.names is not None  # noqa: S101 - the caller has asked
        self._counts = _make_counts()
        self._sockets = _open_doors(guest)
        self.doors = {key: _target_of(sock) for key, sock in self._sockets.items()}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if rules is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RULES_ROOM)
        life = os.pipe()
        if _fork_forwarder() == 0:
            _run(theirs, life, list(self._sockets.values()), asked, guest, user, rules, self._counts)
        theirs.close()
        os.close(life[0])          # nothing comes through it: the end of our end ends the process
        ours.setblocking(False)
        self._channel = ours
        self._service = guest.names
        self._rules = rules
        self._generation = self._last_sent = 0

    def descriptors(self) -> list[int]:
        """Return the descriptors of the doors: they are no services of the host."""
        return [sock.fileno() for sock in self._sockets.values()]

    def counters(self) -> dict[str, int]:
        """Return what the process has counted, also after its end."""
        return self._counts.read()

    def start(self, loop: EngineLoop, on_end: Callable[[], None],
              pin: Callable[[int, bytes, int], bool] | None = None,
              learn: Callable[[str, bytes], None] | None = None,
              refuse: Callable[[list[tuple[int, int]], list[RefusedName]], None] | None = None) -> None:
        """Have *loop* call *on_end* when the process ends: there are no doors then.

        *pin* takes pins: the place of a rule, an address, and seconds; it tells whether it may be. *learn*
        takes instead what is asked for with --learn: a name as text, and an address that it has, or b"".
        *refuse* takes what rules have refused: places of rules and how much, and some of the names.
        """
        def on_event() -> None:
            try:
                message = self._channel.recv(MAX_PINS_LEN)
                if message:
                    if message.startswith(REFUSED):
                        self._refuse_all(message, refuse)
                    elif learn is not None:
                        self._learn_all(message, learn)
                    else:
                        self._pin_all(message, pin)
                    return
            except BlockingIOError:
                return
            except OSError:
                pass               # it was reset: the same
            loop.remove_reader(self._channel.fileno())
            self.doors = {}
            on_end()
            self._channel.close()
            for sock in self._sockets.values():
                sock.close()
            instead = "are refused" if self._rules is not None and self._rules.has_names else (
                "go to the host's first name server")
            log.warning("the process that forwards queries of --dns-forward has ended: they"
                        f" {instead} from now on")

        loop.add_reader(self._channel.fileno(), on_event)
        try:
            self._channel.send(BEGIN)
        except OSError:
            pass                   # it has ended already

    def _pin_all(self, message: bytes, pin: Callable[[int, bytes, int], bool] | None) -> None:
        """Pin what the process asks for, and tell it; nonsense has no answer."""
        try:
            number, generation, pins = parse_pins(message)
        except WireError:
            return
        self._settle(number, is_pinned=(
            pin is not None and generation == self._generation and all(pin(*each) for each in pins)))

    def _learn_all(self, message: bytes, learn: Callable[[str, bytes], None]) -> None:
        """Take what the process says was asked for, and tell it; nonsense has no answer."""
        try:
            number, found = parse_learned(message)
        except WireError:
            return
        for name, address in found:
            learn(name.decode("ascii", "replace"), address)
        self._settle(number, is_pinned=True)

    def _refuse_all(self, message: bytes,
                    refuse: Callable[[list[tuple[int, int]], list[RefusedName]], None] | None) -> None:
        """Take what the process says was refused, by rules of now; nonsense is dropped."""
        try:
            generation, numbers, names = parse_refused(message)
        except WireError:
            return
        if refuse is not None and generation == self._generation:
            refuse(numbers, names)

    def _settle(self, number: int, *, is_pinned: bool) -> None:
        try:
            self._channel.send(build_settled(number, is_pinned=is_pinned))
        except OSError:
            pass                   # it does not listen: there is no answer to the guest

    def set_rules(self, rules: EgressRules) -> bool:
        """Have names judged by *rules* from now on; False: they stay as they are, as nobody listens.

        What the process pins by rules of before is refused from now on.
        """
        if not self.doors or self._rules is None:
            return False
        # A number for each try: a part of the one before may have arrived.
        self._last_sent = (self._last_sent + 1) % GENERATIONS
        try:
            for message in build_rules(rules, self._last_sent):
                self._channel.send(message)
        except OSError:
            return False
        self._rules, self._generation = rules, self._last_sent
        return True

    def renew(self, service: NameService | None) -> None:
        """Have the servers of *service* asked from now on."""
        if service is None or service == self._service or not self.doors:
            return
        try:
            self._channel.send(build_service(service))
        except OSError:
            return                 # it has ended, or does not listen: the next change tells it all
        self._service = service


def _make_counts() -> Counts:
    try:
        return Counts()
    except OSError as error:
        raise HostError(f"cannot share memory with the process that forwards queries: {error.strerror}"
                        ) from None


def _open_doors(guest: GuestNet) -> dict[tuple[int, int], socket.socket]:
    """Open the doors, by protocol and length of an address, for the families that have --dns-forward."""
    doors: dict[tuple[int, int], socket.socket] = {}
    own = f"127.{'.'.join(str(1 + byte % 254) for byte in os.urandom(3))}"
    for length, family, kind_of, addresses in (
            (IP4_LEN, guest.ip4, socket.AF_INET, (own, "127.0.0.1")),
            (IP6_LEN, guest.ip6, socket.AF_INET6, ("::1",))):
        if family is None or not family.is_forwarded:
            continue
        for address in addresses:
            try:
                opened = [_open_door(kind_of, kind, address) for _, kind in _PROTOCOLS]
            except OSError as error:
                log.debug(f"no door of the forwarder of names at {address}: {error.strerror}")
                continue
            doors |= {(proto, length): sock for (proto, _), sock in zip(_PROTOCOLS, opened, strict=True)}
            break
    return doors


def _open_door(family: int, kind: int, address: str) -> socket.socket:
    """Bind a socket to *address* and a port that the kernel draws. Raises OSError if none could reach it."""
    sock = socket.socket(family, kind)
    try:
        sock.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
        else:
            # The interface of the address may be down.
            with socket.socket(family, kind) as client:
                client.connect(sock.getsockname())
    except OSError:
        sock.close()
        raise
    return sock


def _target_of(sock: socket.socket) -> Target:
    address, port = sock.getsockname()[:2]
    return Target(ip_address(address).packed, port)


def _fork_forwarder() -> int:
    try:
        return os.fork()
    except OSError as error:
        raise HostError(f"cannot start the process that forwards queries: {error.strerror}") from None


def _run(channel: socket.socket, life: tuple[int, int], doors: list[socket.socket], asked: NameSettings,
         guest: GuestNet, user: Identity | None, rules: EgressRules | None, counts: Counts) -> NoReturn:
    """Be the forwarder until the main process has gone."""
    try:
        # What the main process does not need is loaded by this one alone.
        from passt.process import helper

        helper.detach("passt-names", (channel.fileno(), *(sock.fileno() for sock in doors)), life)
        if channel.recv(1):        # else the start has failed
            from passt.names import service

            service.run(channel, doors, asked, guest, user, rules, counts)
    except Exception as error:  # noqa: BLE001 - it ends with this
        log.failure(type(error).__name__, error)
    finally:
        os._exit(0)
