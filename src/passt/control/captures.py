"""Captures that are started and stopped while the program runs, and where their packets go.

Theory of operation. The data plane writes packets into memory of a bounded size (`contracts.Recorder`). From
there they go one of three ways:

* into a pipe whose writing end the client sends along with its request (unix(7), SCM_RIGHTS): the data
  plane writes at the end of each turn, what does not fit waits until the pipe is writable;
* to the client, as the body of its response, a piece in each turn: the capture lives as long as this
  connection;
* nowhere: the newest packets stay, until a client asks for them.

Only a pipe is taken: a write to it can be made not to wait, and it is known by a question that its holder
cannot have answered slowly. A file can keep its writer waiting for as long as its disk or file system likes,
and the traffic with it. Who wants a file has a process between, as passtctl is one.

A reader that is slower than the traffic loses packets, which are counted (in the capture, too); one that is
gone ends its capture. Nothing here ever waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from passt import __version__, log
from passt.control import pcapng
from passt.control.http import JSON, RefusalError, Response, answer, encode, parse_json
from passt.control.packet_filter import parse_filter

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from passt.control.client import Client
    from passt.control.http import Request
    from passt.control.source import Source
    from passt.facts.contracts import Recorder

MAX_CAPTURES = 4            # those included that end, and have not written all yet
BUFFER_SIZE = 4 << 20       # bytes that a reader may be behind
MIN_RING, MAX_RING = 1 << 18, 64 << 20
MIN_SNAP_LEN = 64
PIECE = 1 << 16             # bytes to a client in one turn of the loop
END_S = 5.0                 # that a pipe has to take the rest of a capture which is stopped
PIPE, STREAM, RING = "pipe", "stream", "ring"
_F_GETPIPE_SZ = 1032        # linux/fcntl.h
_EVERYTHING = (1 << 63) - 1


class Capture:
    """One capture: *kind* is PIPE, STREAM or RING."""

    def __init__(self, number: int, kind: str, text: str, snap_len: int, started_ns: int) -> None:
        self.number = number
        self.kind = kind
        self.text = text
        self.snap_len = snap_len
        self.started_ns = started_ns
        self.size = 0
        self.is_over = False         # no more packets come, but some may be on their way
        self.watches_room = False    # in the pipe
        self.recorder: Recorder      # set at once
        self.client: Client | None = None

    def describe(self) -> dict[str, Any]:
        """Write it as JSON; docs/control-api.json has its schema."""
        counts = self.recorder.counts()
        taken, lost, forgotten = (sum(each[i] for each in counts) for i in range(3))
        return {
            "id": str(self.number), "to": self.kind, "filter": self.text, "snaplen": self.snap_len,
            "started": round(self.started_ns / 1e9, 3), "packets": taken, "lost": lost,
            "overwritten": forgotten, "size_bytes": self.size,
            "held_bytes": self.recorder.end - self.recorder.start,
        }  # fmt: skip


class Captures:
    """All captures of one run; *link* is the name of the guest's interface."""

    def __init__(self, engine: Source, link: str, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._link = link or "link"
        self._clock = clock
        self._captures: dict[int, Capture] = {}
        self._n_started = 0

    def start(self, request: Request, client: Client) -> Response:
        """Start what the body of *request* describes. Raises RefusalError."""
        asked = parse_json(request.body or b"{}", {"filter": (str,), "snaplen": (int,), "ring": (int,)})
        text = " ".join(asked.get("filter", "").split())
        packets = parse_filter(text)
        snap_len = _within(asked.get("snaplen", pcapng.SNAP_LEN), "snaplen", MIN_SNAP_LEN, pcapng.SNAP_LEN)
        ring = asked.get("ring")
        if ring is not None:
            ring = _within(ring, "ring", MIN_RING, MAX_RING) & ~3
        if len(self._captures) >= MAX_CAPTURES:
            raise RefusalError(503, f"there are {MAX_CAPTURES} captures already")
        fd = client.take_descriptor()
        kind = RING if ring is not None else STREAM if fd is None else PIPE
        capture = Capture(self._n_started + 1, kind, text, snap_len, self._now_ns())
        capture.size = ring or BUFFER_SIZE
        try:
            if fd is not None:
                _prepare_pipe(fd, kind)
            capture.recorder = self._engine.start_recorder(
                packets, self._header(capture), capture.size, snap_len=snap_len, keeps_newest=kind == RING,
                fd=-1 if fd is None else fd, on_change=lambda: self._on_change(capture))
        except BaseException as error:
            if fd is not None:
                client.close_descriptor(fd)
            if isinstance(error, MemoryError):
                raise RefusalError(503, "there is no memory for a capture") from None
            raise
        self._n_started += 1
        self._captures[capture.number] = capture
        return self._begin(capture, client)

    def _begin(self, capture: Capture, client: Client) -> Response:
        log.debug(f"capture {capture.number} starts: {capture.text or 'all packets'}, to {capture.kind}")
        location = (("location", f"/v1/captures/{capture.number}"),)
        if capture.kind == STREAM:
            capture.client = client
            client.when_closed = lambda: self._end(capture)
            return Response(201, pcapng.MEDIA_TYPE, self._pieces(capture), is_whole=False, headers=location)
        if capture.kind == PIPE:
            try:
                self._engine.add_reader(capture.recorder.fd, lambda: self._on_pipe(capture), False, True)
            except OSError as error:
                self._engine.stop_recorder(capture.recorder)
                capture.recorder.close()
                del self._captures[capture.number]
                raise RefusalError(503, f"the pipe cannot be watched: {error.strerror}") from None
            capture.watches_room = True
        return Response(201, JSON, (encode(capture.describe()) + b"\n",), headers=location)

    def list_all(self) -> Response:
        """List captures."""
        return answer({"captures": [capture.describe() for capture in self._captures.values()
                                    if not capture.is_over]})

    def show(self, name: str) -> Response:
        """Describe one capture. Raises RefusalError."""
        return answer(self._find(name).describe())

    def packets(self, name: str) -> Response:
        """Return the packets that a ring has now. Raises RefusalError."""
        capture = self._find(name)
        if capture.kind != RING:
            raise RefusalError(409, f"capture {name} sends its packets elsewhere: only a ring keeps them")
        return Response(200, pcapng.MEDIA_TYPE, self._kept(capture), is_whole=False)

    def stop(self, name: str) -> Response:
        """End a capture, and tell what it was. Raises RefusalError."""
        capture = self._find(name)
        text = answer(capture.describe())
        capture.is_over = True
        self._engine.stop_recorder(capture.recorder)
        capture.recorder.put(self._statistics(capture))
        log.debug(f"capture {capture.number} is stopped")
        if capture.kind == RING:
            self._end(capture)
        elif capture.client is not None:
            capture.client.wake()
        else:
            self._write_pipe(capture)
            number = capture.number
            if number in self._captures:
                self._engine.call_later(END_S, lambda: self._end_late(number))
        return text

    def count(self) -> int:
        """Return how many captures there are."""
        return len(self._captures)

    def _find(self, name: str) -> Capture:
        capture = None
        if name.isascii() and name.isdecimal() and len(name) <= 9:
            capture = self._captures.get(int(name))
        if capture is None or capture.is_over:
            raise RefusalError(404, f"there is no capture '{name[:40]}'")
        return capture

    def _now_ns(self) -> int:
        return int(self._clock() * 1e9)

    def _header(self, capture: Capture) -> bytes:
        return pcapng.header(f"passt {__version__}", self._link, capture.text, capture.snap_len)

    def _statistics(self, capture: Capture) -> bytes:
        return pcapng.statistics(capture.recorder.counts(), capture.started_ns, self._now_ns())

    def _pieces(self, capture: Capture) -> Iterator[bytes | None]:
        """Give packets as they come, until the capture is stopped."""
        recorder = capture.recorder
        while True:
            place, data = recorder.read(0, _EVERYTHING, PIECE)
            if data:
                recorder.forget(place)
                yield data
            elif capture.is_over:
                self._end(capture)
                return
            else:
                recorder.ask()
                yield None

    def _kept(self, capture: Capture) -> Iterator[bytes | None]:
        """Give what a ring has now; what it forgets meanwhile is missing."""
        recorder = capture.recorder
        place, end, counts = recorder.start, recorder.end, self._statistics(capture)
        yield self._header(capture)
        while place < end:
            place, data = recorder.read(place, end, PIECE)
            if not data:
                break
            yield data
        yield counts

    def _on_change(self, capture: Capture) -> None:
        """Do what the recorder waits for."""
        if capture.client is not None:
            capture.client.wake()
        elif capture.kind == PIPE:
            self._look_at_pipe(capture)

    def _on_pipe(self, capture: Capture) -> None:
        """Go on as the pipe has room; without having asked for that, end as its readers are gone."""
        if capture.watches_room:
            self._write_pipe(capture)
        else:
            self._fail(capture, errno.EPIPE)

    def _write_pipe(self, capture: Capture) -> None:
        capture.recorder.flush()
        self._look_at_pipe(capture)

    def _look_at_pipe(self, capture: Capture) -> None:
        """See what a write to the pipe has come to."""
        recorder = capture.recorder
        if recorder.error:
            self._fail(capture, recorder.error)
        elif capture.is_over and not recorder.is_full:
            self._end(capture)
        elif recorder.is_full != capture.watches_room:
            capture.watches_room = recorder.is_full
            self._engine.add_reader(recorder.fd, lambda: self._on_pipe(capture), False, recorder.is_full)

    def _fail(self, capture: Capture, number: int) -> None:
        why = {errno.EPIPE: "its reader is gone", errno.EINTR: "its pipe keeps us waiting"}
        log.limited(log.INFO, "capture",
                    f"capture {capture.number} ends: {why.get(number) or os.strerror(number)}")
        self._end(capture)

    def _end_late(self, number: int) -> None:
        """Forget the capture of that *number*; a timer that held the capture would hold its memory."""
        if number in self._captures:
            self._end(self._captures[number])

    def _end(self, capture: Capture) -> None:
        """Forget a capture; nothing if that is done."""
        if self._captures.pop(capture.number, None) is None:
            return
        if capture.client is not None:
            capture.client.when_closed = None      # the connection may live on
        if not capture.is_over:
            capture.is_over = True
            self._engine.stop_recorder(capture.recorder)
        if capture.kind == PIPE:
            self._engine.remove_reader(capture.recorder.fd)
        capture.recorder.close()


def _within(value: int, name: str, least: int, most: int) -> int:
    if not least <= value <= most:
        raise RefusalError(400, f"'{name}': {str(value)[:40]} is not from {least} to {most}")
    return value


def _prepare_pipe(fd: int, kind: str) -> None:
    """See that *fd* is the writing end of a pipe, and that writes to it do not wait. Raises RefusalError.

    fstat(2) would ask the file system, which may be a process that does not answer (FUSE).
    """
    if kind == RING:
        raise RefusalError(400, "a descriptor came along, but a 'ring' is written nowhere")
    try:
        fcntl.fcntl(fd, _F_GETPIPE_SZ)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    except OSError:
        raise RefusalError(400, "the descriptor is no pipe; let the capture write to one, and copy from there"
                                " to a file or socket") from None
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise RefusalError(400, "the descriptor is the reading end of a pipe; send the writing end")
