"""Packets made of what bypasses the link: real sockets in two namespaces, and tshark to judge."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from pathlib import Path

import pytest

from passt.control import pcapng as written
from passt.facts.contracts import ON_LINK, SEEN_TCP, SEEN_UDP, PacketFilter, Recorder, Target
from tests.dataplane.bypass.bench import TCP, UDP, SpliceBench
from tests.support import pcapng
from tests.support.frames import packed
from tests.support.isolated import in_own_namespace
from tests.support.tshark import tshark

WAYS = pytest.mark.parametrize(
    ("address", "inward"), [("127.0.0.1", True), ("::1", True), ("127.0.0.1", False), ("::1", False)]
)
ROOM = 64 << 20
EVERYTHING = 1 << 60
REQUEST = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
RESET = struct.pack("ii", 1, 0)


def record(bench: SpliceBench, wanted: PacketFilter | None = None) -> Recorder:
    return bench.engine.start_recorder(
        wanted or PacketFilter(), written.header("test", "tap0", "", 262144), ROOM, snap_len=262144)


def read(recorder: Recorder) -> list[pcapng.Packet]:
    return pcapng.packets(recorder.read(0, EVERYTHING, EVERYTHING)[1])


def judged(recorder: Recorder, *fields: str) -> list[list[str]]:
    """Have tshark read the capture, and find nothing wrong or strange; return *fields* of each packet."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "capture"
        path.write_bytes(recorder.read(0, EVERYTHING, EVERYTHING)[1])
        strange = tshark(path, "-o", "tcp.check_checksum:TRUE", "-Y",
                         "tcp.analysis.flags || _ws.malformed || tcp.checksum.status == 0"
                         " || udp.checksum.status == 0 || ip.checksum.status == 0")
        assert strange == []
        wanted = [word for field in fields for word in ("-e", field)]
        return [line.split("\t") for line in tshark(path, "-T", "fields", *wanted)]


@WAYS
@in_own_namespace
def test_request_of_http_is_read_from_its_handshake_to_its_end(address: str, inward: bool) -> None:
    bench = SpliceBench()
    recorder = record(bench)
    client, server = bench.pair(address, inward=inward)
    client.sendall(REQUEST)
    assert bench.receive(server, len(REQUEST)) == REQUEST
    server.sendall(RESPONSE)
    assert bench.receive(client, len(RESPONSE)) == RESPONSE
    guest = server if inward else client
    ends = {guest.getsockname()[1], guest.getpeername()[1]}
    server.close()
    bench.turns()
    assert client.recv(1) == b""
    client.close()
    bench.turns()
    assert list(bench.engine.flows()) == []
    rows = judged(recorder, "tcp.flags", "tcp.len", "http.request.uri", "http.response.code", "tcp.srcport",
                  "tcp.dstport", "frame.interface_id", "frame.comment")
    assert [(int(row[0], 16), int(row[1])) for row in rows] == [
        (0x02, 0), (0x12, 0), (0x10, 0), (0x18, len(REQUEST)), (0x18, len(RESPONSE)), (0x11, 0), (0x10, 0),
        (0x11, 0), (0x10, 0)]  # fmt: skip
    assert [row[2:4] for row in rows[3:5]] == [["/x", ""], ["", "200"]]
    # The guest's own numbers, as in its namespace.
    assert {int(port) for row in rows for port in row[4:6]} == ends
    assert {row[6] for row in rows} == {"1"}
    assert len({row[7] for row in rows}) == 1
    assert rows[0][7].startswith("flow ")
    outbound = 0 if inward else 1
    assert [each.direction == pcapng.OUTBOUND for each in read(recorder)] == [
        way == outbound for way in (1, 0, 1, 1, 0, 0, 1, 1, 0)]
    bench.end()


@WAYS
@in_own_namespace
def test_all_bytes_of_a_large_transfer_are_there(address: str, inward: bool) -> None:
    bench = SpliceBench()
    client, server = bench.pair(address, inward=inward)
    # Before the capture pages are moved, and data may stay in a pipe.
    before = os.urandom(1_000_000)
    sent = 0
    client.setblocking(False)
    received = b""
    while len(received) < len(before):
        try:
            sent += client.send(before[sent : sent + 100_000])
        except BlockingIOError:
            pass
        received += bench.receive(server, min(sent - len(received), 50_000))
    assert received == before
    client.setblocking(True)
    recorder = record(bench, PacketFilter(protocols=SEEN_TCP))
    data = os.urandom(3_000_000)
    sent, received = 0, b""
    client.setblocking(False)
    while len(received) < len(data):
        try:
            sent += client.send(data[sent : sent + 200_000])
        except BlockingIOError:
            pass
        received += bench.receive(server, min(sent - len(received), 100_000))
    assert received == data
    server.sendall(b"thanks")
    assert bench.receive(client, 6) == b"thanks"
    packets = read(recorder)
    way = pcapng.INBOUND if inward else pcapng.OUTBOUND
    offset = 14 + (20 if address == "127.0.0.1" else 40) + 20
    assert b"".join(each.data[offset:] for each in packets if each.direction == way) == data
    assert b"".join(each.data[offset:] for each in packets if each.direction != way) == b"thanks"
    judged(recorder, "frame.number")
    bench.engine.stop_recorder(recorder)
    # Afterwards as before, without anybody who looks on.
    client.setblocking(True)
    client.sendall(data[:60_000])
    assert bench.receive(server, 60_000) == data[:60_000]
    assert len(read(recorder)) == len(packets)
    bench.end()


@in_own_namespace
def test_either_end_may_be_closed_first_and_resets_are_shown() -> None:
    bench = SpliceBench()
    for client_first in (True, False):
        recorder = record(bench)
        client, server = bench.pair("127.0.0.1", inward=True)
        first, last = (client, server) if client_first else (server, client)
        first.sendall(b"all of it")
        first.shutdown(socket.SHUT_WR)
        assert bench.receive(last, 100) == b"all of it"
        last.sendall(b"answer")
        assert bench.receive(first, 6) == b"answer"
        last.close()
        assert bench.receive(first, 1) == b""
        bench.turns()
        first.close()
        rows = judged(recorder, "tcp.flags", "tcp.len")
        assert [(int(row[0], 16), int(row[1])) for row in rows[3:]] == [
            (0x18, 9), (0x11, 0), (0x10, 0), (0x18, 6), (0x11, 0), (0x10, 0)]
        bench.engine.stop_recorder(recorder)
    recorder = record(bench)
    client, server = bench.pair("::1", inward=False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    bench.turns()
    assert list(bench.engine.flows()) == []
    rows = judged(recorder, "tcp.flags")
    assert int(rows[-1][0], 16) == 0x14
    bench.end()


@WAYS
@in_own_namespace
def test_refused_connection_is_a_syn_and_a_reset(address: str, inward: bool) -> None:
    bench = SpliceBench()
    recorder = record(bench)
    with bench.server(TCP, address, inside=inward) as closed:
        port = closed.getsockname()[1]
    client = bench.connect(bench.forward_to(TCP, Target(packed(address), port), inward=inward), address,
                           inward=inward)  # fmt: skip
    bench.turns()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    rows = judged(recorder, "tcp.flags")
    assert [int(row[0], 16) for row in rows] == [0x02, 0x14]
    bench.end()


@WAYS
@in_own_namespace
def test_datagrams_are_shown_as_they_are(address: str, inward: bool) -> None:
    bench = SpliceBench()
    recorder = record(bench, PacketFilter(protocols=SEEN_UDP))
    server = bench.server(UDP, address, inside=inward)
    client = bench.open(UDP, address, inside=not inward)
    client.settimeout(5)
    client.connect((address, bench.forward(UDP, server, inward=inward)))
    # In octets at random tshark now and then finds a protocol, and something wrong with it.
    payloads = [(b"not any protocol " * 4000)[:size] for size in (0, 1, 1400, 65000)]
    for data in payloads:
        client.send(data)
        bench.turns()
        found, peer = server.recvfrom(70000)
        assert found == data
        server.sendto(data[::-1], peer)
        bench.turns()
        assert client.recv(70000) == data[::-1]
    offset = 14 + (20 if address == "127.0.0.1" else 40) + 8
    shown = read(recorder)
    assert [each.data[offset:] for each in shown] == [
        each for data in payloads for each in (data, data[::-1])]
    there, back = (pcapng.INBOUND, pcapng.OUTBOUND) if inward else (pcapng.OUTBOUND, pcapng.INBOUND)
    assert [each.direction for each in shown] == [there, back] * len(payloads)
    rows = judged(recorder, "udp.srcport", "udp.dstport")
    if inward:
        question = [str(client.getsockname()[1]), str(server.getsockname()[1])]
    else:
        question = [str(client.getsockname()[1]), str(client.getpeername()[1])]
    assert rows == [question, question[::-1]] * len(payloads)
    bench.end()


@in_own_namespace
def test_capture_that_wants_something_else_is_shown_nothing() -> None:
    bench = SpliceBench()
    recorders = [record(bench, PacketFilter(interfaces=ON_LINK)),
                 record(bench, PacketFilter(ports=((1, 1),))),
                 record(bench, PacketFilter(networks=((packed("127.0.0.2"), 32),)))]
    client, server = bench.pair("127.0.0.1", inward=True)
    client.sendall(REQUEST)
    assert bench.receive(server, len(REQUEST)) == REQUEST
    assert [read(each) for each in recorders] == [[], [], []]
    bench.end()
