"""Answers that are remembered, with --dns-cache: as long as their records say, and so many at most.

An answer that says that there is no such name, or no such record, is kept as its SOA record says (RFC 2308
5). What a server says of itself in OPT is not kept: that is between neighbours (RFC 6891 6.1.1).
"""

from __future__ import annotations

from collections import OrderedDict

from passt.light.values import NamedTuple
from passt.wire.dns.message import (
    FLAG_CHECKING_DISABLED,
    FLAG_DNSSEC_OK,
    FLAG_RECURSION_DESIRED,
    FLAG_TRUNCATED,
    DnsView,
    Rcode,
    RecordType,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TTL_S = 24 * 3600              # RFC 8767 4: what is longer is of no use
MAX_NEGATIVE_S = 3 * 3600          # RFC 2308 5
MAX_LEN = 4096                     # bytes of an answer; longer ones are not kept
_TTL_LEN = 4
_MAX_TTL = 0x7fffffff              # RFC 2181 8: with the first bit set it is zero
_COOKIE = 10                       # the option of RFC 7873, which each client draws anew


class _Entry(NamedTuple):
    """An answer as it was at *since*, good until *until*; its TTLs lie at *ttls*."""

    data: bytes
    since: float
    until: float
    ttls: tuple[int, ...]


class AnswerCache:
    """Keeps *limit* answers, the ones used last; *clock* tells seconds."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._entries: OrderedDict[tuple[object, ...], _Entry] = OrderedDict()

    def find(self, query: DnsView) -> DnsView | None:
        """Return what is remembered for *query*, with TTLs that have gone down."""
        key = _key(query)
        entry = self._entries.get(key) if key is not None else None
        if key is None or entry is None:
            return None
        now = self._clock()
        if entry.until <= now:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        age = int(now - entry.since)
        data = bytearray(entry.data)
        for at in entry.ttls:
            ttl = int.from_bytes(data[at:at + _TTL_LEN], "big")
            data[at:at + _TTL_LEN] = max(ttl - age, 0).to_bytes(_TTL_LEN, "big")
        return DnsView(bytes(data))

    def keep(self, query: DnsView, answer: DnsView) -> None:
        """Remember *answer* to *query*, if it may be."""
        key = _key(query)
        lifetime = _lifetime(answer)
        if key is None or not lifetime or answer.end > MAX_LEN or not self._limit:
            return
        data = bytearray(answer.data[:answer.end])
        records = [record for record in answer.records if record is not answer.opt]
        if answer.opt is not None:
            if answer.opt.end != answer.end:
                return             # a signature follows, which is for this client alone
            del data[answer.opt.begin:]
            data[10:12] = (sum(record.section == 2 for record in records)).to_bytes(2, "big")
        now = self._clock()
        self._entries[key] = _Entry(bytes(data), now, now + lifetime,
                                    tuple(record.ttl_at for record in records))
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: another network may have other names."""
        self._entries.clear()


def _key(query: DnsView) -> tuple[object, ...] | None:
    """Return all that an answer depends on; None for a query with more than that."""
    opt = query.opt
    if len(query.records) > (opt is not None) or (opt is not None and not _is_plain(query)):
        return None
    return (query.name, query.kind, query.klass,
            query.flags & (FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED),
            opt is not None and opt.ttl & FLAG_DNSSEC_OK)


def _is_plain(query: DnsView) -> bool:
    """Tell whether OPT has version 0 and no option, or a cookie alone."""
    opt = query.opt
    if opt is None or opt.ttl & ~FLAG_DNSSEC_OK:
        return False
    return opt.start == opt.end or (
        opt.end - opt.start >= 4
        and int.from_bytes(query.data[opt.start:opt.start + 2], "big") == _COOKIE
        and int.from_bytes(query.data[opt.start + 2:opt.start + 4], "big") == opt.end - opt.start - 4)


def _lifetime(answer: DnsView) -> int:
    """Return how many seconds *answer* may be kept."""
    is_whole = not answer.flags & FLAG_TRUNCATED and (answer.opt is None or answer.opt.ttl >> 24 == 0)
    if not is_whole or answer.rcode not in {Rcode.NOERROR, Rcode.NXDOMAIN}:
        return 0
    ttls = [record.ttl for record in answer.records if record is not answer.opt]
    if any(ttl > _MAX_TTL for ttl in ttls):
        return 0
    if answer.n_answers and answer.rcode == Rcode.NOERROR and any(
            record.section == 0 and _fits(answer, record.kind) for record in answer.records):
        return min(*ttls, MAX_TTL_S)
    for record in answer.records:
        if record.section == 1 and record.kind == RecordType.SOA:
            minimum = int.from_bytes(answer.data[record.end - _TTL_LEN:record.end], "big")
            return min(*ttls, minimum, MAX_NEGATIVE_S)
    return 0


def _fits(answer: DnsView, kind: int) -> bool:
    """Tell whether a record of *kind* is what the question of *answer* wants; an alias alone is not."""
    return answer.kind in {kind, RecordType.ANY}
