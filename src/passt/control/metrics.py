"""Counters in the text format of Prometheus 0.0.4, or in OpenMetrics 1.0 for a client that asks for it.

Both are the same lines but for two things: where OpenMetrics names a counter without its "_total", and its
last line. https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/.
"""

from __future__ import annotations

from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_PREFIX = "passt_"
_DIRECTIONS = {"from_guest": "from_guest", "to_guest": "to_guest", "to_host": "from_guest"}
_FLOW_KINDS = {"flows_tcp": ("tcp", "link"), "flows_udp": ("udp", "link"), "flows_ping": ("icmp", "link"),
               "flows_splice_tcp": ("tcp", "bypass"), "flows_splice_udp": ("udp", "bypass")}  # fmt: skip
# Counters with a direction in their name -> name and help of the one family that they are.
_PAIRS = {
    "frames": ("frames", "Ethernet frames on the link"),
    "bytes": ("bytes", "Bytes of the frames on the link"),
    "splice_bytes": ("bypass_bytes", "Bytes of TCP that bypassed the link"),
    "splice_datagrams": ("bypass_datagrams", "UDP datagrams that bypassed the link"),
}
_GAUGES = {"neighbours": "Hosts on our link that the guest sees by their own MAC addresses",
           "pipes_open": "Pipes that are open for bypassed connections",
           "sockets_ready": "Sockets that were opened in advance"}  # fmt: skip


MAX_RULES = 256     # that have refused something, of thousands; the default is there always


class Family(NamedTuple):
    """One metric: *samples* are labels and a value each."""

    name: str
    kind: str
    help: str
    samples: list[tuple[tuple[tuple[str, str], ...], float]]


def families(counters: Mapping[str, int], usage: Mapping[str, tuple[int, int]], *, version: str, mode: str,
             started_s: float, n_clients: int, refusals: Mapping[str | None, tuple[int, int]] | None = None
             ) -> list[Family]:
    """Sort everything that is counted into families.

    *refusals* are rules of egress, None for the default, with the flows and names that each has refused.
    """
    found: dict[str, Family] = {}

    def add(name: str, kind: str, text: str, value: float, **labels: str) -> None:
        family = found.setdefault(name, Family(name, kind, text, []))
        family.samples.append((tuple(labels.items()), value))

    add("build", "info", "Version and kind of the program", 1, version=version, mode=mode)
    add("start_time_seconds", "gauge", "When the program started, in seconds since 1970", started_s)
    add("control_clients", "gauge", "Clients of the control socket", n_clients)
    for name, (now, most) in usage.items():
        add("usage", "gauge", "How much there is of a thing that has a limit", now, thing=name)
        add("limit", "gauge", "How much there may be of it", most, thing=name)
    if refusals is not None:
        found["egress_refusals"] = _refusals_family(refusals)
    for name, n in counters.items():
        if name in _FLOW_KINDS:
            protocol, path = _FLOW_KINDS[name]
            add("flows", "gauge", "Flows that there are", n, protocol=protocol, path=path)
        elif name in _GAUGES:
            add(name, "gauge", _GAUGES[name], n)
        elif name.startswith("drop_"):
            add("drops", "counter", "Frames, datagrams and queries that were dropped", n,
                reason=name.removeprefix("drop_"))
        elif (pair := _pair(name)) is not None:
            add(_PAIRS[pair[0]][0], "counter", _PAIRS[pair[0]][1], n, direction=pair[1])
        else:
            add(name, "counter", f"Counter {name}, which docs/debugging.md explains", n)
    return list(found.values())


def _refusals_family(refusals: Mapping[str | None, tuple[int, int]]) -> Family:
    samples: list[tuple[tuple[tuple[str, str], ...], float]] = []
    for place, (rule, numbers) in enumerate(refusals.items()):
        if place < MAX_RULES or rule is None:
            samples += [((("rule", rule or "default"), ("what", what)), n)
                        for what, n in zip(("flow", "name"), numbers, strict=True)]
    return Family("egress_refusals", "counter", "Flows and names that rules of egress have refused", samples)


def _pair(name: str) -> tuple[str, str] | None:
    """Take a counter of one direction apart; None if it is none."""
    for end, direction in _DIRECTIONS.items():
        stem = name.removesuffix(f"_{end}")
        if stem != name and stem in _PAIRS:
            return stem, direction
    return None


def render(found: Iterable[Family], *, is_open: bool) -> bytes:
    """Write the families; *is_open*: in OpenMetrics."""
    lines = []
    for family in found:
        sample = _PREFIX + family.name + {"counter": "_total", "info": "_info"}.get(family.kind, "")
        name = _PREFIX + family.name if is_open else sample
        kind = "gauge" if family.kind == "info" and not is_open else family.kind
        lines += [f"# HELP {name} {family.help}.", f"# TYPE {name} {kind}"]
        for labels, value in family.samples:
            text = ",".join(f'{label}="{_escape(content)}"' for label, content in labels)
            lines.append(f"{sample}{{{text}}} {value}" if text else f"{sample} {value}")
    if is_open:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode()


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
