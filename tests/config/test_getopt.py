"""Splitting of command lines as getopt_long(3) does it."""

from __future__ import annotations

import pytest

from passt.config.getopt import Scanner, UsageError, scan
from passt.config.options import OPTIONS, Option
from passt.errors import ConfigError


def scanned(*arguments: str) -> tuple[list[tuple[str, str]], list[str]]:
    scanner = Scanner(arguments)
    uses = [(use.option.name, use.value) for use in scanner]
    return uses, scanner.operands


@pytest.mark.parametrize(("arguments", "uses", "operands"), [
    ([], [], []),
    (["-q", "-f"], [("quiet", ""), ("foreground", "")], []),
    (["-qf"], [("quiet", ""), ("foreground", "")], []),
    (["-m1500"], [("mtu", "1500")], []),
    (["-m", "1500"], [("mtu", "1500")], []),
    (["-qm1500"], [("quiet", ""), ("mtu", "1500")], []),
    (["-qm", "1500", "x"], [("quiet", ""), ("mtu", "1500")], ["x"]),
    (["-m=1500"], [("mtu", "=1500")], []),
    (["-mq"], [("mtu", "q")], []),
    (["-m", "-q"], [("mtu", "-q")], []),
    (["--mtu=1500"], [("mtu", "1500")], []),
    (["--mtu", "1500"], [("mtu", "1500")], []),
    (["--mtu="], [("mtu", "")], []),
    (["--mtu=a=b"], [("mtu", "a=b")], []),
    (["--mtu", "--quiet"], [("mtu", "--quiet")], []),
    (["--deb"], [("debug", "")], []),
    (["--no-r"], [("no-ra", "")], []),
    (["--no-dhcp"], [("no-dhcp", "")], []),
    (["--sock=x", "--socket", "y"], [("socket", "x"), ("socket", "y")], []),
    (["--socket-path=z"], [("socket", "z")], []),
    (["-64"], [("ipv6-only", ""), ("ipv4-only", "")], []),
    (["-q", "sh", "-c", "exit 7"], [("quiet", "")], ["sh", "-c", "exit 7"]),
    (["sh", "-q"], [], ["sh", "-q"]),
    (["-q", "--", "-f"], [("quiet", "")], ["-f"]),
    (["--", "--"], [], ["--"]),
    (["-"], [], ["-"]),
    (["-q", ""], [("quiet", "")], [""]),
])
def test_arguments_are_split_as_getopt_does(
        arguments: list[str], uses: list[tuple[str, str]], operands: list[str]) -> None:
    assert scanned(*arguments) == (uses, operands)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--bogus"], "unrecognized option '--bogus'"),
    (["--bogus=1"], "unrecognized option '--bogus=1'"),
    (["--map-gw"], "unrecognized option '--map-gw'"),
    (["--mtux"], "unrecognized option '--mtux'"),
    (["--quiet=1"], "option '--quiet' doesn't allow an argument"),
    (["--qui="], "option '--quiet' doesn't allow an argument"),
    (["--mtu"], "option '--mtu' requires an argument"),
    (["--mt"], "option '--mtu' requires an argument"),
    (["-m"], "option requires an argument -- 'm'"),
    (["-qm"], "option requires an argument -- 'm'"),
    (["-x"], "invalid option -- 'x'"),
    (["-q-"], "invalid option -- '-'"),
    (["--log"], "option '--log' is ambiguous; possibilities: '--log-file' '--log-size'"),
    (["--log=3"], "option '--log=3' is ambiguous; possibilities: '--log-file' '--log-size'"),
    (["--ipv"], "option '--ipv' is ambiguous; possibilities: '--ipv4-only' '--ipv6-only'"),
])
def test_wrong_arguments_get_the_words_of_getopt(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        scanned(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(("arguments", "value", "operands"), [
    (["--wait-online"], "0", []),
    (["--wait-online=30"], "30", []),
    (["--wait=30", "4711"], "30", ["4711"]),
    (["--wait-online="], "", []),
    (["--wait-online", "4711"], "0", ["4711"]),
    (["--wait-online", "--quiet"], "0", []),
])
def test_argument_that_may_be_left_out_is_given_with_the_option_or_not_at_all(
        arguments: list[str], value: str, operands: list[str]) -> None:
    found, left = scanned(*arguments)
    assert found[0] == ("wait-online", value)
    assert left == operands


def sample(option: Option) -> list[str]:
    return ["1"] if option.argument else []


@pytest.mark.parametrize("name", [name for option in OPTIONS for name in option.names])
def test_every_long_name_and_its_shortest_unique_prefix_are_found(name: str) -> None:
    option = next(option for option in OPTIONS if name in option.names)
    others = [other for rival in OPTIONS if rival is not option for other in rival.names]
    prefixes = [name[:n] for n in range(1, len(name)) if not any(o.startswith(name[:n]) for o in others)]
    for spelled in [name, *prefixes]:
        assert scanned(f"--{spelled}", *sample(option))[0][0][0] == option.name


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.short], ids=lambda row: row.short)
def test_every_short_form_is_found(option: Option) -> None:
    assert scanned(f"-{option.short}", *sample(option))[0][0][0] == option.name


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
@pytest.mark.parametrize("mode", ["pasta", "passt"])
def test_option_of_the_other_program_or_of_later_is_refused(mode: str, option: Option) -> None:
    arguments = [f"--{option.name}", *sample(option)]
    if mode not in option.modes:
        expected = f"option '--{option.name}' is for {option.modes[0]} only"
    elif not option.available:
        expected = f"option '--{option.name}' is not available yet in this version; {option.meanwhile}"
        assert option.meanwhile
    else:
        assert scan(mode, arguments).action in {"run", option.name}
        return
    with pytest.raises(ConfigError) as caught:
        scan(mode, arguments)
    assert str(caught.value) == expected
    assert not isinstance(caught.value, UsageError)


def test_short_form_is_named_with_the_long_one() -> None:
    with pytest.raises(ConfigError, match=r"^option '-1' \(--one-off\) is for passt only$"):
        scan("pasta", ["-1"])


def test_option_that_is_not_there_yet_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"^option '--repair-path' is not available yet in this version;"
                                          r" connections end when a machine is migrated"):
        scan("passt", ["--repair-path", "none"])


@pytest.mark.parametrize("option", ["--vhost-user", "--print-capabilities"])
def test_shared_memory_is_for_passt_only(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"^option '{option}' is for passt only$"):
        scan("pasta", [option])


@pytest.mark.parametrize(("arguments", "action"), [
    (["--help"], "help"), (["-h"], "help"), (["-qh", "--bogus"], "help"),
    (["--version", "--pcap"], "version"), (["--vers"], "version"),
    (["-q"], "run"), (["sh", "--help"], "run"), (["--", "--version"], "run"),
])
def test_help_and_version_end_the_scan(arguments: list[str], action: str) -> None:
    assert scan("pasta", arguments).action == action


def test_capabilities_end_the_scan() -> None:
    """Whatever else is asked for: QEMU, "Backend program conventions"."""
    arguments = ["--vhost-user", "-s", "/x", "--print-capabilities", "--bogus", "operand"]
    assert scan("passt", arguments).action == "print-capabilities"


def test_mistake_before_help_wins() -> None:
    with pytest.raises(UsageError):
        scan("pasta", ["--bogus", "--help"])
