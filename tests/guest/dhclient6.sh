#!/bin/sh
# What dhclient -6 runs in a guest: notes what it was told, in /tmp/dhcp6, and sets it up.
[ "$reason" = BOUND6 ] || exit 0
env >/tmp/dhcp6
ip -6 addr add "$new_ip6_address/$new_ip6_prefixlen" dev "$interface"
