"""Address clients in a namespace of pasta: what they need around them, and what they say.

A client in a namespace sees the machine's files, so it gets a tmpfs over each directory it writes
to, a resolv.conf of its own, and a script of ours that is told what it learnt, in place of the
system's, which would change the machine.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import PATH

if TYPE_CHECKING:
    from tests.support.lab import Lab

# To be run first in the namespace; $ifname is the tap interface. Leaves the working directory in a
# tmpfs with `notes`, to which `script` appends each event and the variables of the client, and
# waits until the kernel's link-local address may be used.
PREPARE = r"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/guest /run/dhcpcd
for directory in /var/lib/dhcp /var/lib/dhcpcd; do
    [ ! -d $directory ] || mount -t tmpfs tmpfs $directory
done
cp /etc/resolv.conf /run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf
cd /run/guest
touch notes
cat >script <<'END'
#!/bin/sh
{ echo "event=$reason"; env; } >>/run/guest/notes
plain=${new_ip6_address:+$new_ip6_address/$new_ip6_prefixlen}
case $reason in
    BOUND6 | RENEW6 | REBIND6) [ -z "$plain" ] || ip -6 address replace "$plain" dev "$interface" ;;
    RELEASE6 | EXPIRE6 | STOP6) ip -6 address del "$old_ip6_address/$old_ip6_prefixlen" dev "$interface" ;;
esac
END
chmod 755 script
wait_for() { # WHAT COMMAND...: fail, naming WHAT, unless the command succeeds within a minute
    what=$1 tries=600
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "not in time: $what" >&2; cat notes >&2; exit 1; }
        sleep 0.1
    done
}
has_event() { [ "$(grep -c "^event=$1\$" notes)" -ge "${2:-1}" ]; }
has_link_local() { ip -6 address show dev $ifname scope link -tentative | grep -q fe80; }
echo 0 >/proc/sys/net/ipv6/conf/$ifname/router_solicitation_delay
ip link set $ifname up
wait_for "a link-local address" has_link_local
"""


def need(*programs: str) -> None:
    """Skip the test unless all *programs* are there."""
    for name in programs:
        if shutil.which(name, path=f"{PATH}:/usr/lib/systemd:/lib/systemd") is None:
            pytest.skip(f"{name} is missing: 'make test' installs it")


def run_guest(lab: Lab, script: str, *options: str, user: bool, ifname: str = "h0") -> str:
    """Run a shell script behind `PREPARE` in a new namespace of pasta; give what it prints."""
    text = f"ifname={ifname}\n{PREPARE}\n{script}"
    return lab.run(options, ["sh", "-c", text], user=user, timeout=280).stdout.decode()


def events(notes: str) -> list[dict[str, str]]:
    """Split what the clients' script noted into the variables of each event."""
    found: list[dict[str, str]] = []
    for line in notes.splitlines():
        name, _, value = line.partition("=")
        if name == "event":
            found.append({})
        if found:
            found[-1][name] = value
    return found
