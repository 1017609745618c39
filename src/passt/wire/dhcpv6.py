"""DHCPv6 messages between client and server (RFC 8415 8), and the rules for those of a client.

::

    0      1                4
    | type | transaction id | options ...

`parse_message` is the door of a server: it checks a message against RFC 8415 16 and 18.4, except where the
check depends on the server. Messages of relay agents have another layout; a link with one guest needs no
relay agent, so they are rejected.
"""

from __future__ import annotations

import struct

from passt.errors import WireError
from passt.light.values import IntEnum, Value
from passt.wire.cursor import Reader, require_bits
from passt.wire.dhcpv6_options import (
    OPTIONS,
    Authentication,
    ClientFqdn,
    ClientId,
    Dhcpv6Option,
    Ia,
    IaNa,
    IaPd,
    IaTa,
    OptionRequest,
    RapidCommit,
    ReconfigureAccept,
    ReconfigureMessage,
    ServerId,
    build_options,
    parse_options,
    require_known,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Self, TypeVar

    from passt.wire.ip6 import Ip6Packet

    _Option = TypeVar("_Option")

SERVER_PORT = 547
CLIENT_PORT = 546
MAX_REQUEST_LEN = 2048
"""Clients send a few hundred bytes; the limit bounds the time that a hostile message takes."""

_LAYOUT = struct.Struct("!I")
_TRANSACTION_MASK = 0xffffff
_ONCE = (ClientId, ServerId, OptionRequest, Authentication, RapidCommit, ReconfigureMessage,
         ReconfigureAccept, ClientFqdn)


class MessageType(IntEnum):
    """Messages between client and server (RFC 8415 7.3)."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    RECONFIGURE = 10
    INFORMATION_REQUEST = 11


_KINDS = frozenset(MessageType)
_RELAYED = (12, 13)
_FROM_SERVER = frozenset((MessageType.ADVERTISE, MessageType.REPLY, MessageType.RECONFIGURE))
_TO_ONE_SERVER = frozenset((MessageType.REQUEST, MessageType.RENEW, MessageType.RELEASE, MessageType.DECLINE))
_TO_ANY_SERVER = frozenset((MessageType.SOLICIT, MessageType.CONFIRM, MessageType.REBIND))


class Dhcpv6Message(Value):
    """One DHCPv6 message; *transaction_id* has 24 bits."""

    kind: MessageType
    transaction_id: int
    options: tuple[Dhcpv6Option, ...] = ()

    def __post_init__(self) -> None:
        require_bits("DHCPv6 transaction id", self.transaction_id, 24)
        require_known(self.options, OPTIONS)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self:
        """Read one message, all of *data*.

        Raises `WireError` for an unknown type, a type of relay agents, and truncated or bad options.
        """
        reader = Reader(data, "DHCPv6 message")
        first, = reader.pull(_LAYOUT)
        kind = first >> 24
        if kind in _RELAYED:
            raise WireError("DHCPv6: message of a relay agent")
        if kind not in _KINDS:
            raise WireError(f"DHCPv6: message type {kind}")
        options = parse_options(reader.pull_rest(), OPTIONS)
        return cls(MessageType(kind), first & _TRANSACTION_MASK, options)

    def build(self) -> bytes:
        """Write the message."""
        return _LAYOUT.pack(self.kind << 24 | self.transaction_id) + build_options(self.options)

    def find(self, kind: type[_Option]) -> _Option | None:
        """Return the first option of class *kind*; None if there is none."""
        return next((option for option in self.options if isinstance(option, kind)), None)

    @property
    def ias(self) -> tuple[Ia, ...]:
        """All IAs, in order."""
        return tuple(option for option in self.options if isinstance(option, IaNa | IaTa | IaPd))


def parse_message(data: bytes | memoryview, packet: Ip6Packet) -> Dhcpv6Message:
    """Read a client's message to a server, carried by *packet*.

    Raises `WireError` if it violates RFC 8415 16 or 18.4; the server itself must still compare the server
    identifier with its own.
    """
    if packet.source.is_unspecified:
        raise WireError("DHCPv6: no source address to answer to")
    if len(data) > MAX_REQUEST_LEN:
        raise WireError(f"DHCPv6: {len(data)} bytes, accepted are {MAX_REQUEST_LEN}")
    message = Dhcpv6Message.parse(data)
    name = message.kind.name
    if message.kind in _FROM_SERVER:
        raise WireError(f"DHCPv6: {name} from a client")
    _check_duplicates(message)
    has_client, has_server = message.find(ClientId) is not None, message.find(ServerId) is not None
    if not has_client and message.kind != MessageType.INFORMATION_REQUEST:
        raise WireError(f"DHCPv6 {name}: no client identifier")
    if not has_server and message.kind in _TO_ONE_SERVER:
        raise WireError(f"DHCPv6 {name}: no server identifier")
    if has_server and message.kind in _TO_ANY_SERVER:
        raise WireError(f"DHCPv6 {name}: a server identifier")
    if message.ias and message.kind == MessageType.INFORMATION_REQUEST:
        raise WireError(f"DHCPv6 {name}: an IA")
    if message.kind not in _TO_ONE_SERVER and not packet.destination.is_multicast:
        raise WireError(f"DHCPv6 {name}: to a unicast address")
    return message


def _check_duplicates(message: Dhcpv6Message) -> None:
    """Reject repeated options that may occur once (RFC 8415 21), and repeated IAIDs (21.4, 21.5, 21.21)."""
    for kind in _ONCE:
        if sum(isinstance(option, kind) for option in message.options) > 1:
            raise WireError(f"DHCPv6 {message.kind.name}: more than one {kind.__name__}")
    names = [(ia.CODE, ia.iaid) for ia in message.ias]
    if len(set(names)) != len(names):
        raise WireError(f"DHCPv6 {message.kind.name}: two IAs of the same name")
