"""Choice of the program, errors, exit statuses, standard output."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from passt import __version__, cli, log
from passt.errors import ConfigError, HostError
from passt.facts.settings import AddressSettings, LogSettings, NamespaceSettings, ProcessSettings, Settings

SRC = Path(__file__).parents[1] / "src"


@pytest.fixture
def app_calls(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Put a recorder in the place of the application, which has tests of its own."""
    calls: list[Settings] = []

    def run(settings: Settings) -> int:
        calls.append(settings)
        return 7

    fake = types.ModuleType("passt.run.start")
    vars(fake)["run"] = run
    monkeypatch.setitem(sys.modules, "passt.run.start", fake)
    monkeypatch.setattr("passt.run.start", fake, raising=False)
    monkeypatch.setattr(log, "configure", lambda **_: None)
    return calls


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(SRC)})


@pytest.mark.parametrize(("argv", "program", "arguments"), [
    (["pasta"], "pasta", []),
    (["/usr/bin/pasta", "-q"], "pasta", ["-q"]),
    (["./my-pasta.py"], "pasta", []),
    (["/opt/pasta/bin/passt"], "passt", []),
    (["passt-pasta"], "pasta", []),
    (["qrap", "5"], "qrap", ["5"]),
    (["/opt/pasta/bin/pesto", "-A"], "pesto", ["-A"]),
    (["/usr/bin/passtctl", "list"], "passtctl", ["list"]),
    (["/x/passt/__main__.py", "pasta", "-q"], "pasta", ["-q"]),
    (["/x/passt/__main__.py", "passt"], "passt", []),
])
def test_program_is_picked_by_name(argv: list[str], program: str, arguments: list[str]) -> None:
    assert cli.pick_program(argv) == (program, arguments)


@pytest.mark.parametrize("argv", [[], [""], ["python3"], ["/opt/pasta/x"], ["/x/passt/__main__.py"],
                                  ["/x/passt/__main__.py", "pest"], ["/x/passt/__main__.py", "-h"]])
def test_other_names_are_refused(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="pasta"):
        cli.pick_program(argv)
    assert cli.main(argv) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_settings_reach_the_application_and_its_status_comes_back(app_calls: list[Settings]) -> None:
    assert cli.main(["pasta", "--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none",
                     "--", "sh", "-c", "exit 7"]) == 7
    assert app_calls == [Settings("pasta", ProcessSettings(foreground=True), LogSettings(banner=False),
                                  addresses=AddressSettings(follow=True),
                                  namespace=NamespaceSettings(("sh", "-c", "exit 7"), config_net=True))]


def test_warnings_are_printed_in_quiet_mode_too(
        app_calls: list[Settings], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pasta", "-q", "--stderr"]) == 7
    assert len(app_calls) == 1
    assert capfd.readouterr().err == "option '--stderr' is deprecated and will be removed; leave it out\n"


BAD_IFNAME = "is not an interface name: it can have no '/', ':' or blank"
HINT = "Try 'pasta --help' for more information.\n"


@pytest.mark.parametrize(("arguments", "message"), [
    (["--map-guest-address", "x"], f"pasta: unrecognized option '--map-guest-address'\n{HINT}"),
    (["-x"], f"pasta: invalid option -- 'x'\n{HINT}"),
    (["--mtu"], f"pasta: option '--mtu' requires an argument\n{HINT}"),
    (["--log-size", "1"],
     "pasta: option '--log-size': 1 is out of range; give a number from 40960 to 1099511627776\n"),
    (["--one-off"], "pasta: option '--one-off' is for passt only\n"),
    (["-g", "::1"], "pasta: option '-g' (--gateway): ::1 is a loopback address, which cannot be used here\n"),
    (["-I", "a\nb"], f"pasta: option '-I' (--ns-ifname): 'a\\nb' {BAD_IFNAME}\n"),
    (["-I", "\udcff/"], f"pasta: option '-I' (--ns-ifname): '\\udcff/' {BAD_IFNAME}\n"),
])
def test_mistake_is_told_on_standard_error_with_status_1(
        arguments: list[str], message: str,
        capfd: pytest.CaptureFixture[str], app_calls: list[Settings]) -> None:
    assert cli.main(["pasta", *arguments]) == 1
    assert capfd.readouterr() == ("", message)
    assert app_calls == []


@pytest.mark.parametrize(("one", "other"), [
    ("--log-file", "--pid"), ("--log-file", "--pcap"), ("--pid", "--pcap"),
])
def test_one_file_for_two_purposes_is_refused_untouched(
    one: str, other: str, tmp_path: Path, app_calls: list[Settings], capfd: pytest.CaptureFixture[str],
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"kept")
    second.hardlink_to(first)
    assert cli.main(["pasta", other, str(second), one, str(first)]) == 1
    assert capfd.readouterr().err == (
        f"pasta: options '{one}' {first} and '{other}' {second} name the same file:"
        " give each one of its own\n")
    assert (app_calls, first.read_bytes()) == ([], b"kept")
    assert cli.main(["pasta", other, "/dev/null", one, "/dev/null"]) == 7


@pytest.mark.parametrize("program", ["pasta", "passt", "qrap", "pesto"])
def test_help_and_version_go_to_standard_output(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([program, "--version"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == f"{program} {__version__}"
    assert out.splitlines()[1] == f"Python {platform.python_version()}"
    assert "Apache License" in out
    assert err == ""
    assert cli.main([program, "-h"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"Usage: {program} ")
    assert err == ""


def test_version_names_the_commit_if_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "__commit__", "0123456789ab")
    assert cli.version_text("pasta").splitlines()[:2] == [
        f"pasta {__version__}", f"Python {platform.python_version()}, commit 0123456789ab"]


def test_capabilities_are_told_as_libvirt_reads_them(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["passt", "--vhost-user", "--print-capabilities"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"type": "net"}
    assert (out[-1], err) == ("\n", "")


def test_arguments_of_qrap_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(arguments: list[str]) -> None:
        calls.append(arguments)
        raise ConfigError("stop here")

    monkeypatch.setattr("passt.qrap.launch.run", run)
    for arguments in (["5", "qemu", "--help"], ["-version"], []):
        assert cli.main(["qrap", *arguments]) == 1
    assert calls == [["5", "qemu", "--help"], ["-version"], []]


@pytest.mark.parametrize(("platform", "release", "python"), [
    ("linux", "5.4.0", (3, 11)), ("linux", "6.18.1-amd64", (3, 13)), ("linux", "5.10.0-30-generic", (3, 12)),
    ("linux", "10.0", (4, 0)), ("linux", "odd", (3, 11)),
])
def test_supported_systems_pass(platform: str, release: str, python: tuple[int, ...]) -> None:
    cli.check_system(platform, release, python)


@pytest.mark.parametrize(("platform", "release", "python", "message"), [
    ("darwin", "23.0", (3, 11), "needs Linux, and this system is darwin"),
    ("linux", "5.3.18-lp152", (3, 11), "Linux 5.4 or newer is needed, and this is 5.3.18-lp152"),
    ("linux", "4.19.0-27-amd64", (3, 11), "Linux 5.4 or newer is needed"),
    ("linux", "6.1.0", (3, 10), "Python 3.11 or newer is needed, and this is 3.10"),
])
def test_other_systems_are_refused(
        platform: str, release: str, python: tuple[int, ...], message: str) -> None:
    with pytest.raises(HostError, match=message):
        cli.check_system(platform, release, python)


def test_module_runs_as_a_program() -> None:
    result = run_python("-m", "passt", "pasta", "--version")
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, f"pasta {__version__}")
    result = run_python("-m", "passt")
    assert (result.returncode, result.stdout) == (1, "")
    assert "python -m passt pasta|passtctl|passt|qrap|pesto" in result.stderr


def test_version_loads_none_of_the_heavy_modules() -> None:
    code = ("import sys; from passt.cli import main; status = main(['pasta', '--version']);"
            "heavy = {'dataclasses', 'typing', 're', 'ipaddress', 'socket', 'inspect'} & set(sys.modules);"
            "sys.exit(status or bool(heavy) and f'loaded {heavy}')")
    result = run_python("-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(SRC)!r}); {code}")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("program", ["pasta", "passtctl", "pesto"])
def test_reader_that_is_gone_is_a_failure(program: str) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    result = subprocess.run([sys.executable, "-m", "passt", program, "--help"], stdout=write_fd, text=True,
                            stderr=subprocess.PIPE, check=False, env={**os.environ, "PYTHONPATH": str(SRC)})
    os.close(write_fd)
    assert (result.returncode, result.stderr) == (
        1, f"{program}: cannot write to standard output: Broken pipe\n")


def test_interrupt_ends_the_program_by_that_signal() -> None:
    code = ("import signal, passt.cli\n"
            "def interrupted(program, arguments): signal.raise_signal(signal.SIGINT)\n"
            "passt.cli.run_program = interrupted\n"
            "passt.cli.main(['pasta'])\n")
    result = run_python("-c", code)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")
