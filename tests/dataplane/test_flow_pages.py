"""The cursor over the flow table: bounded pages, and each flow that lives all the while exactly once."""

import socket
from collections.abc import Iterator

import pytest

from passt.facts.contracts import Target
from tests.dataplane.engine_bench import Bench
from tests.support.frames import packed, udp

G4, R4 = "192.0.2.2", "198.51.100.7"
FIRST_PORT = 40000


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote:
        remote.bind(("127.0.0.1", 0))
        made.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        yield made
        made.end()


def open_flows(bench: Bench, first: int, count: int) -> list[int]:
    """Have the guest open UDP flows; returns their ports."""
    ports = [*range(FIRST_PORT + first, FIRST_PORT + first + count)]
    bench.give(*[udp(G4, port, R4, 53, b"?") for port in ports])
    before = bench.engine.counters()["flows_opened"]
    bench.until(lambda: bench.engine.counters()["flows_opened"] == before + count)
    return ports


@pytest.mark.parametrize("limit", [1, 2, 5, 11, 12, 13, 256])
def test_pages_have_each_flow_once(bench: Bench, limit: int) -> None:
    ports = open_flows(bench, 0, 6)
    found: list[int] = []
    start: int | None = 0
    while start is not None:
        page, following = bench.engine.flow_page(start, limit)
        assert len(page) <= limit
        assert following is None or following == start + limit
        found += [flow.guest_port for flow in page]
        start = following
    assert found == ports


def test_page_of_an_empty_table_and_behind_the_end(bench: Bench) -> None:
    assert bench.engine.flow_page() == ([], None)
    open_flows(bench, 0, 1)
    assert bench.engine.flow_page(1000) == ([], None)
    assert bench.engine.flow_page(0xFFFFFFFF, 0xFFFFFFFF) == ([], None)


def test_flows_that_come_and_go_between_pages_disturb_no_other(bench: Bench) -> None:
    ports = open_flows(bench, 0, 8)
    (first,), _ = bench.engine.flow_page(0, 1)
    seen = [first.guest_port]
    # There may be eight datagram flows in this table: two new ones crowd out the two unused for longest.
    new = open_flows(bench, 100, 2)
    start: int | None = 1
    while start is not None:
        page, start = bench.engine.flow_page(start, 3)
        seen += [flow.guest_port for flow in page]
    assert seen[0] == ports[0]
    assert sorted(port for port in seen if port in ports[2:]) == ports[2:]
    assert set(seen) <= {*ports, *new}


def test_iteration_survives_the_end_of_what_it_would_give_next(bench: Bench) -> None:
    open_flows(bench, 0, 3)
    flows = bench.engine.flows()
    next(flows)
    bench.engine.close()
    assert len([*flows]) <= 2
