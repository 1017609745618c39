"""What the parts under test call or are called by, in the simplest form that a test can script."""

import select
from collections.abc import Callable

from passt.dataplane.base.wait_limit import WaitLimit
from passt.facts.contracts import InboundTarget, Target


class Policy:
    """Notes each question; sends everything to `target`, or to where the guest wants if that is None."""

    def __init__(self, target: Target | None = None) -> None:
        self.target = target
        self.refuses = False
        self.seen: InboundTarget | Target | None = None
        self.on_host: Target | None = None
        self.asked_outbound: list[tuple[int, bytes, int, bytes, int]] = []
        self.asked_inbound: list[tuple[int, object, bytes, int, bytes, int]] = []
        self.leads = False
        self.asked_leads: list[tuple[int, object, bytes, int]] = []
        self.asked_namespace: list[tuple[int, object, bytes, int, bytes, int]] = []
        self.error: Exception | None = None
        self.judge: Callable[[bytes, str], bool | None] = lambda _data, end: not end
        self.openings: list[tuple[bytes, str]] = []
        self.sources: dict[bytes, bytes | None] = {}
        self.asked_source: list[bytes] = []

    def outbound(
        self, proto: int, source: bytes, source_port: int, destination: bytes, destination_port: int
    ) -> Target | None:
        self.asked_outbound.append((proto, source, source_port, destination, destination_port))
        if self.error:
            raise self.error
        if self.refuses:
            return None
        return self.target or Target(destination, destination_port)

    def judge_opening(self, _source: bytes, _source_port: int, _destination: bytes, _destination_port: int,
                      data: bytes, end: str) -> bool | None:
        self.openings.append((data, end))
        if self.error:
            raise self.error
        return self.judge(data, end)

    def inbound(
        self, proto: int, rule: object, peer: bytes, peer_port: int, local: bytes, local_port: int
    ) -> InboundTarget | Target | None:
        self.asked_inbound.append((proto, rule, peer, peer_port, local, local_port))
        if self.error:
            raise self.error
        return None if self.refuses else self.seen

    def leads_to(self, proto: int, rule: object, address: bytes, port: int) -> bool:
        self.asked_leads.append((proto, rule, address, port))
        if self.error:
            raise self.error
        return self.leads

    def outbound_bypass(
        self, proto: int, rule: object, peer: bytes, peer_port: int, local: bytes, local_port: int
    ) -> Target | None:
        self.asked_namespace.append((proto, rule, peer, peer_port, local, local_port))
        if self.error:
            raise self.error
        return None if self.refuses else self.on_host

    def guest_visible_source(self, address: bytes) -> bytes | None:
        self.asked_source.append(address)
        if self.error:
            raise self.error
        return self.sources.get(address, address if any(address) else None)


class Responder:
    """Notes each frame; answers all with `replies`."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.replies: list[bytes] = []
        self.error: Exception | None = None

    def respond(self, frame: bytes) -> list[bytes]:
        self.frames.append(frame)
        if self.error:
            raise self.error
        return self.replies


class Events:
    """Notes what is learnt of the guest."""

    def __init__(self) -> None:
        self.addresses: list[bytes] = []
        self.macs: list[bytes] = []
        self.pings_forbidden = 0
        self.silences = 0
        self.error: Exception | None = None

    def on_guest_silent(self) -> None:
        self.silences += 1

    def on_guest_address(self, address: bytes) -> None:
        self.addresses.append(address)
        if self.error:
            raise self.error

    def on_guest_mac(self, mac: bytes) -> None:
        self.macs.append(mac)
        if self.error:
            raise self.error

    def on_ping_forbidden(self) -> None:
        self.pings_forbidden += 1


class Loop:
    """Timers and readers of an engine without a loop: nothing happens but when a test says so."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []  # delay in seconds, what is due then

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        assert fd not in self.readers
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def wait_limit(self) -> WaitLimit:
        return WaitLimit()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((delay_s, callback))

    def fire(self) -> None:
        """Let the timer that was set last be due."""
        self.timers.pop()[1]()

    def turn(self) -> None:
        """Call the reader of each descriptor that is readable, and every timer that is set now."""
        poll = select.poll()
        for fd in self.readers:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(0):
            self.readers[fd]()
        due, self.timers = self.timers, []
        for _, callback in due:
            callback()


class Clock:
    """A clock that stands still, or goes on by *step_s* with each question."""

    def __init__(self, now_s: float = 0.0, step_s: float = 0.0) -> None:
        self.now_s, self.step_s = now_s, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s
