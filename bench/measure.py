"""The sections: each measures one thing on one session and returns figures by row key.

Directions are the namespace's: "out" is from the namespace to a server on the host's loopback,
reached by the gateway's address; "in" is the other way over a connection or flow that the
namespace opened, so that no port needs forwarding. For bare loopback both ends are on the host.
"""

import functools
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import programs, rows
from bench.errors import SectionFailed
from bench.lab import SETUP_TIMEOUT_S, Lab, kill_group, read_until
from bench.programs import Session
from bench.rows import Group

GRACE_S = 6.0  # what a section may take beyond its measuring time
IDLE_OPEN_S = 30
STALL_EVERY_S, STALL_FOR_S = 0.5, 0.05
DNS_PORT, DNS_TIMES = 53, 15  # a minute in a full run
DATAGRAM_LEN, LARGE_DATAGRAM_LEN, ROUND_TRIP_LEN = 1400, 60000, 64


@dataclass(frozen=True, slots=True)
class Path:
    """Where client and server are, and the address between them.

    *port* is given where it must be one that the program forwards.
    """

    client: int | None
    server: int | None
    address: str
    port: int = 0


def outward(session: Session) -> Path:
    """Return the path from the namespace to the host's loopback through the tap."""
    return Path(session.netns, None, session.address)


def bypass_out(session: Session, index: int) -> Path:
    """Return the path from the namespace's loopback to the host's, not through the tap."""
    return Path(session.netns, None, "127.0.0.1", session.ports_out[index])


def bypass_in(session: Session, index: int) -> Path:
    """Return the path from the host's loopback to the namespace's, not through the tap."""
    return Path(None, session.netns, "127.0.0.1", session.ports_in[index])


@dataclass(slots=True)
class Bench:
    """What all sections need: the lab and how long to measure.

    *udp_rate* remembers the maximum rates that udp-loss halves, by (program, direction).
    """

    lab: Lab
    seconds: float
    udp_rate: dict[tuple[str, str], float] = field(default_factory=dict)

    # Bulk TCP

    def iperf(self, path: Path, *options: str, stall: bool = False) -> dict[str, Any]:
        """Run iperf3 over a path and return the "end" object of its report."""
        port = str(path.port or self.lab.next_port())
        server = ["iperf3", "--server", "--one-off", "--forceflush", "--port", port]
        client = ["iperf3", "--client", path.address, "--port", port, "--json", "--time",
                  f"{max(1, round(self.seconds))}", "--connect-timeout", "3000", *options]  # fmt: skip
        with self.lab.server(path.server, server) as process:
            stopper = Stopper(process.pid) if stall else None
            try:
                report = self.lab.client(path.client, client, self.seconds + GRACE_S)
            finally:
                if stopper:
                    stopper.end()
        if "error" in report:
            raise SectionFailed(f"iperf3: {report['error']}")
        end: dict[str, Any] = report["end"]
        return end

    def use_control(self, session: Session, control: str) -> None:
        """Set the congestion control on both sides of a session."""
        for netns in {None, session.netns}:
            self.lab.set_congestion_control(netns, control)

    def bulk(self, session: Session, control: str, way: str) -> dict[str, float]:
        """Measure one bulk transfer; also the namespace's retransmits for the way out."""
        self.use_control(session, control)
        before = self.lab.retransmitted(session.netns)
        end = self.iperf(outward(session), *(["--reverse"] if way == "in" else []))
        used = end.get("sender_tcp_congestion", control)
        if used != control:
            raise SectionFailed(f"the sender's congestion control was {used}, not {control}")
        figures = {f"bulk_{way}_{session.mtu}_{control}": received_gbits(end)}
        if way == "out":
            retransmitted = self.lab.retransmitted(session.netns) - before
            figures[f"retrans_{session.mtu}_{control}"] = retransmitted
        return figures

    def parallel(self, session: Session) -> dict[str, float]:
        """Measure several streams at once: their sum, and the smallest over its fair share."""
        end = self.iperf(outward(session), "--parallel", str(rows.PARALLEL_STREAMS))
        each = [stream["receiver"]["bits_per_second"] for stream in end["streams"]]
        share = min(each) * len(each) / sum(each) if any(each) else 0.0
        return {"parallel_out": received_gbits(end), "parallel_share": share}

    def stall(self, session: Session) -> dict[str, float]:
        """Measure the way out while the receiver is stopped for 50 ms twice a second."""
        before = self.lab.retransmitted(session.netns)
        end = self.iperf(outward(session), stall=True)
        retransmitted = self.lab.retransmitted(session.netns) - before
        return {"stall_out": received_gbits(end), "stall_retrans": retransmitted}

    # Latency

    def round_trips(self, path: Path, mode: str, key: str) -> dict[str, float]:
        """Measure rr or crr over a path."""
        port = str(path.port or self.lab.next_port())
        limit = self.seconds + GRACE_S
        with self.lab.server(path.server, [self.lab.load, "tcp-server", port, mode, f"{limit + 5:g}"]):
            client = [self.lab.load, mode, path.address, port, f"{self.seconds:g}"]
            return percentiles(self.lab.client(path.client, client, limit), key)

    def latency(self, session: Session, mode: str) -> dict[str, float]:
        """Measure request/response, or connect/request/response, through the tap."""
        return self.round_trips(outward(session), mode, mode)

    def idle(self, session: Session) -> dict[str, float]:
        """Measure request/response without and with idle connections open, and memory then."""
        figures = {"idle_before_p50": self.round_trips(outward(session), "rr", "rr")["rr_p50"]}
        port, wanted, limit = str(self.lab.next_port()), rows.IDLE_CONNECTIONS, "120"
        holder = self.lab.tool(
            session.netns, self.lab.client_cpu,
            [self.lab.load, "idle", session.address, port, str(wanted), limit],
        )  # fmt: skip
        with self.lab.server(None, [self.lab.load, "tcp-server", port, "hold", limit]):
            process = self.lab.spawn(holder)
            try:
                said = read_until(process, "\n", IDLE_OPEN_S)
                if f'"opened": {wanted},' not in said:
                    reason = said.strip() or f"not open in {IDLE_OPEN_S} s"
                    raise SectionFailed(f"{wanted} connections: {reason}")
                figures["idle_rr_p50"] = self.round_trips(outward(session), "rr", "rr")["rr_p50"]
                if session.netns is not None:
                    figures["idle_memory"] = programs.peak_memory_mb(session)
            finally:
                kill_group(process)
                if process.stdout:
                    process.stdout.close()
        return figures

    # UDP

    def udp_trip(self, session: Session) -> dict[str, float]:
        """Measure the UDP round trip."""
        port, limit = str(self.lab.next_port()), self.seconds + GRACE_S
        with self.lab.server(None, [self.lab.load, "udp-echo", port, f"{limit + 5:g}"]):
            client = [
                self.lab.load, "udp-rt", session.address, port, f"{self.seconds:g}", str(ROUND_TRIP_LEN),
            ]  # fmt: skip
            return percentiles(self.lab.client(session.netns, client, limit), "udp_rt")

    def udp_flood_out(self, session: Session, size: int, rate: float) -> tuple[float, float]:
        """Flood from the namespace; return received datagrams per second, and datagrams lost."""
        port, limit = str(self.lab.next_port()), self.seconds + GRACE_S
        with self.lab.server(None, [self.lab.load, "udp-sink", port, f"{limit:g}"]) as sink:
            client = [
                self.lab.load, "udp-source", session.address, port, str(size), f"{self.seconds:g}",
                f"{rate:g}",
            ]  # fmt: skip
            sent = self.lab.client(session.netns, client, limit)["sent"]
            return flood_result(read_until(sink, "}", limit), sent)

    def udp_flood_in(self, session: Session, size: int, rate: float) -> tuple[float, float]:
        """Flood towards the namespace, which asked for it; results as for the other way."""
        port, limit = str(self.lab.next_port()), self.seconds + GRACE_S
        blast = [self.lab.load, "udp-blast", port, str(size), f"{self.seconds:g}", f"{rate:g}", f"{limit:g}"]
        with self.lab.server(None, blast) as source:
            client = [self.lab.load, "udp-pull", session.address, port, f"{limit:g}"]
            got = self.lab.client(session.netns, client, limit)
            sent = last_json(read_until(source, "}", limit))["sent"]
        return rate_of(got), sent - got["received"]

    def udp_flood(self, session: Session, way: str, size: int, rate: float = 0) -> tuple[float, float]:
        """Flood one way."""
        flood = self.udp_flood_out if way == "out" else self.udp_flood_in
        return flood(session, size, rate)

    def udp_rate_row(self, session: Session, way: str, size: int, key: str) -> dict[str, float]:
        """Measure the datagrams per second that arrive."""
        rate, _ = self.udp_flood(session, way, size)
        if size == DATAGRAM_LEN:
            self.udp_rate[session.program.name, way] = rate
        return {key: rate}

    def udp_loss(self, session: Session, way: str) -> dict[str, float]:
        """Count what is lost at half the rate that arrived at most."""
        rate = self.udp_rate.get((session.program.name, way))
        if rate is None:
            rate, _ = self.udp_flood(session, way, DATAGRAM_LEN)
        _, lost = self.udp_flood(session, way, DATAGRAM_LEN, rate / 2)
        return {f"udp_loss_{way}": lost}

    def dns(self, session: Session) -> dict[str, float]:
        """Ask a name server from a port of its own for each question; count what stays open."""
        seconds = self.seconds * DNS_TIMES
        limit = seconds + GRACE_S
        with self.lab.server(None, [self.lab.load, "udp-echo", str(DNS_PORT), f"{limit + 5:g}"]):
            client = [
                self.lab.load, "udp-ask", session.address, str(DNS_PORT), f"{seconds:g}", str(rows.DNS_RATE),
            ]  # fmt: skip
            result = self.lab.client(session.netns, client, limit)
        figures = {"dns_lost": result["sent"] - result["answered"]}
        if session.netns is not None:
            figures["dns_descriptors"] = programs.open_descriptors(session)
            figures["dns_memory"] = programs.peak_memory_mb(session)
        return figures

    # Memory and bypass

    def memory(self, session: Session) -> dict[str, float]:
        """Load the program with one stream each way, then read its peak."""
        if session.netns is None:
            return {}
        short = Bench(self.lab, 1)
        short.iperf(outward(session))
        short.iperf(outward(session), "--reverse")
        return {"memory": programs.peak_memory_mb(session)}

    # Services

    def dhcp(self, session: Session) -> dict[str, float]:
        """Measure the time from a DHCPDISCOVER to the DHCPACK."""
        if session.netns is None:
            return {}
        client = [self.lab.load, "dhcp", f"{self.seconds:g}"]
        return percentiles(
            self.lab.client(session.netns, client, self.seconds + GRACE_S, privileged=True), "dhcp"
        )

    def control(self, session: Session) -> dict[str, float]:
        """Measure bulk out without and with a flood of control frames from the same namespace."""
        if session.netns is None:
            return {}
        figures = {"control_before": received_gbits(self.iperf(outward(session)))}
        limit = self.seconds + GRACE_S
        flood = self.lab.tool(
            session.netns, self.lab.client_cpu,
            [self.lab.load, "dhcp-flood", f"{limit:g}", str(rows.CONTROL_RATE)], privileged=True,
        )  # fmt: skip
        process = self.lab.spawn(flood)
        try:
            if "listening" not in read_until(process, "listening", SETUP_TIMEOUT_S):
                raise SectionFailed("the flood of control frames did not start")
            figures["control_bulk"] = received_gbits(self.iperf(outward(session)))
        finally:
            kill_group(process)
            if process.stdout:
                process.stdout.close()
        return figures

    def bypass(self, session: Session) -> dict[str, float]:
        """Measure the loopback short cut: bulk both ways, and both latencies on the way out."""
        ways = {"out": bypass_out(session, 0), "in": bypass_in(session, 0)}
        figures = {f"bypass_bulk_{way}": received_gbits(self.iperf(path)) for way, path in ways.items()}
        for index, mode in enumerate(("rr", "crr"), start=1):
            figures |= self.round_trips(bypass_out(session, index), mode, f"bypass_{mode}")
        return figures


class Stopper:
    """Stops a process for a moment, again and again, until end() is called."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._over.wait(STALL_EVERY_S):
            os.kill(self._pid, signal.SIGSTOP)
            self._over.wait(STALL_FOR_S)
            os.kill(self._pid, signal.SIGCONT)

    def end(self) -> None:
        """Stop stopping; the process is left running."""
        self._over.set()
        self._thread.join()


def received_gbits(end: dict[str, Any]) -> float:
    """Return the receiver's rate of an iperf3 report, in Gbit/s."""
    return float(end["sum_received"]["bits_per_second"]) / 1e9


def percentiles(result: dict[str, Any], key: str) -> dict[str, float]:
    """Pick the percentiles from a histogram that `load` printed."""
    if not result["count"]:
        raise SectionFailed("not one answer arrived")
    return {f"{key}_p50": result["p50_us"], f"{key}_p99": result["p99_us"]}


def last_json(text: str) -> dict[str, Any]:
    """Read the JSON object after a server's other words."""
    start = text.find("{")
    if start < 0:
        raise SectionFailed("the other end printed no result")
    value: dict[str, Any] = json.loads(text[start:])
    return value


def rate_of(tally: dict[str, Any]) -> float:
    """Return the datagrams per second of a receiver's tally."""
    if not tally["received"] or not tally["seconds"]:
        raise SectionFailed("no datagram arrived")
    return float(tally["received"]) / float(tally["seconds"])


def flood_result(text: str, sent: int) -> tuple[float, float]:
    """Return rate and loss from what a sink printed."""
    tally = last_json(text)
    return rate_of(tally), sent - tally["received"]


Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Section:
    """One measurement that every program goes through in turn."""

    group: Group
    label: str
    measure: Callable[[Session], Figures]
    mtu: int = rows.MTUS[0]
    forward: bool = False
    control: str = ""  # the congestion control that it sets itself


def sections(bench: Bench) -> list[Section]:
    """List all sections in the order of a round, sections of one MTU together."""
    partial, first = functools.partial, rows.MTUS[0]
    plan = []
    for mtu in rows.MTUS:
        plan += [
            Section(
                Group.BULK, f"bulk {way}, MTU {mtu}, {control}",
                partial(bench.bulk, control=control, way=way), mtu, control=control,
            )
            for control in rows.CONGESTION_CONTROLS
            for way in ("out", "in")
        ]  # fmt: skip
        if mtu == first:
            plan += _sections_of_first_mtu(bench)
    plan.append(Section(Group.BYPASS, "bypass", bench.bypass, first, forward=True))
    return plan


def _sections_of_first_mtu(bench: Bench) -> list[Section]:
    partial, ways = functools.partial, ("out", "in")
    return [
        Section(Group.PARALLEL, "parallel streams", bench.parallel),
        Section(Group.STALL, "stopped receiver", bench.stall),
        Section(Group.LATENCY, "request/response", partial(bench.latency, mode="rr")),
        Section(Group.LATENCY, "connect/request/response", partial(bench.latency, mode="crr")),
        *(Section(Group.UDP, f"UDP {way}",
                  partial(bench.udp_rate_row, way=way, size=DATAGRAM_LEN, key=f"udp_{way}")) for way in ways),
        Section(Group.UDP, "UDP round trip", bench.udp_trip),
        *(Section(Group.UDP_LARGE, f"UDP {way}, large",
                  partial(bench.udp_rate_row, way=way, size=LARGE_DATAGRAM_LEN, key=f"udp_large_{way}"))
          for way in ways),
        *(Section(Group.UDP_LOSS, f"UDP {way}, half rate", partial(bench.udp_loss, way=way)) for way in ways),
        Section(Group.DHCP, "DHCP", bench.dhcp),
        Section(Group.CONTROL, "control frames", bench.control),
        Section(Group.DNS, "DNS questions", bench.dns),
        Section(Group.MEMORY, "memory", bench.memory),
        Section(Group.IDLE, "idle connections", bench.idle),
    ]  # fmt: skip
