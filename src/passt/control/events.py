"""Events for those who listen: JSON lines, a bounded queue for each listener.

Theory of operation. The engine tells of flows and ports only while somebody listens (`Engine.set_watcher`),
and of no more than a number a second, which it counts. A listener that does not read fast enough loses the
newest events: its queue is full. Both losses are told in an event of their own, before the next one that is
not lost. What leaves in one turn is a small part of a queue. Nothing here ever waits.

Limits are no events of the engine: as long as somebody listens, its counters are compared once a second.
Nor are names that rules refuse: the process that says so is not trusted, so NAMES_A_SECOND are told, and what
exceeds them is lost.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial

from passt.control.flows import PROTOCOLS, end_of, rule_text
from passt.control.http import JSON_LINES, RefusalError, Response, encode
from passt.facts.address import format_mac
from passt.facts.contracts import HOST_TABLE, NAMESPACE_TABLE
from passt.facts.port_rule import PortRule

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from passt.control.client import Client
    from passt.control.flows import FlowTexts
    from passt.control.source import Source
    from passt.facts.contracts import FlowDetail, ListenerInfo
    from passt.facts.host import HostChange
    from passt.forward.egress import Refused


KINDS = ("flow_opened", "flow_closed", "flow_refused", "name_refused", "port_opened", "port_closed",
         "guest_address", "host_changed", "limit_reached", "lost")  # fmt: skip
# Those of which the engine tells a number a second; of what it keeps to itself it knows no kind.
_RATED = frozenset(("flow_opened", "flow_closed", "flow_refused", "port_opened", "port_closed"))
MAX_LISTENERS = 8
MAX_QUEUED = 1024   # events, of some 700 bytes, that one listener may be behind
MAX_SENT = 64       # of them that leave at once
LOOK_S = 1.0        # between two looks at the counters of limits
NAMES_A_SECOND = 200    # the forwarder has 160 for us, each once a second
# Counters that grow when a limit is reached.
LIMITS = ("drop_flows_full", "drop_no_fd", "drop_crowd", "drop_tcp_memory", "drop_control_rate",
          "flows_evicted")  # fmt: skip


class Subscription:
    """The queue of one listener, who wants events of *kinds*."""

    def __init__(self, kinds: frozenset[str], client: Client, clock: Callable[[], float]) -> None:
        self.kinds = kinds
        self.client = client
        self._clock = clock
        self._lines: deque[bytes] = deque()
        self.n_lost = 0

    def add(self, line: bytes) -> None:
        """Take one more event, or count it as lost."""
        if len(self._lines) >= MAX_QUEUED:
            self.n_lost += 1
        else:
            self._tell_lost()
            self._lines.append(line)
        self.client.wake()

    def _tell_lost(self) -> None:
        if self.n_lost:
            self._lines.append(event_line("lost", self._clock(), {"events": self.n_lost}))
            self.n_lost = 0

    def pieces(self) -> Iterator[bytes | None]:
        """Give what is queued, a part of it at a time, whenever there is something."""
        while True:
            if not self._lines:
                self._tell_lost()
            some = [self._lines.popleft() for _ in range(min(len(self._lines), MAX_SENT))]
            yield b"".join(some) if some else None


class EventHub:
    """Hands the events of *source* to who listens; a `contracts.FlowWatcher`.

    *clock* gives seconds since 1970.
    """

    def __init__(self, source: Source, texts: FlowTexts, *, clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._texts = texts
        self._clock = clock
        self._subscriptions: list[Subscription] = []
        self._counts: dict[str, int] = {}
        self._n_untold = 0
        self._is_looking = False
        self._names_second = 0
        self._n_names = 0
        # Set with rules of egress: tells which rule has refused a flow just now (`Egress.why`).
        self.why_refused: Callable[[int, int, bytes], Refused | None] | None = None

    def count(self) -> int:
        """Return how many listen."""
        return len(self._subscriptions)

    def subscribe(self, client: Client, kinds_text: str | None) -> Response:
        """Make *client* a listener; *kinds_text* are kinds with commas between, None: all.

        Raises RefusalError.
        """
        kinds = frozenset(KINDS if kinds_text is None else kinds_text.split(","))
        for kind in sorted(kinds.difference(KINDS)):
            raise RefusalError(400, f"'{kind[:40]}' is no kind of event; there are {', '.join(KINDS)}")
        if len(self._subscriptions) >= MAX_LISTENERS:
            raise RefusalError(503, f"{MAX_LISTENERS} clients listen to events already")
        subscription = Subscription(kinds, client, self._clock)
        self._subscriptions.append(subscription)

        def leave() -> None:
            self._subscriptions.remove(subscription)
            if not self._subscriptions:
                self._source.set_watcher(None)

        client.when_closed = leave
        if len(self._subscriptions) == 1:
            self._begin()
        return Response(200, JSON_LINES, subscription.pieces(), is_whole=False, never_ends=True)

    def _begin(self) -> None:
        self._counts = self._limits()
        self._n_untold = self._source.n_untold()
        self._source.set_watcher(self)
        if not self._is_looking:
            self._is_looking = True
            self._source.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Tell of limits that were reached since the last look, and of events that nobody was told."""
        self._is_looking = bool(self._subscriptions)
        if not self._is_looking:
            return
        self._source.call_later(LOOK_S, self._look)
        counts = self._limits()
        for name, n in counts.items():
            if n > self._counts.get(name, 0):
                self._tell_limit(name, n - self._counts.get(name, 0))
        self._counts = counts
        n_untold = self._source.n_untold()
        for subscription in self._subscriptions:
            if subscription.kinds & _RATED:
                subscription.n_lost += n_untold - self._n_untold
            if subscription.n_lost:
                subscription.client.wake()
        self._n_untold = n_untold

    def _limits(self) -> dict[str, int]:
        counters = self._source.counters()
        return {name: counters[name] for name in LIMITS}

    def _tell_limit(self, counter: str, times: int) -> None:
        self._publish("limit_reached", lambda: {"counter": counter, "times": times})

    def _publish(self, kind: str, write: Callable[[], dict[str, Any]]) -> None:
        """Hand what *write* returns to all who want events of *kind*; nothing is written for nobody."""
        line = b""
        for subscription in self._subscriptions:
            if kind in subscription.kinds:
                line = line or event_line(kind, self._clock(), write())
                subscription.add(line)

    def on_flow_opened(self, flow: FlowDetail) -> None:
        """Tell of a flow that has begun."""
        self._publish("flow_opened", lambda: {"flow": self._texts.write(flow)})

    def on_flow_ended(self, flow: FlowDetail, why: str) -> None:
        """Tell of a flow that ends, with what it carried."""
        self._publish("flow_closed", lambda: {"reason": why, "flow": self._texts.write(flow)})

    def on_flow_refused(self, proto: int, source: bytes, source_port: int, destination: bytes,
                        destination_port: int, inbound: bool) -> None:
        """Tell of a flow that the policy refused, right after it did."""
        refused = self.why_refused(proto, destination_port, destination) if (
            self.why_refused is not None and not inbound) else None
        self._publish("flow_refused", lambda: {
            "protocol": PROTOCOLS[proto], "direction": "inbound" if inbound else "outbound",
            "source": end_of(source, source_port), "destination": end_of(destination, destination_port),
            "rule": refused and refused.rule, "reason": refused and refused.why})

    def on_name_refused(self, name: str, rule: str | None, why: str) -> None:
        """Tell of a name that the guest asked for and that *rule*, or none, refused."""
        second = int(self._clock())
        if second != self._names_second:
            self._names_second, self._n_names = second, 0
        self._n_names += 1
        if self._n_names <= NAMES_A_SECOND:
            self._publish("name_refused", lambda: {"name": name, "rule": rule, "reason": why})
            return
        for subscription in self._subscriptions:
            subscription.n_lost += "name_refused" in subscription.kinds

    def on_port_opened(self, listener: ListenerInfo) -> None:
        """Tell of a listener that was opened."""
        self._publish("port_opened", lambda: port_of(listener))

    def on_port_closed(self, listener: ListenerInfo) -> None:
        """Tell of a listener that was closed."""
        self._publish("port_closed", lambda: port_of(listener))

    def on_host_changed(self, changes: Iterable[HostChange]) -> None:
        """Tell of each change of the host's network that was followed."""
        for change in changes:
            self._publish("host_changed", partial(_describe_change, change))

    def on_guest_learnt(self, address: bytes) -> None:
        """Tell of an address that the guest was seen to use: 6 bytes are a hardware address."""
        if self._subscriptions:
            text = end_of(address, 0) if len(address) != 6 else {"address": format_mac(address)}
            self._publish("guest_address", lambda: {"address": text and text["address"]})


def event_line(kind: str, time_s: float, content: dict[str, Any]) -> bytes:
    """Write one event as a line."""
    return encode({"event": kind, "time": round(time_s, 6)} | content) + b"\n"


def port_of(listener: ListenerInfo) -> dict[str, Any]:
    """Write one open port."""
    rule = listener.rule if isinstance(listener.rule, PortRule) else None
    return {
        "side": "namespace" if listener.namespace else "host",
        "table": NAMESPACE_TABLE if listener.namespace else HOST_TABLE,
        "protocol": PROTOCOLS[listener.proto],
        "port": listener.port,
        "address": str(rule.address) if rule is not None and rule.address is not None else None,
        "interface": rule.ifname if rule is not None else None,
        "leads_to": rule.service_port(listener.port) if rule is not None else None,
        "target_address": str(rule.target_address) if rule is not None and rule.target_address else None,
        "auto": rule is not None and rule.auto,
        "rule": rule_text(rule) if rule is not None else None,
    }


def _describe_change(change: HostChange) -> dict[str, str | None]:
    return {"what": change.what, "family": f"ip{change.version}" if change.version else None,
            "before": change.before, "after": change.after}
