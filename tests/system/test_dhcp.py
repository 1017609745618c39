"""Real DHCP clients in a namespace that pasta did not set up, through the life of a lease.

Each test runs one shell script beside the client, in which `wait_for EVENT N` waits until the client
has told its hook of an event for the N-th time. The scripts see a /run of their own, and the clients
write nowhere else: not even the host's resolv.conf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.lab import FAR4, HOST4, OUTSIDE4, Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.needs_root

DNS = "203.0.113.53"
TOLD = ("--dhcp-dns", "--dhcp-search", "-D", DNS, "-D", FAR4, "-S", "lab.example b.lab.example", "-H", "box")
NONE = ("-t", "none", "-u", "none")

PROLOGUE = """
set -e
fail() { echo "$1"; cat /run/dhcp/log /run/dhcp/out; exit 9; } >&2
mount -t tmpfs run /run
[ ! -d /var/lib/dhcpcd ] || mount -t tmpfs lib /var/lib/dhcpcd
mkdir /run/dhcp
touch /run/dhcp/log /run/dhcp/out /run/dhcp/leases
sums=$(md5sum /etc/* 2>/dev/null || true)
n_of() { grep -c -E "^($1)[|]" /run/dhcp/log || true; }
wait_for() {
    n=0
    while [ "$(n_of "$1")" -lt "$2" ]; do
        n=$((n + 1))
        [ $n -lt 1200 ] || fail "no $1 for the time $2"
        sleep 0.05
    done
}
wait_until_said() {
    n=0
    while [ "$(grep -c "$1" /run/dhcp/out)" -lt "$2" ]; do
        n=$((n + 1))
        [ $n -lt 1200 ] || fail "the client did not say $2 times: $1"
        sleep 0.05
    done
}
said() { grep -q -E "$1" /run/dhcp/out || fail "the client did not say: $1"; }
"""
EPILOGUE = """
[ "$sums" = "$(md5sum /etc/* 2>/dev/null || true)" ] || fail "/etc has changed"
cat /run/dhcp/log
"""
DHCLIENT = """
cat >/run/dhcp/conf <<END
request subnet-mask, routers, domain-name-servers, domain-name, domain-search, interface-mtu, host-name;
timeout 10;
retry 1;
reboot 2;
initial-interval 1;
END
client() { dhclient -4 -v -d -sf "$HOOK" -cf /run/dhcp/conf -lf /run/dhcp/leases -pf /run/dhcp/pid "$@" h0 \\
    >>/run/dhcp/out 2>&1; }
"""
UDHCPC = """
client() { exec busybox udhcpc -f -i h0 -s "$HOOK" -t 5 -T 1 -A 1 -O search -O mtu -O domain "$@" \\
    >>/run/dhcp/out 2>&1; }
"""
DHCPCD = """
echo 'option domain_name_servers, domain_name, domain_search, interface_mtu, host_name' >/run/dhcp/conf
echo noipv6 >>/run/dhcp/conf
client() { dhcpcd -4 -d -f /run/dhcp/conf -c "$HOOK" "$@" >>/run/dhcp/out 2>&1; }
"""


class Event(NamedTuple):
    """What a client told its hook; texts as the client writes them."""

    name: str
    address: str
    mask: str
    router: str
    mtu: str
    dns: str
    search: str
    domain: str
    hostname: str


def life(lab: Lab, setup: str, script: str, *, user: bool, options: Sequence[str] = TOLD) -> list[Event]:
    """Run *script* in a namespace without addresses; give the events of its client."""
    whole = f"HOOK={lab.directory}/dhcp_hook.sh\n{PROLOGUE}{setup}{script}{EPILOGUE}"
    done = lab.run([*NONE, *options], ["sh", "-c", whole], user=user, timeout=280)
    return [Event(*line.split("|")) for line in done.stdout.decode().splitlines()]


def of(events: list[Event], *names: str) -> list[Event]:
    """Events of these names."""
    return [event for event in events if event.name in names]


def check_lease(events: list[Event]) -> None:
    """Hold every event that came with a lease against the command line and the host."""
    assert events
    for event in events:
        assert event[1:] == (
            HOST4, "255.255.255.0", OUTSIDE4, "65520", f"{DNS} {FAR4}",
            event.search, "lab.example", "box",
        )  # fmt: skip
        assert [name.rstrip(".") for name in event.search.split()] == ["lab.example", "b.lab.example"]


# Of each client: the first lease, a renewal and a rebinding, its end, a second start with the lease
# known, and a start with the address of another network.


def test_dhclient(lab: Lab, user: bool) -> None:
    events = life(
        lab,
        DHCLIENT,
        """
        # Leases are for ever: only the client's own idea of them makes it come back.
        echo 'supersede dhcp-renewal-time 1; supersede dhcp-rebinding-time 30;' >>/run/dhcp/conf
        client & wait_for BOUND 1
        wait_for RENEW 2
        said 'DHCPREQUEST for 203.0.113.2 on h0 to 203.0.113.1 port 67'
        client -r; wait
        # A server that cannot be reached: what is left is everybody.
        sed -i 's/rebinding-time 30/rebinding-time 2/' /run/dhcp/conf
        client & wait_for BOUND 2
        ip route add 203.0.113.1 dev lo
        n_before=$(n_of 'RENEW|REBIND')
        wait_until_said 'DHCPREQUEST for 203.0.113.2 on h0 to 255.255.255.255' 3
        wait_for 'RENEW|REBIND' $((n_before + 1))
        ip route del 203.0.113.1 dev lo
        kill $(cat /run/dhcp/pid); wait
        client & wait_for REBOOT 1
        kill $(cat /run/dhcp/pid); wait
        sed -i 's/fixed-address 203.0.113.2/fixed-address 10.1.2.3/' /run/dhcp/leases
        client & wait_for BOUND 3
        said 'DHCPREQUEST for 10.1.2.3 on h0 to 255.255.255.255'
        said 'DHCPNAK'
        kill $(cat /run/dhcp/pid); wait
    """,
        user=user,
    )
    check_lease(of(events, "BOUND", "RENEW", "REBIND", "REBOOT"))
    assert len(of(events, "RELEASE")) == 1


def test_udhcpc(lab: Lab, user: bool) -> None:
    events = life(
        lab,
        UDHCPC,
        """
        client & pid=$!
        wait_for bound 1
        kill -USR1 $pid; wait_for renew 1
        kill -USR2 $pid; wait_for deconfig 2
        kill -USR1 $pid; wait_for bound 2
        kill $pid; wait $pid || true
        client -r 10.1.2.3 & pid=$!
        wait_for bound 3
        kill $pid; wait $pid || true
    """,
        user=user,
    )
    check_lease(of(events, "bound", "renew"))
    assert of(events, "nak") == []


def test_dhcpcd(lab: Lab, user: bool) -> None:
    events = life(
        lab,
        DHCPCD,
        """
        client -B h0 & wait_for BOUND 1
        ip -4 -o address show dev h0 | grep -q 'inet 203.0.113.2/24' || fail "no address"
        ip -4 route show default | grep -q 'via 203.0.113.1' || fail "no route"
        ip -4 route show default | grep -q 'mtu 65520' || fail "no MTU"
        client -N h0; wait_for RENEW 1
        client -n h0; wait_for RENEW 2
        said 'rebinding lease'
        client -k h0; wait
        said 'releasing lease'
        # The address was probed for once: that is enough.
        echo noarp >>/run/dhcp/conf
        client -B -r 10.1.2.3 h0 & wait_for BOUND 2
        client -x h0; wait
        client -B h0 & wait_for REBOOT 1
        client -x h0; wait
    """,
        user=user,
    )
    check_lease(of(events, "BOUND", "REBOOT", "RENEW"))


def test_nothing_is_handed_out_unless_asked_for(lab: Lab, user: bool) -> None:
    events = life(lab, UDHCPC, "(client -q); wait_for bound 1", user=user, options=["-m", "0"])
    (bound,) = of(events, "bound")
    assert bound == Event("bound", HOST4, "255.255.255.0", OUTSIDE4, "", "", "", "", "")


def test_gateway_beyond_the_subnet_is_reached_by_a_route_of_its_own(lab: Lab, user: bool) -> None:
    events = life(
        lab,
        DHCPCD,
        """
        echo noarp >>/run/dhcp/conf
        client -B -o classless_static_routes h0 & wait_for BOUND 1
        ip -4 route show | grep -q '^203.0.113.1 dev h0' || fail "no route to the router"
        ip -4 route show default | grep -q 'via 203.0.113.1' || fail "no default route"
        client -x h0; wait
    """,
        user=user,
        options=["-a", "192.0.2.77/32"],
    )
    (bound,) = of(events, "BOUND")
    assert (bound.address, bound.mask) == ("192.0.2.77", "255.255.255.255")


def test_no_service_no_answer(lab: Lab, user: bool) -> None:
    script = "if (client -n -q -t 2); then fail 'a lease'; fi; said 'no lease, failing'"
    assert of(life(lab, UDHCPC, script, user=user, options=["--no-dhcp"]), "bound") == []


def test_frames_of_real_exchanges_are_well_formed(lab: Lab) -> None:
    script = r"""
        ip link set h0 up
        dumpcap -q -i h0 -w /run/dhcp/pcap -c 8 -a duration:20 -f 'udp port 67' >>/run/dhcp/out 2>&1 & dump=$!
        wait_until_said 'File:' 1
        (client -q); wait_for bound 1
        (client -q -r 10.1.2.3 -C -B); wait_for bound 2
        wait $dump
        for filter in _ws.malformed '_ws.expert.severity >= 0x400000' 'udp.checksum.status == 0' \
            'ip.checksum.status == 0'; do
            tshark -r /run/dhcp/pcap -o ip.check_checksum:TRUE -o udp.check_checksum:TRUE \
                -Y "ip.src == 203.0.113.1 && ($filter)" 2>>/run/dhcp/out >/run/dhcp/found
            [ ! -s /run/dhcp/found ] || fail "$(cat /run/dhcp/found)"
        done
        tshark -r /run/dhcp/pcap -Y 'dhcp.type == 2' -T fields -e dhcp.option.dhcp \
            2>>/run/dhcp/out >/run/dhcp/found
        [ "$(sort -u /run/dhcp/found | tr '\n' ' ')" = '2 5 ' ] || fail "$(cat /run/dhcp/found)"
    """
    events = life(lab, UDHCPC, script, user=False)
    check_lease(of(events, "bound"))
