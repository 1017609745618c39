"""The table of floods, what is said of one, and the programs that make them."""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.flooding import FLOWS, is_bad, line_of, main, success
from bench.floods import FLOODS, By, chosen
from tests.bench.test_load import failure, free_ports, load, output, serving  # noqa: F401 - the fixture

SOURCES = Path(__file__).parents[2] / "bench/src"


def three_ports() -> str:
    return str(free_ports(3, socket.SOCK_STREAM, socket.SOCK_DGRAM))


def figures(**changes: Any) -> dict[str, Any]:
    flow = {"asked": 100, "lost": 0, "p50_us": 22_000.0}
    return {"limit": 1024, "rate": 20_000.0, "lost_percent": 0.0, "rss_kb": 17_000, "descriptors": 900,
            "cpu_percent": 12.3, **dict.fromkeys(FLOWS, flow), **changes}  # fmt: skip


def test_floods_are_chosen_by_name() -> None:
    assert chosen(None) == list(FLOODS)
    assert len({flood.name for flood in FLOODS}) == len(FLOODS)
    assert [flood.name for flood in chosen("arp, none")] == ["arp", "none"]
    with pytest.raises(KeyError):
        chosen("arp,nonsense")


def test_unknown_flood_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "nonsense"]) == 1
    assert "--only: there is no flood 'nonsense'" in capsys.readouterr().err


def test_every_flood_is_one_that_the_program_knows() -> None:
    kinds = "".join((SOURCES / name).read_text() for name in ("flood.c", "grip.c", "crowd.c"))
    for flood in FLOODS:
        command = flood.command("tap0", "02:00:00:00:00:01", 5000, 1024, 20_000, 1)
        assert bool(command) == (flood.by is not By.NONE)
        if flood.by is By.CROWD or flood.by is By.OUTSIDE:
            assert f"{flood.kind}" in kinds
        elif command:
            assert f'"{flood.kind}"' in kinds


def test_flow_that_fares_worse_is_marked_unless_the_link_was_full() -> None:
    flood = FLOODS[1]
    bad = {"asked": 100, "lost": 6, "p50_us": 22_000.0}
    assert success(bad) == 94
    assert not is_bad(figures())
    assert is_bad(figures(new_udp=bad))
    assert not is_bad(figures(new_udp=bad, lost_percent=3.0))
    row = f"| {flood.label} | 1024 | 20,000 | 0 % | 17 MB | 900 | 12 % | 100 %, 22 ms |"
    assert line_of(flood, figures()).startswith(row)
    assert line_of(flood, figures(old_tcp=bad)).endswith("<- below")


@pytest.mark.slow
@pytest.mark.alone
def test_innocent_guest_is_answered(load: str) -> None:  # noqa: F811
    port = three_ports()
    with serving(load, "serve", port, "20"):
        command = [load, "innocent", "127.0.0.1", port, "0.5", "10"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    told = json.loads(done.stdout.partition("\n")[2])
    assert set(told) == set(FLOWS)
    assert all(told[flow]["asked"] == 50 and told[flow]["lost"] == 0 for flow in FLOWS)


@pytest.mark.slow
@pytest.mark.alone
def test_innocent_guest_tells_what_was_lost(load: str) -> None:  # noqa: F811
    port = three_ports()
    with serving(load, "serve", port, "20") as server:
        command = [load, "innocent", "127.0.0.1", port, "0.5", "10"]
        guest = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert guest.stdout is not None
        assert guest.stdout.readline() == "listening\n"
        server.kill()
        server.wait()
        told = json.loads(guest.communicate(timeout=60)[0])
    assert all(told[flow]["lost"] > 40 for flow in FLOWS)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("mode", ["hold", "write", "read", "come-and-go"])
def test_crowd_opens_connections(load: str, mode: str) -> None:  # noqa: F811
    port = three_ports()
    with serving(load, "serve", port, "20"):
        told = output(load, "crowd", "127.0.0.1", port, "100", mode, "0.3")
    assert 64 <= told["opened"] <= 100  # so many begin in one go
    assert told["sent"] >= told["opened"]
    assert told["refused"] == 0


def test_nonsense_is_refused(load: str) -> None:  # noqa: F811
    for arguments in (["flood", "nonsense", "lo", "127.0.0.1", "127.0.0.1", "1", "1", "1"],
                      ["grip", "nonsense", "lo", "127.0.0.1", "127.0.0.1", "1", "1", "1", "1"],
                      ["crowd", "127.0.0.1", "1", "1", "nonsense", "1"]):  # fmt: skip
        status, words = failure(load, *arguments)
        assert status == 2, words
        assert "usage" in words
