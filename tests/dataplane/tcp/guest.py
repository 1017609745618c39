"""A simple, correct TCP for the guest's end of property tests: RFC 9293 with MSS, scale and RFC 2018.

It sends `total` bytes of its stream and a FIN, go-back-N after a time-out, one segment after three duplicate
acknowledgements; it keeps what comes out of order, acknowledges every segment, probes closed windows,
and lets its application read as slowly as it is told. With `sack` it reports what it keeps, the newest run
first, and does not repeat what was reported to it; `renege` makes it forget what it keeps.
Numbers are relative, 0 is the SYN.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.dataplane.tcp.segment import ACK, FIN, MASK, PSH, RST, SYN, Segment, stream

NS_PER_MS = 1_000_000
RTO_MS, RTO_MAX_MS = 250, 2000
HALF = 1 << 31
SCALE = 2
TYPED = 1000                            # bytes that who `pushes` has under way at most


def signed(number: int) -> int:
    """Read a relative number as the distance it stands for."""
    return number - (1 << 32) if number >= HALF else number


@dataclass(slots=True)
class GuestTcp:
    """One connection; `active` opens it."""

    active: bool
    total: int
    mss: int = 1460
    buffer: int = 20_000
    sack: bool = False
    stamps: bool = False
    pushes: bool = False                # each segment, as what its user types
    state: str = "CLOSED"
    snd_una: int = 0
    snd_nxt: int = 0
    edge: int = 0                       # right edge of the window that we may send into
    rcv_nxt: int = 0
    rcv_edge: int = 0
    unread: int = 0
    received: bytearray = field(default_factory=bytearray)
    early: dict[int, bytes] = field(default_factory=dict)
    newest: int = 0                     # number of the segment that came out of order last
    reported: set[int] = field(default_factory=set)      # what the peer has of what is not acknowledged
    fin_at: int | None = None           # where the peer's FIN lies
    peer_done: bool = False
    deadline: int | None = None
    backoff: int = 0
    duplicates: int = 0
    out: list[Segment] = field(default_factory=list)
    scale: int = 0                      # of the peer's window
    was_reset: bool = False
    clock: int = 0                      # ms, counts on past 32 bits
    recent: int = 0                     # stamp of the peer's to echo

    @property
    def fin_seq(self) -> int:
        """Number of our FIN."""
        return 1 + self.total

    @property
    def is_done(self) -> bool:
        """Both directions have ended and are acknowledged."""
        return self.peer_done and self.snd_una == self.fin_seq + 1

    def window(self) -> int:
        """Tell what the application leaves free, never less than was promised."""
        self.rcv_edge = max(self.rcv_edge, self.rcv_nxt + (self.buffer - self.unread >> SCALE << SCALE))
        return self.rcv_edge - self.rcv_nxt

    def emit(self, flags: int, seq: int, payload: bytes = b"") -> None:
        """Queue a segment."""
        win = self.window()
        if flags & SYN:
            options: dict[str, tuple[int, ...]] = {"mss": (self.mss,), "ws": (SCALE,)}
            if self.sack:
                options["sack_ok"] = ()
            if self.stamps:
                options["ts"] = self.stamp()
            self.rcv_edge = min(self.rcv_edge, self.rcv_nxt + 65535)
        else:
            options = {"ts": self.stamp()} if self.stamps else {}
            if self.sack and self.early:
                options["sack"] = self.blocks()
            win >>= SCALE
        ack = self.rcv_nxt if flags & ACK else 0
        self.out.append(Segment(flags, seq, ack, min(win, 65535), payload, options))

    def blocks(self) -> tuple[int, ...]:
        """Give the runs that came out of order: the newest, then up to two others (RFC 2018 4)."""
        runs: list[list[int]] = []
        for start, piece in sorted(self.early.items()):
            if runs and start <= runs[-1][1]:
                runs[-1][1] = max(runs[-1][1], start + len(piece))
            else:
                runs.append([start, start + len(piece)])
        runs.sort(key=lambda run: not run[0] <= self.newest < run[1])
        return tuple(edge for run in runs[:3] for edge in run)

    def stamp(self) -> tuple[int, int]:
        """Give the option's two numbers (RFC 7323 3.2)."""
        return self.clock & MASK, self.recent

    def take_stamp(self, segment: Segment, seq: int) -> None:
        """Check the option and note what is to be echoed; each segment has it, or none has."""
        if not segment.flags & SYN or segment.flags & ACK:
            assert ("ts" in segment.options) == self.stamps
        if not self.stamps:
            return
        stamp, echo = segment.options["ts"]
        if segment.flags & ACK:
            assert self.clock - echo & MASK < 10_000_000, "no echo of ours"
        if segment.flags & SYN or (seq <= self.rcv_nxt and signed(stamp - self.recent & MASK) >= 0):
            self.recent = stamp

    def renege(self) -> None:
        """Forget what came out of order, reported or not (RFC 2018 8)."""
        self.early.clear()

    def open(self, now: int) -> None:
        """Send our SYN."""
        self.state = "SYN_SENT"
        self.snd_nxt = 1
        self.emit(SYN, 0)
        self.arm(now)

    def arm(self, now: int) -> None:
        """(Re)start the timer."""
        self.deadline = now + min(RTO_MS << self.backoff, RTO_MAX_MS) * NS_PER_MS

    def on_segment(self, segment: Segment, now: int) -> None:
        """Take one segment."""
        if (not segment.flags & RST and self.state != "CLOSED") or segment.flags & SYN:
            self.take_stamp(segment, signed(segment.seq))
        if segment.flags & RST:
            self.was_reset = True
            self.state = "CLOSED"
            self.deadline = None
        elif self.state == "CLOSED" and not self.active and segment.flags & SYN:
            self.take_syn(segment)
            self.state = "SYN_RECEIVED"
            self.snd_nxt = 1
            self.emit(SYN | ACK, 0)
            self.arm(now)
        elif self.state == "SYN_SENT" and segment.flags & (SYN | ACK) == SYN | ACK and segment.ack == 1:
            self.take_syn(segment)
            self.established(segment, now)
            self.emit(ACK, self.snd_nxt)
            self.send(now)
        elif self.state == "SYN_RECEIVED" and segment.flags & ACK and not segment.flags & SYN:
            if segment.ack == 1:
                self.established(segment, now)
                self.in_connection(segment, now)
        elif self.state == "ESTABLISHED":
            self.in_connection(segment, now)

    def take_syn(self, segment: Segment) -> None:
        """Take the peer's scale and first number."""
        self.scale = segment.options.get("ws", (0,))[0]
        self.rcv_nxt = 1
        self.rcv_edge = 1

    def established(self, segment: Segment, now: int) -> None:
        """Begin to send."""
        self.state = "ESTABLISHED"
        self.snd_una = 1
        self.edge = 1 + segment.win
        self.backoff = 0
        self.deadline = None
        self.send(now)

    def in_connection(self, segment: Segment, now: int) -> None:
        """Take a segment in ESTABLISHED and all that follows."""
        seq = signed(segment.seq)
        if segment.flags & SYN or seq > self.rcv_edge or seq + segment.span < self.rcv_nxt:
            self.emit(ACK, self.snd_nxt)
            return
        self.take_ack(segment, now)
        if segment.payload or segment.flags & FIN:
            self.take_payload(seq, segment)
            self.emit(ACK, self.snd_nxt)
        self.send(now)

    def take_ack(self, segment: Segment, now: int) -> None:
        """Take the acknowledgement and the window."""
        ack = signed(segment.ack)
        assert ack <= self.fin_seq + 1, "the host acknowledges what was never sent"
        edge = ack + (segment.win << self.scale)
        self.take_blocks(segment, ack)
        old_edge, self.edge = self.edge, max(self.edge, edge)
        if ack > self.snd_una:
            self.snd_una = ack
            self.snd_nxt = max(self.snd_nxt, ack)
            self.backoff = self.duplicates = 0
            self.deadline = None
            if self.snd_una < self.snd_nxt:
                self.arm(now)
        elif ack == self.snd_una < self.snd_nxt and self.edge == old_edge and not segment.span:
            self.duplicates += 1
            if self.duplicates == 3:
                self.repeat_first()

    def take_blocks(self, segment: Segment, ack: int) -> None:
        """Note what the peer has; it must not tell of what was never sent, nor forget it."""
        blocks = [signed(edge) for edge in segment.options.get("sack", ())]
        assert self.sack or not blocks, "selective acknowledgements without permission"
        assert len(blocks) <= 8
        for start, end in zip(blocks[::2], blocks[1::2], strict=True):
            assert start < end <= self.fin_seq + 1, "reports what was never sent"
            self.reported.update(range(max(start, ack), end))
        if ack >= self.snd_una:
            assert ack not in self.reported, "has what it asks for"
            self.reported = {number for number in self.reported if number > ack}

    def take_payload(self, seq: int, segment: Segment) -> None:
        """Store what is in the window, deliver what is in order."""
        end = seq + len(segment.payload)
        if segment.flags & FIN:
            self.fin_at = end
        data = segment.payload[max(self.rcv_nxt - seq, 0) : max(self.rcv_edge - seq, 0)]
        seq = max(seq, self.rcv_nxt)
        self.newest = seq
        if data and len(data) > len(self.early.get(seq, b"")):
            self.early[seq] = data
        moved = True
        while moved:
            moved = False
            for start, piece in sorted(self.early.items()):
                if start <= self.rcv_nxt:
                    fresh = piece[self.rcv_nxt - start :]
                    self.received += fresh
                    self.unread += len(fresh)
                    self.rcv_nxt += len(fresh)
                    del self.early[start]
                    moved = True
        if self.fin_at == self.rcv_nxt and not self.peer_done:
            self.peer_done = True
            self.rcv_nxt += 1
            self.rcv_edge = max(self.rcv_edge, self.rcv_nxt)

    def piece(self, seq: int, limit: int) -> None:
        """Send what lies at *seq*: data up to *limit*, or the FIN."""
        n = min(self.mss, self.fin_seq - seq, limit)
        if n > 0:
            push = PSH if self.pushes or seq + n == self.fin_seq else 0
            self.emit(ACK | push, seq, stream("guest", seq - 1, n))
        elif seq == self.fin_seq:
            self.emit(ACK | FIN, seq)

    def repeat_first(self) -> None:
        """Send the first segment that is not acknowledged once more."""
        self.piece(self.snd_una, self.snd_nxt - self.snd_una)

    def send(self, now: int) -> None:
        """Fill the window."""
        if self.state != "ESTABLISHED":
            return
        while self.snd_nxt < self.fin_seq and self.snd_nxt < self.edge:
            if self.pushes and self.snd_nxt - self.snd_una >= TYPED:
                break
            n = min(self.mss, self.fin_seq - self.snd_nxt, self.edge - self.snd_nxt)
            if not self.reported.issuperset(range(self.snd_nxt, self.snd_nxt + n)):
                self.piece(self.snd_nxt, n)
            self.snd_nxt += n
        if self.snd_nxt == self.fin_seq:
            self.piece(self.snd_nxt, 0)
            self.snd_nxt += 1
        if self.deadline is None and self.snd_una <= self.fin_seq:
            self.arm(now)                # for what is under way, or to probe a closed window

    def read(self, n: int) -> None:
        """Let the application read; tell of a window that opens."""
        before = self.window()
        self.unread -= min(n, self.unread)
        if self.state == "ESTABLISHED" and self.window() - before >= min(self.mss, self.buffer // 2):
            self.emit(ACK, self.snd_nxt)

    def on_time(self, now: int) -> None:
        """Act on the timer, if it is due."""
        if self.deadline is None or self.deadline > now:
            return
        self.backoff = min(self.backoff + 1, 10)
        self.arm(now)
        if self.state == "SYN_SENT":
            self.emit(SYN, 0)
        elif self.state == "SYN_RECEIVED":
            self.emit(SYN | ACK, 0)
        elif self.edge <= self.snd_una <= self.fin_seq:
            self.piece(self.snd_una, 1)
            self.snd_nxt = max(self.snd_nxt, self.snd_una + 1)
        else:
            self.snd_nxt = self.snd_una
            self.duplicates = 0
            self.send(now)
