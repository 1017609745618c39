"""The command line of passtctl."""

from __future__ import annotations

import pytest

from passt.errors import ConfigError
from passt.passtctl.command import COMMANDS, Command, help_text, parse, parse_filters


@pytest.mark.parametrize(
    ("arguments", "command"),
    [([], Command("list")), (["--json"], Command("list", json=True)),
     (["-p", "12", "flows", "tcp", ":443"], Command("flows", pid=12, words=("tcp", ":443"))),
     (["flows", "--watch", "--socket=/x"], Command("flows", path="/x", watch=True)),
     (["metrics", "--listen", "[::1]:9100"], Command("metrics", listen="[::1]:9100")),
     (["doctor", "--port", "80/tcp", "-p", "7"], Command("doctor", pid=7, port="80/tcp")),
     (["capture", "-w", "-", "--snaplen=96", "tcp", "port", "80"],
      Command("capture", write="-", snaplen="96", words=("tcp", "port", "80"))),
     (["--ring", "16M", "capture"], Command("capture", ring="16M")),
     (["close", "1.2"], Command("close", words=("1.2",))), (["nonsense", "-h"], Command("help")),
     (["web"], Command("list", instance="web")), (["list", "--names"], Command("list", names=True)),
     (["web", "--watch", "flows", "tcp"], Command("flows", watch=True, instance="web", words=("tcp",))),
     (["/run/netns/web", "close", "1.2"], Command("close", instance="/run/netns/web", words=("1.2",))),
     (["7", "ports", "add", "-t", "80"],
      Command("ports", instance="7", words=("add",), specs=("-t 80",))),
     (["--version", "--nonsense"], Command("version"))],
)  # fmt: skip
def test_arguments(arguments: list[str], command: Command) -> None:
    assert parse(arguments) == command


@pytest.mark.parametrize(
    "arguments",
    [["", "list"], ["--colour"], ["-p"], ["-p", "x"], ["-p", "-1"], ["list", "--watch"], ["list", "x"],
     ["close"], ["close", "1.2", "3.4"], ["flows", "--listen=x"], ["log", "info", "debug"],
     ["list", "--port=80"], ["doctor", "80"], ["doctor", "--watch"],
     ["flows", "-w", "x"], ["list", "--ring", "1M"], ["capture", "-w"], ["-p", "9" * 5000],
     ["flows", "rule=\udcff"], ["explain", "fe80::1%\udcff"], ["explain", "--source", "\udcff", "::1"],
     ["explain", "--inbound=\udcff"], ["events", "\udcff"], ["metrics", "--listen", "\udcff:9100"],
     ["flows", "--names"]],
)  # fmt: skip
def test_mistakes_are_told(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse(arguments)


def test_word_that_is_no_command_is_told_with_the_commands_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'web' is no command, and 'flws' none .*there are list, flows,"):
        parse(["web", "flws"])


@pytest.mark.parametrize(("arguments", "more"), [
    (["-p", "1", "web", "flows"], "; 'web' is no command"), (["flws", "-s", "/x"], "; 'flws' is no command"),
    (["-p", "1", "-s", "/x", "flows"], "")])  # fmt: skip
def test_instance_is_named_once(arguments: list[str], more: str) -> None:
    with pytest.raises(ConfigError, match=f"^say once which instance .* name{more}$"):
        parse(arguments)


def test_paths_and_interfaces_may_be_any_bytes() -> None:
    asked = parse(["ports", "add", "-s", "/\udcff", "-t", "%\udcff/80", "--udp-ports=%\udcfe/80"])
    assert (asked.path, asked.specs) == ("/\udcff", ("-t %\udcff/80", "-u %\udcfe/80"))
    assert parse(["capture", "-w", "\udcff"]).write == "\udcff"


def test_filters_become_parameters() -> None:
    words = ["tcp", "inbound", "bypass", ":80", "[2001:db8::1]", "state=ESTABLISHED", "rule=-t 80"]
    assert parse_filters(words) == (
        "protocol=tcp&direction=inbound&path=bypass&port=80&address=2001%3Adb8%3A%3A1&state=ESTABLISHED"
        "&rule=-t+80")


def test_metrics_are_no_json() -> None:
    with pytest.raises(ConfigError, match="stats --json"):
        parse(["metrics", "--json"])


@pytest.mark.parametrize("words", [["tcp", "udp"], ["10.0.0"], ["colour=red"], ["=x"]])
def test_filters_that_make_no_sense(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse_filters(words)


def test_help_names_every_command() -> None:
    assert all(f"  {name}" in help_text() for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [(["ports"], Command("ports")),
     (["ports", "list", "--json"], Command("ports", json=True, words=("list",))),
     (["ports", "add", "-t", "[::1]/80:8080", "--udp-ports=53", "-T", "5"],
      Command("ports", words=("add",), specs=("-t [::1]/80:8080", "-u 53", "-T 5"))),
     (["-t", "80", "-s", "/x", "ports", "set"],
      Command("ports", path="/x", words=("set",), specs=("-t 80",))),
     (["explain", "udp", "10.0.0.1:53"], Command("explain", words=("udp", "10.0.0.1:53"))),
     (["explain", "--inbound", "80", "--source=::1"], Command("explain", inbound="80", source="::1"))],
)  # fmt: skip
def test_arguments_of_ports_and_explain(arguments: list[str], command: Command) -> None:
    assert parse(arguments) == command


@pytest.mark.parametrize(
    "arguments",
    [["ports", "remove", "-t", "80"], ["ports", "-t", "80"], ["ports", "list", "-t", "80"], ["ports", "add"],
     ["ports", "add", "80"], ["ports", "add", "-t"], ["flows", "-t", "80"], ["flows", "--inbound", "80"],
     ["explain", "tcp", "10.0.0.1", "80"], ["stats", "--source", "::1"]],
)  # fmt: skip
def test_mistakes_with_ports_and_explain_are_told(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse(arguments)
