"""All checks together: their order, the bound of time, mistakes of ours, text, JSON and status."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError
from passt.passtctl.command import Command
from passt.passtctl.doctor import ports, report, resolvers
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from passt.passtctl.doctor.machine import MAX_LEN, Machine
from passt.passtctl.main import run
from tests.support.made_machine import make, says

if TYPE_CHECKING:
    from pathlib import Path


def test_findings_have_the_order_of_the_table() -> None:
    first_may_end = threading.Event()

    def first() -> list[Finding]:
        first_may_end.wait(60)
        return [Finding(OK, "a", "1"), Finding(OK, "a", "2")]

    def second() -> list[Finding]:
        first_may_end.set()
        return [Finding(OK, "b", "3")]

    found = report.run_all([("a", first), ("b", second)], 20)
    assert [finding.text for finding in found] == ["1", "2", "3"]


def test_check_that_hangs_is_left_behind() -> None:
    end = threading.Event()

    def hangs() -> list[Finding]:
        end.wait(60)
        return []

    found = report.run_all([("slow", hangs), ("quick", lambda: [Finding(OK, "quick", "")])], 0.2)
    end.set()
    assert found[0] == Finding(WARNING, "slow", "no answer within 0.2 s")


def test_checks_are_made_without_threads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert report.run_all([("a", lambda: [Finding(OK, "a", "1")])], 20) == [Finding(OK, "a", "1")]


def test_what_the_system_refuses_is_a_warning_and_a_mistake_of_ours_is_raised() -> None:
    def refused() -> list[Finding]:
        raise PermissionError(13, "Permission denied", "/proc")

    [found] = report.run_all([("odd", refused)], 20)
    assert (found.level, "/proc" in found.text) == (WARNING, True)
    with pytest.raises(ZeroDivisionError):
        report.run_all([("odd", lambda: [Finding(OK, str(1 // 0), "")])], 20)


@pytest.mark.parametrize(("levels", "status"), [([], 0), ([OK, NOTE, WARNING], 0), ([OK, ERROR], 1)])
def test_status(levels: list[str], status: int) -> None:
    assert report.status([Finding(level, "", "") for level in levels]) == status


def test_text_is_one_line_each_whatever_it_holds() -> None:
    found = [Finding(OK, "a", "well"),
             Finding(ERROR, "port 80", "x\x1b[2J\n has it", ("kill\n1",), as_root=True),
             Finding(NOTE, "b", "good to know", ("pasta --mtu 1400",))]  # fmt: skip
    assert report.to_lines(found, is_root=False) == [
        "ok       a        well",
        r"ERROR    port 80  x\x1b[2J\n has it",
        r"                  as root: kill\n1",
        "NOTE     b        good to know",
        "                  try: pasta --mtu 1400",
        "",
        "1 error, 1 note",
    ]
    assert r"                  try: kill\n1" in report.to_lines(found, is_root=True)
    assert report.to_lines([Finding(OK, "a", "well")], is_root=True)[-1] == "all is well"


def test_json_has_everything() -> None:
    told = report.to_json([Finding(OK, "a", "well"), Finding(WARNING, "b", "bad", ("x", "y"), as_root=True)])
    assert json.loads(json.dumps(told)) == {
        "worst": "warning",
        "findings": [
            {"level": "ok", "subject": "a", "text": "well", "commands": [], "as_root": False},
            {"level": "warning", "subject": "b", "text": "bad", "commands": ["x", "y"], "as_root": True},
        ],
    }
    assert report.to_json([])["worst"] == "ok"


class Odd(Machine):
    """A machine each file of which holds the same."""

    content = ""

    def read(self, name: str, limit: int = MAX_LEN) -> str | None:
        return self.content if name else self.content[:limit]

    def names(self, directory: str) -> list[str]:
        return ["..", "\x1b[2J.conf", directory]

    def exists(self, name: str) -> bool:
        return name != ""


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0",
        "0",
        "-1",
        "1 0",
        "9" * 50,
        "9" * 5000,
        "x" * 70_000,
        "\n" * 1000,
        "a:b:c:d:e\n" * 50,
        "\ufffd\x1b[2J",
        "0::/system.slice/\n.service",
        "200 tun",
        "[network]\n",
        "Uid:",
        "nobody:::\n",
        "\u0661\u0662",
        "%s{}${x}`x`",
    ],
)
def test_odd_files_end_no_check(tmp_path: Path, content: str) -> None:
    programs = {f"/a/{name}": says(content) for name in ("podman", "pasta", "passt", "virsh", "qemu-kvm")}
    environ = make(tmp_path, programs=programs).environ
    machine = Odd(str(tmp_path), uid=1000, groups=(1000,), environ=environ)
    machine.content = content
    refused = PermissionError(1, "Operation not permitted")
    checks = {
        subject: check for subject, check in report.table(machine, refused) if subject != resolvers.SUBJECT
    }
    for subject, check in checks.items():
        assert all(finding.subject and finding.text for finding in check()), subject
    ports.check_one(machine, 80, ("tcp", "udp"), lambda _: {"tcp": {80}, "udp": {80}})


def test_empty_machine_is_looked_at(tmp_path: Path) -> None:
    found = report.look(make(tmp_path))
    subjects = {finding.subject for finding in found}
    assert {"user namespaces", "/dev/net/tun", "ping", "open files", "name servers", "versions"} <= subjects
    assert not any("cannot be looked at" in finding.text for finding in found), found


def test_whole_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is asked of the machine's own name servers.
    monkeypatch.setattr(report, "Machine", lambda **_: make(tmp_path))
    assert run(Command("doctor", path=str(tmp_path / "none"))) == 1
    out = capfd.readouterr().out
    assert f"{tmp_path}/none: No such file or directory" in out
    assert run(Command("doctor", path=str(tmp_path / "none"), json=True)) == 1
    told = json.loads(capfd.readouterr().out)
    assert told["worst"] == "error"
    with pytest.raises(ConfigError, match="--port"):
        run(Command("doctor", port="many"))
