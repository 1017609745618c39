"""One look at an instance: its flows, counters and limits, as far as they are shown.

Answers are checked here, once. The instance has a hostile guest; what it tells may be anything.
"""

from __future__ import annotations

from passt.errors import HostError
from passt.light.values import NamedTuple
from passt.passtctl.names import served
from passt.passtctl.table import endpoint

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any

    from passt.passtctl.instances import Instance

MAX_FLOWS = 65536      # as many as an instance can have
_OUT = ("bytes_from_guest", "splice_bytes_to_host")
_IN = ("bytes_to_guest", "splice_bytes_to_guest")
_DROP = "drop_"
_MOST = 1 << 64        # of any number


class FlowLine(NamedTuple):
    """What is shown of one flow; None where it is not known. *sent* and *received* are the guest's."""

    name: str
    protocol: str
    state: str
    inbound: bool
    path: str
    guest: str
    remote: str
    peer: str
    rule: str | None
    sent: int | None
    received: int | None
    age_ms: int
    idle_ms: int | None
    rtt_guest_us: int | None
    rtt_host_us: int | None
    retransmits: int | None
    remote_address: str
    remote_port: int


class Totals(NamedTuple):
    """Counters at the time *at_s*: bytes that the guest sent and received, drops by reason.

    *limits* has for each thing how much there is, and may be.
    """

    at_s: float
    sent: int
    received: int
    drops: dict[str, int]
    limits: dict[str, tuple[int, int]]
    uptime_s: float
    title: str


class Flows(NamedTuple):
    """All flows at the time *at_s*, that the words of *query* choose; it took *cost_s* to ask for them."""

    at_s: float
    cost_s: float
    query: str
    lines: list[FlowLine]


def read_totals(at_s: float, info: Any, counters: Any) -> Totals:
    """Read the answers of /v1/info and /v1/counters. Raises HostError."""
    try:
        title = f"{info['mode']} {info['pid']} {served(info)}".removesuffix(" -")
        uptime_s = float(info["uptime_s"])
        if not 0 <= uptime_s < _MOST:
            raise ValueError(f"{uptime_s} is no time")
        return Totals(
            at_s, sum(_number(counters.get(name, 0)) for name in _OUT),
            sum(_number(counters.get(name, 0)) for name in _IN),
            {str(name).removeprefix(_DROP): _number(n) for name, n in counters.items()
             if str(name).startswith(_DROP)},
            {str(name): (_number(limit["now"]), _number(limit["most"]))
             for name, limit in info["limits"].items()},
            uptime_s, title[:1000])
    except _WRONG as error:
        raise _misunderstood(error) from None


def read_flow(flow: Any) -> FlowLine:
    """Read one flow of /v1/flows. Raises HostError."""
    try:
        remote, rtt, again = flow["remote"], flow["rtt_us"], flow["retransmits"]
        name = str(flow["id"])
        if not (name.isascii() and name.replace(".", "", 1).isdecimal()):
            raise ValueError(f"{name[:40]!r} is no id")
        known = [_number(n) for n in (again["to_guest"], again["to_host"]) if n is not None]
        return FlowLine(
            name, str(flow["protocol"]), str(flow["state"]), flow["direction"] == "inbound",
            str(flow["path"]), endpoint(flow["guest"]), endpoint(remote), endpoint(flow["host"]["peer"]),
            None if flow["rule"] is None else str(flow["rule"]), _maybe(flow["bytes"]["to_host"]),
            _maybe(flow["bytes"]["to_guest"]), _number(flow["age_ms"]), _maybe(flow["idle_ms"]),
            _maybe(rtt["guest"]), _maybe(rtt["host"]), sum(known) if known else None,
            str(remote["address"]) if remote else "", _number(remote["port"]) if remote else 0)
    except _WRONG as error:
        raise _misunderstood(error) from None


_WRONG = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise TypeError("what should be a number is none")
    return value


def _maybe(value: Any) -> int | None:
    return None if value is None else _number(value)


def _misunderstood(error: Exception) -> HostError:
    return HostError(f"the instance answers what this passtctl does not understand: {error}")


def take_totals(instance: Instance, at_s: float) -> Totals:
    """Ask for counters and limits. Raises HostError."""
    return read_totals(at_s, instance.ask("/v1/info"), instance.ask("/v1/counters"))


def take_flows(instance: Instance, query: str) -> list[FlowLine]:
    """Ask for the flows that *query* chooses. Raises HostError."""
    lines: list[FlowLine] = []
    for flow in instance.flows(query):
        lines.append(read_flow(flow))
        if len(lines) >= MAX_FLOWS:
            break
    return lines
