"""Clients of router advertisements and DHCPv6, in a namespace that pasta leaves unconfigured."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.lab import FAR6, HOST6, Lab
from tests.support.processes import status_field, wait_until
from tests.system.guest import PREPARE, events, need, run_guest

pytestmark = pytest.mark.needs_root

PREFIX = "2001:db8:1:"
HAND_OUT = ("--dhcp-dns", "--dhcp-search", "-D", FAR6, "-D", "2001:db8::7", "-S", "lab.example b.example.")
SERVERS = f"{FAR6} 2001:db8::7"
SHOW = "{ echo; ip -json -6 address show dev $ifname; ip -json -6 route show; }"
SERVER_ID = "0:3:0:1:9a:55:9a:55:9a:55"


def shown(text: str) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Read what `SHOW` printed last: addresses by themselves, and the routes."""
    addresses, routes = map(json.loads, text.splitlines()[-2:])
    return {one["local"]: one for one in addresses[0]["addr_info"] if one}, routes


def our_link_local(lab: Lab) -> str:
    """Give the address of the host's interface, from which the router speaks."""
    text = lab.host.run(["ip", "-json", "-6", "address", "show", "dev", "h0", "scope", "link"]).stdout
    (address,) = [one["local"] for interface in json.loads(text) for one in interface["addr_info"] if one]
    return str(address)


AUTOCONFIGURED = "ip -6 address show dev $ifname scope global -tentative | grep -q 2001:db8:1:"


def test_kernel_configures_itself(lab: Lab, user: bool) -> None:
    script = f"""
        wait_for "an address" sh -c '{AUTOCONFIGURED.replace("$ifname", "h0")}'
        cat /proc/sys/net/ipv6/conf/h0/mtu /proc/sys/net/ipv6/conf/h0/hop_limit
        {" ".join(lab.client)} tcp,udp {FAR6}
        {SHOW}
    """
    text = run_guest(lab, script, "-m", "1400", user=user)
    assert text.splitlines()[:2] == ["1400", "255"]
    addresses, routes = shown(text)
    (address,) = [one for one in addresses.values() if one["scope"] == "global"]
    assert address["local"].startswith(PREFIX)
    assert (address["prefixlen"], address["dynamic"]) == (64, True)
    assert address["valid_life_time"] == address["preferred_life_time"] == 0xFFFFFFFF
    (default,) = [route for route in routes if route["dst"] == "default"]
    assert (default["gateway"], default["protocol"]) == (our_link_local(lab), "ra")
    assert any(route["dst"] == "2001:db8:1::/64" for route in routes)


def advertised(lab: Lab, *options: str, user: bool, patience_ms: int = 20_000) -> str:
    """Let rdisc6 ask for an advertisement; give its report with single blanks."""
    need("rdisc6")
    text = run_guest(lab, f"rdisc6 -1 -r 1 -w {patience_ms} $ifname || true", *options, user=user)
    return re.sub(r"[ \t]+", " ", text)


def test_advertisement_says_what_is_configured(lab: Lab, user: bool) -> None:
    text = advertised(lab, *HAND_OUT, "-m", "9000", "-M", "0a:00:00:00:00:01", "-g", "fe80::77", user=user)
    for line in (
        "Stateful address conf. : Yes",
        "Stateful other conf. : No",
        "Router lifetime : 65535 (0x0000ffff) seconds",
        "Prefix : 2001:db8:1::/64",
        "On-link : Yes",
        "Autonomous address conf.: Yes",
        "Valid time : infinite (0xffffffff)",
        "MTU : 9000 bytes (valid)",
        "Source link-layer address: 0A:00:00:00:00:01",
        f"Recursive DNS server : {FAR6}",
        "Recursive DNS server : 2001:db8::7",
        "DNS search list : lab.example b.example",
        "from fe80::77",
    ):
        assert line in text


def test_advertisement_leaves_out_what_is_switched_off(lab: Lab, user: bool) -> None:
    text = advertised(lab, "-m", "0", "--no-dhcpv6", user=user)
    assert "Stateful address conf. : No" in text
    assert not re.search("MTU|DNS", text)


def test_search_list_needs_no_server(lab: Lab, user: bool) -> None:
    text = advertised(lab, "--dhcp-dns", "-D", "none", "--dhcp-search", user=user)
    assert "DNS search list : lab.example" in text
    assert "Recursive" not in text


@pytest.mark.parametrize("option", ["--no-ra", "--no-ndp"])
def test_no_advertisement_when_switched_off(lab: Lab, user: bool, option: str) -> None:
    text = advertised(lab, option, user=user, patience_ms=700)
    assert "Timed out" in text
    assert "Prefix" not in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], True), (["--no-ra"], False), (["--no-ndp"], False), (["--config-net"], False), (["-4"], False)],
)
def test_unsolicited_advertisements_are_planned_by_the_rfc(
    lab: Lab, options: list[str], expected: bool
) -> None:
    report = lab.run(["-d", *options], ["true"], user=False).stderr.decode()
    found = re.findall(r"next router advertisement in (\d+) s", report)
    assert len(found) == expected
    assert all(200 <= int(seconds) <= 600 for seconds in found)


def test_neighbours_are_answered_without_advertisements(lab: Lab, user: bool) -> None:
    need("ndisc6")
    # ndisc6 takes an answer from the target only, the kernel any.
    def script(patience_ms: int, then: str) -> str:
        return f"""
            ndisc6 -1 -r 1 -w {patience_ms} {our_link_local(lab)} $ifname || true
            ping -6 -n -c 1 -W 0.3 fe80::77%$ifname >/dev/null || true
            {then}
            ip -6 neighbour show fe80::77 dev $ifname
        """

    is_there = "wait_for 'the neighbour' sh -c 'ip -6 neighbour show fe80::77 dev h0 | grep -q lladdr'"
    text = run_guest(lab, script(20_000, is_there), "--no-ra", user=user)
    assert "Target link-layer address: 9A:55:9A:55:9A:55" in text
    assert "fe80::77 lladdr 9a:55:9a:55:9a:55 router" in text
    silent = run_guest(lab, script(500, ""), "--no-ndp", user=user)
    assert "9a:55:9a:55:9a:55" not in silent.lower()


def test_any_address_but_ours_passes_duplicate_detection(lab: Lab, user: bool) -> None:
    ours = our_link_local(lab)
    addresses = (HOST6, "2001:db8:1::99", "fe80::99", "2001:db8:1::1", ours)
    script = "".join(f"ip -6 address add {address}/64 dev $ifname\n" for address in addresses)
    settled = "! ip -6 address show dev h0 -dadfailed | grep -q tentative"
    text = run_guest(lab, f"{script}wait_for 'the end of detection' sh -c '{settled}'\n{SHOW}", user=user)
    found, _ = shown(text)
    failed = {address for address in addresses if found[address].get("dadfailed")}
    # The gateway of the lab stands for the host.
    assert failed == {"2001:db8:1::1", ours}


def test_local_mode_advertises_a_router_without_prefix(lab: Lab, user: bool) -> None:
    need("rdisc6")
    place = lab.bare_place()
    text = f"ifname=tap0\n{PREPARE}\nrdisc6 -1 -r 2 -w 20000 tap0"
    report = lab.run([], ["sh", "-c", text], user=user, place=place).stdout.decode()
    assert "from fe80::1" in report
    assert "Prefix" not in report
    assert re.search(r"Stateful address conf\. *: *No", report)


# A copy of dhclient is not confined to the machine's own files, as AppArmor does with the original.
DHCLIENT = """
cp "$(command -v dhclient)" /run/guest/dhclient
client() { ./dhclient -6 -1 -cf /dev/null -sf $PWD/script -lf $PWD/leases -pf $PWD/pid "$@" $ifname 2>>log; }
has_ended() { ! kill -0 $pid 2>/dev/null; }
stop() { # The client goes to the background before it writes its pid file.
    wait_for "the pid file" test -s pid
    read pid <pid
    kill $pid
    wait_for "the end of the client" has_ended
    rm -f pid
}
"""


def test_dhclient_through_its_life(lab: Lab) -> None:
    need("dhclient")
    script = f"""
        {DHCLIENT}
        touch leases
        client; has_event BOUND6; stop
        echo "event=restart" >>notes
        client; stop
        # The lease is due for renewal at once; then for rebinding, as its server is unknown.
        sed -i 's/renew [0-9]*/renew 1/' leases
        client; wait_for "a renewal" has_event RENEW6; stop
        sed -i 's/renew [0-9]*/renew 1/; s/rebind [0-9]*/rebind 2/; s/9a:55:9a:55;/9a:55:9a:56;/' leases
        client; wait_for "a rebinding" has_event REBIND6; stop
        cat notes
        {SHOW}
    """
    text = run_guest(lab, script, "--no-follow", *HAND_OUT, user=False)
    addresses, _ = shown(text)
    assert addresses[HOST6]["prefixlen"] == 128
    noted = [event for event in events(text) if event["event"] != "PREINIT6"]
    assert [event["event"] for event in noted] == [
        "BOUND6",
        "restart",
        "BOUND6",
        "BOUND6",
        "RENEW6",
        "BOUND6",
        "REBIND6",
    ]
    for event in noted:
        if event["event"] == "restart":
            continue
        assert event["new_ip6_address"] == HOST6
        assert event["new_dhcp6_name_servers"] == SERVERS
        assert event["new_dhcp6_domain_search"] == "lab.example. b.example."
        assert event["new_max_life"] == event["new_preferred_life"] == "4294967295"
    assert noted[-1]["new_dhcp6_server_id"] == SERVER_ID


def test_dhclient_release_information_and_temporary_address(lab: Lab, user: bool) -> None:
    need("dhclient")
    script = f"""
        {DHCLIENT}
        touch leases
        client -v
        client -v -r
        ip -6 address show dev $ifname | grep -q {HOST6} && exit 1
        echo >leases
        client -v -S
        echo >leases
        timeout 2 ./dhclient -6 -1 -T -v -cf /dev/null -sf $PWD/script -lf $PWD/leases -pf $PWD/pid \\
            $ifname 2>>log || true
        cat notes
        echo event=log
        grep '^RCV' log
    """
    text = run_guest(lab, script, *HAND_OUT, user=user)
    noted = [event for event in events(text) if event["event"] != "PREINIT6"]
    assert [event["event"] for event in noted] == ["BOUND6", "RELEASE6", "RENEW6", "log"]
    assert noted[1]["old_ip6_address"] == HOST6
    # The answer to an information request has no address in it.
    assert "new_ip6_address" not in noted[2]
    assert noted[2]["new_dhcp6_name_servers"] == SERVERS
    assert noted[2]["new_dhcp6_domain_search"] == "lab.example. b.example."
    # To request and release; the event above tells of the third. For a temporary address none comes.
    assert text.count("RCV: Reply message") >= 2
    assert "Status code of no addrs, IA_TA discarded" in text


def test_names_are_told_by_default_to_nobody(lab: Lab, user: bool) -> None:
    need("dhclient")
    (event,) = [
        event
        for event in events(run_guest(lab, f"{DHCLIENT} client; cat notes", user=user))
        if event["event"] == "BOUND6"
    ]
    assert event["new_ip6_address"] == HOST6
    assert not {"new_dhcp6_name_servers", "new_dhcp6_domain_search", "new_fqdn_hostname"} & set(event)


def test_dhclient_gets_nothing_when_the_server_is_off(lab: Lab, user: bool) -> None:
    need("dhclient")
    script = f"""{DHCLIENT}
        timeout 3 ./dhclient -6 -1 -v -cf /dev/null -sf $PWD/script -lf $PWD/leases -pf $PWD/pid \\
            $ifname 2>log || true
        grep -c 'XMT: Solicit' log; grep -c RCV log || true"""
    sent, received = run_guest(lab, script, "--no-dhcpv6", user=user).split()
    assert int(sent) >= 1
    assert int(received) == 0


def test_dhcpcd_through_its_life(lab: Lab, user: bool) -> None:
    need("dhcpcd")
    script = f"""
        dhcpcd -6 -B -f /dev/null -c $PWD/script $ifname >log 2>&1 &
        wait_for "an address" has_event BOUND6
        wait_for "an advertisement" has_event ROUTERADVERT
        {SHOW} >shown
        dhcpcd -6 -N $ifname >/dev/null
        wait_for "another advertisement" has_event ROUTERADVERT 2
        dhcpcd -6 -n $ifname >/dev/null
        wait_for "a rebinding" has_event REBOOT6
        dhcpcd -6 -k $ifname >/dev/null
        wait_for "a release" has_event RELEASE6
        wait
        cat notes
        cat shown
    """
    text = run_guest(lab, script, *HAND_OUT, user=user)
    addresses, routes = shown(text)
    assert addresses[HOST6]["prefixlen"] == 128
    assert sum(one["scope"] == "global" for one in addresses.values()) == 2
    assert our_link_local(lab) in [route.get("gateway") for route in routes if route["dst"] == "default"]
    by_name = {event["event"]: event for event in reversed(events(text))}
    advertisement, bound = by_name["ROUTERADVERT"], by_name["BOUND6"]
    assert bound["new_dhcp6_ia_na1_ia_addr1"] == by_name["REBOOT6"]["new_dhcp6_ia_na1_ia_addr1"] == HOST6
    assert bound["new_dhcp6_server_id"] == "000300019a559a559a55"
    assert by_name["RELEASE6"]["old_dhcp6_ia_na1_ia_addr1"] == HOST6
    assert advertisement["nd1_rdnss1_servers"] == SERVERS
    assert advertisement["nd1_dnssl1_search"] == "lab.example b.example"
    assert advertisement["nd1_flags"] == "M"


# Without PID 1, udev and D-Bus: it takes interfaces for ready when /sys is read-only, and it becomes
# the user systemd-network, who must be in the places' own passwd.
NETWORKD = """
mount -t sysfs -o ro sysfs /sys
for name in passwd group; do cp /etc/$name /run/$name; mount --bind /run/$name /etc/$name; done
echo systemd-network:x:998:998::/:/bin/false >>/run/passwd
echo systemd-network:x:998: >>/run/group
mkdir -p /run/systemd/network /run/systemd/netif/links
chown -R 998:998 /run/systemd/netif
cat >/run/systemd/network/10-guest.network <<END
[Match]
Name=$ifname
[Network]
DHCP=ipv6
[IPv6AcceptRA]
UseDomains=yes
[DHCPv6]
UseDomains=yes
END
PATH=$PATH:/usr/lib/systemd:/lib/systemd
SYSTEMD_LOG_LEVEL=debug systemd-networkd 2>log &
is_configured() { grep -q ADMIN_STATE=configured /run/systemd/netif/links/*; }
wait_for "networkd" is_configured
has_address() { ip -6 address show dev $ifname -tentative | grep -q 2001:db8:1::2/128; }
wait_for "an address by DHCPv6" has_address
# It writes down what it has learnt in its own time, and the kernel's routes follow.
knows() { grep -q "^$1=.* " /run/systemd/netif/links/*; }
wait_for "name servers" knows DNS
wait_for "a search list" knows DOMAINS
has_two() { [ "$(ip -6 -o address show dev $ifname scope global | wc -l)" -ge 2 ]; }
wait_for "an address by advertisement" has_two
has_route() { ip -6 route show default | grep -q .; }
wait_for "a default route" has_route
"""


def test_networkd(lab: Lab) -> None:
    need("systemd-networkd")
    # It needs two users, so it runs in a namespace of real root's, to which pasta attaches.
    target = lab.host.spawn(["unshare", "--net", "--mount", "sh", "-c", "echo ready; exec sleep 1000"])
    assert target.popen.stdout is not None
    assert target.popen.stdout.readline() == b"ready\n"
    pid = status_field(target.pid, "NSpid").split()[-1]
    enter = ["nsenter", "-t", pid, "--net", "--mount"]
    running = lab.start(["-f", *HAND_OUT, "-I", "h0", pid], user=False)

    def has_interface() -> bool:
        return lab.host.run([*enter, "ip", "link", "show", "h0"], check=False).returncode == 0

    wait_until(has_interface, "the interface is there")
    text = f"ifname=h0\n{PREPARE}\n{NETWORKD}\ncat /run/systemd/netif/links/*; {SHOW}; kill $!; wait || true"
    try:
        report = lab.host.run([*enter, "sh", "-c", text], timeout=280).stdout.decode()
    finally:
        running.kill()
        target.kill()
    addresses, routes = shown(report)
    assert addresses[HOST6]["prefixlen"] == 128
    assert sum(one["scope"] == "global" for one in addresses.values()) == 2
    assert any(route["dst"] == "default" for route in routes)
    assert f"DNS={SERVERS}" in report
    assert "DOMAINS=lab.example b.example" in report
