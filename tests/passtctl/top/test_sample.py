"""Answers of an instance, good and spoiled: one field after the other."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from passt.control.flows import FlowTexts
from passt.errors import HostError
from passt.facts.guest import GuestFamily, GuestNet
from passt.passtctl.top.rates import SORTS, Model
from passt.passtctl.top.sample import FlowLine, Flows, Totals, read_flow, read_totals
from passt.passtctl.top.view import State, View
from tests.support.control import make_flow

if TYPE_CHECKING:
    from collections.abc import Iterator

INFO = {"mode": "pasta", "pid": 12, "command": ["sleep", "5"], "namespace": None, "uptime_s": 4.5,
        "limits": {"flows": {"now": 1, "most": 65536}}}  # fmt: skip
COUNTERS = {"bytes_from_guest": 5, "splice_bytes_to_host": 7, "bytes_to_guest": 1, "drop_crowd": 3,
            "other": 9}  # fmt: skip


def a_flow() -> dict[str, Any]:
    address = IPv4Address("192.0.2.2")
    guest = GuestNet(ip4=GuestFamily(address, 24, address, address), ip6=None, ifname="tap0")
    return FlowTexts(guest).write(make_flow(17))


def test_answers_are_read() -> None:
    totals = read_totals(9.0, INFO, COUNTERS)
    assert totals == (9.0, 12, 1, {"crowd": 3}, {"flows": (1, 65536)}, 4.5, "pasta 12 sleep 5")
    flow = read_flow(a_flow())
    assert (flow.name, flow.guest, flow.remote, flow.sent, flow.received, flow.retransmits) == (
        "17.3", "192.0.2.2:40000", "198.51.100.1:443", 100, 20_000_000_000, 3)


def test_a_flow_without_what_is_not_known_is_read() -> None:
    flow = a_flow()
    flow |= {"remote": None, "idle_ms": None, "rule": "-t 80", "rtt_us": {"guest": None, "host": None},
             "bytes": {"to_guest": None, "to_host": None}, "retransmits": {"to_guest": None, "to_host": None}}
    line = read_flow(flow)
    assert (line.remote, line.idle_ms, line.rule) == ("-", None, "-t 80")
    assert (line.sent, line.retransmits) == (None, None)


def spoiled(value: Any) -> Iterator[Any]:
    """Give copies of *value* in each of which one thing is missing, or of another kind."""
    yield from (None, 7, "x", [], {}, [1], 1e999, True, -1, 10**400, float("nan"))
    if isinstance(value, dict):
        for key in value:
            yield {other: content for other, content in value.items() if other != key}
            for bad in spoiled(value[key]):
                yield copy.deepcopy(value) | {key: bad}


def shown(read: FlowLine | Totals) -> None:
    """Draw what was read: whatever was accepted can be shown."""
    model = Model()
    if isinstance(read, FlowLine):
        model.add_flows(Flows(1.0, 0, "", [read]))
        model.add_flows(Flows(2.0, 0, "", [read]))
    else:
        model.add_totals(read)
        model.add_totals(read._replace(at_s=read.at_s + 1))
    for sort in SORTS:
        model.sort_by(sort)
    assert View(model, is_utf8=True).draw(State(chosen=0), 200, 24)


def test_spoiled_answers_are_refused_or_harmless() -> None:
    n_refused = 0
    for reader, good in ((read_flow, a_flow()), (lambda info: read_totals(1.0, info, COUNTERS), INFO),
                         (lambda counters: read_totals(1.0, INFO, counters), COUNTERS)):  # fmt: skip
        for bad in spoiled(good):
            try:
                shown(reader(bad))
            except HostError as error:
                n_refused += 1
                assert "does not understand" in str(error)  # noqa: PT017 - others need no such text
    assert n_refused > 100


@pytest.mark.parametrize("name", ["-w", "1.0/../../v1/log", "x", "", "1.0.0", "\x1b[2J"])
def test_an_id_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(HostError):
        read_flow(a_flow() | {"id": name})
