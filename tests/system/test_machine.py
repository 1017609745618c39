"""passt and a machine whose frames the test makes: services, framing, clients that come and go, life.

The machine sends its frames on a stream socket, or shares its memory (vhost-user).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_Advertise,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
)
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, OUTSIDE6, UID, Lab
from tests.support.processes import process_state, status_field, wait_until
from tests.system.machines import FORMS, LENGTH, MAC, Form, Machine, Peer, passt, socket_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scapy.packet import Packet

pytestmark = pytest.mark.needs_root

NOBODY = 65534
OUR_MAC = "9a:55:9a:55:9a:55"
BROADCAST = "ff:ff:ff:ff:ff:ff"
LINK_LOCAL = "fe80::5054:ff:fe12:3456"
QUESTION = bytes(Ether(src=MAC, dst=BROADCAST) / ARP(op=1, hwsrc=MAC, psrc=HOST4, pdst=OUTSIDE4))


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    """How the machine is connected."""
    return FORMS[request.param]


@pytest.fixture
def peer(lab: Lab, user: bool, form: Form) -> Iterator[Machine]:
    """A machine at a passt that runs with the default options."""
    with passt(lab, *form.options, user=user) as (_, path):
        peer = form.connect(path)
        yield peer
        peer.close()


@pytest.fixture
def stream_peer(lab: Lab, user: bool) -> Iterator[Peer]:
    """A machine on a stream socket."""
    with passt(lab, user=user) as (_, path):
        peer = Peer.connect(path)
        yield peer
        peer.close()


def is_answer(frame: bytes) -> bool:
    """Whether it is the reply to QUESTION."""
    packet = Ether(frame)
    return ARP in packet and packet[ARP].op == 2 and packet[ARP].psrc == OUTSIDE4


def ask(peer: Machine, packet: Packet, answer: type[Packet]) -> Packet:
    """Send one packet in a frame of ours; return the first answer of a kind that is for us."""
    broadcast = "33:33:00:00:00:02" if IPv6 in packet else BROADCAST
    peer.send(bytes(Ether(src=MAC, dst=broadcast) / packet))
    return Ether(peer.receive(lambda frame: answer in Ether(frame) and Ether(frame).dst in {MAC, BROADCAST}))


def test_who_is_there_is_asked_first(peer: Machine) -> None:
    arp = Ether(peer.receive(lambda frame: ARP in Ether(frame)))
    assert (arp.dst, arp.src, arp[ARP].op) == (BROADCAST, OUR_MAC, 1)
    assert (arp[ARP].psrc, arp[ARP].pdst) == (OUTSIDE4, HOST4)
    solicitation = Ether(peer.receive(lambda frame: ICMPv6ND_NS in Ether(frame)))
    assert solicitation[ICMPv6ND_NS].tgt == HOST6
    # Who answers is known from then on, by its hardware address.
    peer.send(bytes(Ether(src=MAC, dst=OUR_MAC) / ARP(op=2, hwsrc=MAC, psrc=HOST4, hwdst=OUR_MAC,
                                                      pdst=OUTSIDE4)))
    assert ask(peer, IP(src=HOST4, dst=OUTSIDE4) / ICMP(id=7), ICMP).dst == MAC


def test_neighbours_are_answered(peer: Machine) -> None:
    peer.send(QUESTION)
    assert Ether(peer.receive(is_answer)).src == OUR_MAC
    # What qrap asks before it hands over the connection.
    reply = ask(peer, ARP(op=1, hwsrc=MAC, psrc="0.0.0.0", pdst="0.0.0.0"), ARP)
    assert (reply[ARP].op, reply[ARP].hwsrc) == (2, OUR_MAC)
    reply = ask(peer, IPv6(src=LINK_LOCAL, dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt=OUTSIDE6)
                / ICMPv6NDOptSrcLLAddr(lladdr=MAC), ICMPv6ND_NA)
    assert (reply[ICMPv6ND_NA].tgt, reply.src) == (OUTSIDE6, OUR_MAC)


def dhcp(peer: Machine, kind: str, *options: object) -> tuple[Packet, dict[str, object]]:
    """Send one DHCP message; return the answer with its options."""
    packet = (IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
              / BOOTP(chaddr=bytes.fromhex(MAC.replace(":", "")), xid=4711)
              / DHCP(options=[("message-type", kind), *options, "end"]))
    reply = ask(peer, packet, DHCP)
    assert (reply[BOOTP].op, reply[BOOTP].xid) == (2, 4711)
    return reply, {option[0]: option[1] if len(option) == 2 else option[1:]
                   for option in reply[DHCP].options if isinstance(option, tuple)}


def test_dhcp_hands_out_names_by_default(peer: Machine) -> None:
    offer, _ = dhcp(peer, "discover")
    assert offer[BOOTP].yiaddr == HOST4
    reply, options = dhcp(peer, "request", ("requested_addr", HOST4))
    assert reply[BOOTP].yiaddr == HOST4
    assert options["message-type"] == 5
    assert (options["subnet_mask"], options["router"], options["server_id"]) == (
        "255.255.255.0", OUTSIDE4, OUTSIDE4)
    assert options["name_server"] == FAR4
    assert options["lease_time"] == 120, "the host is followed"
    assert options["interface-mtu"] == 65520
    assert b"\x03lab\x07example\x00" in bytes(reply[DHCP])


def test_advertisement_hands_out_names_by_default(peer: Machine) -> None:
    reply = ask(peer, IPv6(src=LINK_LOCAL, dst="ff02::2") / ICMPv6ND_RS(), ICMPv6ND_RA)
    assert reply[IPv6].hlim == 255
    assert reply[ICMPv6NDOptPrefixInfo].prefix == "2001:db8:1::"
    assert reply[ICMPv6NDOptMTU].mtu == 65520
    assert reply[ICMPv6NDOptRDNSS].dns == [FAR6]
    assert reply[ICMPv6NDOptDNSSL].searchlist == ["lab.example."]


def test_dhcpv6_hands_out_names_by_default(peer: Machine) -> None:
    solicit = (IPv6(src=LINK_LOCAL, dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Solicit(trid=99)
               / DHCP6OptClientId(duid=DUID_LL(lladdr=MAC)) / DHCP6OptIA_NA(iaid=1))
    reply = ask(peer, solicit, DHCP6_Advertise)
    assert reply[DHCP6_Advertise].trid == 99
    assert reply[DHCP6OptIAAddress].addr == HOST6
    assert reply[DHCP6OptDNSServers].dnsservers == [FAR6]
    assert reply[DHCP6OptDNSDomains].dnsdomains == ["lab.example."]


def test_names_can_be_kept_back(lab: Lab, plain: bool, form: Form) -> None:
    with passt(lab, *form.options, "--no-dhcp-dns", "--no-dhcp-search", user=plain) as (_, path):
        peer = form.connect(path)
        _, options = dhcp(peer, "discover")
        assert "name_server" not in options
        reply = ask(peer, IPv6(src=LINK_LOCAL, dst="ff02::2") / ICMPv6ND_RS(), ICMPv6ND_RA)
        assert ICMPv6NDOptRDNSS not in reply
        assert ICMPv6NDOptDNSSL not in reply
        peer.close()


def test_services_can_be_switched_off(lab: Lab, plain: bool, form: Form) -> None:
    off = ("--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-udp")
    with passt(lab, *form.options, *off, user=plain) as (_, path):
        peer = form.connect(path)
        peer.send(*(bytes(Ether(src=MAC, dst=BROADCAST) / packet) for packet in (
            IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP(chaddr=b"x" * 6)
            / DHCP(options=[("message-type", "discover"), "end"]),
            IPv6(src=LINK_LOCAL, dst="ff02::2") / ICMPv6ND_RS(),
            IPv6(src=LINK_LOCAL, dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Solicit()
            / DHCP6OptClientId(duid=DUID_LL(lladdr=MAC)),
            IP(src=HOST4, dst=FAR4) / UDP(sport=1234, dport=8007) / b"echo",
        )), QUESTION)
        seen: list[bytes] = []

        def note(frame: bytes) -> bool:
            seen.append(frame)
            return is_answer(frame)

        peer.receive(note)
        time.sleep(0.3)
        peer.send(QUESTION)
        peer.receive(note)
        # Beside these answers there are the questions at the start only.
        rest = [packet for packet in map(Ether, seen) if ARP not in packet]
        assert all(ICMPv6ND_NS in packet for packet in rest), [packet.summary() for packet in rest]
        peer.close()


@pytest.mark.parametrize("destination", [OUTSIDE4, FAR4])
def test_ping_and_datagrams(peer: Machine, destination: str) -> None:
    peer.send(QUESTION)
    reply = ask(peer, IP(src=HOST4, dst=destination) / ICMP(id=7, seq=3) / b"payload", ICMP)
    assert (reply[IP].src, reply[IP].dst, reply[ICMP].id, reply[ICMP].seq) == (destination, HOST4, 7, 3)
    assert bytes(reply[ICMP].payload)[:7] == b"payload"
    reply = ask(peer, IP(src=HOST4, dst=destination) / UDP(sport=40000, dport=8007) / (b"echo" * 300), UDP)
    assert (reply[IP].src, reply[UDP].sport, reply[UDP].dport) == (destination, 8007, 40000)
    assert bytes(reply[Raw]) == b"echo" * 300
    checksums = reply[IP].chksum, reply[UDP].chksum
    del reply[IP].chksum, reply[UDP].chksum
    again = Ether(bytes(reply))
    assert checksums == (again[IP].chksum, again[UDP].chksum)


def test_ping_and_datagrams_over_ip6(peer: Machine) -> None:
    reply = ask(peer, IPv6(src=HOST6, dst=FAR6) / ICMPv6EchoRequest(id=9, data=b"x" * 40), ICMPv6EchoReply)
    assert (reply[IPv6].src, reply[ICMPv6EchoReply].data) == (FAR6, b"x" * 40)
    reply = ask(peer, IPv6(src=HOST6, dst=FAR6) / UDP(sport=40000, dport=8007) / b"echo", UDP)
    assert bytes(reply[Raw]) == b"echo"
    checksum = reply[UDP].chksum
    del reply[UDP].chksum
    assert Ether(bytes(reply))[UDP].chksum == checksum


def test_frames_may_come_in_any_pieces(stream_peer: Peer) -> None:
    message = LENGTH.pack(len(QUESTION)) + QUESTION
    for split in (1, 3, 4, 5, 17, len(message) - 1):
        stream_peer.sock.sendall(message[:split])
        time.sleep(0.02)
        stream_peer.sock.sendall(message[split:])
        stream_peer.receive(is_answer)
    for byte in message:
        stream_peer.sock.sendall(bytes((byte,)))
    stream_peer.receive(is_answer)
    # The end of one and the beginning of the next in one write, and many at once.
    stream_peer.sock.sendall(message + message[:9])
    stream_peer.receive(is_answer)
    stream_peer.sock.sendall(message[9:])
    stream_peer.receive(is_answer)
    stream_peer.send(*[QUESTION] * 8)
    for _ in range(8):
        stream_peer.receive(is_answer)


@pytest.mark.parametrize("length", [0, 13, 100000, 0xffffffff])
def test_impossible_length_ends_the_client_only(lab: Lab, plain: bool, length: int) -> None:
    with passt(lab, user=plain) as (running, path):
        peer = Peer.connect(path)
        peer.send(QUESTION)
        peer.receive(is_answer)
        peer.sock.sendall(LENGTH.pack(length) + bytes(100))
        peer.wait_for_end()
        peer.close()
        again = Peer.connect(path)
        again.send(QUESTION)
        again.receive(is_answer)
        again.close()
        running.send(signal.SIGTERM)
        lines = running.finish().stderr.decode().splitlines()
        # Whether the end of the second one is seen before the signal is open.
        reason, *_ = [line for line in lines if line.startswith("client gone: ")]
        assert str(length) in reason


def test_half_a_frame_at_the_end_is_dropped(stream_peer: Peer, lab: Lab) -> None:
    path = socket_path(lab, "machine")
    stream_peer.sock.sendall(LENGTH.pack(len(QUESTION)) + QUESTION[:20])
    stream_peer.close()
    again = Peer.connect(path)
    again.send(QUESTION)
    again.receive(is_answer)
    again.close()


def test_second_client_is_turned_away(lab: Lab, user: bool, form: Form) -> None:
    with passt(lab, *form.options, user=user) as (running, path):
        first = form.connect(path)
        first.send(QUESTION)
        first.receive(is_answer)
        for _ in range(3):
            second = Peer.connect(path)
            second.wait_for_end()
            second.close()
        first.send(QUESTION)
        first.receive(is_answer)
        first.close()
        third = form.connect(path)
        third.send(QUESTION)
        third.receive(is_answer)
        third.close()
        running.send(signal.SIGTERM)
        text = running.finish().stderr.decode()
        assert text.count("refused client") == 3
        assert text.count("accepted client") == 2


def test_one_off_ends_with_its_client(lab: Lab, user: bool, form: Form) -> None:
    with passt(lab, *form.options, "-1", user=user) as (running, path):
        peer = form.connect(path)
        peer.send(QUESTION)
        peer.receive(is_answer)
        assert running.popen.poll() is None
        peer.close()
        result = running.finish()
        assert result.returncode == 0
        assert os.path.exists(path)  # its owner removes it, or the next start
        assert b"client gone: " in result.stderr


@pytest.mark.parametrize("option", [("-F", "0"), ("--fd=0",), ("-s", "unused.socket", "-F", "0")])
def test_connection_handed_over(lab: Lab, user: bool, form: Form, option: tuple[str, ...]) -> None:
    ours, theirs = socket.socketpair()
    running = lab.host.spawn([lab.passt, "-f", *form.options, *option], user=user, stdin=theirs.fileno())
    theirs.close()
    peer = form.peer(ours)
    peer.send(QUESTION)
    peer.receive(is_answer)
    peer.close()
    result = running.finish()
    assert result.returncode == 0, result.stderr.decode()
    assert b"UNIX domain socket" not in result.stderr


def test_connection_handed_over_in_the_background(lab: Lab, plain: bool, form: Form) -> None:
    before = lab.host.pids()
    ours, theirs = socket.socketpair()
    started = lab.host.spawn([lab.passt, *form.options, "-F", "0"], user=plain, stdin=theirs.fileno())
    theirs.close()
    assert started.finish().returncode == 0
    wait_until(lambda: len(lab.host.programs() - before) == 1, "there is one process")
    peer = form.peer(ours)
    peer.send(QUESTION)
    peer.receive(is_answer)
    peer.close()
    wait_until(lambda: lab.host.pids() == before, "the daemon ends with its client")


def test_clients_leave_nothing_behind(lab: Lab, plain: bool, form: Form) -> None:
    with passt(lab, *form.options, "-q", user=plain) as (running, path):
        first = form.connect(path)
        first.send(QUESTION)
        first.receive(is_answer)
        descriptors = os.listdir(f"/proc/{running.pid}/fd")
        first.close()
        for _ in range(300):
            Peer.connect(path).close()
        last = form.connect(path)
        last.send(QUESTION)
        last.receive(is_answer)
        wait_until(lambda: len(os.listdir(f"/proc/{running.pid}/fd")) == len(descriptors),
                   "there are as many descriptors as with the first one")
        last.close()


def test_tcp_socket_handed_over(lab: Lab, user: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    running = lab.host.spawn([lab.passt, "-f", "-F", "0"], user=user, stdin=theirs.fileno())
    theirs.close()
    peer = Peer(ours)
    peer.send(QUESTION)
    peer.receive(is_answer)
    peer.close()
    assert running.finish().returncode == 0


@pytest.mark.parametrize(("options", "reason"), [
    (["-s", "/none/a.socket"], "option '--socket' /none/a.socket: the directory does not exist"),
    (["-s", "/etc/passwd"], "option '--socket' /etc/passwd: there is something that is not a socket; "),
    (["-s", "x" * 108], "option '-s' (--socket): 'x*' has 108 bytes; the path of a socket can have 107"),
    (["-F", "57"], "option '--fd' 57: there is no such open descriptor"),
    (["-F", "0"], "option '--fd' 0: that descriptor is not a socket"),
    (["-F", "-3"], "option '-F' (--fd): '-3' is not a decimal number"),
    (["-T", "22"], "option '-T' (--tcp-ns) is for pasta only"),
    (["-t", "auto"], "option '-t' (--tcp-ports): 'auto'"),
    (["--config-net"], "option '--config-net' is for pasta only"),
    (["word"], "'word' is not an option, and passt takes nothing else"),
])
@pytest.mark.parametrize("foreground", [True, False])
def test_mistakes_are_one_line(lab: Lab, plain: bool, options: list[str], reason: str,
                               foreground: bool) -> None:
    result = lab.host.run([lab.passt, *(["-f"] if foreground else []), *options], user=plain, check=False)
    assert (result.returncode, result.stdout) == (1, b"")
    text = re.sub("x{9,}", "x*", result.stderr.decode())
    assert text.startswith(f"passt: {reason}")
    assert text.count("\n") == 1


def test_stale_socket_is_replaced_and_a_live_one_respected(lab: Lab, user: bool, form: Form) -> None:
    path = socket_path(lab, "taken")
    with passt(lab, *form.options, user=user, name="taken") as (running, _):
        peer = form.connect(path)
        result = lab.host.run([lab.passt, "-f", "-s", path], user=user, check=False)
        assert result.returncode == 1
        wanted = f"passt: option '--socket' {path}: another process uses it; end that or give another path\n"
        assert result.stderr.decode() == wanted
        peer.send(QUESTION)
        peer.receive(is_answer)
        running.kill()
        peer.wait_for_end()
        peer.close()
        assert os.path.exists(path)
        with passt(lab, *form.options, user=user, name="taken"):
            peer = form.connect(path)
            peer.send(QUESTION)
            peer.receive(is_answer)
            peer.close()


def test_start_that_fails_takes_its_socket_away(lab: Lab, plain: bool) -> None:
    path = socket_path(lab, "failed")
    for options, reason in ((["-P", "/none/pid"], "/none/pid"), (["-P", "/dev/full"], "No space left"),
                            (["-t", "8000"], "8000")):
        result = lab.host.run([lab.passt, "-q", "-s", path, *options], user=plain, check=False)
        assert result.returncode == 1
        assert reason in result.stderr.decode()
        assert result.stderr.count(b"\n") == 1
        assert not os.path.exists(path)


def daemon(lab: Lab, pid_file: Path) -> int:
    """Give the PID of the process that *pid_file* of the host names, as the machine sees it."""
    inner = pid_file.read_text(encoding="ascii").strip()
    for pid in lab.host.pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one of the start, which has ended
            if inner in status_field(pid, "NSpid").split()[1:]:
                return pid
    raise AssertionError(f"process {inner} is gone")


def test_background_as_libvirt_wants_it(lab: Lab, user: bool, form: Form) -> None:
    path = socket_path(lab, "1-t1-net0")
    pid_file = Path(path).with_suffix(".pid")
    log_file = Path(path).with_suffix(".log")
    argv = [lab.passt, *form.options, "--one-off", "--socket", path, "--pid", str(pid_file), "--mtu", "1500",
            "--interface", "h0", "--log-file", str(log_file),
            "--address", HOST4, "--netmask", "24", "--tcp-ports", "20022:22,25000-25010",
            "--udp-ports", "127.0.0.1/26000:26001"]
    # Both outputs are one pipe: this returns when nobody holds it any more.
    started = lab.host.run(["sh", "-c", 'exec "$@" 2>&1', "sh", *argv], user=user)
    assert b"error" not in started.stdout.lower()
    pid = daemon(lab, pid_file)
    assert {os.stat(f"/proc/{pid}/fd/{fd}").st_rdev for fd in range(3)} == {os.stat("/dev/null").st_rdev}
    assert status_field(pid, "CapEff") == status_field(pid, "CapPrm") == "0" * 16
    assert status_field(pid, "NoNewPrivs") == "1"
    assert status_field(pid, "Uid").split() == [str(UID if user else NOBODY)] * 4
    assert os.getsid(pid) == pid
    peer = form.connect(path)
    _, options = dhcp(peer, "discover")
    assert options["subnet_mask"] == "255.255.255.0"
    assert options["interface-mtu"] == 1500
    listening = lab.host.run(["ss", "-Hltun"]).stdout.decode()
    assert all(f":{port} " in listening for port in (20022, 25000, 25010, 26000))
    peer.close()
    wait_until(lambda: not process_state(pid), "the daemon ends with its client")
    text = log_file.read_text(encoding="utf-8")
    assert "accepted client" in text
    assert "client gone: " in text
    for left in (Path(path), pid_file, log_file):
        left.unlink()


@pytest.mark.parametrize("spec", [str(UID), f"{UID}:{UID + 1}", "lab", "0"])
def test_root_goes_on_as_the_user_that_is_asked_for(lab: Lab, spec: str) -> None:
    with passt(lab, "--runas", spec, "-t", "443", user=False) as (running, path):
        peer = Peer.connect(path)
        peer.send(QUESTION)
        peer.receive(is_answer)
        peer.close()
        uid = 0 if spec == "0" else UID
        gid = UID + 1 if ":" in spec else uid
        assert status_field(running.pid, "Uid").split() == [str(uid)] * 4
        assert status_field(running.pid, "Gid").split() == [str(gid)] * 4
        assert status_field(running.pid, "CapEff") == "0" * 16
        assert os.lstat(path).st_uid == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_signals_end_it_in_the_background(lab: Lab, plain: bool, form: Form, signum: int) -> None:
    path = socket_path(lab, "signals")
    pid_file = Path(f"{path}.pid")
    lab.host.run([lab.passt, *form.options, "-s", path, "-P", str(pid_file), "-q"], user=plain)
    pid = daemon(lab, pid_file)
    peer = form.connect(path)
    peer.send(QUESTION)
    peer.receive(is_answer)
    os.kill(pid, signum)
    peer.wait_for_end()
    peer.close()
    wait_until(lambda: not process_state(pid), "the daemon ends")
    os.unlink(path)
    pid_file.unlink()
