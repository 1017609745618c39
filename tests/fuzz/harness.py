"""What is fuzzed: one function for each parser, which takes any bytes and returns.

A harness lets pass the one exception by which the parser says no; every other one is a finding. What
was accepted is held to the promises of the parser: a wire value builds again, and to bytes that are
read as the same value. `fuzz.py` runs a harness under atheris for as long as one likes;
`test_replay.py` runs each a moment in the test suite, without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from passt.config.egress_grammar import parse_egress_rule
from passt.config.getopt import scan
from passt.config.settings import build_settings
from passt.control.explain import Explainer
from passt.control.http import RefusalError, encode, parse_target
from passt.control.ports import PortRules
from passt.errors import ConfigError, HostError, WireError
from passt.facts.contracts import ListenerInfo, PortChange
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.port_rule import PortRule
from passt.forward.bypass import Bypass
from passt.forward.policy import Policy
from passt.host import resolvconf
from passt.host.listeners import leave_out_ephemeral
from passt.host.rtnetlink import messages, routes
from passt.light.values import replace
from passt.log.frame_text import describe
from passt.namespace.child_channel import Channel, Kind, Message, read_ready, read_status
from passt.pesto import command as pesto_command
from passt.responders.dispatch import Dispatcher
from passt.steer import messages as steer_messages
from passt.steer.draft import Draft
from passt.steer.tables import ClientTables
from passt.vhost_user import messages as vhost_messages
from passt.wire import dns_name
from passt.wire.arp import ArpPacket
from passt.wire.cursor import Reader
from passt.wire.dhcp import DhcpMessage
from passt.wire.dhcp_options import DhcpOption, DomainSearch
from passt.wire.dhcp_options import build_options as build_dhcp_options
from passt.wire.dhcp_options import parse_options as parse_dhcp_options
from passt.wire.dhcpv6 import MAX_REQUEST_LEN, Dhcpv6Message
from passt.wire.dhcpv6 import parse_message as parse_dhcpv6_message
from passt.wire.dhcpv6_options import OPTIONS, build_options, parse_options
from passt.wire.dns import message as dns
from passt.wire.dns.message import DnsView
from passt.wire.ethernet import MIN_FRAME_LEN, EthernetFrame
from passt.wire.first_bytes.said_name import parse_said_name
from passt.wire.icmp6 import Icmp6Message
from passt.wire.ip4 import Ip4Packet
from passt.wire.ip6 import Ip6Packet
from passt.wire.ndp import build_message, is_ndp, parse_message
from passt.wire.ndp_options import build_options as build_ndp_options
from passt.wire.ndp_options import parse_options as parse_ndp_options
from passt.wire.udp import UdpDatagram
from tests.fuzz.machine import Machine, split
from tests.fuzz.names_world import NamesWorld
from tests.fuzz.socket_worlds import STATUS, STATUSES, ControlWorld, SteerWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")

CORPUS = Path(__file__).parent / "corpus"
"""A directory for each harness, with inputs that reach far into the parser or were a finding once."""

A4, B4 = IPv4Address("192.0.2.5"), IPv4Address("192.0.2.1")
A6, B6 = IPv6Address("2001:db8::5"), IPv6Address("fe80::1")
NET = GuestNet(
    GuestFamily(A4, 24, B4, B4),
    GuestFamily(A6, 64, B6, B6, map_host_loopback=B6, resolvers=(IPv6Address("2001:db8::53"),)),
    "eth0",
    search=("example.com", "lan"),
)
RESPONDER = Dispatcher(NET)
MACHINE = Machine()
CONTROL, STEER = ControlWorld(), SteerWorld()
NAMES = NamesWorld()
KINDS = tuple(Kind)
STEERED = steer_messages.Hello((
    steer_messages.Table(1, "HOST", 63, (PortRule(6, 80, 90, 8080), PortRule(17, 53, 53, 53, A4))),
    steer_messages.Table(3, "SPLICE", 63, (PortRule(6, 1, 9, 1, ifname="lo"),))))
MAX_LINE = 200   # two IPv6 addresses with ports, all flags and numbers


class Codec(Protocol):
    """What reads itself from bytes and writes itself."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read."""

    def build(self) -> bytes:
        """Write."""


def accepted(parse: Callable[[bytes], T], data: bytes) -> T | None:
    """Read *data*; None if the parser says no. Nothing else may be done under the cover of its error."""
    try:
        return parse(data)
    except WireError:
        return None


def round_trip(codec: type[Codec], data: bytes) -> None:
    """Read *data*; what is accepted has to be the same after it was written and read once more."""
    value = accepted(codec.parse, data)
    if value is not None:
        assert codec.parse(value.build()) == value


def fuzz_arp(data: bytes) -> None:
    round_trip(ArpPacket, data)


def fuzz_ethernet(data: bytes) -> None:
    round_trip(EthernetFrame, data)


def fuzz_ip4(data: bytes) -> None:
    round_trip(Ip4Packet, data)


def fuzz_ip6(data: bytes) -> None:
    round_trip(Ip6Packet, data)
    packet = accepted(Ip6Packet.parse, data)
    inner = accepted(lambda _: packet.upper_layer(), data) if packet else None
    if inner:
        protocol, payload = inner
        assert protocol < 256
        assert len(payload) <= len(data)


def fuzz_udp(data: bytes) -> None:
    datagram = accepted(UdpDatagram.parse, data)
    if datagram:
        assert UdpDatagram.parse(datagram.build(A4, B4)) == datagram
        assert UdpDatagram.parse(datagram.build(A6, B6)) == datagram


def fuzz_icmp6(data: bytes) -> None:
    """Read *data* with its checksum, and with a right one, else the fuzzer would get nowhere."""
    accepted(lambda data: Icmp6Message.parse(data, A6, B6), data)
    if len(data) >= 4:
        message = Icmp6Message(data[0], data[1], data[4:])
        assert Icmp6Message.parse(message.build(A6, B6), A6, B6) == message


def fuzz_ndp(data: bytes) -> None:
    """Read byte 0 as bits of the envelope, byte 1 as the type, the rest as the body."""
    if len(data) < 2 or not is_ndp(data[1]):
        return
    flags = data[0]
    source = (A6, B6, IPv6Address("::"), IPv6Address("fe80::2"))[flags & 3]
    destination = (B6, IPv6Address("ff02::1"), IPv6Address("ff02::2"), IPv6Address("ff02::1:ff00:1"))[
        flags >> 2 & 3
    ]
    envelope = Ip6Packet(source, destination, 58, b"", 255 - (flags >> 7))
    icmp = Icmp6Message(data[1], flags >> 4 & 1, data[2:])
    message = accepted(lambda _: parse_message(icmp, envelope), data)
    if message:
        assert parse_message(build_message(message), envelope) == message


def fuzz_ndp_options(data: bytes) -> None:
    options = accepted(parse_ndp_options, data)
    if options is not None:
        assert parse_ndp_options(build_ndp_options(options)) == options


def fuzz_dns_name(data: bytes) -> None:
    reader = Reader(data, "fuzz")
    name = accepted(lambda _: dns_name.pull_name(reader), data)
    if name:
        assert dns_name.build_name(name) == data[: reader.offset]


def fuzz_dns_names(data: bytes) -> None:
    """Read *data* as a list of names that may point into each other.

    Compression may change the case of letters, which has no meaning (RFC 1035, 2.3.3).
    """
    names = accepted(dns_name.parse_compressed, data)
    if names is not None:
        assert lower(dns_name.parse_compressed(dns_name.build_compressed(names))) == lower(names)


def fuzz_said_name(data: bytes) -> None:
    """Read *data* as first bytes: a name is one that a rule can have, and stays so whatever follows."""
    name = accepted(parse_said_name, data)
    if name:
        assert parse_said_name(data + data) == name
        assert parse_egress_rule(name if "." in name else f"{name}.", allows=True).name == name
        assert accepted(parse_said_name, data[: len(data) // 2]) in {None, name}


def lower(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


def fuzz_dns(data: bytes) -> None:
    """Read *data* as a query and as an answer; what is made of them is read as it was meant."""
    view = accepted(dns.DnsView, data)
    if view is None:
        return
    assert view.end <= len(data)
    names = {view.name, *(record.name for record in view.records)}
    assert all(len(name) <= 255 for name in names)
    again = dns.DnsView(dns.build_query(view, 7))
    assert (again.id, again.name, again.records[:-1]) == (7, view.name, view.records[:-1])
    addresses = [bytes(4), bytes(16)] if view.name else []
    told = dns.DnsView(dns.build_reply(view, dns.Rcode.NOERROR, addresses, 9))
    assert (told.name, told.kind, told.n_answers) == (view.name, view.kind, len(addresses))
    if view.name:
        for passed in (dns.pass_on(view, view), dns.truncate(view, view)):
            assert dns.DnsView(passed).question == view.question


def fuzz_names(data: bytes) -> None:
    """Ask a forwarder by one half of *data*, and have its servers answer by the other."""
    half = len(data) // 2
    for is_stream in (False, True):
        for answer in NAMES.ask(data[:half], data[half:], is_stream=is_stream):
            assert DnsView(answer).flags & dns.FLAG_RESPONSE


def fuzz_dhcp(data: bytes) -> None:
    message = accepted(DhcpMessage.parse, data)
    if message:
        again = DhcpMessage.parse(message.build())
        assert with_lower_names(again.options or ()) == with_lower_names(message.options or ())
        assert replace(again, options=message.options) == message


def fuzz_dhcp_options(data: bytes) -> None:
    """Read *data* as up to three areas of options, in messages of a hundred bytes."""
    areas = [data[start : start + 100] for start in range(0, 300, 100)]
    options = accepted(lambda _: parse_dhcp_options(areas), data)
    if options:
        again = parse_dhcp_options([build_dhcp_options(options)])
        assert with_lower_names(again) == with_lower_names(options)


def with_lower_names(options: tuple[DhcpOption, ...]) -> list[DhcpOption]:
    return [DomainSearch(lower(option.names)) if isinstance(option, DomainSearch) else option
            for option in options]


def fuzz_dhcpv6(data: bytes) -> None:
    round_trip(Dhcpv6Message, data)
    envelope = Ip6Packet(A6, IPv6Address("ff02::1:2"), 17, b"")
    message = accepted(lambda data: parse_dhcpv6_message(data, envelope), data)
    if message:
        assert len(data) <= MAX_REQUEST_LEN
        assert message.build() == data


def fuzz_dhcpv6_options(data: bytes) -> None:
    options = accepted(lambda data: parse_options(data, OPTIONS), data)
    if options is not None:
        assert build_options(options) == data


def fuzz_rtnl(data: bytes) -> None:
    """Read *data* as a datagram of messages, and each payload as each kind of message."""
    with contextlib.suppress(HostError):
        for message in messages.parse_messages(data):
            for parse in (messages.LinkMessage.parse, messages.AddressMessage.parse,
                          routes.RouteMessage.parse, routes.NextHopObject.parse):
                with contextlib.suppress(HostError):
                    parse(message.payload)
            with contextlib.suppress(HostError):
                messages.Outcome.parse(message)
            with contextlib.suppress(HostError):
                messages.retarget_address(message.payload, 7, no_prefix_route=True)
            with contextlib.suppress(HostError):
                routes.retarget_route(message.payload, 2, 7, {bytes(4)})


def fuzz_resolv_conf(data: bytes) -> None:
    facts = resolvconf.parse(data)
    assert len(facts.servers) <= resolvconf.MAX_SERVERS


def fuzz_port_spec(data: bytes) -> None:
    """Read *data* as the arguments of -t, -u, -T and -U, one a line; the first byte says which."""
    if not data:
        return
    text = data[1:].decode("utf-8", "surrogateescape")
    arguments = []
    for number, spec in enumerate(text.split("\n")[:8]):
        arguments += ["-" + "tuTU"[(data[0] >> 2 * (number % 4)) & 3], spec]
    with contextlib.suppress(ConfigError):
        build_settings("pasta", scan("pasta", arguments))


def fuzz_command_line(data: bytes) -> None:
    """Read *data* as a command line with a NUL between the words, as the kernel hands it over."""
    words = data.decode("utf-8", "surrogateescape").split("\0")
    for mode in ("pasta", "passt"):
        with contextlib.suppress(ConfigError):
            build_settings(mode, scan(mode, words))


def fuzz_responder(data: bytes) -> None:
    """Hand *data* to the responders as a frame: nothing raises, and each layer is counted right."""
    before = RESPONDER.counters()
    answers = RESPONDER.respond(data)
    moved = {name: count - before[name] for name, count in RESPONDER.counters().items()}
    malformed = sum(count for name, count in moved.items() if name.endswith("_malformed"))
    answered = sum(count for name, count in moved.items() if name.endswith("_answered"))
    assert moved["control_ethernet_received"] == 1
    assert malformed + answered <= 1
    assert answered == len(answers) <= 1
    for answer in answers:
        assert MIN_FRAME_LEN <= len(answer) <= 14 + 1280
        assert EthernetFrame.parse(answer).source == NET.our_mac


def fuzz_responder4(data: bytes) -> None:
    """Wrap *data* as a DHCP message with right sums, so that it reaches the responder."""
    payload = UdpDatagram(68, 67, data[:0x8000]).build(A4, B4)
    fuzz_responder(bytes(6) + b"\2\0\0\0\0\5\x08\x00" + Ip4Packet(A4, B4, 17, payload).build())


def fuzz_responder6(data: bytes) -> None:
    """Wrap *data* as a DHCPv6 or ICMPv6 message with right sums, so that it reaches the responders."""
    if not data:
        return
    if data[0] & 1:
        payload, protocol = UdpDatagram(546, 547, data[1:0x8000]).build(B6, A6), 17
    else:
        message = Icmp6Message(133 + (data[0] >> 1) % 4, 0, data[1:0x8000])
        payload, protocol = message.build(B6, A6), 58
    packet = Ip6Packet(B6, A6, protocol, payload)
    fuzz_responder(bytes(6) + b"\2\0\0\0\0\5\x86\xdd" + packet.build())


def fuzz_stream(data: bytes) -> None:
    """Send *data* as a machine does, in parts of lengths that the first 8 bytes say (0: all that is left).

    Each whole frame comes through, once and in order; a length that no frame has ends it, and nothing else.
    """
    data, sizes = data[8:], data[:8]
    parts = []
    at = 0
    for size in sizes:
        parts.append(data[at : at + size] if size else data[at:])
        at += len(parts[-1])
    parts.append(data[at:])
    assert MACHINE.feed([part for part in parts if part]) == split(data)


def fuzz_frame_text(data: bytes) -> None:
    """Describe *data* as a frame: one line of printable ASCII, whose length no frame can choose."""
    line = describe(data)
    assert 0 < len(line) <= MAX_LINE
    assert line.isascii()
    assert line.isprintable()


VHOST_CODECS: tuple[type[Codec], ...] = (
    vhost_messages.Header, vhost_messages.RingState, vhost_messages.RingFile, vhost_messages.RingAddresses,
    vhost_messages.LogArea, vhost_messages.InflightArea, vhost_messages.ConfigPart)


def fuzz_vhost_messages(data: bytes) -> None:
    """Read *data* as a part of a message of a front end; byte 0 says which."""
    if not data:
        return
    choice, data = data[0] % (len(VHOST_CODECS) + 2), data[1:]
    if choice < len(VHOST_CODECS):
        round_trip(VHOST_CODECS[choice], data)
    elif choice == len(VHOST_CODECS):
        table = accepted(vhost_messages.parse_table, data)
        if table is not None:
            assert vhost_messages.parse_table(vhost_messages.build_table(table)) == table
    else:
        region = accepted(vhost_messages.parse_region, data)
        if region is not None:
            assert vhost_messages.build_region(region)[8:] == data[8:]


def fuzz_steer_messages(data: bytes) -> None:
    """Read *data* as what one end of the configuration socket says; byte 0 says which.

    A message that is whole is read or refused; one that is not gets no longer than the longest.
    """
    if not data:
        return
    choice, data = data[0] % 3, data[1:]
    round_trip((steer_messages.Hello, steer_messages.Answer, steer_messages.Report)[choice], data)
    length = accepted(steer_messages.answer_len, data)
    if length is not None:
        assert 0 < length <= min(len(data), steer_messages.MAX_ANSWER_LEN)


def fuzz_control(data: bytes) -> None:
    """Send *data* to the control socket; byte 0: a byte at a time, the stream's end behind it, unread.

    Each answer has one of the statuses that there are, and nothing is left of the client.
    """
    if data:
        heard = CONTROL.converse(data)
        assert not heard or heard.startswith(b"HTTP/1.1 ")
        assert set(STATUS.findall(heard)) <= STATUSES


def fuzz_steer(data: bytes) -> None:
    """Answer to the configuration socket with *data*; byte 0: a byte at a time.

    A client hears a greeting first, changes the ports once at most, and only by an answer that can be read.
    """
    if data:
        heard, n_changes = STEER.converse(data)
        assert heard[:4] == STEERED.build()[:4]
        assert n_changes <= 1
        length = accepted(steer_messages.answer_len, data[1:])
        answer = accepted(steer_messages.Answer.parse, data[1:1 + (length or 0)])
        assert not n_changes or answer is not None


def fuzz_pesto(data: bytes) -> None:
    """Read *data* as a command line of pesto with a NUL between the words, for a program with some rules."""
    words = data.decode("utf-8", "surrogateescape").split("\0")
    with contextlib.suppress(ConfigError):
        draft = Draft(STEERED.tables, leave_out_ephemeral)
        for step in pesto_command.parse(words).steps[:8]:
            draft.apply(step)
        answer = steer_messages.Answer(draft.tables(), wants_report=True)
        assert steer_messages.Answer.parse(answer.build()) == answer


class SteeredTables:
    """The port tables of a run, which take every rule that the wire can have, and stay as they are."""

    def names(self) -> tuple[str, ...]:
        return tuple([table.name for table in STEERED.tables])

    def rules(self, name: str) -> tuple[PortRule, ...]:
        [table] = [table for table in STEERED.tables if table.name == name]
        return tuple([replace(rule, ifname=None) for rule in table.rules])

    def can_follow(self, _name: str) -> bool:
        return True

    def count_open(self, name: str) -> dict[PortRule, int]:
        return dict.fromkeys(self.rules(name), 1)

    def explain_closed(self, name: str, proto: int, port: int) -> list[tuple[PortRule, str]]:
        return [(rule, "closed") for rule in self.rules(name)
                if rule.proto == proto and rule.first < port <= rule.last]

    def replace(self, tables: Mapping[str, Sequence[PortRule]]) -> PortChange:
        for rules in tables.values():
            for rule in rules:
                assert steer_messages.parse_rule(steer_messages.build_rule(rule.bare())) == rule.bare()
        return PortChange()


def steered() -> ClientTables:
    tables = SteeredTables()
    return ClientTables(tables, {table.name: table.abilities for table in STEERED.tables})


def fuzz_control_ports(data: bytes) -> None:
    """Read *data* as the body of a request to change port rules; byte 0 says by which method."""
    rules = PortRules(steered(), leave_out_ephemeral)
    before = list(rules.show())
    with contextlib.suppress(RefusalError):
        answer = (rules.change if data[:1] != b"U" else rules.replace)(data[1:])
        assert json.loads(encode(answer))["rules"] == before


def fuzz_control_explain(data: bytes) -> None:
    """Read *data* as the query of a request for an explanation."""
    policy = Policy(NET)
    bypass = Bypass(policy, policy.observed)
    listeners = [ListenerInfo(rule.proto, rule.first, rule, namespace=table.name == "SPLICE")
                 for table in STEERED.tables for rule in table.rules]  # fmt: skip
    explainer = Explainer(bypass, policy.observed, NET,
                          lambda *place: [each for each in listeners if (each.proto, each.port) == place],
                          steered(), "")
    with contextlib.suppress(RefusalError):
        _, query = parse_target(b"/v1/explain?" + data)
        for flow in explainer.explain(query)["flows"]:
            assert flow["why"]
            assert encode(flow)


def fuzz_child_channel(data: bytes) -> None:
    """Send *data* as the child may: byte 0 says with how many descriptors, and which kinds are waited for.

    A message that is taken can be read; after any other nothing is taken. Its descriptors are not left open.
    """
    if not data:
        return
    kinds = KINDS[: len(KINDS) // 2] if data[0] & 8 else KINDS
    with closing_pair() as (sender, end):
        channel = Channel(end)
        before = len(os.listdir("/proc/self/fd"))
        socket.send_fds(sender, [data[1:0x8000]], [sender.fileno()] * (data[0] & 7))
        sender.send(bytes([Kind.CONTINUED]))
        message = channel.receive(*kinds, wait=False)
        if message is not None:
            check_message(message, kinds)
        else:
            assert channel.has_ended
            assert channel.receive(*KINDS, wait=False) is None
        assert len(os.listdir("/proc/self/fd")) == before


def check_message(message: Message, kinds: Sequence[Kind]) -> None:
    """Read an accepted message; the descriptors that it says it has are there, and closed here."""
    assert message.kind in kinds
    if message.kind is Kind.READY:
        tap = read_ready(message)
        fds = [tap.fd, tap.namespace, *tap.port_sources]
        assert fds == list(message.fds)
        assert len(tap.mac) == 6
    elif message.kind is Kind.ENDED:
        os.waitstatus_to_exitcode(read_status(message))
    for fd in message.fds:
        os.close(fd)


@contextlib.contextmanager
def closing_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Lend both ends of a channel."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


HARNESSES: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): function
    for name, function in sorted(globals().items())
    if name.startswith("fuzz_")
}


def seeds(name: str) -> list[bytes]:
    """Corpus of one harness, in order of names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
