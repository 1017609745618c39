"""Well-known servers of DNS over HTTPS (RFC 8484): who asks there asks past a forwarder of names.

As their operators publish them, and browsers have them built in. The list cannot be complete: any host may be
such a server. It keeps programs from doing so by default, where a rule opens a suffix or a network.
"""

from __future__ import annotations

from ipaddress import ip_address

DOH_PORT = 443                     # RFC 8484 4.1; the same over QUIC
DOH_NAMES = (
    "dns.google", "dns64.dns.google", "cloudflare-dns.com", "one.one.one.one", "dns.quad9.net",
    "dns9.quad9.net", "dns10.quad9.net", "dns11.quad9.net", "doh.opendns.com", "dns.opendns.com",
    "dns.adguard-dns.com", "dns.adguard.com", "dns.nextdns.io", "doh.cleanbrowsing.org", "doh.dns.sb",
    "dns.mullvad.net", "freedns.controld.com", "dns.alidns.com", "doh.pub", "dns.switch.ch",
    "mozilla.cloudflare-dns.com",
    "chrome.cloudflare-dns.com", "security.cloudflare-dns.com", "family.cloudflare-dns.com",
    "use-application-dns.net",
)
DOH_ADDRESSES = frozenset(ip_address(text).packed for text in (
    # Google
    "8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844", "2001:4860:4860::6464",
    "2001:4860:4860::64",
    # Cloudflare
    "1.1.1.1", "1.0.0.1", "1.1.1.2", "1.0.0.2", "1.1.1.3", "1.0.0.3", "2606:4700:4700::1111",
    "2606:4700:4700::1001", "2606:4700:4700::1112", "2606:4700:4700::1002", "2606:4700:4700::1113",
    "2606:4700:4700::1003", "2606:4700:4700::64", "2606:4700:4700::6400",
    # Quad9
    "9.9.9.9", "149.112.112.112", "9.9.9.10", "149.112.112.10", "9.9.9.11", "149.112.112.11", "2620:fe::fe",
    "2620:fe::9", "2620:fe::10", "2620:fe::fe:10", "2620:fe::11", "2620:fe::fe:11",
    # OpenDNS
    "208.67.222.222", "208.67.220.220", "208.67.222.123", "208.67.220.123", "2620:119:35::35",
    "2620:119:53::53",
    # AdGuard
    "94.140.14.14", "94.140.15.15", "94.140.14.140", "94.140.14.141", "2a10:50c0::ad1:ff",
    "2a10:50c0::ad2:ff",
    # CleanBrowsing, ControlD, NextDNS, Mullvad, DNS.SB, AliDNS, DNSPod, SWITCH
    "185.228.168.9", "185.228.169.9", "185.228.168.168", "185.228.169.168", "76.76.2.0", "76.76.10.0",
    "45.90.28.0", "45.90.30.0", "194.242.2.2", "194.242.2.3", "194.242.2.4", "2a07:e340::2",
    "185.222.222.222", "45.11.45.11", "2a09::", "2a11::", "223.5.5.5", "223.6.6.6", "2400:3200::1",
    "2400:3200:baba::1", "1.12.12.12", "120.53.53.53", "130.59.31.248", "130.59.31.251",
))  # fmt: skip
