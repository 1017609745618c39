"""A real guest whose host is renumbered and renumbered back, and all that a guest does meanwhile.

While it moves, the guest has TCP streams of both families, asks for names, and serves a forwarded port.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from tests.guest.vm import CARDS, Vm
from tests.support.lab import FAR4, FAR6, HOST4, HOST6, Lab, Place
from tests.support.processes import wait_until
from tests.support.switches import LONG
from tests.system.machines import passt
from tests.system.test_following import (
    ECHO,
    FORWARD,
    HOST_MOVES,
    HOST_MOVES_BACK,
    NEW4,
    NEW6,
    OUTSIDE_MOVES,
    ask_far_resolver,
    batch,
    fetch,
    host_and_outside,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]

LIMIT_S = 120.0  # the emulated guest starts processes slowly
PORT = 9000
N_MOVES = 20 if LONG else 4
FAR = {4: FAR4, 6: f"[{FAR6}]"}
SETUP = rf"""
cat >/tmp/lease.sh <<'END'
#!/bin/sh
ip -4 addr flush dev "$interface"
case $1 in bound | renew) ;; *) exit 0 ;; esac
ip addr add "$ip/$mask" dev "$interface"
ip route replace default via "$router"
echo "$ip" >>/tmp/leases
END
chmod 755 /tmp/lease.sh
# A connection that says something every second; there is a file NAME.end when it has ended.
stream() {{ # NAME ADDRESS
    (while sleep 1; do echo x; done) | socat - "TCP:$2:{ECHO}" >"/tmp/$1"
    echo >"/tmp/$1.end"
}}
touch /tmp/names
# One line for each question, the last three bytes of its answer.
ask_for_names() {{
    while sleep 1; do
        printf '\022\064\001\000\000\001\000\000\000\000\000\000\001a\000\000\020\000\001' |
            socat -t 2 - UDP:{FORWARD}:53 | tail -c 3 >>/tmp/names
        echo >>/tmp/names
    done
}}
n_named() {{ grep -c one /tmp/names; }}
has_prefix() {{ # PREFIX new|old
    case $(ip -6 addr show dev eth0 | grep "inet6 $1") in
    "" | *tentative*) return 1 ;;
    *deprecated*) [ $2 = old ] ;;
    *) [ $2 = new ] ;;
    esac
}}
"""


@pytest.fixture(scope="module")
def places(lab: Lab) -> Iterator[tuple[Place, Place]]:
    """Make a host and an outside that are connected, with servers; the host has the outside's name server."""
    with host_and_outside(lab, connected=True) as made:
        batch(made[1], OUTSIDE_MOVES)
        ask_far_resolver(lab, *made)
        yield made


class Guest:
    """The guest of a host that moves."""

    def __init__(self, vm: Vm, host: Place, outside: Place) -> None:
        self._vm, self._host, self._outside = vm, host, outside
        encoded = base64.b64encode(SETUP.encode()).decode()
        vm.run(f"echo {encoded} | base64 -d >/tmp/setup.sh; . /tmp/setup.sh; ip link set eth0 up")
        self._begin("udhcpc -i eth0 -f -T 1 -p /tmp/udhcpc.pid -s /tmp/lease.sh")
        for family in (4, 6):
            vm.serve("TCP", family, PORT, "EXEC:echo inside")
        self.until(f"grep {HOST4} /tmp/leases", "it has a lease")
        self.until(f"has_prefix {HOST6[:11]} new", "it has an address by advertisement")
        self._begin("ask_for_names")

    def _begin(self, command: str) -> None:
        self._vm.run(f"(. /tmp/setup.sh; {command}) >/dev/null 2>&1 </dev/null &")

    def until(self, command: str, what: str) -> None:
        """Repeat a command until it succeeds."""
        self._vm.wait_for(f". /tmp/setup.sh; {command}", what, LIMIT_S)

    def open_streams(self) -> None:
        """Open a connection of each family, and wait until what is said comes back."""
        for family, far in FAR.items():
            self._begin(f"rm -f /tmp/s{family}*; stream s{family} {far}")
        for family in FAR:
            self.until(f"[ -s /tmp/s{family} ]", f"the stream over IPv{family} runs")

    def move(self, moves: str, old6: str, new4: str, new6: str) -> None:
        """Renumber the host; see that all works by the new addresses."""
        self.open_streams()
        n_named = int(self._vm.run(". /tmp/setup.sh; n_named || true"))
        batch(self._host, moves)
        for family, far in FAR.items():
            self.until(f"[ -e /tmp/s{family}.end ]", f"the stream over IPv{family} is reset")
            self.until(f"echo hello | socat -t 10 - TCP:{far}:{ECHO} | grep hello", f"IPv{family} works")
        for address in (new4, new6):
            self._wait_for_port(address)
        self.until(f"has_prefix {new6[:11]} new", "the new prefix is used")
        self.until(f"has_prefix {old6[:11]} old", "the old prefix is not")
        # At the renewal, which may be after a minute.
        self.until(f'kill -USR1 $(cat /tmp/udhcpc.pid); sleep 2; [ "$(tail -n 1 /tmp/leases)" = {new4} ]',
                   "it gets the new address")
        self._wait_for_port(new4)
        self.until(f"[ $(n_named) -ge {n_named + 3} ]", "names are answered")

    def _wait_for_port(self, address: str) -> None:
        wait_until(lambda: fetch(self._outside, address, PORT) == "inside", f"the port at {address}", LIMIT_S)


@pytest.fixture(scope="module", params=CARDS)
def guest(lab: Lab, places: tuple[Place, Place], guest_files: Path, refusal: str,
          request: pytest.FixtureRequest) -> Iterator[Guest]:
    """Boot a guest that is busy in all these ways."""
    host, outside = places
    form, make_card = CARDS[request.param]
    options = ["--dns-forward", FORWARD, "-t", str(PORT), *form]
    with passt(lab, *options, user=not refusal, place=host) as (_, path):
        vm = Vm(host, guest_files, make_card(path), name=f"following-{request.param}", user=not refusal)
        try:
            vm.wait_for_boot()
            yield Guest(vm, host, outside)
        finally:
            vm.close()


# The host is where it was after each two of them.
@pytest.mark.parametrize("number", range(N_MOVES))
def test_guest_lives_through_a_move_of_its_host(guest: Guest, number: int) -> None:
    if number % 2:
        guest.move(HOST_MOVES_BACK, NEW6, HOST4, HOST6)
    else:
        guest.move(HOST_MOVES, HOST6, NEW4, NEW6)
