"""Which DHCPv6 clients may be called before they renew, and by what (RFC 8415 18.3.11).

Theory of operation. A client that takes Reconfigure messages says so by an option. The first reply that
configures it has that option too, and a key, by which it knows later calls to be ours (RFC 8415 20.4). When
what we tell has changed (`begin`), all clients are called, again and again; for each one that ends when a
request of its was answered.

The key of a client is made of our secret and the client's DUID, so it need not be remembered, and no client
can work out another one's. Time and randomness are none of ours: the secret and the first number against
replays are arguments. If these numbers begin with the time of day, they go on where those of a process before
us ended, as RFC 8415 21.11 suggests.

All clients are the guest's own. It can invent any number of them, and claim to be any, but calls are seen by
nobody else. There are MAX_CLIENTS places; the client that came last takes that of the one not heard of for
longest, which comes by itself when its lease is half over.
"""

from __future__ import annotations

try:
    # All of hashlib would cost a start 2 ms and 1 MB; but not every Python has this part of it.
    from _md5 import md5
except ImportError:
    from hashlib import md5

from passt.light.values import NamedTuple, replace
from passt.wire.dhcpv6 import Dhcpv6Message, MessageType
from passt.wire.dhcpv6_options import (
    HEADER_LEN,
    Authentication,
    ClientId,
    ReconfigureAccept,
    ReconfigureMessage,
    ServerId,
    StatusOption,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv6Address

MAX_CLIENTS = 8
"""A guest has one client for each of its interfaces on our link; containers in it may have their own."""
# RFC 8415 20.4 and 21.11; IANA "DHCPv6 Reconfigure Key Authentication Protocol"
_PROTOCOL, _HMAC_MD5, _MONOTONIC = 3, 1, 0
_KEY, _DIGEST = b"\1", b"\2"
_DIGEST_LEN = 16
_BLOCK_LEN = 64                    # of MD5
_REPLAY_MASK = 0xffffffffffffffff
_CONFIGURED = frozenset((MessageType.REQUEST, MessageType.RENEW, MessageType.REBIND, MessageType.SOLICIT,
                         MessageType.INFORMATION_REQUEST))
_RENEWING = frozenset((MessageType.RENEW, MessageType.REBIND))


class Client(NamedTuple):
    """Where a client is, its MAC address and IPv6 address, and by which message it is to come."""

    mac: bytes
    address: IPv6Address
    answer: MessageType


class Reconfiguration:
    """Knows the clients that may be called, with a *secret* of 16 bytes; *replay* is the first number.

    *on_begin* is called when all are to be called. `join` adds *reserved_len* bytes to a reply, at most.
    """

    # Both options: the one has no data, the other 11 bytes, a type and a key.
    reserved_len = 2 * HEADER_LEN + 11 + 1 + _DIGEST_LEN

    def __init__(self, secret: bytes, replay: int) -> None:
        self._secret = secret
        self._replay = replay
        self._clients: dict[bytes, Client] = {}  # by DUID; who was heard of last is the last one
        self._waiting: set[bytes] = set()        # who has not come since `begin`
        self.on_begin: Callable[[], None] = lambda: None

    def join(self, request: Dhcpv6Message, reply: Dhcpv6Message, mac: bytes, address: IPv6Address
             ) -> Dhcpv6Message:
        """Return *reply*, to *request* of the client at *mac* and *address*, with what such a client gets."""
        client_id = request.find(ClientId)
        if client_id is None:
            return reply
        duid = client_id.duid
        if request.kind == MessageType.RELEASE:
            self._forget(duid)
        # A status of all of the message says that it was not about configuration.
        if request.kind not in _CONFIGURED or reply.find(StatusOption) is not None:
            return reply
        is_willing = request.find(ReconfigureAccept) is not None
        if reply.kind == MessageType.ADVERTISE:
            return _extend(reply, ReconfigureAccept()) if is_willing else reply
        is_known = self._is_renewing(request, duid)
        self._forget(duid)
        if not (is_willing or is_known):
            return reply
        answer = MessageType.RENEW if request.ias else MessageType.INFORMATION_REQUEST
        self._clients[duid] = Client(mac, address, answer)
        if len(self._clients) > MAX_CLIENTS:
            self._forget(next(iter(self._clients)))
        if is_known:
            return _extend(reply, ReconfigureAccept())
        return _extend(reply, ReconfigureAccept(), self._authenticate(_KEY + self._key(duid)))

    def _is_renewing(self, request: Dhcpv6Message, duid: bytes) -> bool:
        """Tell whether a client has its key already; it is sent by the first reply only (RFC 8415 20.4)."""
        return request.kind in _RENEWING and duid in self._clients

    def _forget(self, duid: bytes) -> None:
        self._clients.pop(duid, None)
        self._waiting.discard(duid)

    def begin(self) -> None:
        """Have all clients called from now on."""
        self._waiting = set(self._clients)
        if self._waiting:
            self.on_begin()

    def calls(self, server_id: ServerId) -> list[tuple[Client, Dhcpv6Message]]:
        """Make a Reconfigure message for each client that has not come yet; each has a number of its own."""
        return [(client, self._call(server_id, duid, client.answer))
                for duid, client in self._clients.items() if duid in self._waiting]

    def _call(self, server_id: ServerId, duid: bytes, answer: MessageType) -> Dhcpv6Message:
        unsigned = self._authenticate(_DIGEST + bytes(_DIGEST_LEN))
        options = (server_id, ClientId(duid), ReconfigureMessage(answer))
        message = Dhcpv6Message(MessageType.RECONFIGURE, 0, (*options, unsigned))
        digest = hmac_md5(self._key(duid), message.build())
        return replace(message, options=(*options, replace(unsigned, info=_DIGEST + digest)))

    def _authenticate(self, info: bytes) -> Authentication:
        option = Authentication(_PROTOCOL, _HMAC_MD5, _MONOTONIC, self._replay, info)
        self._replay = self._replay + 1 & _REPLAY_MASK
        return option

    def _key(self, duid: bytes) -> bytes:
        return hmac_md5(self._secret, duid)


def _extend(reply: Dhcpv6Message, *options: ReconfigureAccept | Authentication) -> Dhcpv6Message:
    return replace(reply, options=(*reply.options, *options))


def hmac_md5(key: bytes, data: bytes) -> bytes:
    """Return the HMAC-MD5 of *data* (RFC 2104 2); *key* has 64 bytes at most.

    RFC 8415 20.4 allows no other one. Where MD5 is switched off for security, it is to be had all the same.
    """
    padded = key.ljust(_BLOCK_LEN, b"\0")
    inner = bytes(byte ^ 0x36 for byte in padded)
    outer = bytes(byte ^ 0x5c for byte in padded)
    inner_digest = md5(inner + data, usedforsecurity=False).digest()
    digest: bytes = md5(outer + inner_digest, usedforsecurity=False).digest()
    return digest
