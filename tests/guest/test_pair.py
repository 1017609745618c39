"""Two guests of one host, each with a passt of its own, that reach each other by forwarded ports.

The first is on QEMU's stream back end, or shares its memory; the second is started by qrap, on a socket that
QEMU inherits, and its passt listens on the default path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guest.vm import CARDS, Passt, Vm
from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, OUTSIDE6, Lab
from tests.system.servers import stream_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]

SIZE = 1 << 20
FIRST_PORT, SECOND_PORT = 10001, 10004
INHERITED = ["-netdev", "socket,id=n,fd=5", "-device", "virtio-net-pci,netdev=n,romfile="]
# Argument: directory of the lab, which may be in /tmp. The place gets a /tmp of its own.
OWN_TMP = """
set -e
mount --bind "$1" /mnt
mount -t tmpfs -o mode=1777 tmp /tmp
mkdir -p "$1"
mount --move /mnt "$1"
"""


class Pair:
    """The two guests, booted and configured, and their passts."""

    def __init__(self, lab: Lab, directory: Path, card: str, *, user: bool) -> None:
        self.passts: list[Passt] = []
        self.guests: list[Vm] = []
        qrap = Path(lab.pasta).with_name("qrap")
        try:
            form, make_card = CARDS[card]
            self.passts.append(Passt(lab, directory / "first.socket", [*form, *options(FIRST_PORT)],
                                     user=user))
            self.passts.append(Passt(lab, None, options(SECOND_PORT), user=user))
            self.guests.append(Vm(lab.host, directory, make_card(self.passts[0].path), name="first",
                                  user=user))
            self.guests.append(Vm(lab.host, directory, INHERITED, name="second", user=user,
                                  before=[str(qrap), "5"]))
            for guest in self.guests:
                guest.wait_for_boot()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Pull the plug of what still runs."""
        for guest in self.guests:
            guest.close()
        for passt in self.passts:
            passt.close()


def options(port: int) -> list[str]:
    return ["-1", "-t", str(port), "-u", str(port)]


@pytest.fixture(scope="module", params=CARDS)
def pair(lab: Lab, guest_files: Path, refusal: str, request: pytest.FixtureRequest) -> Iterator[Pair]:
    lab.host.run(["sh", "-c", OWN_TMP, "sh", str(lab.directory)])
    try:
        pair = Pair(lab, guest_files, request.param, user=not refusal)
        yield pair
        pair.close()
    finally:
        lab.host.run(["umount", str(lab.directory), "/tmp"])  # noqa: S108 - made by OWN_TMP


def test_both_get_the_addresses_of_the_host(pair: Pair) -> None:
    assert [guest.configure4().get("ip") for guest in pair.guests] == [HOST4, HOST4]
    assert [guest.configure6().get("new_ip6_address") for guest in pair.guests] == [HOST6, HOST6]


def test_guest_of_qrap_has_the_network(pair: Pair) -> None:
    guest = pair.guests[1]
    for host in (FAR4, FAR6):
        url = f"http://[{host}]:8000" if ":" in host else f"http://{host}:8000"
        assert guest.run(f"wget -q -O - {url}/{SIZE} | sha256sum").split()[0] == stream_sha256(SIZE)
        assert "1 packets received" in guest.run(f"ping -c 1 -W 10 {host}")


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize(("family", "gateway", "client", "server", "port"), [
    (4, OUTSIDE4, 0, 1, SECOND_PORT), (4, OUTSIDE4, 1, 0, FIRST_PORT),
    (6, f"[{OUTSIDE6}]", 0, 1, SECOND_PORT), (6, f"[{OUTSIDE6}]", 1, 0, FIRST_PORT),
])
def test_one_reaches_the_other(pair: Pair, protocol: str, family: int, gateway: str, client: int,
                               server: int, port: int) -> None:
    pair.guests[server].serve(protocol, family, port, f"SYSTEM:echo $(cat) at {server}")
    shut = ",shut-null" if protocol == "UDP" else ""
    asking = f"echo asked | socat -t 20 - {protocol}:{gateway}:{port}{shut}"
    pair.guests[client].run(f"rm -f /tmp/answer; ({asking}) >/tmp/answer 2>&1 &")
    # Datagrams have no end that socat could see.
    answer = pair.guests[client].wait_for("grep . /tmp/answer", "an answer comes", 30)
    assert answer.strip() == f"asked at {server}"


def test_power_off_ends_both(pair: Pair) -> None:
    for guest, passt in zip(pair.guests, pair.passts, strict=True):
        assert guest.power_off() == 0
        passt.finish()
