"""Completion files against the option table, in the shells themselves."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from passt.config.options import OPTIONS
from passt.config.pesto_options import PESTO_OPTIONS
from passt.control.events import KINDS
from tests.support.processes import is_readable
from tools.completion import VALUES, known, spellings, summary

ROOT = Path(__file__).parents[1]
SHARE = ROOT / "share"
EVERY = (*OPTIONS, *PESTO_OPTIONS)


def run(shell: str, *arguments: str, path: str = "") -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is missing: 'make test' installs it")
    # fish makes its directories, wherever its home is.
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run([shell, *arguments], capture_output=True, text=True, timeout=300, check=True,
                              env={"PATH": path + os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8"})
    assert done.stderr == ""
    return done.stdout.splitlines()


def bash(program: str, *words: str, path: str = "") -> list[str]:
    script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _passt_$1; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    return run("bash", "--norc", "-c", script, "bash",
               str(SHARE / "bash-completion" / "completions" / program), program, *words, path=path)


def fish(program: str, line: str, path: str = "") -> list[str]:
    script = SHARE / "fish" / "vendor_completions.d" / f"{program}.fish"
    lines = run("fish", "--no-config", "-c", f"source {script}; complete -C '{line}'", path=path)
    return [line.split("\t")[0] for line in lines]


def test_every_option_with_an_argument_is_told_what_it_takes() -> None:
    assert {option.name for option in EVERY if option.available and option.argument} <= set(VALUES)


@pytest.mark.parametrize("option", EVERY, ids=lambda option: option.name)
def test_summary_is_short_and_whole(option: object) -> None:
    row = next(row for row in EVERY if row is option)
    assert 3 < len(summary(row)) <= 70
    assert row.text.startswith(summary(row))


@pytest.mark.parametrize("program", ["pasta", "passt", "pesto"])
def test_bash_offers_exactly_the_options_of_a_program(program: str) -> None:
    assert sorted(bash(program, "--")) == sorted(
        name for option in known(program) for name in spellings(option) if name.startswith("--"))
    assert set(bash(program, "-")) >= {f"-{option.short}" for option in known(program) if option.short}


@pytest.mark.parametrize(("words", "expected"), [
    (["--mt"], ["--mtu"]),
    (["--config-net", "--qu"], ["--quiet"]),
    (["-t", "n"], ["none"]),
    (["--tcp-ports", "=", "al"], ["all"]),
    (["--tcp-ports", "="], ["none", "all", "auto"]),
    (["--mtu", "15"], ["1500"]),
    (["-i", "l"], ["lo"]),
    (["--runas", "roo"], ["root"]),
    (["--mtu", "1500", "mkfif"], ["mkfifo"]),
    (["--", "mkfif"], ["mkfifo"]),
    (["--hostname", ""], [""]),
    (["--wait-online", "=", "3"], ["30"]),
    (["--wait-online", "=", "10", "--mt"], ["--mtu"]),
    (["--wait-online", "--mt"], ["--mtu"]),
    (["--wait-online", "mkfif"], ["mkfifo"]),
    (["-l", "/etc/host"], ["/etc/hosts"]),
])
def test_bash_completes_words_of_pasta(words: list[str], expected: list[str]) -> None:
    found = bash("pasta", *words)
    assert set(expected) <= set(found)
    if words[-1] != "/etc/host":
        assert set(found) == set(expected)


def test_bash_leaves_options_of_the_command_alone() -> None:
    assert bash("pasta", "true", "--mt") == [""]


def test_bash_completes_pesto() -> None:
    assert bash("pesto", "-A", "-t", "au") == ["auto"]
    assert bash("pesto", "-C", "") == ["HOST", "SPLICE"]
    assert bash("pesto", "-s", "/etc/host") == bash("pasta", "-l", "/etc/host")


@pytest.fixture
def instances(tmp_path: Path) -> str:
    """Stand in for passtctl with two instances; the beginning of a PATH that has it."""
    stand_in = tmp_path / "passtctl"
    stand_in.write_text("#!/bin/sh\n[ \"$*\" = 'list --names' ] && printf 'web\\na $(b)\\n'\n")
    stand_in.chmod(0o755)
    return f"{tmp_path}:"


def test_bash_completes_names_of_instances_before_a_command(instances: str) -> None:
    assert bash("passtctl", "we", path=instances) == ["web"]
    assert bash("passtctl", "a", path=instances) == [r"a\ \$\(b\)"]
    assert {"flows", "web", "--json"} <= set(bash("passtctl", "", path=instances))
    assert bash("passtctl", "web", "flo", path=instances) == ["flows"]
    assert bash("passtctl", "web", "log", "w", path=instances) == ["warning"]
    assert bash("passtctl", "lo", path="/nonexistent:") == ["log"]


def test_fish_completes_names_of_instances_before_a_command(instances: str) -> None:
    assert fish("passtctl", "passtctl we", path=instances) == ["web"]
    assert fish("passtctl", "passtctl web flo", path=instances) == ["flows"]
    assert "web" not in fish("passtctl", "passtctl log w", path=instances)


def test_zsh_completes_names_of_instances_before_a_command(
    instances: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", instances + os.environ["PATH"])
    for typed, expected in (("passtctl we\t", "passtctl web"), ("passtctl web flo\t", "passtctl web flows")):
        zsh = Zsh()
        zsh.seen = ""
        zsh.type(typed)
        zsh.expect(expected)
        zsh.close()


def test_bash_completes_qrap() -> None:
    assert bash("qrap", "--") == ["--help", "--version"]
    assert "mkfifo" in bash("qrap", "5", "mkfif")


@pytest.mark.parametrize("program", ["pasta", "passt", "pesto"])
def test_fish_offers_exactly_the_options_of_a_program(program: str) -> None:
    found = {name.rstrip("=") for name in fish(program, f"{program} --")}
    assert found == {name for option in known(program) for name in spellings(option) if name[:2] == "--"}


@pytest.mark.parametrize(("line", "expected"), [
    ("pasta --tcp-ports n", "none"), ("pasta -i l", "lo"), ("pasta --runas roo", "root"),
    ("pasta mkfif", "mkfifo"), ("passt --mtu 15", "1500"), ("qrap --v", "--version"),
    ("pasta --wait-online=3", "--wait-online=30"), ("pesto -C S", "SPLICE"),
    ("pesto /etc/host", "/etc/hosts"),
])
def test_fish_completes_words(line: str, expected: str) -> None:
    assert expected in fish(line.partition(" ")[0], line)


class Zsh:
    """zsh at a terminal, with our completions."""

    def __init__(self) -> None:
        if shutil.which("zsh") is None:
            pytest.skip("zsh is missing: 'make test' installs it")
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(PS1="% ", TERM="dumb", HOME="/proc/none")
            os.execvp("zsh", ["zsh", "-f", "-i"])  # noqa: S606 - a terminal of its own
        self.seen = ""
        self.type(f"fpath=({SHARE}/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D; "
                  "echo rea''dy\n")
        self.expect("ready")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> None:
        end = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if is_readable(self.fd, 0.1):
                self.seen += os.read(self.fd, 4096).decode(errors="replace")

    def close(self) -> None:
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize(("typed", "expected"), [
    ("pasta --config-n\t", "--config-net"), ("pasta --netns-o\t", "--netns-only"),
    ("passt --one\t", "--one-off"), ("pasta -t au\t", "-t auto"), ("pasta --mtu=90\t", "--mtu=9000"),
    ("pasta -f mkfif\t", "mkfifo"), ("qrap --ver\t", "--version"),
    ("pesto --dele\t", "--delete"), ("pesto -t au\t", "-t auto"),
    ("passtctl events flow_cl\t", "flow_closed"), ("passtctl flows in\t", "flows inbound"),
    ("passtctl log in\t", "log info"), ("passtctl capture st\t", "capture stop"),
])
def test_zsh_completes_words(typed: str, expected: str) -> None:
    zsh = Zsh()
    zsh.seen = ""
    zsh.type(typed)
    zsh.expect(expected)
    zsh.close()


def test_kinds_of_events_are_completed() -> None:
    assert set(KINDS) <= set(bash("passtctl", "events", ""))
    assert bash("passtctl", "events", "flow_c") == ["flow_closed"]
    assert fish("passtctl", "passtctl events flow_c") == ["flow_closed"]
    assert "flow_closed" not in bash("passtctl", "stats", "")
