"""Messages of neighbours against bytes written by hand and pyroute2's, and what a kernel says."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_address

import pytest
from pyroute2.netlink.rtnl.ndmsg import ndmsg

from passt.errors import HostError
from passt.host.rtnetlink.messages import AF_INET, AF_INET6
from passt.host.rtnetlink.neighbours import (
    NeighbourMessage,
    NeighbourType,
    NeighbourWatch,
    build_neighbours_query,
    read_neighbours,
)
from passt.host.rtnetlink.socket import RtnlSocket
from passt.host.rtnetlink.watch import NEIGHBOURS, GroupSocket
from passt.light.values import replace
from tests.support.isolated import HOST, PLAIN, ip_batch, isolated_as_root
from tests.support.kernel import ScriptedSocket, datagram
from tests.support.processes import is_readable

if struct.pack("=H", 1) != b"\1\0":
    pytest.skip("the vectors are those of a little-endian machine", allow_module_level=True)

MAC = bytes.fromhex("0200000000aa")
# RTM_NEWNEIGH 192.0.2.7 of interface 4, REACHABLE, unicast.
NEIGHBOUR = bytes.fromhex(
    "02 000000 04000000 0200 00 01"          # AF_INET, padding, index, state, flags, type
    "0800 0100 c0000207"                     # NDA_DST
    "0a00 0200 0200000000aa 0000"            # NDA_LLADDR
    "0800 0400 01000000"                     # NDA_PROBES
    "1400 0300 00000000 00000000 00000000 00000000")  # NDA_CACHEINFO
PARSED = NeighbourMessage(AF_INET, 4, 0x02, 0, bytes((192, 0, 2, 7)), MAC)
BRIDGE = b"\7" + NEIGHBOUR[1:]


def test_golden_message() -> None:
    assert NeighbourMessage.parse(NEIGHBOUR) == PARSED


def test_second_opinion() -> None:
    message = ndmsg()
    message["family"], message["ifindex"], message["state"], message["flags"] = AF_INET6, 9, 0x04, 0x80
    message["attrs"] = [("NDA_DST", "2001:db8::7"), ("NDA_LLADDR", "02:00:00:00:00:aa")]
    message.encode()
    assert NeighbourMessage.parse(message.data[16:]) == NeighbourMessage(
        AF_INET6, 9, 0x04, 0x80, ip_address("2001:db8::7").packed, MAC)
    query = ndmsg(build_neighbours_query(AF_INET, 7), offset=0)
    assert build_neighbours_query(AF_INET, 7)[:12] == bytes((2, *bytes(11)))
    assert len(query.data) == 20


def test_every_truncation_is_refused_or_lacks_what_was_cut_off() -> None:
    for length in range(len(NEIGHBOUR)):
        try:
            message = NeighbourMessage.parse(NEIGHBOUR[:length])
        except HostError:
            continue
        assert message in {PARSED, replace(PARSED, mac=b"")}


def test_every_spoiled_byte_is_survived() -> None:
    for at in range(len(NEIGHBOUR)):
        for byte in (0, 1, 0x7F, 0xFF):
            spoiled = NEIGHBOUR[:at] + bytes([byte]) + NEIGHBOUR[at + 1:]
            try:
                assert len(NeighbourMessage.parse(spoiled).address) in {4, 16}
            except HostError:
                continue


@pytest.mark.parametrize(("state", "flags", "is_known"), [
    (0x01, 0, False), (0x02, 0, True), (0x04, 0, True), (0x08, 0, True), (0x10, 0, True), (0x20, 0, False),
    (0x40, 0, False), (0x80, 0, True), (0, 0, False), (0x02, 0x80, True), (0x80, 0x08, False),
], ids=["incomplete", "reachable", "stale", "delay", "probe", "failed", "noarp", "permanent", "none",
        "router", "proxy"])
def test_which_states_have_an_address(state: int, flags: int, is_known: bool) -> None:
    assert replace(PARSED, state=state, flags=flags).is_known is is_known


def watch_of(*script: bytes | OSError, flags: int = 0, sender: int = 0) -> NeighbourWatch:
    group_socket = GroupSocket("the neighbours", NEIGHBOURS)
    group_socket.close()
    group_socket._socket = ScriptedSocket(script, flags=flags, sender=sender)  # type: ignore[assignment]
    return NeighbourWatch(group_socket)


def test_watch_tells_of_neighbours_and_of_nothing_else() -> None:
    watch = watch_of(datagram((NeighbourType.NEW, NEIGHBOUR), (NeighbourType.NEW, BRIDGE), (16, NEIGHBOUR)),
                     datagram((NeighbourType.DEL, NEIGHBOUR), (NeighbourType.GET, NEIGHBOUR)))
    assert watch.read() == ([(PARSED, True), (PARSED, False)], True)
    assert watch.read() == ([], True)


def test_what_is_lost_is_told() -> None:
    good = datagram((NeighbourType.NEW, NEIGHBOUR))
    watch = watch_of(OSError(errno.ENOBUFS, "No buffer space available"), good)
    assert watch.read() == ([(PARSED, True)], False)
    assert watch._socket.n_overflows == 1
    watch = watch_of(good[:-1], good)
    assert watch.read() == ([(PARSED, True)], False)
    assert watch.n_malformed == 1
    assert watch_of(good, flags=socket.MSG_TRUNC).read() == ([], False)
    assert watch_of(good, sender=77).read() == ([], True)


@pytest.mark.needs_root
def test_kernel_tells_of_neighbours_and_has_them_in_its_table() -> None:
    isolated_as_root(hear)


def hear() -> None:
    """Run in a namespace of its own."""
    ip_batch(HOST + PLAIN)
    ifindex = socket.if_nametoindex("h0")
    with GroupSocket("the neighbours", NEIGHBOURS) as group_socket, RtnlSocket() as rtnetlink:
        watch = NeighbourWatch(group_socket)
        for address, other in (("192.0.2.7", "192.0.2.8"), ("2001:db8::7", "2001:db8::8")):
            family = AF_INET6 if ":" in address else AF_INET
            for command, is_there, mac in (
                    (f"replace {address} lladdr 02:00:00:00:00:aa", True, MAC),
                    (f"replace {address} lladdr 02:00:00:00:00:bb", True, MAC[:5] + b"\xbb"),
                    (f"del {address}", False, b"")):
                while watch.read()[0]:
                    pass
                ip_batch(f"neigh {command} dev h0\n")
                found: list[tuple[NeighbourMessage, bool]] = []
                while not found or found[-1][1] is not is_there:
                    assert is_readable(watch, 60), command
                    changes, is_whole = watch.read()
                    assert is_whole
                    found += [change for change in changes if change[0].address == ip_address(address).packed]
                assert (found[-1][0].ifindex, found[-1][0].is_known) == (ifindex, is_there)
                table = {entry.address: entry.mac for entry in read_neighbours(rtnetlink, family, ifindex)
                         if entry.is_known}
                assert table.get(ip_address(address).packed, b"") == mac
            ip_batch(f"neigh add {other} lladdr 02:00:00:00:00:aa dev p0\n")
            assert ip_address(other).packed not in {
                entry.address for entry in read_neighbours(rtnetlink, family, ifindex)}
