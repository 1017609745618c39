#!/bin/sh
# What udhcpc runs in a guest: notes what it was told, in /tmp/dhcp4, and sets it up.
[ "$1" = bound ] || exit 0
env >/tmp/dhcp4
ip addr add "$ip/$mask" dev "$interface"
ip link set "$interface" mtu "$mtu"
ip route add default via "$router"
for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
echo "search $search" >>/etc/resolv.conf
