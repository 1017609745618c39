#!/bin/sh
# What dhclient, dhcpcd and udhcpc call at each event: note it in /run/dhcp/log, and set up what
# dhcpcd sets up itself. Nothing outside /run is written.
event=${reason:-$1}
address=${new_ip_address:-$ip}
mask=${new_subnet_mask:-$subnet}
printf '%s|%s|%s|%s|%s|%s|%s|%s|%s\n' "$event" "$address" "$mask" "${new_routers:-$router}" \
    "${new_interface_mtu:-$mtu}" "${new_domain_name_servers:-$dns}" "${new_domain_search:-$search}" \
    "${new_domain_name:-$domain}" "${new_host_name:-$hostname}" >>/run/dhcp/log
case $event in
    PREINIT | deconfig) [ -n "$if_configured" ] || ip link set "$interface" up ;;
    BOUND | RENEW | REBIND | REBOOT | bound | renew)
        # dhcpcd has done it before.
        [ -n "$if_configured" ] || ip address replace "$address/$mask" dev "$interface"
        ;;
esac
exit 0
