"""From a query of the guest to the answer that it gets: judge, memory, servers.

Queries that are the same but for the ID wait for one exchange, so a client that asks again while the servers
are slow costs nothing, and there is at most one exchange for a question: who forges answers has no more
chances by asking often (RFC 5452 9). At most *max_exchanges* are under way; what exceeds them is answered
SERVFAIL at once. A query that makes no sense is answered FORMERR, one without a header and an answer to
nobody are dropped. Nothing that a client or a server sends raises.
"""

from __future__ import annotations

from passt import log
from passt.errors import WireError
from passt.facts.egress import Why
from passt.light.values import NamedTuple
from passt.names import counts as counted
from passt.names.exchange import Exchange
from passt.names.orders import Bar
from passt.wire.dns.message import (
    FLAG_RESPONSE,
    HEADER_LEN,
    MAX_MESSAGE_LEN,
    RCODE_BITS,
    DnsView,
    Rcode,
    build_header_reply,
    build_opt,
    build_reply,
    pass_on,
    truncate,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from passt.facts.address import IPAddress
    from passt.facts.guest import NameService
    from passt.names.answer_cache import AnswerCache
    from passt.names.counts import Counts
    from passt.names.judge import Judge
    from passt.names.loop import Loop
    from passt.names.outlet import Outlet
    from passt.names.pinboard import Pinboard
    from passt.names.refusals import NameRefusals
    from passt.names.upstreams import Upstreams

MAX_QUERY_LEN = 4096               # a name has 255 bytes; options and signatures take some more
MAX_WAITING = 32                   # clients of one exchange


class Client(NamedTuple):
    """Who asked: *who* tells clients apart, *send* takes the answer, *is_stream* says that it came by TCP."""

    who: Hashable
    send: Callable[[bytes], None]
    is_stream: bool


class _Waiting(NamedTuple):
    query: DnsView
    client: Client


class Forwarder:
    """Answers what `ask` is given; what becomes of it is told to *counts*."""

    def __init__(self, loop: Loop, judge: Judge, upstreams: Upstreams, outlet: Outlet,
                 cache: AnswerCache | None, max_exchanges: int, pinboard: Pinboard | None = None,
                 refusals: NameRefusals | None = None, *, counts: Counts) -> None:
        self._loop = loop
        self._judge = judge
        self._upstreams = upstreams
        self._outlet = outlet
        self._cache = cache
        self._max_exchanges = max_exchanges
        self.counts = counts
        self._pinboard = pinboard
        self._refusals = refusals
        self._waiting: dict[tuple[bool, bytes], list[_Waiting]] = {}

    @property
    def n_exchanges(self) -> int:
        """How many questions are on their way."""
        return len(self._waiting)

    def renew(self, service: NameService) -> None:
        """Ask the servers of *service* from now on."""
        self._upstreams.renew(service)
        self._outlet.ifindex = service.ifindex
        if self._cache is not None:
            self._cache.clear()

    def ask(self, data: bytes, client: Client) -> bool:
        """Answer the message *data* of *client*, now or later; False: never."""
        if len(data) < HEADER_LEN or int.from_bytes(data[2:4], "big") & FLAG_RESPONSE:
            self.counts.add(counted.NO_QUERY)
            return False
        self.counts.add(counted.QUERIES)
        try:
            query = DnsView(data)
        except WireError:
            self.counts.add(counted.MALFORMED)
            client.send(build_header_reply(data, Rcode.FORMERR))
            return True
        ruling = self._judge.judge(query)
        if ruling.bar is not None:
            self._note_forbidden(ruling.bar, query)
            client.send(ruling.reply or build_reply(query, Rcode.REFUSED))
            return True
        if ruling.reply is not None:
            self._send_own(query, client, ruling.reply)
            return True
        kept = self._cache.find(query) if self._cache is not None else None
        if kept is not None:
            self.counts.add(counted.FROM_CACHE)
            self._release([_Waiting(query, client)], kept, is_ours=True)
            return True
        return self._forward(_Waiting(query, client), ruling.servers)

    def _count_own(self, reply: bytes) -> None:
        """Count what the judge answers, if that is an error."""
        code = reply[3] & RCODE_BITS
        if code == Rcode.FORMERR:
            self.counts.add(counted.MALFORMED)
        elif code != Rcode.NOERROR:
            self.counts.add(counted.REFUSED)

    def _note_forbidden(self, bar: Bar, query: DnsView) -> None:
        """Count, and tell, that *bar* forbids *query*, or the answer to it."""
        self.counts.add(counted.FORBIDDEN)
        if self._refusals is not None:
            self._refusals.note(bar, query.name)

    def _forward(self, waiting: _Waiting, servers: tuple[IPAddress, ...] | None) -> bool:
        query, client = waiting
        key = (client.is_stream, query.data[2:query.end])
        others = self._waiting.get(key)
        if others is not None:
            if any(one.client.who == client.who and one.query.id == query.id for one in others):
                self.counts.add(counted.REPEATED)
                return False       # it asks once more
            if len(others) < MAX_WAITING:
                others.append(waiting)
                return True
        elif len(self._waiting) < self._max_exchanges:
            self._waiting[key] = [waiting]
            self.counts.add(counted.ASKED)
            plan = self._upstreams.plan(self._loop.clock(), servers)
            Exchange(self._loop, self._outlet, self._upstreams, query, plan,
                     lambda answer: self._on_done(key, answer), counts=self.counts,
                     wants_whole=client.is_stream).start()
            return True
        self.counts.add(counted.FULL)
        log.limited(log.WARNING, "names full", "the guest asks for more names at a time than are forwarded:"
                                               " some queries are refused")
        client.send(build_reply(query, Rcode.SERVFAIL))
        return True

    def _on_done(self, key: tuple[bool, bytes], answer: DnsView | None) -> None:
        """Tell all who wait; without an *answer*, that there is none."""
        waiting = self._waiting.pop(key)
        query = waiting[0].query
        if answer is not None and not self._judge.admit(query):
            answer = None
        if answer is not None and self._cache is not None:
            self._cache.keep(query, answer)
        if answer is not None:
            self._release(waiting, answer, is_ours=False)
            return
        for one in waiting:
            self.counts.add(counted.NO_ANSWER)
            one.client.send(build_reply(one.query, Rcode.SERVFAIL))

    def _send_own(self, query: DnsView, client: Client, reply: bytes) -> None:
        """Send *reply*, which is our own, once its addresses are pinned."""
        def tell(bar: Bar | None) -> None:
            if bar is None:
                self._count_own(reply)
                client.send(reply)
            else:
                self._note_forbidden(bar, query)
                client.send(build_reply(query, Rcode.REFUSED))

        if self._pinboard is None:
            tell(None)
        else:
            self._when_pinned(query, DnsView(reply), tell)

    def _release(self, waiting: list[_Waiting], answer: DnsView, *, is_ours: bool) -> None:
        """Send *answer* to all who wait, once its addresses are pinned."""
        def tell(bar: Bar | None) -> None:
            for one in waiting:
                if bar is None:
                    self._tell(one, answer, is_ours=is_ours)
                else:
                    self._note_forbidden(bar, one.query)
                    one.client.send(build_reply(one.query, Rcode.REFUSED))

        self._when_pinned(waiting[0].query, answer, tell)

    def _when_pinned(self, query: DnsView, answer: DnsView, then: Callable[[Bar | None], None]) -> None:
        """Call *then*, now or later, with what forbids to pass on *answer* to *query*, if something does."""
        pins = self._judge.pins(query, answer)
        if isinstance(pins, Bar):
            then(pins)
        elif pins and self._pinboard is not None:
            bar = Bar(pins[0].place, Why.NOT_PINNED)
            self._pinboard.pin(pins, lambda may: then(None if may else bar))
        else:
            then(None)

    @staticmethod
    def _tell(waiting: _Waiting, answer: DnsView, *, is_ours: bool) -> None:
        """Send *answer* to one who waits; *is_ours*: from the memory, which keeps no OPT record."""
        query, client = waiting
        data = pass_on(answer, query)
        opt = build_opt(query) if is_ours else b""
        if opt:
            count = int.from_bytes(data[10:12], "big") + 1
            data = data[:10] + count.to_bytes(2, "big") + data[12:] + opt
        if len(data) > (MAX_MESSAGE_LEN if client.is_stream else query.udp_len):
            data = truncate(answer, query)
        client.send(data)
