"""Which DHCPv6 clients are called when the network changes, by what, and until when."""

import hashlib
import hmac
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from passt.facts.guest import GuestFamily, GuestNet
from passt.light.values import replace
from passt.responders.dispatch import Dispatcher
from passt.responders.reconfiguration import MAX_CLIENTS, Reconfiguration, hmac_md5
from passt.wire.dhcpv6 import Dhcpv6Message, MessageType
from passt.wire.dhcpv6_options import (
    Authentication,
    ClientFqdn,
    ClientId,
    Dhcpv6Option,
    DomainList,
    IaNa,
    OptionRequest,
    RapidCommit,
    ReconfigureAccept,
    ReconfigureMessage,
    ServerId,
)

T = MessageType
ROUTER, PLACE, SERVERS = IPv6Address("fe80::1"), IPv6Address("fe80::5"), IPv6Address("ff02::1:2")
MAC = bytes.fromhex("020000000005")
SECRET, FIRST = bytes(range(16)), 1 << 60
FAMILY = GuestFamily(IPv6Address("2001:db8::5"), 64, ROUTER, ROUTER, resolvers=(IPv6Address("2001:db8::53"),))
NET = GuestNet(None, FAMILY, "eth0", search=("lan",))
MOVED = replace(NET, ip6=replace(FAMILY, address=IPv6Address("2001:db8:9::5")))
SERVER = ServerId(bytes.fromhex("000300019a559a559a55"))
NAMED = {T.REQUEST, T.RENEW, T.RELEASE, T.DECLINE}
ACCEPT, IA = ReconfigureAccept(), IaNa(7)


class Link:
    """A guest with DHCPv6 clients, and what serves it."""

    def __init__(self, secret: bytes = SECRET, net: GuestNet = NET) -> None:
        self.reconfiguration = Reconfiguration(secret, FIRST)
        self.dispatcher = Dispatcher(net, short_leases=True, reconfiguration=self.reconfiguration)
        self.begun = 0
        self.reconfiguration.on_begin = self.note

    def note(self) -> None:
        self.begun += 1

    def ask(self, kind: MessageType, *options: Dhcpv6Option, client: bytes = b"\0\3one", mac: bytes = MAC,
            place: IPv6Address = PLACE, to: IPv6Address = SERVERS) -> Dhcpv6Message:
        """Send a message of *kind* with what makes it valid, and *options*; return the answer."""
        named = (SERVER,) if kind in NAMED else ()
        message = Dhcpv6Message(kind, 77, (ClientId(client), *named, *options))
        frame = Ether(src=mac, dst="33:33:00:01:00:02") / IPv6(src=str(place), dst=str(to)) / UDP(
            sport=546, dport=547) / message.build()
        (reply,) = self.dispatcher.respond(bytes(frame))
        return unwrap(reply)[2]

    def calls(self) -> list[tuple[bytes, IPv6Address, Dhcpv6Message]]:
        """Return whom a call goes to now, MAC and IPv6 address, and what it says."""
        return [unwrap(frame) for frame in self.dispatcher.reconfigure()]


def unwrap(frame: bytes) -> tuple[bytes, IPv6Address, Dhcpv6Message]:
    """Return the destination's MAC and IPv6 address, and the message."""
    parsed = Ether(frame)
    assert (parsed[IPv6].src, parsed[UDP].sport, parsed[UDP].dport) == (str(ROUTER), 547, 546)
    return frame[:6], IPv6Address(parsed[IPv6].dst), Dhcpv6Message.parse(frame[62:])


def key_of(reply: Dhcpv6Message) -> bytes:
    """Return the key that a reply brings; it has to be as RFC 8415 20.4.1 and 20.4.2 say."""
    option = reply.find(Authentication)
    assert option is not None
    assert (option.protocol, option.algorithm, option.rdm) == (3, 1, 0)
    assert option.info[:1] == b"\1"
    assert len(option.info) == 17
    assert reply.find(ReconfigureAccept)
    return option.info[1:]


def check(call: Dhcpv6Message, key: bytes, client: bytes = b"\0\3one", answer: MessageType = T.RENEW) -> int:
    """Check a call as a client has to (RFC 8415 16.11, 18.3.11, 20.4.3); return its replay number."""
    assert (call.kind, call.transaction_id) == (T.RECONFIGURE, 0)
    *others, last = call.options
    assert others == [SERVER, ClientId(client), ReconfigureMessage(answer)]
    assert isinstance(last, Authentication)
    assert (last.protocol, last.algorithm, last.rdm, last.info[:1]) == (3, 1, 0, b"\2")
    data = call.build()
    assert data.endswith(last.info[1:])
    assert hmac.digest(key, data[:-16] + bytes(16), hashlib.md5) == last.info[1:]
    return last.replay


@pytest.mark.parametrize(("key", "data", "digest"), [
    (b"\x0b" * 16, b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),
    (b"Jefe", b"what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"),
    (b"\xaa" * 16, b"\xdd" * 50, "56be34521d144c88dbb8c733f0e8b3f6"),
])
def test_vectors_of_rfc_2202(key: bytes, data: bytes, digest: str) -> None:
    assert hmac_md5(key, data).hex() == digest


@given(st.binary(max_size=64), st.binary(max_size=200))
def test_digest_is_that_of_the_standard_library(key: bytes, data: bytes) -> None:
    assert hmac_md5(key, data) == hmac.digest(key, data, hashlib.md5)


@pytest.mark.parametrize(("kind", "options", "answer"), [
    (T.REQUEST, (IA,), T.RENEW),
    (T.SOLICIT, (IA, RapidCommit()), T.RENEW),
    (T.RENEW, (IA,), T.RENEW),
    (T.REBIND, (IA,), T.RENEW),
    (T.INFORMATION_REQUEST, (), T.INFORMATION_REQUEST),
])
def test_client_that_accepts_gets_a_key_and_is_called_when_its_address_changes(
        kind: MessageType, options: tuple[Dhcpv6Option, ...], answer: MessageType) -> None:
    link = Link()
    key = key_of(link.ask(kind, ACCEPT, *options))
    assert link.calls() == [], "nothing has changed"
    link.dispatcher.renew(MOVED)
    assert link.begun == 1
    [(mac, address, call)] = link.calls()
    assert (mac, address) == (MAC, PLACE)
    check(call, key, answer=answer)
    assert link.dispatcher.counters()["control_dhcpv6_reconfigured"] == 1


def test_golden_key_and_call() -> None:
    link = Link()
    reply = link.ask(T.REQUEST, ACCEPT, OptionRequest(()))
    key = hmac.digest(SECRET, b"\0\3one", hashlib.md5)
    assert reply.build()[-36:] == bytes.fromhex(
        "00140000 000b001c 03 01 00 1000000000000000 01") + key
    link.dispatcher.renew(MOVED)
    [(_, _, call)] = link.calls()
    assert call.build()[:-16] == bytes.fromhex(
        "0a000000 0002000a000300019a559a559a55 0001000500036f6e65 001300010b"
        "000b001c 03 01 00 1000000000000001 02")


def test_client_that_does_not_accept_gets_no_key_and_is_not_called() -> None:
    link = Link()
    for kind in (T.SOLICIT, T.REQUEST, T.RENEW, T.REBIND):
        reply = link.ask(kind, IA)
        assert reply.find(Authentication) is None
        assert reply.find(ReconfigureAccept) is None
    link.dispatcher.renew(MOVED)
    assert (link.calls(), link.begun) == ([], 0)


def test_without_a_reconfiguration_nobody_gets_a_key() -> None:
    link = Link()
    link.dispatcher = Dispatcher(NET)
    reply = link.ask(T.REQUEST, ACCEPT, IA)
    assert reply.find(Authentication) is None
    assert reply.find(ReconfigureAccept) is None
    assert link.calls() == []


def test_advertisement_says_that_clients_may_be_called_but_has_no_key() -> None:
    link = Link()
    reply = link.ask(T.SOLICIT, ACCEPT, IA)
    assert reply.kind == T.ADVERTISE
    assert reply.find(ReconfigureAccept)
    assert reply.find(Authentication) is None
    link.dispatcher.renew(MOVED)
    assert link.calls() == []


def test_key_comes_with_the_first_reply_only_and_stays_the_same() -> None:
    link = Link()
    key = key_of(link.ask(T.REQUEST, ACCEPT, IA))
    for options in ((ACCEPT, IA), (IA,)):
        reply = link.ask(T.RENEW, *options)
        assert reply.find(Authentication) is None
        assert reply.find(ReconfigureAccept), "it may be called still"
    assert key_of(link.ask(T.REQUEST, ACCEPT, IA)) == key, "who begins anew has forgotten it"


def test_keys_differ_by_client_and_by_secret() -> None:
    link, other = Link(), Link(bytes(16))
    keys = {key_of(each.ask(T.REQUEST, ACCEPT, client=client))
            for each in (link, other) for client in (b"\0\3one", b"\0\3two")}
    assert len(keys) == 4


@pytest.mark.parametrize("kind", [T.REQUEST, T.RENEW, T.REBIND, T.INFORMATION_REQUEST])
def test_client_that_has_come_is_called_no_more(kind: MessageType) -> None:
    link = Link()
    link.ask(T.REQUEST, ACCEPT, IA)
    link.ask(T.REQUEST, ACCEPT, IA, client=b"\0\3two")
    link.dispatcher.renew(MOVED)
    assert len(link.calls()) == 2
    link.ask(kind, ACCEPT, *([] if kind == T.INFORMATION_REQUEST else [IA]))
    [(_, _, call)] = link.calls()
    assert call.find(ClientId) == ClientId(b"\0\3two")
    link.ask(T.RENEW, IA, client=b"\0\3two")
    assert link.calls() == []


def test_message_that_brings_no_configuration_does_not_end_the_calls() -> None:
    link = Link()
    link.ask(T.REQUEST, ACCEPT, IA)
    link.dispatcher.renew(MOVED)
    link.ask(T.SOLICIT, ACCEPT, IA)
    link.ask(T.DECLINE, IA)
    link.ask(T.RENEW, IA, to=ROUTER)  # is told to use multicast
    assert len(link.calls()) == 1


def test_each_message_has_a_higher_number_than_those_before() -> None:
    link = Link()
    option = link.ask(T.REQUEST, ACCEPT, IA).find(Authentication)
    key = key_of(link.ask(T.REQUEST, ACCEPT, IA))
    assert option is not None
    link.dispatcher.renew(MOVED)
    numbers = [option.replay] + [check(call, key) for _ in range(5) for _, _, call in link.calls()]
    assert numbers == sorted(set(numbers))


def test_number_against_replays_begins_anew_behind_the_highest() -> None:
    reconfiguration = Reconfiguration(SECRET, (1 << 64) - 1)
    link = Link()
    link.reconfiguration = reconfiguration
    link.dispatcher = Dispatcher(NET, reconfiguration=reconfiguration)
    key = key_of(link.ask(T.REQUEST, ACCEPT, IA))
    link.dispatcher.renew(MOVED)
    [(_, _, call)] = link.calls()
    assert check(call, key) == 0


@pytest.mark.parametrize("changed", [
    MOVED,
    replace(NET, ip6=replace(FAMILY, resolvers=())),
    replace(NET, search=("other",)),
    replace(NET, fqdn="guest.lan"),
])
def test_clients_are_called_for_all_that_they_are_told(changed: GuestNet) -> None:
    link = Link()
    link.ask(T.REQUEST, ACCEPT, IA)
    link.dispatcher.renew(changed)
    assert len(link.calls()) == 1


@pytest.mark.parametrize("changed", [
    NET,
    replace(NET, ip6=replace(FAMILY, gateway=IPv6Address("fe80::9"))),
    replace(NET, ip6=replace(FAMILY, template_ifname="wlan0", template_ifindex=5)),
])
def test_clients_are_not_called_for_what_they_are_not_told(changed: GuestNet) -> None:
    link = Link()
    link.ask(T.REQUEST, ACCEPT, IA)
    link.dispatcher.renew(changed)
    assert (link.calls(), link.begun) == ([], 0)


def test_client_that_begins_anew_without_accepting_or_releases_its_address_is_not_called() -> None:
    link = Link()
    for number, kind in enumerate((T.REQUEST, T.RELEASE)):
        client = b"\0\3" + bytes([number])
        link.ask(T.REQUEST, ACCEPT, IA, client=client)
        link.ask(kind, IA, client=client)
    link.dispatcher.renew(MOVED)
    assert link.calls() == []


def test_client_is_called_where_it_was_last() -> None:
    link = Link()
    link.ask(T.REQUEST, ACCEPT, IA)
    there, mac = IPv6Address("fe80::77"), bytes.fromhex("020000000077")
    link.ask(T.RENEW, IA, mac=mac, place=there)
    link.dispatcher.renew(MOVED)
    [(*where, _)] = link.calls()
    assert where == [mac, there]


def test_no_more_clients_than_there_are_places_and_those_heard_of_last_have_them() -> None:
    link = Link()
    names = [b"\0\3" + bytes([number]) for number in range(200)]
    for name in names:
        link.ask(T.REQUEST, ACCEPT, IA, client=name)
        link.ask(T.REQUEST, ACCEPT, IA, client=names[0])
    link.dispatcher.renew(MOVED)
    called = [call.find(ClientId) for _, _, call in link.calls()]
    assert called == [ClientId(name) for name in (*names[-MAX_CLIENTS + 1:], names[0])]
    assert key_of(link.ask(T.RENEW, ACCEPT, IA, client=names[5])), "who has lost its place gets a key anew"


def test_message_without_a_client_is_answered_and_not_called() -> None:
    link = Link()
    message = Dhcpv6Message(T.INFORMATION_REQUEST, 77, (ACCEPT,))
    packet = IPv6(src=str(PLACE), dst=str(SERVERS)) / UDP(sport=546, dport=547) / message.build()
    (reply,) = link.dispatcher.respond(bytes(Ether(src=MAC) / packet))
    assert unwrap(reply)[2].find(Authentication) is None
    link.dispatcher.renew(MOVED)
    assert link.calls() == []


def test_reply_with_a_key_and_a_long_search_list_fits() -> None:
    net = replace(NET, search=tuple(f"{'a' * 60}.{number}.example" for number in range(60)), fqdn="b" * 60)
    link = Link(net=net)
    reply = link.ask(T.REQUEST, ACCEPT, OptionRequest((DomainList.CODE, ClientFqdn.CODE)), client=b"c" * 130)
    assert key_of(reply)
    assert 1280 - 40 - 8 - 80 < len(reply.build()) <= 1280 - 40 - 8
