"""Metrics in both formats."""

from __future__ import annotations

from passt.control.metrics import MAX_RULES, families, render
from tests.support.control import Source

WANTED = """\
# HELP passt_build_info Version and kind of the program.
# TYPE passt_build_info gauge
passt_build_info{version="1",mode="pa\\"sta"} 1
# HELP passt_start_time_seconds When the program started, in seconds since 1970.
# TYPE passt_start_time_seconds gauge
passt_start_time_seconds 5.5
# HELP passt_control_clients Clients of the control socket.
# TYPE passt_control_clients gauge
passt_control_clients 2
# HELP passt_usage How much there is of a thing that has a limit.
# TYPE passt_usage gauge
passt_usage{thing="flows"} 3
# HELP passt_limit How much there may be of it.
# TYPE passt_limit gauge
passt_limit{thing="flows"} 9
# HELP passt_frames_total Ethernet frames on the link.
# TYPE passt_frames_total counter
passt_frames_total{direction="from_guest"} 5
passt_frames_total{direction="to_guest"} 6
# HELP passt_flows Flows that there are.
# TYPE passt_flows gauge
passt_flows{protocol="tcp",path="link"} 1
# HELP passt_drops_total Frames, datagrams and queries that were dropped.
# TYPE passt_drops_total counter
passt_drops_total{reason="short"} 4
# HELP passt_tcp_resets_sent_total Counter tcp_resets_sent, which docs/debugging.md explains.
# TYPE passt_tcp_resets_sent_total counter
passt_tcp_resets_sent_total 7
"""
COUNTERS = {"frames_from_guest": 5, "frames_to_guest": 6, "flows_tcp": 1, "drop_short": 4,
            "tcp_resets_sent": 7}  # fmt: skip


def text(*, is_open: bool) -> str:
    found = families(
        COUNTERS, {"flows": (3, 9)}, version="1", mode='pa"sta', started_s=5.5, n_clients=2)  # fmt: skip
    return render(found, is_open=is_open).decode()


def test_format_of_prometheus() -> None:
    assert text(is_open=False) == WANTED


def test_open_metrics_names_families_and_has_an_end() -> None:
    lines = text(is_open=True).splitlines()
    assert lines[-1] == "# EOF"
    assert "# TYPE passt_build info" in lines
    assert "# TYPE passt_drops counter" in lines
    assert 'passt_drops_total{reason="short"} 4' in lines
    assert lines[:-1] != WANTED.splitlines()


def test_every_counter_has_one_sample() -> None:
    counts = Source().counts
    found = families(counts, {}, version="1", mode="passt", started_s=0, n_clients=0)
    assert sum(len(family.samples) for family in found) == len(counts) + 3
    assert len({family.name for family in found}) == len(found)


def test_refusals_of_rules_have_samples_up_to_a_limit() -> None:
    refusals: dict[str | None, tuple[int, int]] = {f"deny n{n}.test": (n, 1) for n in range(MAX_RULES + 9)}
    refusals[None] = (7, 8)
    found = families({}, {}, version="1", mode="passt", started_s=0, n_clients=0, refusals=refusals)
    lines = [line for line in render(found, is_open=False).decode().splitlines() if "egress" in line]
    assert lines[:4] == [
        "# HELP passt_egress_refusals_total Flows and names that rules of egress have refused.",
        "# TYPE passt_egress_refusals_total counter",
        'passt_egress_refusals_total{rule="deny n0.test",what="flow"} 0',
        'passt_egress_refusals_total{rule="deny n0.test",what="name"} 1']
    assert lines[-2:] == ['passt_egress_refusals_total{rule="default",what="flow"} 7',
                          'passt_egress_refusals_total{rule="default",what="name"} 8']
    assert len(lines) == 2 + 2 * (MAX_RULES + 1)
