"""The lab itself: traffic passes between its places, and what is left behind is seen."""

from __future__ import annotations

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, OUTSIDE6, Lab
from tests.support.processes import wait_until
from tests.system.conftest import left_behind

pytestmark = pytest.mark.needs_root

CHECKS = "tcp,udp,end-first,end-last,reset,send-reset,refused"


@pytest.mark.parametrize("address", [OUTSIDE4, OUTSIDE6, FAR4, FAR6, "127.0.0.1", "::1"])
def test_host_reaches_every_server(lab: Lab, address: str) -> None:
    lab.host.run([*lab.client, CHECKS, address, "8000", "1400"])


@pytest.mark.parametrize("address", [HOST4, HOST6])
def test_outside_reaches_the_host(lab: Lab, address: str) -> None:
    lab.outside.run([*lab.client, CHECKS, address, "8000", "1400"])


def test_names_resolve_by_the_lab_s_server(lab: Lab) -> None:
    assert b"192.0.2.80" in lab.host.run(["getent", "ahostsv4", "www"]).stdout


def test_process_in_nested_namespaces_is_seen(lab: Lab) -> None:
    before = lab.host.pids()
    running = lab.host.spawn(["unshare", "--user", "--pid", "--fork", "--kill-child", "sleep", "77"])
    wait_until(
        lambda: any("sleep 77" in line for line in left_behind(lab.host, before)), "the sleeper is seen"
    )
    running.kill()


def test_plain_user_has_an_open_tun_and_root_a_closed_one(lab: Lab, user: bool) -> None:
    mode = lab.host.run(["stat", "-c", "%a %u", "/dev/net/tun"], user=user).stdout
    assert mode == (b"666 0\n" if user else b"600 0\n")
