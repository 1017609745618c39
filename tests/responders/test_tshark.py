"""Whole exchanges with the IPv6 responders, decoded by tshark without one complaint."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING

import pytest

from passt.light.values import replace
from passt.responders.dispatch import Dispatcher
from passt.wire.dhcpv6 import CLIENT_PORT, SERVER_PORT, Dhcpv6Message, MessageType
from passt.wire.dhcpv6_options import (
    ClientId,
    Dhcpv6Option,
    IaAddress,
    IaNa,
    IaPd,
    IaTa,
    OptionRequest,
    RapidCommit,
    ServerId,
    make_duid_ll,
)
from passt.wire.ethernet import EthernetFrame, EtherType, pad
from passt.wire.ip4 import IpProtocol
from passt.wire.ip6 import Ip6Packet
from passt.wire.ndp import NdpMessage, NeighbourSolicitation, RouterSolicitation, build_message
from passt.wire.ndp_options import SourceLinkLayer
from passt.wire.udp import UdpDatagram
from tests.responders.test_dispatch import NET
from tests.support.tshark import complaints, tshark, write_pcap

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

GUEST_MAC = bytes.fromhex("020000000005")
GUEST = IPv6Address("fe80::ff:fe00:5")
NOWHERE = IPv6Address("::")
SERVERS = IPv6Address("ff02::1:2")
ROUTER = IPv6Address("fe80::1")
OURS = IPv6Address("2001:db8::5")
T = MessageType
CLIENT, SERVER = ClientId(make_duid_ll(GUEST_MAC)), ServerId(make_duid_ll(NET.our_mac))
ALL = OptionRequest((23, 24))
BOUND = IaNa(5, 1, 2, (IaAddress(OURS),))
FOREIGN = IaNa(5, 1, 2, (IaAddress(IPv6Address("2001:db8:9::5")),))
MULTICAST_MAC = bytes.fromhex("333300010002")

REQUESTS: list[tuple[MessageType, list[Dhcpv6Option], IPv6Address]] = [
    (T.SOLICIT, [IaNa(5)], SERVERS),
    (T.SOLICIT, [RapidCommit(), IaNa(5), IaNa(6), IaTa(7), IaPd(8)], SERVERS),
    (T.SOLICIT, [], SERVERS),
    (T.REQUEST, [SERVER, BOUND], SERVERS),
    (T.REQUEST, [SERVER, FOREIGN], SERVERS),
    (T.REQUEST, [SERVER, BOUND], ROUTER),
    (T.RENEW, [SERVER, BOUND, IaTa(7)], SERVERS),
    (T.RENEW, [SERVER, FOREIGN], SERVERS),
    (T.REBIND, [BOUND, IaPd(8)], SERVERS),
    (T.CONFIRM, [BOUND], SERVERS),
    (T.CONFIRM, [FOREIGN], SERVERS),
    (T.RELEASE, [SERVER, BOUND], SERVERS),
    (T.DECLINE, [SERVER, FOREIGN], SERVERS),
    (T.INFORMATION_REQUEST, [], SERVERS),
]


def wrapped(source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes) -> bytes:
    packet = Ip6Packet(source, destination, protocol, payload)
    return pad(EthernetFrame(MULTICAST_MAC, GUEST_MAC, EtherType.IP6, packet.build()).build())


def dhcpv6(kind: MessageType, options: list[Dhcpv6Option], destination: IPv6Address, number: int) -> bytes:
    message = Dhcpv6Message(kind, number, (CLIENT, ALL, *options))
    datagram = UdpDatagram(CLIENT_PORT, SERVER_PORT, message.build())
    return wrapped(GUEST, destination, IpProtocol.UDP, datagram.build(GUEST, destination))


def ndp(source: IPv6Address, destination: IPv6Address, message: NdpMessage) -> bytes:
    return wrapped(source, destination, IpProtocol.ICMP6, build_message(message).build(source, destination))


def test_dhcpv6_exchanges_are_decoded_without_complaint(tmp_path: Path) -> None:
    # A search domain of one label is a matter for the user; tshark warns of it.
    dispatcher = Dispatcher(replace(NET, search=("example.com", "lab.example")))
    frames = []
    for number, (kind, options, destination) in enumerate(REQUESTS):
        question = dhcpv6(kind, options, destination, number)
        answers = dispatcher.respond(question)
        assert len(answers) == 1, kind
        frames += [question, *answers]
    path = tmp_path / "dhcpv6.pcap"
    write_pcap(path, frames)
    assert complaints(path) == []
    kinds = tshark(path, "-T", "fields", "-e", "dhcpv6.msgtype")
    assert kinds[0::2] == [str(int(kind)) for kind, _, _ in REQUESTS]
    assert kinds[1::2] == ["2", "7", "2", *["7"] * 11]
    assert tshark(path, "-Y", "dhcpv6.search_list_entry", "-T", "fields", "-e", "frame.number")
    assert tshark(path, "-Y", "dhcpv6.dns_server == 2001:db8::53", "-T", "fields", "-e", "frame.number")


@pytest.mark.parametrize(
    "search",
    [(), ("lan",), ("example.com", "lan"), *[("x" * width, "lan") for width in range(1, 9)]],
    ids=lambda search: f"{sum(map(len, search))} letters",
)
def test_neighbour_discovery_is_decoded_without_complaint(tmp_path: Path, search: tuple[str, ...]) -> None:
    dispatcher = Dispatcher(replace(NET, search=search))
    link_layer = (SourceLinkLayer(GUEST_MAC),)
    routers, group = IPv6Address("ff02::2"), IPv6Address("ff02::1:ff00:1")
    questions = [
        ndp(GUEST, routers, RouterSolicitation(link_layer)),
        ndp(NOWHERE, routers, RouterSolicitation()),
        ndp(GUEST, group, NeighbourSolicitation(ROUTER, link_layer)),
        ndp(NOWHERE, group, NeighbourSolicitation(ROUTER)),
    ]
    answers = [dispatcher.respond(question) for question in questions] + [dispatcher.advertise()]
    assert [len(one) for one in answers] == [1] * 5
    path = tmp_path / "ndp.pcap"
    write_pcap(path, questions + [frame for one in answers for frame in one])
    assert complaints(path) == []
    kinds = tshark(path, "-T", "fields", "-e", "icmpv6.type")
    assert kinds == ["133", "133", "135", "135", "134", "134", "136", "136", "134"]


def test_complaints_are_seen(tmp_path: Path) -> None:
    good = dhcpv6(T.SOLICIT, [IaNa(5)], SERVERS, 1)
    bad_sum, bad_length = bytearray(good), bytearray(good)
    bad_sum[61] ^= 1
    bad_length[69] += 60
    path = tmp_path / "bad.pcap"
    for frame in (bad_sum, bad_length):
        write_pcap(path, [bytes(frame)])
        assert len(complaints(path)) == 1
