"""What --config-net sets up, what options change, and what is said when the host does not play along."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, OUTSIDE6, UID, Lab, Place

pytestmark = pytest.mark.needs_root

NONE = ("-t", "none", "-u", "none")


def asked(lab: Lab, options: list[str], argv: list[str], *, user: bool, place: Place | None = None) -> Any:
    """Tell what `ip -json ARGV` says in the namespace."""
    return json.loads(
        lab.run(["--config-net", *options], ["ip", "-json", *argv], user=user, place=place).stdout
    )


def test_interface_is_named_after_the_template_with_a_large_mtu(lab: Lab, user: bool) -> None:
    links = {link["ifname"]: link for link in asked(lab, [], ["link"], user=user)}
    assert set(links) == {"lo", "h0"}
    assert links["h0"]["mtu"] == 65520
    assert {"UP", "LOWER_UP"} <= set(links["h0"]["flags"])
    assert "UP" in links["lo"]["flags"]


@pytest.mark.parametrize("mtu", [1280, 1500, 9000])
def test_mtu_is_set_and_traffic_passes(lab: Lab, user: bool, mtu: int) -> None:
    assert asked(lab, ["-m", str(mtu)], ["link", "show", "h0"], user=user)[0]["mtu"] == mtu
    for address in (FAR4, FAR6):
        lab.run(
            ["--config-net", "--mtu", str(mtu)],
            [*lab.client, "tcp,end-first,end-last", address, "8000", "2000000"],
            user=user,
        )
        lab.run(["--config-net", "-m", str(mtu)], [*lab.client, "udp", address, "8000", "1200"], user=user)


def test_addresses_are_the_host_s(lab: Lab, user: bool) -> None:
    found = {
        (one["local"], one["prefixlen"])
        for one in asked(lab, [], ["addr", "show", "h0"], user=user)[0]["addr_info"]
        if one["scope"] == "global"
    }
    assert found == {(HOST4, 24), (HOST6, 64)}


def test_default_routes_are_the_host_s(lab: Lab, user: bool) -> None:
    for family, gateway in (("-4", OUTSIDE4), ("-6", OUTSIDE6)):
        routes = asked(lab, [], [family, "route", "show", "default"], user=user)
        assert [(route["gateway"], route["dev"]) for route in routes] == [(gateway, "h0")]


def test_further_addresses_and_routes_are_copied(lab: Lab, user: bool) -> None:
    lab.host.run(["ip", "addr", "add", "203.0.113.77/24", "dev", "h0"])
    lab.host.run(["ip", "route", "add", "192.0.2.0/25", "via", "203.0.113.9", "metric", "77"])
    try:
        addresses = asked(lab, [], ["-4", "addr", "show", "h0"], user=user)[0]["addr_info"]
        routes = asked(lab, [], ["-4", "route", "show", "192.0.2.0/25"], user=user)
    finally:
        lab.host.run(["ip", "route", "del", "192.0.2.0/25"])
        lab.host.run(["ip", "addr", "del", "203.0.113.77/24", "dev", "h0"])
    assert {one["local"] for one in addresses} == {HOST4, "203.0.113.77"}
    assert [(route["gateway"], route["metric"]) for route in routes] == [("203.0.113.9", 77)]


def test_without_config_net_only_the_loopback_is_up(lab: Lab, user: bool) -> None:
    links = {
        link["ifname"]: link for link in json.loads(lab.run([], ["ip", "-json", "link"], user=user).stdout)
    }
    assert set(links) == {"lo", "h0"}
    assert "UP" in links["lo"]["flags"]
    assert "UP" not in links["h0"]["flags"]


def test_none_is_accepted_for_every_port_option(lab: Lab, user: bool) -> None:
    lab.run(["--config-net", *NONE, "-T", "none", "-U", "none"], [*lab.client, "tcp,udp", FAR4], user=user)


@pytest.mark.parametrize(("option", "there", "away"), [("-4", FAR4, FAR6), ("-6", FAR6, FAR4)])
def test_one_family_only(lab: Lab, user: bool, option: str, there: str, away: str) -> None:
    lab.run(["--config-net", option], [*lab.client, "tcp,udp", there], user=user)
    assert (
        lab.run(
            ["--config-net", option],
            ["curl", "-s", "-m", "2", f"http://{away.join('[]') if ':' in away else away}:8000/1"],
            user=user,
            check=False,
        ).returncode
        != 0
    )


def test_local_mode_without_any_interface(lab: Lab, user: bool) -> None:
    place = lab.bare_place()
    server = place.spawn(["/usr/bin/python3", "-I", str(lab.directory / "servers.py")])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    link = asked(lab, [], ["addr", "show", "tap0"], user=user, place=place)[0]
    assert [(one["local"], one["prefixlen"]) for one in link["addr_info"] if one["family"] == "inet"] == [
        ("169.254.2.1", 16)
    ]
    route = asked(lab, [], ["-4", "route", "show", "default"], user=user, place=place)
    assert [one["gateway"] for one in route] == ["169.254.2.2"]
    lab.run(
        ["--config-net"],
        [*lab.client, "tcp,udp,end-first,refused", "169.254.2.2", "8000", "50000"],
        user=user,
        place=place,
    )
    # The kernel checks its link-local address for duplicates before it uses it.
    wait = "while ip -6 addr show tap0 | grep -q tentative; do sleep 0.1; done"
    script = f"{wait}; {' '.join(lab.client)} tcp,udp fe80::1%tap0"
    lab.run(["--config-net"], ["sh", "-c", script], user=user, place=place)


def test_version_and_help_go_to_standard_output(lab: Lab, user: bool) -> None:
    for option in ("--version", "--help"):
        result = lab.run([option], user=user)
        assert b"pasta" in result.stdout
        assert result.stderr == b""


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--no-such-option"], "unrecognized option '--no-such-option'"),
        (["-m", "12x"], "12x"),
        (["--config-net", "-i", "nosuchif"], "nosuchif"),
        (["-t", "70000"], "70000"),
    ],
)
def test_bad_option_is_told_on_standard_error(lab: Lab, user: bool, options: list[str], word: str) -> None:
    result = lab.run(options, ["true"], user=user, check=False)
    assert result.returncode == 1
    assert result.stdout == b""
    assert word in result.stderr.decode()


def refused(place: Place, argv: list[str], *words: str, user: bool = False) -> None:
    """Check that a start ends in one line with all *words* in it, and status 1."""
    result = place.run(argv, user=user, check=False, timeout=15)
    text = result.stderr.decode()
    assert (result.returncode, text.count("\n"), result.stdout) == (1, 1, b""), text
    assert all(word in text for word in words), text


def test_missing_tun_device_is_one_line(lab: Lab, user: bool) -> None:
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net; exec "$@"', "sh"]
    drop = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--"] if user else []
    refused(lab.host, [*hide, *drop, lab.pasta, "--config-net", "--", "true"], "/dev/net/tun")


@pytest.mark.needs_userns
def test_closed_tun_device_is_one_line_for_a_plain_user(lab: Lab, refusal: str) -> None:
    if refusal:
        pytest.skip(refusal)
    drop = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--"]
    refused(lab.host, [*drop, lab.pasta, "--config-net", "--", "true"], "/dev/net/tun", "0600")


@pytest.mark.needs_userns
def test_forbidden_user_namespaces_are_one_line_that_names_the_setting(lab: Lab, refusal: str) -> None:
    if refusal:
        pytest.skip(refusal)
    # The limit is set in a user namespace around the program, so that it holds there alone.
    script = f"echo 0 >/proc/sys/user/max_user_namespaces; exec {lab.pasta} --config-net -- true"
    refused(
        lab.host,
        ["unshare", "--user", "--map-root-user", "sh", "-c", script],
        "max_user_namespaces",
        user=True,
    )
