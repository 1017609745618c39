"""Frames in, frames out: golden answers, counters, hostile frames."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Ether

from passt.facts.guest import GuestFamily, GuestNet
from passt.light.values import replace
from passt.responders.dispatch import Dispatcher

if TYPE_CHECKING:
    from passt.facts.contracts import FrameResponder

GUEST_MAC, SERVER_MAC = "02:00:00:00:00:05", "9a:55:9a:55:9a:55"
NET = GuestNet(
    GuestFamily(
        IPv4Address("192.0.2.5"),
        24,
        IPv4Address("192.0.2.1"),
        IPv4Address("192.0.2.1"),
        resolvers=(IPv4Address("192.0.2.53"), IPv4Address("198.51.100.53")),
    ),
    GuestFamily(
        IPv6Address("2001:db8::5"),
        64,
        IPv6Address("fe80::1"),
        IPv6Address("fe80::1"),
        resolvers=(IPv6Address("2001:db8::53"),),
    ),
    "eth0",
    search=("example.com", "lan"),
)
ARP_REQUEST = bytes(
    Ether(src=GUEST_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=GUEST_MAC, psrc="192.0.2.5", pdst="192.0.2.1")
)
NS = (
    Ether(src=GUEST_MAC, dst="33:33:ff:00:00:01")
    / IPv6(src="2001:db8::5", dst="ff02::1:ff00:1", hlim=255)
    / ICMPv6ND_NS(tgt="fe80::1")
)


def nonzero(dispatcher: Dispatcher) -> dict[str, int]:
    return {name: count for name, count in dispatcher.counters().items() if count}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("arp_request", "arp_reply"),
        ("neighbour_solicitation", "neighbour_advertisement"),
        ("router_solicitation", "router_advertisement"),
        ("dhcp_discover", "dhcp_offer"),
        ("dhcp_request", "dhcp_ack"),
        ("dhcpv6_solicit", "dhcpv6_advertise"),
        ("dhcpv6_request", "dhcpv6_reply"),
        ("dhcpv6_confirm", "dhcpv6_confirm_reply"),
        ("dhcpv6_release", "dhcpv6_release_reply"),
        ("dhcpv6_information_request", "dhcpv6_information_reply"),
    ],
)
def test_golden_question_gets_golden_answer(
    vector: Callable[[str], bytes], question: str, answer: str
) -> None:
    responder: FrameResponder = Dispatcher(NET)
    assert responder.respond(vector(question)) == [vector(answer)]


QUESTIONS = [
    "arp_request",
    "dhcp_request",
    "neighbour_solicitation",
    "router_solicitation",
    "dhcpv6_solicit",
    "dhcpv6_request",
    "dhcpv6_confirm",
    "dhcpv6_release",
    "dhcpv6_information_request",
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_truncation_is_counted_and_answered_by_nothing(
    vector: Callable[[str], bytes], question: str
) -> None:
    frame = vector(question)
    for length in range(len(frame)):
        dispatcher = Dispatcher(NET)
        assert dispatcher.respond(frame[:length]) == []
        assert sum(count for name, count in dispatcher.counters().items() if name.endswith("_malformed")) == 1


def test_counts_per_layer(vector: Callable[[str], bytes]) -> None:
    dispatcher = Dispatcher(NET)
    assert nonzero(dispatcher) == {}
    dispatcher.respond(vector("arp_request"))
    dispatcher.respond(vector("arp_request")[:20])
    dispatcher.respond(vector("neighbour_solicitation"))
    dispatcher.respond(vector("neighbour_solicitation")[:50])
    dispatcher.respond(b"")
    assert nonzero(dispatcher) == {
        "control_ethernet_received": 5,
        "drop_control_ethernet_malformed": 1,
        "control_arp_received": 2,
        "drop_control_arp_malformed": 1,
        "control_arp_answered": 1,
        "control_ip6_received": 2,
        "drop_control_ip6_malformed": 1,
        "control_icmp6_received": 1,
        "control_ndp_received": 1,
        "control_ndp_answered": 1,
    }


@pytest.mark.parametrize(
    ("layer", "frame"),
    [
        ("ip6", NS),
        ("icmp6", NS),
        ("ndp", NS),
    ],
)
def test_spoiled_layer_is_the_one_counted(layer: str, frame: Ether) -> None:
    data = bytearray(bytes(frame))
    match layer:
        case "ip6":
            data[14] = 0x40
        case "icmp6":
            data[56] ^= 1
        case "ndp":
            data[21] = 254
    dispatcher = Dispatcher(NET)
    assert dispatcher.respond(bytes(data)) == []
    assert dispatcher.counters()[f"drop_control_{layer}_malformed"] == 1


def test_mutating_the_returned_stats_changes_nothing() -> None:
    dispatcher = Dispatcher(NET)
    dispatcher.counters()["control_ethernet_received"] = 99
    assert dispatcher.counters()["control_ethernet_received"] == 0


def test_answers_go_to_the_mac_that_asked_whatever_the_mac_that_was_asked() -> None:
    frame = Ether(src="06:07:08:09:0a:0b", dst="06:00:00:00:00:01") / NS.payload
    (answer,) = Dispatcher(NET).respond(bytes(frame))
    assert answer[:12] == bytes.fromhex("060708090a0b") + NET.our_mac


def test_our_mac_comes_from_the_facts(vector: Callable[[str], bytes]) -> None:
    mac = bytes.fromhex("0a0000000001")
    dispatcher = Dispatcher(replace(NET, our_mac=mac))
    for question in ("arp_request", "neighbour_solicitation", "router_solicitation"):
        (answer,) = dispatcher.respond(vector(question))
        assert answer[6:12] == mac
        assert answer.count(mac) == 2
        assert NET.our_mac not in answer


def test_router_solicitation_from_nowhere_answered_to_the_group() -> None:
    frame = (
        Ether(src=GUEST_MAC, dst="33:33:00:00:00:02")
        / IPv6(src="::", dst="ff02::2", hlim=255)
        / ICMPv6ND_RS()
    )
    (answer,) = Dispatcher(NET).respond(bytes(frame))
    theirs = Ether(answer)
    assert (theirs.dst, theirs[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert theirs.haslayer(ICMPv6ND_RA)


def test_launcher_probe_is_answered() -> None:
    frame = Ether(src="ff:ff:ff:ff:ff:ff", dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc="ff:ff:ff:ff:ff:ff", psrc="0.0.0.0", hwdst="ff:ff:ff:ff:ff:ff", pdst="0.0.0.0"
    )
    assert len(Dispatcher(NET).respond(bytes(frame))) == 1


def test_switches(vector: Callable[[str], bytes]) -> None:
    quiet = Dispatcher(NET, router_advertisements=False)
    assert quiet.respond(vector("router_solicitation")) == []
    assert len(quiet.respond(vector("neighbour_solicitation"))) == 1
    no_dhcpv6 = Dispatcher(NET, dhcpv6=False)
    assert no_dhcpv6.respond(vector("dhcpv6_solicit")) == []
    (advertised,) = no_dhcpv6.respond(vector("router_solicitation"))
    assert not Ether(advertised)[ICMPv6ND_RA].M
    silent = Dispatcher(NET, ndp=False)
    assert len(silent.respond(vector("dhcpv6_solicit"))) == 1
    assert silent.respond(vector("router_solicitation")) == []
    assert silent.respond(vector("neighbour_solicitation")) == []
    assert len(silent.respond(vector("arp_request"))) == 1


def test_family_that_is_off_gets_no_answer(vector: Callable[[str], bytes]) -> None:
    only6, only4 = Dispatcher(replace(NET, ip4=None)), Dispatcher(replace(NET, ip6=None))
    assert only6.respond(vector("arp_request")) == []
    assert len(only6.respond(vector("neighbour_solicitation"))) == 1
    assert only4.respond(vector("neighbour_solicitation")) == []
    assert only4.respond(vector("router_solicitation")) == []
    assert only4.respond(vector("dhcpv6_solicit")) == []
    assert only4.advertise() == []
    assert len(only4.respond(vector("arp_request"))) == 1


@pytest.mark.parametrize(
    "frame",
    [
        Ether(src=GUEST_MAC, dst="33:33:ff:00:00:01", type=0x8100) / b"\0\1\x08\x06",
        Ether(src=GUEST_MAC, dst="9a:55:9a:55:9a:55") / IPv6(dst="2001:db8::1") / ICMPv6EchoRequest(),
        Ether(src=GUEST_MAC, dst="9a:55:9a:55:9a:55") / IPv6(dst="2001:db8::1") / UDP(dport=53),
    ],
)
def test_frames_of_other_kinds_are_neither_answered_nor_malformed(frame: Ether) -> None:
    dispatcher = Dispatcher(NET)
    assert dispatcher.respond(bytes(frame)) == []
    assert not any("malformed" in name or "answered" in name for name in nonzero(dispatcher))


def test_solicitation_behind_an_extension_header_answered_but_not_a_fragment() -> None:
    ip = IPv6(src="2001:db8::5", dst="ff02::1:ff00:1", hlim=255)
    ether = Ether(src=GUEST_MAC, dst="33:33:ff:00:00:01")
    dispatcher = Dispatcher(NET)
    assert len(dispatcher.respond(bytes(ether / ip / IPv6ExtHdrHopByHop() / ICMPv6ND_NS(tgt="fe80::1")))) == 1
    assert dispatcher.respond(bytes(ether / ip / IPv6ExtHdrFragment() / ICMPv6ND_NS(tgt="fe80::1"))) == []
    assert dispatcher.counters()["drop_control_ip6_malformed"] == 1


@pytest.mark.parametrize(("question", "answer", "address"), [
    ("arp_request", "arp_reply", "192.0.2.1"),
    ("neighbour_solicitation", "neighbour_advertisement", "fe80::1"),
])
def test_answer_for_a_host_beside_us_comes_from_it(vector: Callable[[str], bytes], question: str, answer: str,
                                                   address: str) -> None:
    real, ours = bytes.fromhex("0200000000aa"), bytes.fromhex("9a559a559a55")
    packed = ip_address(address).packed
    dispatcher = Dispatcher(NET)
    assert dispatcher.set_neighbours({packed: real}) == []
    (frame,) = dispatcher.respond(vector(question))
    expected = vector(answer).replace(ours, real)
    if question == "arp_request":
        assert frame == expected
    else:
        # Its R flag is clear, and so the checksum another one; scapy says whether that is right.
        assert frame[:14] == expected[:14]
        assert frame[58:] == b"\x60" + expected[59:]
        again = Ether(frame)
        del again[ICMPv6ND_NA].cksum
        assert bytes(again) == frame
    (told,) = dispatcher.set_neighbours({packed: real[:5] + b"\xbb"})
    assert told[6:12] == real[:5] + b"\xbb"
    assert dispatcher.counters()["control_neighbours_announced"] == 1
    dispatcher.renew(NET)
    assert dispatcher.respond(vector(question))[0][6:12] == real[:5] + b"\xbb", "they are the same still"
    dispatcher.set_neighbours({})
    assert dispatcher.respond(vector(question)) == [vector(answer)]


def test_explanations(vector: Callable[[str], bytes]) -> None:
    lines: list[str] = []
    dispatcher = Dispatcher(NET, explain=lines.append)
    dispatcher.respond(vector("arp_request"))
    dispatcher.respond(vector("router_solicitation"))
    dispatcher.respond(vector("arp_request")[:30])
    assert lines == [
        "arp: told 02:00:00:00:00:05: 192.0.2.1 is at 9a:55:9a:55:9a:55",
        "ndp: told 02:00:00:00:00:05: RouterAdvertisement",
        "malformed frame: ARP: 28 bytes wanted at offset 0, 16 left",
    ]


@given(st.binary(max_size=120))
def test_any_frame_is_survived(frame: bytes) -> None:
    Dispatcher(NET).respond(frame)


def test_unsolicited_advertisement_is_the_solicited_one_for_all_nodes(
    vector: Callable[[str], bytes],
) -> None:
    dispatcher = Dispatcher(NET)
    (frame,) = dispatcher.advertise()
    theirs = Ether(frame)
    assert (theirs.dst, theirs[IPv6].src, theirs[IPv6].dst) == ("33:33:00:00:00:01", "fe80::1", "ff02::1")
    assert frame[58:] == vector("router_advertisement")[58:]
    assert dispatcher.counters()["control_ndp_advertised"] == 1


@pytest.mark.parametrize("switches", [{"ndp": False}, {"router_advertisements": False}])
def test_no_unsolicited_advertisement_when_switched_off(switches: dict[str, bool]) -> None:
    dispatcher = Dispatcher(NET, **switches)  # type: ignore[arg-type]
    assert dispatcher.advertise() == []
    assert nonzero(dispatcher) == {}


def test_server_without_link_local_address_is_off(vector: Callable[[str], bytes]) -> None:
    assert NET.ip6
    dispatcher = Dispatcher(replace(NET, ip6=replace(NET.ip6, our_address=IPv6Address("2001:db8::1"))))
    assert dispatcher.respond(vector("dhcpv6_solicit")) == []


def test_dhcpv6_client_without_address_is_counted_as_malformed(vector: Callable[[str], bytes]) -> None:
    frame = bytearray(vector("dhcpv6_solicit"))
    frame[22:38] = bytes(16)
    dispatcher = Dispatcher(NET)
    assert dispatcher.respond(bytes(frame)) == []
    assert dispatcher.counters()["drop_control_dhcpv6_malformed"] == 1


def test_checksum_left_to_the_link_does_not_matter(vector: Callable[[str], bytes]) -> None:
    frame = bytearray(vector("dhcpv6_solicit"))
    frame[60:62] = b"\x12\x34"
    assert Dispatcher(NET).respond(bytes(frame)) == [vector("dhcpv6_advertise")]


def test_duplicate_address_detection_for_our_address_is_answered_to_all_nodes() -> None:
    frame = (
        Ether(src=GUEST_MAC, dst="33:33:ff:00:00:01")
        / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255)
        / ICMPv6ND_NS(tgt="fe80::1")
    )
    (answer,) = Dispatcher(NET).respond(bytes(frame))
    theirs = Ether(answer)
    assert (theirs.dst, theirs[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert (theirs[ICMPv6ND_NA].S, theirs[ICMPv6ND_NA].O) == (0, 1)


@given(st.sampled_from([ARP_REQUEST, bytes(NS)]), st.data())
def test_any_spoiled_frame_is_survived_and_answers_are_frames(good: bytes, data: st.DataObject) -> None:
    frame = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    for answer in Dispatcher(NET).respond(bytes(frame)):
        assert len(answer) >= 60
        assert answer[6:12] == NET.our_mac


# DHCP

CLIENT = Ether(src=GUEST_MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")


def dhcp(*options: object, flags: str = "") -> bytes:
    bootp = BOOTP(chaddr=bytes.fromhex(GUEST_MAC.replace(":", "")), xid=7, flags=flags)
    return bytes(CLIENT / UDP(sport=68, dport=67) / bootp / DHCP(options=[*options, "end"]))


def test_dhcp_answer_is_wrapped_for_the_client() -> None:
    (reply,) = Dispatcher(NET).respond(dhcp(("message-type", "discover")))
    frame = Ether(reply)
    assert (frame.dst, frame.src) == (GUEST_MAC, "9a:55:9a:55:9a:55")
    assert (frame[IP].src, frame[IP].dst) == ("192.0.2.1", "192.0.2.5")
    assert (frame[UDP].sport, frame[UDP].dport, frame[BOOTP].yiaddr) == (67, 68, "192.0.2.5")
    checksum = frame[UDP].chksum
    del frame[UDP].chksum
    assert Ether(bytes(frame))[UDP].chksum == checksum != 0


@pytest.mark.parametrize("flags", ["B", ""])
def test_dhcp_broadcast_goes_to_every_hardware_address(flags: str) -> None:
    refused = [] if flags else [("requested_addr", "10.1.2.3")]
    (reply,) = Dispatcher(NET).respond(dhcp(("message-type", "request"), *refused, flags=flags))
    assert (Ether(reply).dst, Ether(reply)[IP].dst) == ("ff:ff:ff:ff:ff:ff", "255.255.255.255")


@pytest.mark.parametrize(
    "dispatcher",
    [
        Dispatcher(NET, dhcp=False),
        Dispatcher(replace(NET, ip4=None)),
        Dispatcher(replace(NET, ip4=GuestFamily(IPv4Address("192.0.2.5"), 24, None, None))),
    ],
    ids=["switched off", "no IPv4", "no gateway"],
)
def test_no_dhcp_service(dispatcher: Dispatcher) -> None:
    assert dispatcher.respond(dhcp(("message-type", "discover"))) == []
    assert dispatcher.counters()["control_dhcp_received"] == 0


def test_dhcp_is_counted_and_explained() -> None:
    lines: list[str] = []
    dispatcher = Dispatcher(NET, explain=lines.append)
    dispatcher.respond(dhcp(("message-type", "discover")))
    dispatcher.respond(dhcp(("message-type", "decline")))
    dispatcher.respond(dhcp(("message-type", 0)))
    dispatcher.respond(bytes(CLIENT / UDP(sport=68, dport=68)))
    dispatcher.respond(bytes(CLIENT / ICMP()))
    assert nonzero(dispatcher) == {
        "control_ethernet_received": 5, "control_ip4_received": 5, "control_udp_received": 4,
        "control_dhcp_received": 3, "control_dhcp_answered": 1, "control_dhcp_refused": 1,
        "drop_control_dhcp_malformed": 1,
    }  # fmt: skip
    assert lines == [
        f"dhcp: told {GUEST_MAC}: OFFER",
        f"dhcp: no answer to {GUEST_MAC}: the client declines the address, and there is no other",
        "malformed frame: DHCP MESSAGE_TYPE: 0",
    ]


@given(st.data())
def test_spoiled_dhcp_frame_is_dropped_or_answered_in_order(data: st.DataObject) -> None:
    frame = bytearray(
        dhcp(("message-type", "request"), ("param_req_list", [1, 3, 119]), ("client_id", b"\1abc"))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    for reply in Dispatcher(NET).respond(bytes(frame)):
        assert 60 <= len(reply) <= 1514


def test_warning_about_names_is_handed_on() -> None:
    warnings: list[str] = []
    Dispatcher(
        replace(NET, search=tuple(f"{letter * 60}.example" for letter in "abcdef")), warn=warnings.append
    )
    assert len(warnings) == 1


def test_address_that_the_guest_uses_is_not_claimed() -> None:
    request = bytes(Ether(src=GUEST_MAC) / ARP(hwsrc=GUEST_MAC, psrc="0.0.0.0", pdst="192.0.2.77"))
    assert Dispatcher(NET).respond(request) != []
    assert Dispatcher(NET, is_guest=lambda address: address == bytes((192, 0, 2, 77))).respond(request) == []


def test_renewal_answers_anew_and_tells_the_guest_at_once() -> None:
    assert NET.ip4
    assert NET.ip6
    moved = replace(
        NET,
        ip4=replace(NET.ip4, address=IPv4Address("198.51.100.5"), gateway=IPv4Address("198.51.100.1"),
                    our_address=IPv4Address("198.51.100.1")),
        ip6=replace(NET.ip6, address=IPv6Address("2001:db8:9::5"), our_address=IPv6Address("fe80::2")),
    )  # fmt: skip
    dispatcher = Dispatcher(NET, short_leases=True)
    frames = [Ether(frame) for frame in dispatcher.renew(moved)]
    assert [(frame[IPv6].src, frame[IPv6].dst, frame[ICMPv6ND_RA].routerlifetime) for frame in frames] == [
        ("fe80::2", "ff02::1", 65535), ("fe80::1", "ff02::1", 0)]
    (answer,) = dispatcher.respond(dhcp(("message-type", "request"), ("requested_addr", "192.0.2.5")))
    assert ("message-type", 6) in Ether(answer)[DHCP].options
    (answer,) = dispatcher.respond(dhcp(("message-type", "discover")))
    assert Ether(answer)[BOOTP].yiaddr == "198.51.100.5"
    assert ("lease_time", 120) in Ether(answer)[DHCP].options
    assert dispatcher.counters()["control_dhcp_answered"] == 2


def test_renewal_of_a_former_lease_at_its_server_is_refused_in_that_ones_name() -> None:
    assert NET.ip4
    moved = replace(
        NET, ip4=replace(NET.ip4, address=IPv4Address("198.51.100.5"), gateway=IPv4Address("198.51.100.1"),
                         our_address=IPv4Address("198.51.100.1")))
    dispatcher = Dispatcher(NET, short_leases=True)
    dispatcher.renew(moved)
    question = bytes(
        Ether(src=GUEST_MAC, dst=SERVER_MAC) / IP(src="192.0.2.5", dst="192.0.2.1") / UDP(sport=68, dport=67)
        / BOOTP(chaddr=bytes.fromhex(GUEST_MAC.replace(":", "")), xid=0x12345678, ciaddr="192.0.2.5")
        / DHCP(options=[("message-type", "request"), "end"]))  # fmt: skip
    (frame,) = dispatcher.respond(question)
    message = bytes(
        BOOTP(op=2, chaddr=bytes.fromhex(GUEST_MAC.replace(":", "")), xid=0x12345678)
        / DHCP(options=[("message-type", "nak"), ("server_id", "192.0.2.1"),
                        ("error_message", b"192.0.2.5 is not available here"), "end"])
    )  # fmt: skip
    golden = (
        Ether(src=SERVER_MAC, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="192.0.2.1", dst="255.255.255.255", id=0, flags="DF", ttl=255)
        / UDP(sport=67, dport=68)
        / message.ljust(300, b"\0")
    )
    assert frame == bytes(golden)
    for length in range(len(question)):
        assert dispatcher.respond(question[:length]) == []


def test_renewal_says_nothing_where_advertisements_are_off() -> None:
    assert Dispatcher(NET, router_advertisements=False).renew(NET) == []
    assert Dispatcher(NET, ndp=False).renew(NET) == []
