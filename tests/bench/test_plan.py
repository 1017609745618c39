"""What the benchmark plans to run: groups, sections, rotation, route words, machine noise."""

import os
from pathlib import Path

import pytest

from bench import install, lab, machine, machines
from bench.cli import arguments, chosen_groups, find_ours
from bench.errors import BenchError, SectionFailed
from bench.inside import Plan, Record, rotated
from bench.measure import Bench, last_json, percentiles, rate_of, sections
from bench.programs import Program, Session, forwarding
from bench.rows import DEFAULT_GROUPS, LOOPBACK, OURS, PASTA, ROWS, Group

PROGRAMS = [
    Program(LOOPBACK, (), ""),
    Program(OURS, ("/opt/pasta", "-q"), "1"),
    Program(PASTA, ("/usr/bin/pasta",), "2"),
]


def test_default_and_full_groups() -> None:
    assert chosen_groups(None, full=False) == list(DEFAULT_GROUPS)
    assert chosen_groups(None, full=True) == list(Group)
    assert chosen_groups("udp, bulk", full=True) == ["udp", "bulk"]


@pytest.mark.parametrize("only", ["speed", "bulk,speed", "", ","])
def test_unknown_or_no_group_refused(only: str) -> None:
    with pytest.raises(BenchError, match="--only"):
        chosen_groups(only, full=False)


def test_missing_program_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--ours"):
        find_ours(str(tmp_path / "pasta"))
    assert find_ours("none") == []


def test_plan_survives_json() -> None:
    plan = Plan("/p", "/p/load", [0, 1], PROGRAMS, ["bulk"], 5, 2.5)
    assert Plan.from_json(plan.to_json()) == plan
    assert not plan.with_top
    watched = Plan("/p", "/p/load", [0, 1], PROGRAMS, ["bulk"], 5, 2.5, with_top=True)
    assert Plan.from_json(watched.to_json()) == watched
    assert arguments(["--with-top"]).with_top
    assert not arguments([]).with_top


def test_rotation_gives_each_program_each_place() -> None:
    firsts = [rotated(PROGRAMS, by)[0].name for by in range(4)]
    assert firsts == [LOOPBACK, OURS, PASTA, LOOPBACK]
    assert all(sorted(p.name for p in rotated(PROGRAMS, by)) == [LOOPBACK, OURS, PASTA] for by in range(4))


def test_record_leaves_rounds_without_figures_empty() -> None:
    record = Record(3)
    record.add(OURS, 2, {"udp_out": 7.0})
    record.fail(OURS, 0, "UDP out", "gone")
    assert record.samples == {"udp_out": {OURS: [None, None, 7.0]}}
    assert record.failures[0]["round"] == 1


def test_every_group_but_startup_and_machines_has_sections() -> None:
    bench = Bench(lab.Lab.__new__(lab.Lab), 1)
    plan = sections(bench)
    assert {section.group for section in plan} == set(Group) - {Group.STARTUP, Group.STREAM, Group.VHOST}
    assert {(s.mtu, s.forward) for s in plan} == {(65520, False), (1500, False), (65520, True)}


def test_every_row_of_the_stream_has_a_load() -> None:
    loads = machines.loads([Group.STREAM])
    keys = {row.key for row in ROWS.values() if row.group == Group.STREAM and row.key != "stream_sum"}
    assert {load.key for load in loads} == keys
    assert len(loads) == len(keys)
    assert {load.mtu for load in loads} == {1500, 9000, 65520}
    assert {load.link for load in loads} == {"stream"}


def test_rows_of_vhost_stand_beside_those_of_the_stream() -> None:
    loads = machines.loads([Group.VHOST])
    keys = {row.key for row in ROWS.values() if row.group in {Group.STREAM, Group.VHOST}} - {"stream_sum"}
    assert {load.key for load in loads} == keys
    assert len(loads) == len(keys)
    for load in loads:
        base = ROWS[load.key].base_row
        assert (load.link == "stream") == (not base)
        assert not base or base in keys
    beside = [load.key for load in loads if load.beside_loopback]
    assert beside == [f"vhost_{way}_{mtu}" for mtu in (1500, 9000, 65520) for way in ("out", "in")]


def test_passt_is_found_beside_pasta() -> None:
    assert machines.passt_of(Program(OURS, ("/opt/bin/pasta", "-d"), "1")) == ("/opt/bin/passt", "-d")
    assert machines.passt_of(Program(PASTA, ("/usr/bin/pasta",), "1")) == ("/usr/bin/passt",)


def test_forwarding_names_all_four_options() -> None:
    session = Session(PROGRAMS[1], 1500, 1, None, "", None)
    assert forwarding(session) == ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
    session.ports_in, session.ports_out = range(5, 8), range(8, 11)
    assert forwarding(session) == ("-t", "5-7", "-u", "none", "-T", "8-10", "-U", "none")


def test_route_words_lose_the_old_control_and_state_flags() -> None:
    words = ["default", "via", "10.0.2.2", "dev", "tap0", "congctl", "bbr", "metric", "5", "linkdown"]
    kept = ["default", "via", "10.0.2.2", "dev", "tap0", "metric", "5"]
    assert lab.without_option(words, "congctl") == kept
    assert lab.without_option(["10.0.2.0/24", "dev", "tap0"], "congctl") == ["10.0.2.0/24", "dev", "tap0"]


def test_tool_name_looks_behind_the_wrappers() -> None:
    wrapped = [*lab.in_netns(7), "taskset", "--cpu-list", "0", *lab.as_user(5), "/x/load", "rr", "::1"]
    assert lab.tool_name(wrapped) == "load rr"
    assert lab.tool_name(["ip", "route"]) == "ip"


def test_last_line_skips_blank_ones() -> None:
    assert lab.last_line("a\n b \n\n") == "b"
    assert lab.last_line("\n") == ""


def test_busy_percent_of_two_readings() -> None:
    assert machine.busy_percent((100, 1000), (150, 1200)) == 25.0
    assert machine.busy_percent((100, 1000), (100, 1000)) == 0.0


def test_results_of_the_load_generators() -> None:
    assert percentiles({"count": 3, "p50_us": 1.5, "p99_us": 9.0}, "rr") == {"rr_p50": 1.5, "rr_p99": 9.0}
    assert rate_of({"received": 500, "seconds": 0.5}) == 1000.0
    assert last_json('listening\n{"sent": 4}\n') == {"sent": 4}


def test_no_answer_is_a_failure_not_a_figure() -> None:
    with pytest.raises(SectionFailed, match="answer"):
        percentiles({"count": 0, "p50_us": 0.0, "p99_us": 0.0}, "rr")
    with pytest.raises(SectionFailed, match="datagram"):
        rate_of({"received": 0, "seconds": 0.0})
    with pytest.raises(SectionFailed, match="no result"):
        last_json("load: recv: Connection refused\n")


def test_no_service_starts_while_packages_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(install, "POLICY", policy)
    with install.no_services():
        assert policy.stat().st_mode & 0o777 == 0o755
        assert policy.read_text() == "#!/bin/sh\nexit 101\n"
    assert not policy.exists()
    policy.write_text("the administrator's\n")
    with install.no_services():
        assert policy.read_text() == "the administrator's\n"
    assert policy.read_text() == "the administrator's\n"


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_program_that_hangs_when_asked_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "SAY_TIMEOUT_S", 0.3)
    seconds = f"1000.{os.getpid()}"
    assert install.version_of(["sh", "-c", f"sleep {seconds} & sleep {seconds}"], "") == "unknown"

    def survivors() -> list[int]:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if lab.command_line(pid) == ["sleep", seconds]]

    lab.await_true(lambda: not survivors(), "the end of the program's processes", 5)
