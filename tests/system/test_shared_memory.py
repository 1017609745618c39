"""passt --vhost-user: sessions that end in every way, with a front end that is the test itself.

What a machine sees of the network does not depend on how it is connected: test_machine.py has that.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tests.support.front_end import OFFLOADS, PLAIN, USUAL, Feature
from tests.support.guest_memory import GuestMemory, Region
from tests.support.lab import FAR4, HOST4, Lab
from tests.support.processes import status_field, wait_until
from tests.support.vhost_client import Client, ProtocolFeature, Request, build
from tests.system.machines import MAC, Peer, SharingPeer, passt, socket_path
from tests.system.test_machine import OUR_MAC, QUESTION, is_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.lab import Running

pytestmark = pytest.mark.needs_root

N_KILLS = 10
MAX_GROWTH_KB = 2000


class Sharing:
    """A passt that shares memory, in the foreground; `lines` is what it said of its clients."""

    def __init__(self, running: Running, path: str) -> None:
        self.running, self.path = running, path

    def end(self) -> list[str]:
        """End it; return what it said."""
        self.running.send(signal.SIGTERM)
        result = self.running.finish()
        assert result.returncode == 0, result.stderr.decode()
        text = result.stderr.decode()
        assert "Traceback" not in text
        assert "sandbox does not know" not in text
        return text.splitlines()

    def reasons(self) -> list[str]:
        """End it when its last client has gone; return why its clients went."""
        wait_until(lambda: not self.state()[1], "no client's memory is mapped")
        lines = [line.partition("client gone: ")[2] for line in self.end()]
        return [line.rpartition(";")[0] for line in lines if line]

    def state(self) -> tuple[list[str], list[str]]:
        """Tell its descriptors, and the files that it has mapped."""
        places = []
        for fd in os.listdir(f"/proc/{self.running.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                places.append(os.readlink(f"/proc/{self.running.pid}/fd/{fd}").partition(":[")[0])
        maps = Path(f"/proc/{self.running.pid}/maps").read_text(encoding="utf-8")
        return sorted(places), [line for line in maps.splitlines() if "memfd:" in line]

    def resident_kb(self) -> int:
        """Tell its own memory: a guest's pages are counted until the kernel has taken all of them back."""
        return int(status_field(self.running.pid, "RssAnon").split()[0])


@pytest.fixture
def sharing(lab: Lab, plain: bool) -> Iterator[Sharing]:
    with passt(lab, "--vhost-user", user=plain) as (running, path):
        yield Sharing(running, path)


def check_network(peer: SharingPeer) -> None:
    """Ask who has the gateway's address, and send a datagram to the outside that comes back."""
    peer.send(QUESTION)
    peer.receive(is_answer)
    data = os.urandom(1000)
    peer.send(bytes(Ether(src=MAC, dst=OUR_MAC) / IP(src=HOST4, dst=FAR4) / UDP(sport=40000, dport=8007)
                    / data))
    peer.receive(lambda frame: data in frame)


def is_served_afresh(sharing: Sharing) -> None:
    """Check that the next client gets all."""
    peer = SharingPeer.connect(sharing.path)
    check_network(peer)
    peer.close()


def test_capabilities_are_printed_and_nothing_else_done(lab: Lab, user: bool) -> None:
    path = socket_path(lab, "none")
    result = lab.host.run([lab.passt, "--vhost-user", "-s", path, "--print-capabilities"], user=user)
    assert json.loads(result.stdout) == {"type": "net"}
    assert result.stderr == b""
    assert not os.path.exists(path)


def test_banner_tells_how_qemu_shares_memory(sharing: Sharing) -> None:
    text = "\n".join(sharing.end())
    for part in ("memory-backend-memfd,", "share=on", f"-chardev socket,id=c,path={sharing.path}",
                 "-netdev vhost-user,id=n,chardev=c", "-device virtio-net-pci,netdev=n"):
        assert part in text


def test_socket_that_cannot_pass_descriptors_is_refused(lab: Lab, plain: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    running = lab.host.spawn([lab.passt, "-f", "--vhost-user", "-F", "0"], user=plain, stdin=theirs.fileno())
    theirs.close()
    result = running.finish()
    ours.close()
    assert result.returncode == 1
    assert result.stderr.startswith(b"passt: option '--fd' 0: that is not a UNIX domain socket")
    assert result.stderr.count(b"\n") == 1


def test_what_is_offered(sharing: Sharing) -> None:
    client = Client(Peer.connect(sharing.path).sock)
    offered = client.negotiate()
    wanted = USUAL | OFFLOADS | Feature.LOG_ALL
    assert offered & wanted == wanted
    assert client.n_pairs > 1
    assert client.protocol == (
        ProtocolFeature.MQ | ProtocolFeature.LOG_SHMFD | ProtocolFeature.RARP | ProtocolFeature.REPLY_ACK
        | ProtocolFeature.NET_MTU | ProtocolFeature.INFLIGHT_SHMFD | ProtocolFeature.RESET_DEVICE
        | ProtocolFeature.CONFIGURE_MEM_SLOTS)
    client.close()


@pytest.mark.parametrize("features", [PLAIN, USUAL, Feature.VERSION_1, PLAIN | Feature.MRG_RXBUF],
                         ids=["plain", "usual", "no protocol features", "mergeable"])
def test_network_with_various_features(sharing: Sharing, features: int) -> None:
    peer = SharingPeer.connect(sharing.path, features)
    check_network(peer)
    peer.close()
    assert sharing.reasons() == ["it closed the connection"]


def send_half(client: Client) -> None:
    client.send(build(Request.SET_FEATURES, b"1234", size=8))
    client.close()


# Every kind of violation: what is sent, and the one line that says why the session ended.
VIOLATIONS: dict[str, tuple[Callable[[Client], None], str]] = {
    "unknown request": (lambda client: client.send(build(99)), "request 99: that was not offered"),
    "postcopy": (lambda client: client.send(build(Request.POSTCOPY_ADVISE)),
                 "POSTCOPY_ADVISE: that was not offered"),
    "version": (lambda client: client.send(build(Request.GET_FEATURES, flags=2)),
                "GET_FEATURES: version 2 of the protocol; 1 would be right"),
    "too long": (lambda client: client.send(build(Request.SET_OWNER, size=1 << 30)),
                 "SET_OWNER: a payload of 1073741824 bytes; no request has more than 512"),
    "ring": (lambda client: client.send(build(Request.SET_VRING_NUM, struct.pack("=II", 200, 256))),
             "SET_VRING_NUM: ring 200; 15 is the last one"),
    "size": (lambda client: client.send(build(Request.SET_VRING_NUM, struct.pack("=II", 0, 100))),
             "SET_VRING_NUM: a ring of 100 descriptors; a power of two up to 32768 would be right"),
    "features": (lambda client: client.send(build(Request.SET_FEATURES, struct.pack("=Q", 1 << 50))),
                 "SET_FEATURES: features 0x4000000000000 were not offered"),
    "no virtio 1": (
        lambda client: client.send(build(Request.SET_FEATURES, struct.pack("=Q", 1 << 30))),
        "SET_FEATURES: devices before virtio 1.0 are not supported: VIRTIO_F_VERSION_1 is missing"),
    "descriptors": (lambda client: client.send(build(Request.SET_MEM_TABLE, bytes(8)), [0, 1]),
                    "SET_MEM_TABLE: 2 descriptors; 0 would be right"),
    "many descriptors": (lambda client: client.send(build(Request.SET_OWNER), [0] * 20),
                         "it sent more than 8 descriptors with one message"),
    "no eventfd": (lambda client: client.send(build(Request.SET_VRING_CALL, struct.pack("=Q", 0)), [0]),
                   "SET_VRING_CALL: the descriptor is no eventfd"),
    "no file": (lambda client: client.send(
        build(Request.SET_MEM_TABLE, struct.pack("=IIQQQQ", 1, 0, 0, 4096, 1 << 40, 0)), [0]),
        "SET_MEM_TABLE: memory is shared by a descriptor that is no file"),
    "half a message": (send_half, "it closed the connection in the middle of a message"),
}  # fmt: skip


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_violation_ends_the_session_and_nothing_else(sharing: Sharing, violation: str) -> None:
    violate, reason = VIOLATIONS[violation]
    peer = SharingPeer.connect(sharing.path)
    check_network(peer)
    violate(peer.client)
    if peer.sock.fileno() >= 0:
        peer.wait_for_end()
    peer.close()
    is_served_afresh(sharing)
    assert sharing.reasons() == [reason, "it closed the connection"]


def test_ring_that_is_damaged_ends_the_session(sharing: Sharing) -> None:
    peer = SharingPeer.connect(sharing.path)
    check_network(peer)
    error = os.eventfd(0)
    peer.client.tell(Request.SET_VRING_ERR, struct.pack("=Q", 1), [error])
    ring = peer.front_end.transmit_ring()
    ring.set_available_index(ring.available_index() + 1000)
    ring.kick()
    peer.wait_for_end()
    assert os.eventfd_read(error) == 1
    os.close(error)
    peer.close()
    is_served_afresh(sharing)
    reasons = sharing.reasons()
    assert reasons[0].startswith("ring 1 is damaged: ")
    assert len(reasons) == 2


def test_memory_that_is_cut_off_ends_the_session(sharing: Sharing) -> None:
    """Access to it is SIGBUS in passt."""
    peer = SharingPeer.connect(sharing.path)
    check_network(peer)
    for region in peer.front_end.memory.regions:
        region.truncate(0)
    peer.front_end.transmit_ring().kick()
    peer.wait_for_end()
    peer.close()
    is_served_afresh(sharing)
    assert sharing.reasons()[0] == "it cut off memory that it shares"


def test_regions_come_and_go_one_by_one(sharing: Sharing) -> None:
    """Memory hotplug (CONFIGURE_MEM_SLOTS): a buffer in new memory, and none in what was taken away."""
    peer = SharingPeer.connect(sharing.path)
    slots = peer.client.ask(Request.GET_MAX_MEM_SLOTS)
    assert slots >= 32
    added = Region(8 << 32, 1 << 20)
    peer.client.add_region(added.told)
    peer.front_end.memory.regions.append(added)
    check_network(peer)
    assert len(sharing.state()[1]) == 4
    peer.client.remove_region(added.told)
    assert len(sharing.state()[1]) == 3
    check_network(peer)
    for number in range(slots - 3):
        peer.client.add_region(Region((9 + number) << 32, 4096, fd=os.dup(added.fd)).told)
    check_network(peer)
    peer.client.send(build(Request.ADD_MEM_REG, bytes(8) + struct.pack("=QQQQ", 1 << 60, 4096, 1 << 60, 0)),
                     [added.fd])
    peer.wait_for_end()
    peer.close()
    assert sharing.reasons() == [f"ADD_MEM_REG: there are {slots} memory regions already"]


def test_rings_are_stopped_and_started_again(sharing: Sharing) -> None:
    """As when a machine is reset or paused."""
    peer = SharingPeer.connect(sharing.path)
    for _ in range(20):
        check_network(peer)
        bases = peer.front_end.stop(peer.client)
        assert len(bases) == 2
        peer.front_end.start(peer.client)
    check_network(peer)
    peer.close()
    assert sharing.reasons() == ["it closed the connection"]


def test_device_is_reset(sharing: Sharing) -> None:
    peer = SharingPeer.connect(sharing.path)
    check_network(peer)
    peer.client.reset()
    peer.front_end.start(peer.client)
    check_network(peer)
    peer.client.tell(Request.RESET_OWNER)  # deprecated, and best ignored
    check_network(peer)
    peer.close()


def test_record_of_use_comes_from_us_inside_the_sandbox(sharing: Sharing) -> None:
    client = Client(Peer.connect(sharing.path).sock)
    client.negotiate()
    fd, size, offset = client.get_inflight(2, 256)
    assert (os.fstat(fd).st_size, offset) == (size, 0)
    client.set_inflight(fd, size, offset, 2, 256)
    os.close(fd)
    client.close()
    is_served_afresh(sharing)


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_card_that_takes_less_than_the_mtu_is_refused(lab: Lab, plain: bool, mtu: int) -> None:
    with passt(lab, "--vhost-user", "-m", "9000", user=plain) as (running, path):
        peer = SharingPeer.connect(path)
        outcome = peer.client.acknowledged(Request.NET_SET_MTU, struct.pack("=Q", mtu))
        assert outcome == int(mtu < 9000)
        check_network(peer)
        peer.close()
        assert ("refused NET_SET_MTU: MTU 1500 " in "\n".join(Sharing(running, path).end())) == (mtu < 9000)


def killed_client(path: str) -> None:
    """Be a client that is ended in the middle of whatever it does."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            peer = SharingPeer.connect(path)
            check_network(peer)
            os.write(writing, b"x")
            while True:
                check_network(peer)
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    os.close(reading)


def test_client_that_is_killed_leaves_nothing(sharing: Sharing) -> None:
    """No descriptor, no mapping, no memory, ten times in a row."""
    before: list[tuple[list[str], list[str]]] = []
    resident = 0

    def is_as_before() -> bool:
        return [sharing.state()] == before

    for number in range(N_KILLS):
        killed_client(sharing.path)
        wait_until(lambda: not sharing.state()[1], "its memory is unmapped")
        if number == 1:            # the first one made us load and keep what all use
            before, resident = [sharing.state()], sharing.resident_kb()
        elif number > 1:
            wait_until(is_as_before, "there is what there was before")
    assert sharing.resident_kb() - resident < MAX_GROWTH_KB
    is_served_afresh(sharing)
    # More than a few lines in a second are counted only.
    assert {*sharing.reasons()} <= {
        "it closed the connection", "it closed the connection in the middle of a message",
        "it broke the connection: Connection reset by peer"}


def test_client_comes_back_with_its_rings(lab: Lab, plain: bool) -> None:
    """When passt is ended and started anew, the machine's memory and rings go on where they were."""
    memory = GuestMemory()
    with passt(lab, "--vhost-user", user=plain) as (running, path):
        peer = SharingPeer.connect(path)
        memory = peer.front_end.memory
        check_network(peer)
        running.kill()
        peer.wait_for_end()
    with passt(lab, "--vhost-user", user=plain) as (running, path):
        sock = Peer.connect(path).sock
        peer.sock.close()
        peer.sock, peer.client = sock, Client(sock)
        peer.client.negotiate()
        peer.front_end.start(peer.client)
        assert peer.front_end.memory is memory
        for _ in range(5):
            check_network(peer)
        peer.close()


@pytest.mark.slow
def test_idle_machine_costs_nothing(sharing: Sharing) -> None:
    peer = SharingPeer.connect(sharing.path)
    check_network(peer)

    def switches() -> int:
        return int(status_field(sharing.running.pid, "voluntary_ctxt_switches"))

    def is_idle() -> bool:
        before = switches()
        time.sleep(2)
        return switches() - before <= 2

    # Who asks the guest at first asks less and less often.
    wait_until(is_idle, "two seconds almost without a wake-up", 60)
    peer.close()
