"""Captures over the control socket of a real engine: to a pipe, to the client, to memory."""

from __future__ import annotations

import fcntl
import functools
import gc
import http.client
import json
import os
import socket
import struct
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from passt.control.captures import BUFFER_SIZE, END_S, MAX_CAPTURES, MAX_RING, MIN_RING
from passt.control.client import Client
from passt.control.http import Request, Response, answer
from tests.support import pcapng
from tests.support.control import PollLoop
from tests.support.fakes import Clock
from tests.support.frames import ethernet
from tests.support.live_control import LiveControl
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

OPENAPI = Path(__file__).parent.parent.parent / "docs" / "control-api.json"
ARP = ethernet(bytes(28), kind=0x0806)
LARGE = ethernet(bytes(60000), kind=0x88CC)
F_SETPIPE_SZ = 1031


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveControl]:
    made = LiveControl(tmp_path)
    with made.turning():
        yield made
    made.close()


def request(body: object, method: str = "POST", target: str = "/v1/captures") -> bytes:
    data = json.dumps(body).encode()
    return b"%s %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (
        method.encode(), target.encode(), len(data)) + data


def post_with(live: LiveControl, body: object, *fds: int) -> tuple[int, Any]:
    """Start a capture with descriptors sent along; return status and JSON."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(live.path)
        socket.send_fds(sock, [request(body)], fds)
        response = http.client.HTTPResponse(sock)
        response.begin()
        return response.status, json.loads(response.read())


def count(live: LiveControl, name: str = "1") -> int:
    _, listed = live.ask("GET", "/v1/captures")
    return sum(each["packets"] + each["lost"] for each in listed["captures"] if each["id"] == name)


def has_handled(live: LiveControl, n: int) -> bool:
    return live.bench.engine.counters()["frames_from_guest"] >= n


def give(live: LiveControl, *frames: bytes) -> None:
    """Have the guest send *frames*, all of which are handled then."""
    for frame in frames:
        n = live.bench.engine.counters()["frames_from_guest"] + 1
        live.bench.give(frame)
        wait_until(functools.partial(has_handled, live, n), "the frame is handled")
        live.bench.frames()


def open_stream(live: LiveControl, body: object) -> tuple[http.client.HTTPResponse, str]:
    connection = live.connect()
    connection.request("POST", "/v1/captures", json.dumps(body))
    response = connection.getresponse()
    assert (response.status, response.getheader("content-type")) == (201, "application/x-pcapng")
    return response, response.getheader("location", "")


def test_stream_has_packets_as_they_come_and_the_counts_at_its_end(live: LiveControl) -> None:
    response, location = open_stream(live, {"filter": " arp  link", "snaplen": 100})
    start = response.read1(1 << 20)
    kinds = pcapng.blocks(start)
    assert [kind for kind, _ in kinds] == [pcapng.SECTION, pcapng.INTERFACE, pcapng.INTERFACE]
    assert kinds[0][1][:16] == struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
    assert kinds[1][1][:8] == struct.pack("=HHI", 1, 0, 100)
    described = pcapng.options(kinds[1][1][8:])
    assert (described[2], described[9], described[11]) == (b"tap0", b"\x09", b"\0arp link")
    assert pcapng.options(kinds[2][1][8:])[2] == b"bypass"
    give(live, LARGE, ARP)
    (packet,) = pcapng.packets(response.read1(1 << 20))
    assert packet.data == ARP
    status, told = live.ask("DELETE", location)
    assert (status, told["packets"], told["lost"], told["to"]) == (200, 1, 0, "stream")
    end = pcapng.blocks(response.read())
    assert [kind for kind, _ in end] == [pcapng.STATISTICS] * 2
    number, high, low = struct.unpack_from("=III", end[0][1])
    counts = pcapng.options(end[0][1][12:])
    assert (number, counts[3]) == (0, struct.pack("=II", high, low))
    assert (counts[4], counts[5]) == (struct.pack("=Q", 1), struct.pack("=Q", 0))
    assert live.ask("GET", "/v1/captures") == (200, {"captures": []})
    assert live.ask("DELETE", location)[0] == 404


def test_capture_ends_with_its_client(live: LiveControl) -> None:
    response, _ = open_stream(live, {})
    assert live.ask("GET", "/v1/info")[1]["captures"] == 1
    response.read1(10)
    live.connections[0].close()
    response.close()
    wait_until(lambda: live.ask("GET", "/v1/info")[1]["captures"] == 0, "the capture has ended")


def test_slow_client_loses_packets_which_are_counted(live: LiveControl) -> None:
    response, location = open_stream(live, {})
    n = BUFFER_SIZE // len(LARGE) + 40
    give(live, *[LARGE] * n)
    _, told = live.ask("DELETE", location)
    assert told["lost"] > 0
    assert told["packets"] + told["lost"] == n
    found = pcapng.packets(response.read())
    assert len(found) == told["packets"]


def test_pipe_that_is_sent_along_gets_the_packets(live: LiveControl) -> None:
    reader, writer = os.pipe()
    status, told = post_with(live, {"filter": "arp"}, writer)
    os.close(writer)
    assert (status, told["to"], told["id"], told["filter"]) == (201, "pipe", "1", "arp")
    give(live, ARP)
    with os.fdopen(reader, "rb") as file:
        live.ask("DELETE", "/v1/captures/1")
        data = file.read()                          # to its end: nobody else has the writing end any more
    assert [kind for kind, _ in pcapng.blocks(data)] == [
        pcapng.SECTION, *[pcapng.INTERFACE] * 2, pcapng.PACKET, *[pcapng.STATISTICS] * 2]
    wait_until(lambda: live.ask("GET", "/v1/info")[1]["captures"] == 0, "the capture has ended")


def test_slow_pipe_gets_whole_packets_and_the_rest_after_the_end(live: LiveControl) -> None:
    reader, writer = os.pipe()
    live.api._captures._engine = LateEngine(live, [])      # we may read as slowly as the machine does
    post_with(live, {}, writer)
    os.close(writer)
    n = BUFFER_SIZE // len(LARGE) + 40
    give(live, *[LARGE] * n)
    _, told = live.ask("DELETE", "/v1/captures/1")
    assert (told["packets"] + told["lost"], told["lost"] > 0) == (n, True)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    assert [each.data for each in pcapng.packets(data)] == [LARGE] * told["packets"]
    assert pcapng.blocks(data)[-1][0] == pcapng.STATISTICS


@pytest.mark.parametrize("is_full", [False, True])
def test_gone_reader_of_a_pipe_ends_the_capture(live: LiveControl, is_full: bool) -> None:
    reader, writer = os.pipe()
    post_with(live, {}, writer)
    os.close(writer)
    if is_full:
        give(live, LARGE, LARGE)
    os.close(reader)
    wait_until(lambda: live.ask("GET", "/v1/info")[1]["captures"] == 0, "the capture has ended")
    give(live, ARP)


class LateEngine:
    """The engine of *live*, of which the timers of ends are kept in *timers*."""

    def __init__(self, live: LiveControl, timers: list[Any]) -> None:
        self.engine = live.bench.engine
        self.timers = timers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def call_later(self, delay_s: float, callback: Any) -> None:
        if delay_s == END_S:
            self.timers.append(callback)
        else:
            self.engine.call_later(delay_s, callback)


def test_pipe_that_is_not_read_after_the_end_is_left(tmp_path: Path) -> None:
    live = LiveControl(tmp_path)
    timers: list[Any] = []
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    with live.turning():
        post_with(live, {}, writer)
        give(live, LARGE)
        live.api._captures._engine = LateEngine(live, timers)
        live.ask("DELETE", "/v1/captures/1")
        assert live.ask("GET", "/v1/info")[1]["captures"] == 1
    timers[0]()
    assert live.api._captures.count() == 0
    for fd in (reader, writer):
        os.close(fd)
    live.close()


@pytest.mark.parametrize("kind", ["stream", "pipe"])
def test_capture_that_has_ended_holds_no_memory(live: LiveControl, kind: str) -> None:
    reader, writer = os.pipe()
    timers: list[Any] = []
    live.api._captures._engine = LateEngine(live, timers)
    if kind == "stream":
        response, location = open_stream(live, {})
    else:
        fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
        location = f"/v1/captures/{post_with(live, {}, writer)[1]['id']}"
    os.close(writer)
    [held] = [weakref.ref(capture) for capture in live.api._captures._captures.values()]
    give(live, LARGE)
    live.ask("DELETE", location)
    if kind == "stream":
        response.read()        # the connection stays open
    else:
        assert held() is not None
    os.close(reader)

    def is_free() -> bool:
        gc.collect()
        return held() is None

    wait_until(is_free, "nothing holds the capture")
    assert len(timers) == (kind == "pipe")


def test_ring_can_be_asked_again_and_again(live: LiveControl) -> None:
    status, told = live.ask("POST", "/v1/captures", {"ring": MIN_RING, "filter": "arp"})
    assert (status, told["to"], told["size_bytes"]) == (201, "ring", MIN_RING)

    def fetch() -> bytes:
        connection = live.connect()
        connection.request("GET", f"/v1/captures/{told['id']}/packets")
        return connection.getresponse().read()

    for n in (1, 2):
        give(live, ARP)
        data = fetch()
        assert [each.data for each in pcapng.packets(data)] == [ARP] * n
        assert [kind for kind, _ in pcapng.blocks(data)][-2:] == [pcapng.STATISTICS] * 2
    assert live.ask("GET", f"/v1/captures/{told['id']}")[1]["packets"] == 2
    assert live.ask("DELETE", f"/v1/captures/{told['id']}")[1]["packets"] == 2
    assert live.ask("GET", f"/v1/captures/{told['id']}/packets")[0] == 404


@pytest.mark.parametrize("body", [
    {"filter": "nonsense"}, {"filter": 1}, {"snaplen": 1}, {"snaplen": 1 << 20}, {"snaplen": True},
    {"ring": MIN_RING - 1}, {"ring": MAX_RING + 1}, {"ring": "16M"}, {"colour": "red"}, [], "x",
    {"filter": "host fe80::1%\ud800"}, {"filter": "fe80::1%\udc80", "ring": MIN_RING},
])  # fmt: skip
def test_what_makes_no_sense_is_refused(live: LiveControl, body: object) -> None:
    assert live.ask("POST", "/v1/captures", body)[0] == 400
    assert live.api._captures.count() == 0


def test_other_refusals(live: LiveControl) -> None:
    for method, target in (("GET", "/v1/captures/1"), ("DELETE", "/v1/captures/x"),
                           ("GET", "/v1/captures/99999999999/packets")):
        assert live.ask(method, target)[0] == 404
    _, location = open_stream(live, {})
    assert live.ask("GET", f"{location}/packets")[0] == 409
    for _ in range(MAX_CAPTURES - 1):
        assert live.ask("POST", "/v1/captures", {"ring": MIN_RING})[0] == 201
    assert live.ask("POST", "/v1/captures", {"ring": MIN_RING})[0] == 503


def open_descriptors() -> int:
    gc.collect()       # what earlier tests left in cycles is not to go while we count
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", ["file", "socket", "null", "path", "reading end", "ring"])
def test_descriptors_of_another_kind_are_refused_and_closed(live: LiveControl, tmp_path: Path,
                                                            kind: str) -> None:
    live.ask("GET", "/v1/info")
    reader, writer = os.pipe()
    a, b = socket.socketpair()
    fd = {"file": lambda: os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR),
          "socket": lambda: os.dup(a.fileno()), "null": lambda: os.open("/dev/full", os.O_WRONLY),
          "path": lambda: os.open(f"/proc/self/fd/{writer}", os.O_PATH),
          "reading end": lambda: os.dup(reader), "ring": lambda: os.dup(writer)}[kind]()  # fmt: skip
    before = open_descriptors()
    status, problem = post_with(live, {"ring": MIN_RING} if kind == "ring" else {}, fd)
    assert (status, problem["status"]) == (400, 400)
    wait_until(lambda: open_descriptors() == before, "ours and the client's end are closed")
    for each in (fd, reader, writer):
        os.close(each)
    a.close()
    b.close()


class Quiet:
    """A client of the server on a socketpair, turned by the test."""

    def __init__(self) -> None:
        self.loop = PollLoop()
        ours, self.far = socket.socketpair()
        ours.setblocking(False)
        self.taken: list[int] = []
        self.takes = False
        self.client = Client(self.loop, ours, self.serve, lambda _: None, Clock(0.0))

    def serve(self, _request: Request, client: Client) -> Response:
        if self.takes:
            fd = client.take_descriptor()
            if fd is not None:
                self.taken.append(fd)
        return answer({})


def test_descriptors_that_nobody_asked_for_are_closed() -> None:
    quiet = Quiet()
    reader, writer = os.pipe()
    before = open_descriptors()
    data = request({}, "GET", "/v1/info")
    # With each byte of a request, several at once, and at the end of all.
    for i in range(len(data)):
        socket.send_fds(quiet.far, [data[i : i + 1]], [writer] * 5)
        quiet.loop.run()
        assert open_descriptors() <= before + 1
    assert open_descriptors() == before
    socket.send_fds(quiet.far, [data[:5]], [writer])
    quiet.loop.run()
    socket.send_fds(quiet.far, [data[5:7]], [reader])
    quiet.client.close()
    quiet.far.close()
    assert open_descriptors() == before - 2
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_descriptor_comes_with_the_request_that_it_was_sent_with() -> None:
    quiet = Quiet()
    quiet.takes = True
    data = request({}, "GET", "/v1/info")
    for n in (1, len(data) // 2, len(data)):
        reader, writer = os.pipe()
        socket.send_fds(quiet.far, [data[:n]], [writer])
        os.close(writer)
        quiet.loop.run()
        quiet.far.sendall(data[n:])
        quiet.loop.run()
        quiet.far.recv(1 << 16)
        os.write(quiet.taken.pop(), b"x")
        assert os.read(reader, 1) == b"x"
        os.close(reader)
    quiet.client.close()
    quiet.far.close()


def test_every_truncation_of_a_request_starts_nothing_and_keeps_nothing(tmp_path: Path) -> None:
    live = LiveControl(tmp_path)
    reader, writer = os.pipe()
    data = request({"filter": "tcp port 80"})
    with live.turning():
        for n in range(1, len(data)):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(live.path)
                socket.send_fds(sock, [data[:n]], [writer])
        live.ask("GET", "/v1/info")      # who comes last is accepted last
        live.connections[0].close()
        wait_until(lambda: live.server.count() == 0, "all clients are gone")
        # Many at once are refused, and what they sent is let go of a bit later.
        wait_until(lambda: not live.server._parting, "those that were refused are gone, too")
    assert live.api._captures.count() == 0
    os.close(writer)
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b""
    os.close(reader)
    live.close()


def test_answers_are_what_openapi_says(live: LiveControl) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    _, started = live.ask("POST", "/v1/captures", {"ring": MIN_RING})
    answers = {"Capture": started, "Captures": live.ask("GET", "/v1/captures")[1]}
    for name, value in answers.items():
        jsonschema.validate(value, {"$ref": f"#/components/schemas/{name}"} | document)
