"""Each option once, bad values, and options beside each other."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from passt.config.egress_grammar import parse_egress_rule
from passt.config.getopt import ACTIONS, scan
from passt.config.options import OPTIONS
from passt.config.policy_file import parse_policy
from passt.config.settings import build_settings, check_names
from passt.errors import ConfigError
from passt.facts.port_rule import PortRule
from passt.facts.settings import Settings
from passt.light.values import replace


def built(*arguments: str, mode: str = "pasta") -> Settings:
    return build_settings(mode, scan(mode, arguments))[0]


def flat(settings: Settings) -> dict[str, Any]:
    """Fields of all groups of *settings*."""
    groups = [getattr(settings, name) for name in Settings.DEFAULTS]
    return {field: getattr(group, field) for group in groups for field in group.FIELDS}


def warned(*arguments: str) -> list[str]:
    return build_settings("pasta", scan("pasta", arguments))[1]


A4, B4 = IPv4Address("192.0.2.5"), IPv4Address("192.0.2.6")
A6 = IPv6Address("2001:db8::5")
TCP_AUTO, UDP_AUTO = (PortRule(proto, 1, 65535, 1, optional=True, auto=True)
                      for proto in (6, 17))
DEFAULTS: dict[str, Any] = {"port_rules": (TCP_AUTO, UDP_AUTO), "namespace_rules": (TCP_AUTO, UDP_AUTO)}

# One use of each available option (help and version apart) and the fields that it sets.
USES: list[tuple[str, str, dict[str, Any]]] = [
    ("debug", "", {"debug": True, "banner": True}),
    ("trace", "", {"debug": True, "trace": True, "banner": True}),
    ("log-file", "file", {"log_file": "file"}),
    ("log-size", "50000", {"log_size": 50000}),
    ("pcap", "file", {"pcap": "file"}),
    ("control", "/run/control", {"control_path": "/run/control"}),
    ("control", "auto", {"control_path": "auto"}),
    ("stats", "7", {"stats_s": 7}),
    ("quiet", "", {"quiet": True}),
    ("foreground", "", {"foreground": True}),
    ("stderr", "", {}),
    ("chroot-fallback", "", {}),
    ("pid", "file", {"pid_file": "file"}),
    ("ports-file", "file", {"ports_file": "file"}),
    ("conf-path", "/run/conf", {"conf_path": "/run/conf"}),
    ("runas", "1000:100", {"runas": "1000:100"}),
    ("netns", "name", {"netns": "/run/netns/name", "netns_only": True, "foreground": False, "banner": True}),
    ("userns", "/proc/1/ns/user", {"userns": "/proc/1/ns/user"}),
    ("netns-only", "", {"netns_only": True}),
    ("no-netns-quit", "", {"netns_quit": False}),
    ("ipv4-only", "", {"ip6": False}),
    ("ipv6-only", "", {"ip4": False}),
    ("address", "192.0.2.5", {"address4": A4}),
    ("address", "192.0.2.5/26", {"address4": A4, "prefix_len4": 26}),
    ("address", "2001:db8::5", {"address6": A6}),
    ("address", "2001:db8::5/48", {"address6": A6, "prefix_len6": 48}),
    ("netmask", "255.255.0.0", {"prefix_len4": 16}),
    ("gateway", "192.0.2.5", {"gateway4": A4}),
    ("gateway", "2001:db8::5", {"gateway6": A6}),
    ("mtu", "1500", {"mtu": 1500}),
    ("mtu", "0", {"mtu": None}),
    ("mac-addr", "02:00:00:00:00:01", {"our_mac": bytes.fromhex("020000000001")}),
    ("interface", "eth0", {"interface": "eth0"}),
    ("outbound", "192.0.2.5", {"outbound4": A4}),
    ("outbound", "2001:db8::5", {"outbound6": A6}),
    ("outbound-if4", "eth0", {"outbound_if4": "eth0"}),
    ("outbound-if6", "eth0", {"outbound_if6": "eth0"}),
    ("map-host-loopback", "192.0.2.5", {"map_host_loopback4": A4}),
    ("map-host-loopback", "2001:db8::5", {"map_host_loopback6": A6}),
    ("map-host-loopback", "none", {"map_gw": False}),
    ("no-map-gw", "", {"map_gw": False}),
    ("map-guest-addr", "192.0.2.5", {"map_guest4": A4}),
    ("map-guest-addr", "2001:db8::5", {"map_guest6": A6}),
    ("map-guest-addr", "none", {}),
    ("no-tcp", "", {"tcp": False, "port_rules": (UDP_AUTO,), "namespace_rules": (UDP_AUTO,)}),
    ("no-udp", "", {"udp": False, "port_rules": (TCP_AUTO,), "namespace_rules": (TCP_AUTO,)}),
    ("no-icmp", "", {"icmp": False}),
    ("no-dhcp", "", {"dhcp": False}),
    ("hostname", "box", {"hostname": "box"}),
    ("fqdn", "box.example.org.", {"fqdn": "box.example.org"}),
    ("dns", "192.0.2.5", {"dns4": (A4,)}),
    ("dns", "127.0.0.1", {"dns4": (IPv4Address("127.0.0.1"),)}),
    ("dns", "2001:db8::5", {"dns6": (A6,)}),
    ("dns", "none", {"dns4": (), "dns6": ()}),
    ("dns-forward", "192.0.2.5", {"dns_forward4": A4}),
    ("dns-forward", "2001:db8::5", {"dns_forward6": A6}),
    ("dns-host", "127.0.0.53", {"dns_host4": IPv4Address("127.0.0.53")}),
    ("dns-host", "2001:db8::5", {"dns_host6": A6}),
    ("dns-cache", "0", {}),
    ("dns-refuse", "refused", {}),
    ("search", "example.org", {"search": ("example.org",)}),
    ("search", " a.example  b.example. a.example", {"search": ("a.example", "b.example")}),
    ("search", "none", {"search": ()}),
    ("search", "none.", {"search": ("none",)}),
    ("dhcp-dns", "", {"hand_out_dns": True}),
    ("dhcp-search", "", {"hand_out_search": True}),
    ("no-dhcp-dns", "", {"hand_out_dns": False}),
    ("no-dhcp-search", "", {"hand_out_search": False}),
    ("no-ndp", "", {"ndp": False}),
    ("no-ra", "", {"router_advertisements": False}),
    ("no-dhcpv6", "", {"dhcpv6": False}),
    ("tcp-ports", "none", {"port_rules": (UDP_AUTO,)}),
    ("tcp-ports", "80", {"port_rules": (PortRule(6, 80, 80, 80, spec="-t 80"),
                                        PortRule(17, 80, 80, 80, optional=True), UDP_AUTO)}),
    ("udp-ports", "53", {"port_rules": (TCP_AUTO, PortRule(17, 53, 53, 53, spec="-u 53"))}),
    ("tcp-ns", "none", {"namespace_rules": (UDP_AUTO,)}),
    ("udp-ns", "22:23", {"namespace_rules": (TCP_AUTO, PortRule(17, 22, 22, 23, spec="-U 22:23"))}),
    ("freebind", "", {"freebind": True}),
    ("follow", "", {"must_follow": True}),
    ("no-follow", "", {"follow": False}),
    ("wait-online", "30", {"wait_online_s": 30}),
    ("wait-online", "0", {"wait_online_s": 0}),
    ("no-splice", "", {"splice": False}),
    ("splice-only", "", {"splice_only": True, "host_lo_to_ns_lo": True, "follow": False}),
    ("host-lo-to-ns-lo", "", {"host_lo_to_ns_lo": True}),
    ("config-net", "", {"config_net": True}),
    ("ns-ifname", "net0", {"ns_ifname": "net0"}),
    ("ns-mac-addr", "02:00:00:00:00:01", {"ns_mac": bytes.fromhex("020000000001")}),
    ("ns-mac-addr", "00:00:00:00:00:00", {}),
    ("no-copy-routes", "", {"copy_routes": False}),
    ("no-copy-addrs", "", {"copy_addresses": False}),
    ("socket", "/run/a.socket", {"socket_path": "/run/a.socket"}),
    ("fd", "7", {"fd": 7, "one_off": True}),
    ("fd", "0", {"fd": 0, "one_off": True}),
    ("one-off", "", {"one_off": True}),
    ("vhost-user", "", {"vhost_user": True}),
    ("allow", "192.0.2.5", {"allowed": (parse_egress_rule("192.0.2.5", allows=True),)}),
    ("deny", "private", {"denied": (parse_egress_rule("private", allows=False),)}),
    ("policy", "/etc/a.toml", {"policy_file": "/etc/a.toml"}),
    ("learn", "/etc/b.toml", {"learn_file": "/etc/b.toml"}),
    ("verify-names", "", {"verify_names": True}),
    ("allow-from", "192.0.2.5", {"allow_from": ((A4.packed, 32),)}),
    ("allow-from", "2001:db8::/32", {"allow_from": ((IPv6Address("2001:db8::").packed, 32),)}),
]


def test_every_available_option_has_a_use_here() -> None:
    # The first two need another option; `test_last_of_several_uses_counts` has them. So does the third.
    used = {name for name, _, _ in USES} | {*ACTIONS} | {"dns-route", "dns-hosts", "nat64-prefix"}
    assert used == {option.name for option in OPTIONS if option.available}


@pytest.mark.parametrize(("name", "value", "fields"), USES)
def test_option_sets_its_fields_and_no_others(name: str, value: str, fields: dict[str, Any]) -> None:
    # The two --no-copy options need --config-net beside them, --verify-names rules.
    context = ["--config-net"] if name.startswith("no-copy") else []
    context += ["--policy", "/etc/a.toml"] if name == "verify-names" else []
    option = next(option for option in OPTIONS if option.name == name)
    mode = option.modes[-1]
    base: dict[str, Any] = {"config_net": "--config-net" in context, "follow": True}
    if name == "verify-names":
        base |= {"policy_file": "/etc/a.toml"}
    if mode == "pasta":
        base |= {"foreground": True, "banner": False, **DEFAULTS}
    long = [f"--{name}={value}"] if option.implied else [f"--{name}", value] if value else [f"--{name}"]
    for arguments in (long, [f"-{option.short}{value}"]):
        if option.short or arguments[0].startswith("--"):
            settings = built(*context, *arguments, mode=mode)
            assert (settings.mode, flat(settings)) == (mode, flat(Settings(mode)) | base | fields)


def test_no_two_groups_have_a_field_of_the_same_name() -> None:
    groups = list(Settings.DEFAULTS.values())
    assert len(flat(Settings("pasta"))) == sum(len(group.FIELDS) for group in groups)


BAD_VALUES = {
    "pid": [""], "ports-file": [""], "conf-path": ["", "x" * 108],
    "log-file": [""], "log-size": ["", "40959", "x", "1000000x", "-1", "0x100000"], "pcap": [""],
    "control": ["", "/" + "x" * 200],
    "stats": ["0", "1.5", "", "86401"],
    "wait-online": ["-1", "1.5", "", "86401", "ever"],
    "runas": ["", ":1", "1:", "a:b:c", "4294967295", "1:99999999999"], "netns": ["", ".."],
    "userns": [""],
    "address": ["", "127.0.0.1", "eth0"], "netmask": ["24x", "255.0.255.0"], "gateway": ["224.0.0.1", "::1"],
    "mtu": ["abc", "1", "70000"], "mac-addr": ["9a:55", "00:00:00:00:00:00"], "interface": ["", "a/b"],
    "outbound": ["0.0.0.0", "x"], "outbound-if4": ["x" * 16], "outbound-if6": [""],
    "map-host-loopback": ["127.0.0.1", "nil"], "map-guest-addr": ["::", "all"], "tcp-ports": ["x", "22-"],
    "udp-ports": ["0", "1:2-3"], "tcp-ns": ["::1/22", "~1-65535"], "udp-ns": ["%lo/22", ""],
    "ns-ifname": ["lo", "a%d"],
    "ns-mac-addr": ["x", "01:00:00:00:00:00"], "hostname": ["", "a b", "x" * 64, "."],
    "fqdn": ["a..b", "b\u00fccher.example", ".".join(["x" * 49] * 6)],
    "dns": ["", "dns.example", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "::ffff:1.1.1.1"],
    "dns-forward": ["127.0.0.1", "::1", "none"], "dns-host": ["::", "255.255.255.255", "none"],
    "dns-cache": ["", "-1", "100001", "x"],
    "dns-refuse": ["", "servfail", "NXDOMAIN"],
    "dns-route": ["", "a", "a=", "=192.0.2.5", "a b=192.0.2.5", "a=0.0.0.0"],
    "dns-hosts": ["", "a", "a=", "=192.0.2.5", ".=192.0.2.5", "a=host"],
    "search": ["", "a..b", "x" * 64, "."],
    "socket": ["", "/run/" + "x" * 103], "fd": ["", "x", "-1", "2147483648", "3x"],
    "allow": ["", "x", "192.0.2.5/24", "192.0.2.5:0"], "deny": ["", "icmp:private:80"],
    "policy": [""],
    "learn": [""],
    "nat64-prefix": ["", "x", "192.0.2.0/24", "2001:db8::", "2001:db8::/80", "2001:db8::1/96",
                     "2001:db8:0:0:100::/96"],
    "allow-from": ["", "x", "private", "192.0.2.5:80", "192.0.2.5/24", "::ffff:192.0.2.5"],
}


def test_every_option_with_an_argument_has_bad_values_here() -> None:
    assert set(BAD_VALUES) == {option.name for option in OPTIONS if option.available and option.argument}


@pytest.mark.parametrize(("name", "value"),
                         [(name, value) for name in BAD_VALUES for value in BAD_VALUES[name]])
def test_bad_value_is_refused_with_option_and_value(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(f"--{name}={value}", mode=next(option for option in OPTIONS if option.name == name).modes[-1])
    message = str(caught.value)
    assert message.startswith(f"option '--{name}': ")
    assert value in message
    assert "\n" not in message


@pytest.mark.parametrize(("arguments", "fields"), [
    (["-m", "1500", "-m", "1400"], {"mtu": 1400}),
    (["-m", "1500", "-m", "0"], {"mtu": None}),
    (["-4", "-6"], {"ip4": False, "ip6": True}),
    (["-6", "-4"], {"ip4": True, "ip6": False}),
    (["-d", "-q"], {"debug": False, "quiet": True}),
    (["--trace", "-q"], {"debug": False, "trace": False, "quiet": True}),
    (["-q", "--trace"], {"debug": True, "trace": True, "quiet": False}),
    (["-l", "a", "-l", "b"], {"log_file": "b"}),
    (["-p", "a", "-p", "b"], {"pcap": "b"}),
    (["-q", "-d"], {"debug": True, "quiet": False}),
    (["-a", "192.0.2.5", "-a", "2001:db8::5", "-a", "192.0.2.6"], {"address4": B4, "address6": A6}),
    (["-a", "192.0.2.5/24", "-a", "192.0.2.6"], {"address4": B4, "prefix_len4": None}),
    (["-a", "192.0.2.5/24", "-a", "192.0.2.6", "-n", "25"], {"address4": B4, "prefix_len4": 25}),
    (["-n", "24", "-n", "0"], {"prefix_len4": None}),
    (["-D", "192.0.2.5", "-D", "2001:db8::5", "-D", "192.0.2.6"], {"dns4": (A4, B4), "dns6": (A6,)}),
    (["-D", "192.0.2.5", "--dns-forward", "192.0.2.6", "--dns-host", "192.0.2.6", "-D", "none"],
     {"dns4": (), "dns6": (), "dns_forward4": None, "dns_host4": None}),
    (["-D", "none", "-D", "192.0.2.5", "--dns-forward", "192.0.2.6"],
     {"dns4": (A4,), "dns6": (), "dns_forward4": B4}),
    (["--dns-forward", "192.0.2.5", "--dns-forward", "2001:db8::5", "--dns-forward", "192.0.2.6"],
     {"dns_forward4": B4, "dns_forward6": A6}),
    (["--dns-forward", "192.0.2.5", "--dns-route", "corp.=192.0.2.5", "--dns-route", ".a.example=2001:db8::5",
      "--dns-route", "corp=192.0.2.5", "--dns-route", ".=192.0.2.6"],
     {"dns_forward4": A4, "dns_routes": (("corp", A4), ("a.example", A6), ("", B4))}),
    (["--dns-forward", "192.0.2.5", "--dns-hosts", "Box.lan=192.0.2.5", "--dns-hosts", "box.lan=2001:db8::5"],
     {"dns_forward4": A4, "dns_hosts": (("box.lan", A4), ("box.lan", A6))}),
    (["--dns-forward", "192.0.2.5", "--dns-cache", "10", "--dns-hosts", "a=192.0.2.5", "-D", "none"],
     {"dns4": (), "dns6": ()}),
    (["--dns-forward", "192.0.2.5", "--dns-cache", "10"], {"dns_forward4": A4, "dns_cache": 10}),
    (["--allow", "192.0.2.5", "--deny", "private", "--allow", "192.0.2.6"],
     {"allowed": (parse_egress_rule("192.0.2.5", allows=True), parse_egress_rule("192.0.2.6", allows=True)),
      "denied": (parse_egress_rule("private", allows=False),)}),
    (["-S", "a.example b.example", "-S", "a.example c.example"],
     {"search": ("a.example", "b.example", "c.example")}),
    (["-S", "a.example", "-S", "none", "-S", "b.example"], {"search": ("b.example",)}),
    (["-S", "a.example", "-S", "none"], {"search": ()}),
    (["--map-host-loopback", "192.0.2.5", "--map-host-loopback", "none"],
     {"map_host_loopback4": None, "map_gw": False}),
    (["--map-host-loopback", "none", "--map-host-loopback", "192.0.2.5"],
     {"map_host_loopback4": A4, "map_gw": False}),
    (["--map-guest-addr", "192.0.2.5", "--map-guest-addr", "none"], {"map_guest4": None}),
    (["--ns-mac-addr", "02:00:00:00:00:01", "--ns-mac-addr", "00:00:00:00:00:00"], {"ns_mac": None}),
    (["--no-map-gw", "--map-host-loopback", "192.0.2.5"], {"map_gw": False, "map_host_loopback4": A4}),
])
def test_last_of_several_uses_counts(arguments: list[str], fields: dict[str, Any]) -> None:
    settings = built(*arguments)
    assert {name: flat(settings)[name] for name in fields} == fields


@pytest.mark.parametrize(("arguments", "fields"), [
    ([], {"socket_path": None, "fd": None, "one_off": False, "foreground": False, "quiet": False}),
    (["-s", "a", "-s", "b"], {"socket_path": "b"}),
    (["-s", "a", "-F", "5"], {"socket_path": None, "fd": 5, "one_off": True}),
    (["-F", "5", "--socket-path", "a"], {"socket_path": "a", "fd": None, "one_off": True}),
    (["-F", "5", "-F", "6"], {"fd": 6}),
    (["-s", "a" * 107], {"socket_path": "a" * 107}),
    (["-1", "-s", "a"], {"one_off": True, "socket_path": "a"}),
    (["--one-off", "--socket", "/run/1-t1-net0.socket", "--interface", "h0", "--address", "203.0.113.2",
      "--netmask", "24", "--tcp-ports", "2222:22,5000-5010", "--udp-ports", "127.0.0.1/6000:6001"],
     {"one_off": True, "socket_path": "/run/1-t1-net0.socket", "interface": "h0", "prefix_len4": 24,
      "address4": IPv4Address("203.0.113.2"), "hand_out_dns": None, "vhost_user": False}),
    (["--vhost-user", "--one-off", "--socket", "/run/1-t1-net0.socket"],
     {"vhost_user": True, "one_off": True, "socket_path": "/run/1-t1-net0.socket"}),
    (["-F", "5", "--vhost-user"], {"fd": 5, "vhost_user": True, "one_off": True}),
])
def test_options_of_passt(arguments: list[str], fields: dict[str, Any]) -> None:
    settings = built(*arguments, mode="passt")
    assert {name: flat(settings)[name] for name in fields} == fields


@pytest.mark.parametrize("arguments", [
    ["-T", "22"], ["-U", "22"], ["--tcp-ns=22"], ["-I", "net0"], ["--config-net"], ["--no-splice"],
    ["--host-lo-to-ns-lo"], ["--dhcp-dns"], ["--dhcp-search"], ["--ns-mac-addr=02:00:00:00:00:01"],
    ["--no-copy-routes"], ["--netns", "x"], ["--userns", "/x"], ["--netns-only"], ["--no-netns-quit"],
])
def test_options_of_pasta_are_refused_in_passt(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"is for pasta only$"):
        built(*arguments, mode="passt")


@pytest.mark.parametrize("arguments", [["-s", "x"], ["-F", "3"], ["-1"], ["--no-dhcp-dns"]])
def test_options_of_passt_are_refused_in_pasta(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"is for passt only$"):
        built(*arguments)


@pytest.mark.parametrize("arguments", [["-t", "auto"], ["-u", "22,auto"]])
def test_bound_ports_of_a_machine_cannot_be_followed(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="auto"):
        built(*arguments, mode="passt")


@pytest.mark.parametrize(("arguments", "fields"), [
    ([], {"pid": None, "command": (), "foreground": True, "quiet": False, "banner": False}),
    (["-d"], {"debug": True, "banner": True, "foreground": True}),
    (["sh", "-c", "x"], {"command": ("sh", "-c", "x"), "pid": None, "banner": False}),
    (["--", "-x"], {"command": ("-x",), "pid": None}),
    (["1", "true"], {"command": ("1", "true"), "pid": None}),
    (["12ab"], {"command": ("12ab",), "pid": None}),
    (["-f", "12"], {"command": (), "pid": 12, "foreground": True, "quiet": False, "banner": True}),
    (["-fq", "12"], {"pid": 12, "quiet": True}),
    (["12"], {"pid": 12, "foreground": False, "quiet": False}),
    (["-P", "one", "--pid=two", "12"], {"pid": 12, "pid_file": "two"}),
    (["--netns", "./x"], {"netns": "./x", "netns_only": True, "userns": None, "foreground": False}),
    (["--netns=a", "--netns", "/b", "--userns", "u"], {"netns": "/b", "netns_only": False, "userns": "u"}),
    (["--netns-only", "--userns", "u", "12"], {"netns_only": False, "userns": "u", "pid": 12}),
    (["--userns", "u", "--netns-only", "12"], {"netns_only": True, "userns": None, "pid": 12}),
    (["--userns", "u", "true"], {"userns": "u", "command": ("true",), "foreground": True}),
])
def test_operands_tell_a_pid_from_a_command(arguments: list[str], fields: dict[str, Any]) -> None:
    settings = built(*arguments)
    assert {name: flat(settings)[name] for name in fields} == fields


@pytest.mark.parametrize(("arguments", "message"), [
    (["--netns", "x", "12"], ("option '--netns' /run/netns/x and '12' cannot be combined: pasta joins"
                               " a namespace, or runs a command in a new one")),
    (["--netns", "/x", "--", "true"], ("option '--netns' /x and 'true' cannot be combined: pasta joins"
                                        " a namespace, or runs a command in a new one")),
    (["-f", "0"], "PID 0 is out of range; it can be 1 to 2147483647"),
    (["-f", "--", "-3"], "PID -3 is out of range; it can be 1 to 2147483647"),
    (["-n", "24", "-a", "192.0.2.5/24"],
     "option '--netmask' is redundant with --address 192.0.2.5/24; give the length in one place"),
    (["-a", "192.0.2.5/24", "-n", "25"],
     "option '--netmask' is redundant with --address 192.0.2.5/24; give the length in one place"),
    (["--stats", "1", "12"],
     ("option '--stats' prints on standard error, which a program in the background does not have; add"
      " --foreground")),
    (["--dns-refuse", "nxdomain"],
     "option '--dns-refuse' nxdomain needs rules by name: --allow, --deny or --policy"),
    (["--dns-refuse", "nxdomain", "--allow", "192.0.2.1"],
     "option '--dns-refuse' nxdomain needs rules by name: --allow, --deny or --policy"),
    (["--no-copy-routes"], "option '--no-copy-routes' needs --config-net; add that or leave it out"),
    (["--no-copy-addrs"], "option '--no-copy-addrs' needs --config-net; add that or leave it out"),
    (["--outbound-if4", "eth0", "-6"], "option '--outbound-if4' eth0 needs IPv4, which -6 disables"),
    (["-4", "--outbound-if6", "eth0"], "option '--outbound-if6' eth0 needs IPv6, which -4 disables"),
    (["-t", "80", "--no-tcp"],
     "option '--tcp-ports' forwards ports ('-t 80'), but --no-tcp disables TCP; leave one of them out"),
    (["-t", "80", "-t", "80"],
     "option '-t' (--tcp-ports): TCP port 80 is covered by '-t 80' already; change or leave out '-t 80'"),
    (["-4", "-t", "::1/80"],
     "option '--tcp-ports': '-t ::1/80' listens on ::1, but -4 disables IPv6; leave one of them out"),
])
def test_options_that_do_not_fit_together_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(*arguments)
    assert str(caught.value) == message


def test_passt_takes_no_operands_and_stays_as_it_was_told() -> None:
    assert built("-t", "none", "--no-follow", mode="passt") == Settings("passt")
    assert built("--no-follow", mode="passt") == Settings("passt")
    with pytest.raises(ConfigError, match="'x' is not an option, and passt takes nothing else"):
        built("x", mode="passt")


def test_deprecated_options_and_a_small_mtu_are_warned_about() -> None:
    assert warned("-q") == []
    assert warned("-e") == ["option '-e' (--stderr) is deprecated and will be removed; leave it out"]
    assert len(warned("--config-net", "--no-copy-routes", "--no-copy-addrs")) == 2
    assert warned("-m", "1279")[0].startswith("MTU 1279 is too small for IPv6, which needs 1280")
    assert warned("-4", "-m", "1279") == []
    assert warned("-m", "1280") == []
    assert warned("-m", "0") == []


WORDS = strategies.one_of(
    strategies.sampled_from([f"--{name}" for option in OPTIONS for name in option.names]),
    strategies.sampled_from([f"-{option.short}" for option in OPTIONS if option.short]),
    strategies.sampled_from(["none", "1", "22", "192.0.2.5/24", "2001:db8::5", "--", "-", "eth0", "-qft80"]),
    strategies.text(max_size=12),
    strategies.text("-=:,~/%.0123456789ab", max_size=12),
)


@settings(max_examples=500)
@given(strategies.lists(WORDS, max_size=6), strategies.sampled_from(["pasta", "passt"]))
def test_any_command_line_gives_settings_or_one_line(arguments: list[str], mode: str) -> None:
    # Any exception but ConfigError is a mistake of ours, and fails the test.
    with contextlib.suppress(ConfigError):
        request = scan(mode, arguments)
        if request.action == "run":
            assert build_settings(mode, request)[0].mode == mode


@pytest.mark.parametrize("inbound", ["-t", "-u"])
def test_loopback_that_leads_round_in_circles_is_refused(inbound: str) -> None:
    outbound = {"-t": "-T", "-u": "-U"}[inbound]
    with pytest.raises(ConfigError, match=f"{inbound} and {outbound} lead port 80 to each other"):
        built("--host-lo-to-ns-lo", inbound, "80", outbound, "80", "-U" if inbound == "-t" else "-T", "none")
    built("--host-lo-to-ns-lo", inbound, "80", outbound, "81")
    built(inbound, "80", outbound, "80")


@pytest.mark.parametrize("other", ["--allow=private", "--deny=private", "--policy=/etc/b.toml"])
def test_learning_allows_all(other: str) -> None:
    with pytest.raises(ConfigError, match=r"'--learn' a\.toml allows all, to see which rules are"):
        built("--learn", "a.toml", other)
    assert built("--learn", "a.toml", "--dns-cache", "10").egress.needs_names


def test_names_are_verified_where_there_are_rules() -> None:
    with pytest.raises(ConfigError, match="'--verify-names' has nothing to do with --learn"):
        built("--verify-names", "--learn", "a.toml")
    with pytest.raises(ConfigError, match="'--verify-names' is about rules by name: add --allow or --policy"):
        built("--verify-names")
    assert built("--verify-names", "--allow", "a.example").egress.rules.verifies
    assert not built("--allow", "a.example").egress.rules.verifies
    # The file says it, or the option.
    asked = built("--policy", "/etc/a.toml").egress
    by_file = parse_policy(b"verify-names = true\nrules = ['allow a.example']")
    assert replace(asked, from_file=by_file).rules.verifies
    assert replace(asked, from_file=replace(by_file, verifies=False), verify_names=True).rules.verifies


@pytest.mark.parametrize("option", [("--dns-refuse", "nxdomain"), ("--dns-cache", "10"),
                                    ("--dns-hosts", "a.example=192.0.2.5")])
def test_file_of_rules_may_bring_the_forwarder(option: tuple[str, str]) -> None:
    """What it says is known when it is read, and what would do nothing is refused then."""
    asked = built("--policy", "/etc/a.toml", *option)
    by_name = parse_policy(b"rules = ['allow a.example']")
    check_names(asked.names, replace(asked.egress, from_file=by_name))
    with pytest.raises(ConfigError, match=option[0]):
        check_names(asked.names, replace(asked.egress, from_file=parse_policy(b"rules = ['deny private']")))
    built("--allow", "private", "--dns-forward", "192.0.2.5", *option)


@pytest.mark.parametrize("option", ["--policy", "--learn"])
def test_second_file_does_not_take_the_place_of_the_first(option: str) -> None:
    with pytest.raises(ConfigError, match=f"^option '{option}': 'b' is a second file, after 'a'; give one$"):
        built(option, "a", option, "b")
    built(option, "a", option, "a")


def test_prefixes_of_nat64_are_for_rules() -> None:
    prefixes = ("2001:db8:64::/96", "2001:db8:65::/64")
    given = [word for prefix in prefixes for word in ("--nat64-prefix", prefix)]
    for other in (("--deny", "private"), ("--allow", "host"), ("--policy", "x"), ("--learn", "x")):
        assert built(*given, *other).egress.nat64_prefixes == (
            (IPv6Address("2001:db8:64::").packed, 96), (IPv6Address("2001:db8:65::").packed, 64))
    with pytest.raises(ConfigError, match="'--nat64-prefix' is about what rules deny: add --deny"):
        built(*given)
    many = [word for n in range(9) for word in ("--nat64-prefix", f"2001:db8:{n}::/96")]
    with pytest.raises(ConfigError, match="'2001:db8:8::/96' is one too many; 8 are the limit"):
        built(*many, "--deny", "host")
    with pytest.raises(ConfigError, match="of which bits 64 to 71 are zero"):
        built("--nat64-prefix", "2001:db8:0:0:100::/96")
    with pytest.raises(ConfigError, match="of IPv6 with a length of 32, 40, 48, 56, 64 or 96, as in"):
        built("--nat64-prefix", "2001:db8::/80")


@pytest.mark.parametrize(("option", "argument"), [
    ("--learn", "FILE"), ("--policy", "FILE"), ("--ports-file", "FILE"), ("--control", "PATH|auto"),
    ("--allow", "RULE"), ("--deny", "RULE"), ("--allow-from", "ADDR[/LEN]"), ("--dns-refuse", "CODE"),
    ("--nat64-prefix", "PREFIX/LEN")])
def test_option_that_stands_where_an_argument_is_to_be_is_refused(option: str, argument: str) -> None:
    for value in ("--", "--config-net", "-d", "-"):
        path = f"; the path is written ./{value}" if argument in {"FILE", "PATH|auto"} else ""
        with pytest.raises(ConfigError) as caught:
            built(option, value)
        then = ", then --" if value == "--" else ""
        assert str(caught.value) == (f"option '{option}': '{value}' stands where {argument} is to be; give"
                                     f" {option} {argument}{then}{path}")
    if path:
        built(option, "./--")


def test_options_of_the_manual_take_whatever_follows_them() -> None:
    """As getopt(3) does."""
    assert built("--log-file", "--").log.log_file == "--"
    assert built("--pcap", "-d").diagnostics.pcap == "-d"


def test_loopback_without_splice_is_refused() -> None:
    for option in ("--host-lo-to-ns-lo", "--splice-only"):
        with pytest.raises(ConfigError, match=f"'{option}' needs the bypass that --no-splice disables"):
            built(option, "--no-splice")


FIXED4 = ("-4", "-a", "192.0.2.5", "-g", "192.0.2.1", "-D", "192.0.2.9", "-S", "none")
FIXED6 = ("-a", "2001:db8::5", "-g", "fe80::1", "-D", "2001:db8::9")


@pytest.mark.parametrize(("arguments", "follows"), [
    ((), True), (("--config-net",), True), (("--no-follow",), False), (("--no-follow", "--follow"), True),
    (FIXED4, False), ((*FIXED4[1:], *FIXED6), False), ((*FIXED4, "--follow"), True),
    (FIXED4[1:], True), (FIXED4[:-2], True), ((*FIXED4[:5], "-S", "none"), True),
    ((*FIXED4[:3], *FIXED4[5:]), True), ((*FIXED4, "--config-net"), True),
    ((*FIXED4, "--config-net", "--no-copy-routes", "--no-copy-addrs"), False),
])
def test_host_is_followed_unless_nothing_is_left_to_it(arguments: tuple[str, ...], follows: bool) -> None:
    addresses = built(*arguments).addresses
    assert addresses.follow is follows
    assert addresses.must_follow is (bool(arguments) and arguments[-1] == "--follow")


def test_following_without_an_interface_is_refused() -> None:
    for arguments in (("--follow", "--splice-only"), ("--splice-only", "--no-follow", "--follow")):
        with pytest.raises(ConfigError, match="'--follow' has nothing to do with --splice-only"):
            built(*arguments)
    assert not built("--splice-only", "--follow", "--no-follow").addresses.follow
    assert not built("--splice-only").addresses.follow
    built("--splice-only", "--wait-online=5")
    assert built("--wait-online").addresses.wait_online_s == 0


@pytest.mark.parametrize("options", [("--conf-path", "--control"), ("--conf-path", "--socket"),
                                     ("--control", "--socket")])
def test_one_file_for_two_sockets_is_refused(options: tuple[str, str]) -> None:
    one, other = options
    with pytest.raises(ConfigError, match=f"^options '{one}' and '{other}' name the same file /run/a: give"):
        built(one, "/run/a", other, "/run/a", mode="passt")
    built(one, "/run/a", other, "/run/b", mode="passt")
    built("--control", "auto", "--conf-path", "auto")     # the latter is a name


def test_rule_that_will_be_two_is_counted_as_such() -> None:
    """Of all ports but some the ephemeral ones are left out: there is a rule below them, and one above."""
    def all_but_odd(n: int) -> str:
        return ",".join(f"~{2 * number + 1}" for number in range(n))

    settings = built("--conf-path", "/run/a", "-t", all_but_odd(254), "-u", "none")
    assert len(settings.forwarding.port_rules) == 254
    with pytest.raises(ConfigError, match="-t and -u make 256 rules, and the protocol of this socket"):
        built("--conf-path", "/run/a", "-t", all_but_odd(255), "-u", "none")


@pytest.mark.parametrize(("servers", "n_warnings"), [
    ("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.1 2001:db8::2", 0),
    ("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4", 1),
])
def test_more_name_servers_than_are_read_give_a_warning(servers: str, n_warnings: int) -> None:
    assert len(warned(*(f"--dns={server}" for server in servers.split()))) == n_warnings


def test_search_list_has_a_limit() -> None:
    names = [f"d{index}.example" for index in range(33)]
    assert built("-S", " ".join(names[:32])).names.search == tuple(names[:32])
    with pytest.raises(ConfigError, match="33 domains"):
        built("-S", " ".join(names[:20]), "-S", " ".join(names[20:]))


@pytest.mark.parametrize(("mode", "option"), [
    ("pasta", "--no-dhcp-dns"), ("pasta", "--no-dhcp-search"), ("passt", "--dhcp-dns"),
    ("passt", "--dhcp-search"),
])
def test_switch_of_the_other_program_is_refused(mode: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"option '{option}' is for"):
        built(option, mode=mode)


@pytest.mark.parametrize(("one", "other"), [
    ("--conf-path", "--socket"), ("--control", "--socket"), ("--conf-path", "--control"),
])
def test_one_path_for_two_sockets_is_refused(one: str, other: str) -> None:
    assert built(one, "/run/one", other, "/run/other", mode="passt")
    with pytest.raises(ConfigError, match=f"'{one}' and '{other}' name the same file /run/x:"):
        built(other, "/run/x", one, "/run/x", mode="passt")
