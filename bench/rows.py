"""What is measured: the rows of the table, and the targets held against them.

A row key is what the sections of measure.py return their figures under. Groups are what
`--only` chooses; those outside DEFAULT_GROUPS run in a full run or when named.
"""

from dataclasses import dataclass
from enum import StrEnum

from bench.stats import Relation

LOOPBACK, OURS, PASTA, SLIRP = "loopback", "ours", "pasta", "slirp4netns"
PROGRAM_NAMES = (LOOPBACK, OURS, PASTA, SLIRP)

MTUS = (65520, 1500)
STREAM_MTUS = (1500, 9000, 65520)
RINGS = (1024, 256)  # entries: QEMU's most, and its least that is usual
CONGESTION_CONTROLS = ("cubic", "bbr")
IDLE_CONNECTIONS = 5000
PARALLEL_STREAMS = 8
CONTROL_RATE = 1000
DNS_RATE = 5000


class Group(StrEnum):
    """Sets of rows that are measured together."""

    BULK = "bulk"
    LATENCY = "latency"
    UDP = "udp"
    STARTUP = "startup"
    MEMORY = "memory"
    IDLE = "idle"
    BYPASS = "bypass"
    PARALLEL = "parallel"
    STALL = "stall"
    UDP_LARGE = "udp-large"
    UDP_LOSS = "udp-loss"
    DHCP = "dhcp"
    CONTROL = "control"
    DNS = "dns"
    STREAM = "stream"
    VHOST = "vhost"


DEFAULT_GROUPS = (
    Group.BULK, Group.LATENCY, Group.UDP, Group.STARTUP, Group.MEMORY, Group.IDLE, Group.BYPASS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    *base* names the program whose figure of the same row and round is the denominator of the
    ratios ("" for none). *base_row*, if given, is another row of the same program instead.
    """

    key: str
    group: Group
    label: str
    unit: str
    base: str = LOOPBACK
    base_row: str = ""

    @property
    def ratio_of(self) -> str:
        """Name the denominator for readers."""
        if self.base_row:
            return f"its own {ROWS[self.base_row].label}"
        return {"": "", LOOPBACK: "loopback", PASTA: "Debian's pasta"}[self.base]


def _bulk_rows() -> list[Row]:
    rows = []
    for mtu in MTUS:
        for control in CONGESTION_CONTROLS:
            for way in ("out", "in"):
                key, label = f"bulk_{way}_{mtu}_{control}", f"TCP bulk {way}, MTU {mtu}, {control}"
                rows.append(Row(key, Group.BULK, label, "Gbit/s"))
            rows.append(
                Row(f"retrans_{mtu}_{control}", Group.BULK,
                    f"guest retransmits, bulk out, MTU {mtu}, {control}", "segments", base="")
            )  # fmt: skip
    return rows


def _percentile_rows(key: str, group: Group, label: str) -> list[Row]:
    return [Row(f"{key}_{p}", group, f"{label} {p}", "us") for p in ("p50", "p99")]


def _vhost_rows() -> list[Row]:
    """Rows of vhost-user: the stream's loads with offloads and without, and two other shapes of the guest."""
    rows = []
    for key, label in (("vhost", "vhost-user"), ("vhost_plain", "vhost-user, no offloads")):
        rows += [
            *(Row(f"{key}_{way}_{mtu}", Group.VHOST, f"{label}: TCP {way}, MTU {mtu}", "Gbit/s", base="",
                  base_row=f"stream_{way}_{mtu}") for mtu in STREAM_MTUS for way in ("out", "in")),
            Row(f"{key}_rr", Group.VHOST, f"{label}: TCP request/response p50", "us", base="",
                base_row="stream_rr"),
            *(Row(f"{key}_udp_{way}", Group.VHOST, f"{label}: UDP {way}, 1400 bytes, received", "datagrams/s",
                  base="", base_row=f"stream_udp_{way}") for way in ("out", "in")),
        ]  # fmt: skip
    mtu, ring = STREAM_MTUS[0], RINGS[1]
    return [
        *rows,
        Row("vhost_pages_out", Group.VHOST, f"vhost-user: TCP out, MTU {mtu}, from single pages", "Gbit/s",
            base="", base_row=f"vhost_out_{mtu}"),
        *(Row(f"vhost_{ring}_{way}", Group.VHOST, f"vhost-user: TCP {way}, MTU {mtu}, ring of {ring}",
              "Gbit/s", base="", base_row=f"vhost_{way}_{mtu}") for way in ("out", "in")),
    ]  # fmt: skip


def _all_rows() -> list[Row]:
    udp_rate = "datagrams/s"
    return [
        *_bulk_rows(),
        Row("parallel_out", Group.PARALLEL, f"TCP out, {PARALLEL_STREAMS} streams, sum", "Gbit/s"),
        Row("parallel_share", Group.PARALLEL, "smallest stream over its fair share", "", base=""),
        Row("stall_out", Group.STALL, "TCP out, receiver stopped now and then", "Gbit/s"),
        Row("stall_retrans", Group.STALL, "guest retransmits, receiver stopped", "segments", base=""),
        *_percentile_rows("rr", Group.LATENCY, "TCP request/response"),
        *_percentile_rows("crr", Group.LATENCY, "TCP connect/request/response"),
        Row("udp_out", Group.UDP, "UDP out, 1400 bytes, received", udp_rate),
        Row("udp_in", Group.UDP, "UDP in, 1400 bytes, received", udp_rate),
        *_percentile_rows("udp_rt", Group.UDP, "UDP round trip"),
        Row("udp_large_out", Group.UDP_LARGE, "UDP out, 60000 bytes, received", udp_rate),
        Row("udp_large_in", Group.UDP_LARGE, "UDP in, 60000 bytes, received", udp_rate),
        Row("udp_loss_out", Group.UDP_LOSS, "UDP out lost at half the maximum rate", "datagrams", base=""),
        Row("udp_loss_in", Group.UDP_LOSS, "UDP in lost at half the maximum rate", "datagrams", base=""),
        Row("dns_lost", Group.DNS, f"DNS questions lost, {DNS_RATE} a second", "questions", base=""),
        Row("dns_descriptors", Group.DNS, "descriptors open at the end of that", "", base=""),
        Row("dns_memory", Group.DNS, "peak memory at the end of that", "MB", base=PASTA),
        Row("startup", Group.STARTUP, "start-up: pasta --config-net -- true", "ms", base=PASTA),
        Row("startup_all", Group.STARTUP, "start-up: pasta --config-net -t all -- true", "ms", base=PASTA),
        Row("startup_attach", Group.STARTUP, "start-up: pasta --config-net PID, in the background", "ms",
            base=PASTA),
        Row("memory", Group.MEMORY, "peak memory under load", "MB", base=PASTA),
        Row("idle_rr_p50", Group.IDLE, f"request/response p50, {IDLE_CONNECTIONS} idle", "us",
            base="", base_row="idle_before_p50"),
        Row("idle_before_p50", Group.IDLE, "request/response p50 just before", "us"),
        Row("idle_memory", Group.IDLE, f"peak memory, {IDLE_CONNECTIONS} idle", "MB", base=PASTA),
        *(Row(row.key, row.group, row.label, row.unit, base="")
          for row in _percentile_rows("dhcp", Group.DHCP, "DHCP, DISCOVER to ACK")),
        Row("control_before", Group.CONTROL, "TCP bulk out just before", "Gbit/s", base=""),
        Row("control_bulk", Group.CONTROL, f"TCP bulk out beside {CONTROL_RATE} control frames/s", "Gbit/s",
            base="", base_row="control_before"),
        *(Row(f"stream_{way}_{mtu}", Group.STREAM, f"passt: TCP {way}, MTU {mtu}", "Gbit/s", base=PASTA)
          for mtu in STREAM_MTUS for way in ("out", "in")),
        Row("stream_sum", Group.STREAM, "passt: checksum, 1448 bytes", "GB/s", base=""),
        Row("stream_rr", Group.STREAM, "passt: TCP request/response p50", "us", base=PASTA),
        *(Row(f"stream_udp_{way}", Group.STREAM, f"passt: UDP {way}, 1400 bytes, received", udp_rate,
              base=PASTA) for way in ("out", "in")),
        *_vhost_rows(),
        Row("bypass_bulk_out", Group.BYPASS, "bypass: TCP bulk, namespace to host", "Gbit/s"),
        Row("bypass_bulk_in", Group.BYPASS, "bypass: TCP bulk, host to namespace", "Gbit/s"),
        *_percentile_rows("bypass_rr", Group.BYPASS, "bypass: request/response"),
        *_percentile_rows("bypass_crr", Group.BYPASS, "bypass: connect/request/response"),
    ]  # fmt: skip


ROWS: dict[str, Row] = {row.key: row for row in _all_rows()}


@dataclass(frozen=True, slots=True)
class Target:
    """A figure of ours, as a ratio unless *over* is empty, and the limit it has to keep.

    *over* is (row, program) of the denominator; the numerator is *row* of ours.
    """

    stage: str
    row: str
    over: tuple[str, str] | None
    relation: Relation
    limit: float


def _tcp_targets() -> list[Target]:
    least, most, below = Relation.AT_LEAST, Relation.AT_MOST, Relation.BELOW
    bulk = {"bulk_out_65520": 0.55, "bulk_out_1500": 0.50, "bulk_in_65520": 0.55, "bulk_in_1500": 0.50}
    return [
        *(Target("tcp", f"{k}_cubic", (f"{k}_cubic", LOOPBACK), least, v) for k, v in bulk.items()),
        *(Target("tcp", f"{k}_bbr", (f"{k}_cubic", OURS), least, 0.70) for k in bulk),
        Target("tcp", "rr_p50", ("rr_p50", LOOPBACK), most, 1.6),
        Target("tcp", "rr_p50", ("rr_p50", PASTA), below, 1.0),
        Target("tcp", "crr_p50", ("crr_p50", LOOPBACK), most, 2.2),
        Target("tcp", "idle_rr_p50", ("idle_before_p50", OURS), most, 1.05),
        Target("tcp", "parallel_out", ("bulk_out_65520_cubic", OURS), least, 0.85),
        Target("tcp", "parallel_share", None, least, 0.25),
        Target("tcp", "stall_retrans", None, most, 0),
    ]


def _vhost_targets() -> list[Target]:
    """List those of the link by shared memory: over bare loopback, and over our own stream link."""
    least, most = Relation.AT_LEAST, Relation.AT_MOST
    own = [f"{way}_{mtu}" for mtu in STREAM_MTUS for way in ("out", "in")] + ["udp_out", "udp_in"]
    limits, first = {"out": 0.6, "in": 0.5}, STREAM_MTUS[0]
    return [
        *(Target("vhost", f"vhost_{way}_{mtu}", (f"vhost_{way}_{mtu}", LOOPBACK), least, limit)
          for mtu in STREAM_MTUS for way, limit in limits.items()),
        *(Target("vhost", f"vhost_{way}_{first}", (f"stream_{way}_{first}", OURS), least, 2.0)
          for way in ("out", "in")),
        *(Target("vhost", f"vhost_plain_{key}", (f"stream_{key}", OURS), least, 1.0) for key in own),
        *(Target("vhost", f"{key}_rr", ("stream_rr", OURS), most, 1.0) for key in ("vhost", "vhost_plain")),
    ]


def _all_targets() -> list[Target]:
    least, most, below = Relation.AT_LEAST, Relation.AT_MOST, Relation.BELOW
    bulk = [f"bulk_{way}_{mtu}_cubic" for way in ("out", "in") for mtu in MTUS]
    bypass = ["bypass_bulk_out", "bypass_bulk_in"]
    return [
        *(Target("skeleton", key, (key, LOOPBACK), least, 0.3) for key in bulk),
        Target("skeleton", "startup", ("startup", PASTA), most, 2.5),
        Target("pasta", "startup_attach", ("startup_attach", PASTA), most, 2.0),
        Target("skeleton", "memory", None, below, 40),
        *_tcp_targets(),
        Target("udp", "udp_out", ("udp_out", PASTA), least, 2.0),
        Target("udp", "udp_in", ("udp_in", PASTA), least, 2.0),
        Target("udp", "udp_rt_p50", ("udp_rt_p50", LOOPBACK), most, 2.0),
        Target("udp", "udp_rt_p50", ("udp_rt_p50", PASTA), below, 1.0),
        Target("udp", "udp_large_out", ("udp_large_out", PASTA), least, 1.0),
        Target("udp", "udp_large_in", ("udp_large_in", PASTA), least, 1.0),
        Target("udp", "udp_loss_out", None, most, 0),
        Target("udp", "udp_loss_in", None, most, 0),
        Target("services", "dhcp_p99", None, most, 5000),
        Target("services", "control_bulk", ("control_before", OURS), least, 0.9),
        Target("udp", "dns_lost", None, most, 0),
        *(Target("stream", f"stream_{way}_{mtu}", (f"stream_{way}_{mtu}", PASTA), least,
                 1.3 if mtu == STREAM_MTUS[0] else 1.0) for mtu in STREAM_MTUS for way in ("out", "in")),
        Target("stream", "stream_sum", None, least, 8),
        *(Target("stream", key, (key, PASTA), least, 1.3) for key in ("stream_udp_out", "stream_udp_in")),
        *_vhost_targets(),
        *(Target("bypass", key, (key, LOOPBACK), least, 0.9) for key in bypass),
        *(Target("bypass", key, (key, PASTA), least, 1.0) for key in bypass),
        Target("bypass", "bypass_rr_p50", ("bypass_rr_p50", LOOPBACK), most, 2.0),
        Target("bypass", "bypass_crr_p50", ("bypass_crr_p50", LOOPBACK), most, 2.5),
    ]


TARGETS: tuple[Target, ...] = tuple(_all_targets())
