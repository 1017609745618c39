"""DNS messages as a forwarder looks at them (RFC 1035 4, RFC 6891).

::

    0    2       4         6         8           10           12
    | id | flags | QDCOUNT | ANCOUNT | NSCOUNT | ARCOUNT | question | records ...

A forwarder passes on what others have written, so a message is not taken apart and written anew: a `DnsView`
knows where its parts lie, and that all of them lie within. Names are in wire form without compression and in
lower case (RFC 1035 2.3.3), any bytes in their labels (RFC 2181 11).

A compression pointer must lead to a place before the labels that it ends (RFC 1035 4.1.4: a prior
occurrence), so no pointer can loop, and not into the header, so a question is never compressed. What a
pointer leads to is read once in a message, so the work is bounded by its length, whatever it says. Bytes
after the last record belong to nothing, and `DnsView.end` leaves them out.
"""

from __future__ import annotations

from struct import Struct

from passt.errors import WireError
from passt.facts.domain_name import MAX_NAME_LEN
from passt.light.values import IntEnum, NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

PORT_DNS = 53
MAX_MESSAGE_LEN = 0xffff           # of a message over TCP (RFC 1035 4.2.2)
MIN_UDP_LEN = 512                  # what anybody takes by UDP (RFC 1035 4.2.1)
MAX_UDP_LEN = 4096                 # what is offered by UDP (RFC 6891 6.2.5)
HEADER_LEN = 12

FLAG_RESPONSE = 0x8000
FLAG_TRUNCATED = 0x0200
FLAG_RECURSION_DESIRED = 0x0100
FLAG_RECURSION_AVAILABLE = 0x0080
FLAG_CHECKING_DISABLED = 0x0010
OPCODE_BITS = 0x7800               # zero: a query
RCODE_BITS = 0x000f
FLAG_DNSSEC_OK = 0x8000            # in the TTL of OPT (RFC 3225 3)

CLASS_IN = 1
SECTIONS = 3                       # answer, authority, additional

_HEADER = Struct("!HHHHHH")
_QUESTION = Struct("!HH")
_RECORD = Struct("!HHIH")
_POINTER_BITS = 0xc0
_MAX_POINTER = 0x3fff
_QUESTION_NAME = b"\xc0\x0c"       # a pointer to the name right after the header
_ROOT = b"\0"


class RecordType(IntEnum):
    """Types of records that we look at (www.iana.org/assignments/dns-parameters)."""

    A = 1
    CNAME = 5
    SOA = 6
    AAAA = 28
    DNAME = 39
    OPT = 41
    SVCB = 64
    HTTPS = 65
    IXFR = 251
    AXFR = 252
    ANY = 255


class Rcode(IntEnum):
    """How a query ended (RFC 1035 4.1.1)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


_ADDRESS_LEN = {RecordType.A: 4, RecordType.AAAA: 16}
_ALIASES = frozenset((RecordType.CNAME, RecordType.DNAME))
_MIN_SOA_LEN = 22                  # two names of a byte, five numbers


class DnsRecord(NamedTuple):
    """One record, of *section* 0 to 2; it begins at *begin*, its TTL at *ttl_at*, its data at *start*.

    *name* is in wire form. *target* is the name that an alias leads to, be it of one name or of all below one
    (DNAME, RFC 6672), else empty.
    """

    section: int
    name: bytes
    kind: int
    klass: int
    ttl: int
    begin: int
    ttl_at: int
    start: int
    end: int
    target: bytes


class DnsView:
    """One message in *data*, whose lengths and pointers are right.

    *name*, *kind* and *klass* are those of its question; *name* is empty if it has none. *question_end* is
    where that ends, *end* where the message does; *opt* is its OPT record, if it has one.
    """

    __slots__ = ("data", "end", "flags", "id", "kind", "klass", "n_answers", "name", "opt", "question_end",
                 "records")

    def __init__(self, data: bytes) -> None:
        """Read *data*. Raises `WireError` for what is no message, and for more than one question."""
        if len(data) < HEADER_LEN:
            raise WireError(f"DNS: {len(data)} bytes")
        self.data = data
        self.id: int
        self.flags: int
        self.id, self.flags, n_questions, *counts = _HEADER.unpack_from(data)
        self.n_answers: int = counts[0]
        self.name = b""
        self.kind = self.klass = 0
        known: dict[int, bytes] = {}
        at = HEADER_LEN
        if n_questions > 1:
            # RFC 9619 4: nobody asks two questions at a time.
            raise WireError(f"DNS: {n_questions} questions")
        if n_questions:
            self.name, at = _pull_name(data, at, known)
            if at + _QUESTION.size > len(data):
                raise WireError("DNS: question is cut off")
            self.kind, self.klass = _QUESTION.unpack_from(data, at)
            at += _QUESTION.size
        self.question_end = at
        self.records: list[DnsRecord] = []
        self.opt: DnsRecord | None = None
        for section, count in enumerate(counts):
            for _ in range(count):
                record = _pull_record(data, at, section, known)
                at = record.end
                self.records.append(record)
                if record.kind == RecordType.OPT:
                    self._take_opt(record)
        self.end = at

    def _take_opt(self, record: DnsRecord) -> None:
        """RFC 6891 6.1.1: one, for the root, among the additional records."""
        if self.opt is not None or record.section != SECTIONS - 1 or record.name != _ROOT:
            raise WireError("DNS: OPT at a wrong place")
        self.opt = record

    @property
    def rcode(self) -> int:
        """The code in the header; OPT may have more bits of it."""
        return self.flags & RCODE_BITS

    @property
    def question(self) -> bytes:
        """The question as it was written, with its own upper and lower case."""
        return self.data[HEADER_LEN:self.question_end]

    @property
    def udp_len(self) -> int:
        """How long an answer by UDP may be, as who asks says (RFC 6891 6.2.3), and as we take part in."""
        return MIN_UDP_LEN if self.opt is None else min(max(self.opt.klass, MIN_UDP_LEN), MAX_UDP_LEN)

    def is_answer_to(self, query: DnsView) -> bool:
        """Tell whether this answers the question of *query* (RFC 5452 9.1); its ID is not looked at."""
        if not self.flags & FLAG_RESPONSE or (self.flags ^ query.flags) & OPCODE_BITS:
            return False
        return (self.name, self.kind, self.klass) == (query.name, query.kind, query.klass)


def encode_name(name: str) -> bytes:
    """Write *name*, for which `domain_name.is_name` holds, in lower case."""
    return b"".join(bytes((len(label),)) + label.encode("ascii") for label in name.lower().split(".")) + _ROOT


def suffixes(name: bytes) -> Iterable[bytes]:
    """Return *name*, in wire form, and all that it ends in, the root last."""
    at = 0
    while length := name[at]:
        yield name[at:]
        at += 1 + length
    yield _ROOT


def show_name(name: bytes) -> str:
    """Write a *name* in wire form for people (RFC 4343 2.1)."""
    labels = []
    at = 0
    while at < len(name) and (length := name[at]):
        label = name[at + 1:at + 1 + length]
        labels.append("".join(chr(byte) if 33 <= byte <= 126 and byte not in b".\\" else f"\\{byte:03}"
                              for byte in label))
        at += 1 + length
    return ".".join(labels) or "."


def build_query(view: DnsView, number: int) -> bytes:
    """Write the query of *view* for a server: with the ID *number*, and at most MAX_UDP_LEN offered.

    All else is as the client wrote it (RFC 5625 4.1), the options of EDNS included.
    """
    data = bytearray(view.data[:view.end])
    data[:2] = number.to_bytes(2, "big")
    if view.opt is not None and view.opt.klass != view.udp_len:
        data[view.opt.ttl_at - 2:view.opt.ttl_at] = view.udp_len.to_bytes(2, "big")
    return bytes(data)


def build_reply(query: DnsView, rcode: int, addresses: Iterable[bytes] = (), ttl: int = 0) -> bytes:
    """Write our own answer to *query*: *rcode*, and a record for each of *addresses*, packed.

    A query without a question has no addresses.
    """
    found = list(addresses)
    records = b"".join(
        _QUESTION_NAME + _RECORD.pack(RecordType.A if len(address) == 4 else RecordType.AAAA, CLASS_IN, ttl,
                                      len(address)) + address for address in found)
    flags = (FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | rcode
             | query.flags & (OPCODE_BITS | FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED))
    header = _HEADER.pack(query.id, flags, int(bool(query.name)), len(found), 0, int(query.opt is not None))
    return header + query.question + records + build_opt(query)


def build_opt(query: DnsView) -> bytes:
    """Write the OPT record of an answer to *query*; nothing if the query has none (RFC 6891 6.1.1)."""
    if query.opt is None:
        return b""
    return _ROOT + _RECORD.pack(RecordType.OPT, MAX_UDP_LEN, query.opt.ttl & FLAG_DNSSEC_OK, 0)


def build_header_reply(data: bytes, rcode: int) -> bytes:
    """Answer *data*, of which nothing but the header could be read."""
    number, flags, *_ = _HEADER.unpack_from(data)
    flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | rcode | flags & (OPCODE_BITS | FLAG_RECURSION_DESIRED)
    return _HEADER.pack(number, flags, 0, 0, 0, 0)


def pass_on(answer: DnsView, query: DnsView) -> bytes:
    """Write *answer* for who sent *query*: with that ID, and the question as it was asked (RFC 5452 9.1).

    A server may answer an error without the question; what is passed on has it.
    """
    if not answer.name:
        return build_reply(query, answer.rcode)
    data = answer.data
    header = query.data[:2] + data[2:4] + b"\0\1" + data[6:HEADER_LEN]
    return header + query.question + data[answer.question_end:answer.end]


def truncate(answer: DnsView, query: DnsView) -> bytes:
    """Write *answer* without its records, so that who sent *query* by UDP asks again by TCP (RFC 2181 9)."""
    flags = answer.flags | FLAG_TRUNCATED
    header = _HEADER.pack(query.id, flags, 1, 0, 0, int(query.opt is not None))
    return header + query.question + build_opt(query)


def _pull_name(data: bytes, begin: int, known: dict[int, bytes]) -> tuple[bytes, int]:
    """Read the name at *begin*; return it and where it ends. *known* has the names that start at a place."""
    parts: list[bytes] = []
    n_bytes = 1
    at = begin
    end = 0
    starts = [(begin, 0)]
    while n_bytes <= MAX_NAME_LEN:
        if at >= len(data):
            raise WireError("DNS: name is cut off")
        length = data[at]
        if length & _POINTER_BITS:
            target = _pull_pointer(data, at, starts[-1][0])
            end = end or at + 2
            if target in known:
                parts.append(known[target][:-1])
                n_bytes += len(parts[-1])
                break
            starts.append((target, n_bytes - 1))
            at = target
            continue
        at += 1 + length
        if not length:
            break
        if at > len(data):
            raise WireError("DNS: label is cut off")
        parts.append(data[at - 1 - length:at])
        n_bytes += 1 + length
    if n_bytes > MAX_NAME_LEN:
        raise WireError(f"DNS: a name of more than {MAX_NAME_LEN} bytes")
    # Lengths are below the letters, so they stay as they are.
    name = b"".join(parts).lower() + _ROOT
    for start, skipped in starts:
        known[start] = name[skipped:]
    return name, end or at


def _pull_pointer(data: bytes, at: int, segment: int) -> int:
    """Read the pointer at *at*, which ends labels that start at *segment*."""
    if data[at] & _POINTER_BITS != _POINTER_BITS:
        raise WireError(f"DNS: label type {data[at] >> 6}")
    if at + 1 >= len(data):
        raise WireError("DNS: pointer is cut off")
    target = (data[at] << 8 | data[at + 1]) & _MAX_POINTER
    if not HEADER_LEN <= target < segment:
        raise WireError(f"DNS: pointer at {at} to {target}, not back to a name")
    return target


def _pull_record(data: bytes, begin: int, section: int, known: dict[int, bytes]) -> DnsRecord:
    name, at = _pull_name(data, begin, known)
    start = at + _RECORD.size
    if start > len(data):
        raise WireError("DNS: record is cut off")
    kind, klass, ttl, length = _RECORD.unpack_from(data, at)
    end = start + length
    if end > len(data):
        raise WireError(f"DNS: data of {length} bytes is cut off")
    target = b""
    if klass == CLASS_IN:
        if length != _ADDRESS_LEN.get(kind, length) or (kind == RecordType.SOA and length < _MIN_SOA_LEN):
            raise WireError(f"DNS: record of type {kind} with {length} bytes")
        if kind in _ALIASES:
            target, stop = _pull_name(data, start, known)
            if stop != end:
                raise WireError("DNS: alias of a wrong length")
    return DnsRecord(section, name, kind, klass, ttl, begin, at + 4, start, end, target)
