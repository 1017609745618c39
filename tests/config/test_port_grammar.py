"""Port specifications: the grammar, and what is said of mistakes."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

import pytest
from hypothesis import given, strategies

from passt.config.port_grammar import PortSpec, parse_spec
from passt.errors import ConfigError


def shown(spec: PortSpec) -> dict[str, object]:
    """Give the fields that are not empty."""
    return {name: value for name in PortSpec.__slots__
            if name != "text" and (value := getattr(spec, name)) not in (None, False, [], {})}


@pytest.mark.parametrize(("text", "fields"), [
    ("none", {"is_none": True}),
    ("all", {"is_all": True}),
    ("auto", {"is_auto": True}),
    # The manual's examples
    ("22", {"ranges": [(22, 22, 22)]}),
    ("22:23", {"ranges": [(22, 22, 23)]}),
    ("22,25", {"ranges": [(22, 22, 22), (25, 25, 25)]}),
    ("22-80", {"ranges": [(22, 80, 22)]}),
    ("22-80:32-90", {"ranges": [(22, 80, 32)]}),
    ("192.0.2.1/22", {"address": ip_address("192.0.2.1"), "ranges": [(22, 22, 22)]}),
    ("192.0.2.1%eth0/22", {"address": ip_address("192.0.2.1"), "ifname": "eth0", "ranges": [(22, 22, 22)]}),
    ("%eth0/22", {"ifname": "eth0", "ranges": [(22, 22, 22)]}),
    ("2000-5000,~3000-3010", {"ranges": [(2000, 5000, 2000)], "excluded": [(3000, 3010)]}),
    ("192.0.2.1/20-30,~25", {"address": ip_address("192.0.2.1"), "ranges": [(20, 30, 20)],
                             "excluded": [(25, 25)]}),
    ("~20000-20010", {"is_all": True, "excluded": [(20000, 20010)]}),
    # What callers write beyond them
    ("8080-8080:80-80", {"ranges": [(8080, 8080, 80)]}),
    ("::1/22", {"address": ip_address("::1"), "ranges": [(22, 22, 22)]}),
    ("[::1]/22", {"address": ip_address("::1"), "ranges": [(22, 22, 22)]}),
    ("[192.0.2.1]%eth0/22", {"address": ip_address("192.0.2.1"), "ifname": "eth0", "ranges": [(22, 22, 22)]}),
    ("fe80::1%eth0/22", {"address": ip_address("fe80::1"), "ifname": "eth0", "ranges": [(22, 22, 22)]}),
    ("192.0.2.1/all", {"address": ip_address("192.0.2.1"), "is_all": True}),
    ("0.0.0.0/1", {"address": ip_address("0.0.0.0"), "ranges": [(1, 1, 1)]}),
    ("*/5000", {"ranges": [(5000, 5000, 5000)]}),
    ("/5000", {"ranges": [(5000, 5000, 5000)]}),
    ("22,auto", {"is_auto": True, "ranges": [(22, 22, 22)]}),
    ("~22,auto", {"is_auto": True, "excluded": [(22, 22)]}),
    ("all,8080:80", {"is_all": True, "ranges": [(8080, 8080, 80)]}),
    ("~25,20-30,~25-26", {"ranges": [(20, 30, 20)], "excluded": [(25, 25), (25, 26)]}),
    ("0080", {"ranges": [(80, 80, 80)]}),
    ("1-65535", {"ranges": [(1, 65535, 1)]}),
    ("[2001:db8::1]%eth0/22", {
        "address": ip_address("2001:db8::1"), "ifname": "eth0", "ranges": [(22, 22, 22)]}),
    # Ports that the kernel chooses, and sockets that are handed over
    ("0:80", {"chosen": [(80, None)]}),
    ("0:80,0:80,5000", {"chosen": [(80, None), (80, None)], "ranges": [(5000, 5000, 5000)]}),
    ("127.0.0.1/0:80", {"address": ip_address("127.0.0.1"), "chosen": [(80, None)]}),
    ("0.0.0.0/0:192.0.2.9/80", {"address": ip_address("0.0.0.0"), "chosen": [(80, ip_address("192.0.2.9"))]}),
    ("::/0:[2001:db8::9]/80", {"address": ip_address("::"), "chosen": [(80, ip_address("2001:db8::9"))]}),
    ("fd:web:80", {"inherited": ("web", 80)}),
    ("fd:my web.socket:8080", {"inherited": ("my web.socket", 8080)}),
    ("fd::1/80", {"address": ip_address("fd::1"), "ranges": [(80, 80, 80)]}),
    ("fd:2::1/80", {"address": ip_address("fd:2::1"), "ranges": [(80, 80, 80)]}),
    # A target address, in brackets or not
    ("0.0.0.0/5000:192.0.2.9/80", {"address": ip_address("0.0.0.0"), "ranges": [(5000, 5000, 80)],
                                   "target_addresses": {5000: ip_address("192.0.2.9")}}),
    ("0.0.0.0/5000-5001:[192.0.2.9]", {"address": ip_address("0.0.0.0"), "ranges": [(5000, 5001, 5000)],
                                       "target_addresses": {5000: ip_address("192.0.2.9")}}),
    ("::1/80-81:2001:db8::9/90-91,70", {
        "address": ip_address("::1"), "ranges": [(80, 81, 90), (70, 70, 70)],
        "target_addresses": {80: ip_address("2001:db8::9")}}),
    ("[::]/80:[2001:db8::9]/90", {"address": ip_address("::"), "ranges": [(80, 80, 90)],
                                  "target_addresses": {80: ip_address("2001:db8::9")}}),
    ("::/all:[2001:db8::9],7", {"address": ip_address("::"), "is_all": True, "ranges": [(7, 7, 7)],
                                "target_addresses": {0: ip_address("2001:db8::9")}}),
])
def test_specification_is_read(text: str, fields: dict[str, object]) -> None:
    assert shown(parse_spec(text)) == fields


PORT = "a port is a number from 1 to 65535"
FORMS = (f"{PORT}; write PORT, FIRST-LAST, PORTS:TARGETS, ~EXCLUDED, 'all', 'auto', with commas between, or"
         " 'none'")
HANDED_OVER = "a socket that is handed over is fd:NAME:PORT, with NAME as in FileDescriptorName= of its unit"
MAPPING = ("a mapping is PORTS:TARGETS, PORTS:ADDRESS or PORTS:ADDRESS/TARGETS; an address to listen on ends"
           " in a slash")
BEFORE = "; before the slash stands an address to bind to, '%' and an interface, or both"


@pytest.mark.parametrize(("text", "place", "right"), [
    ("", "nothing at character 1", FORMS),
    ("x", "'x' (character 1)", FORMS),
    ("22,8x,25", "'8x' (character 4)", FORMS),
    ("22,", "nothing at character 4", FORMS),
    (",22", "nothing at character 1", FORMS),
    ("22,,23", "nothing at character 4", FORMS),
    ("-5", "nothing at character 1", FORMS),
    ("22-", "nothing at character 4", FORMS),
    ("22:", "nothing at character 4", FORMS),
    ("+5", "'+5' (character 1)", FORMS),
    ("0x50", "'0x50' (character 1)", FORMS),
    (" 22", "' 22' (character 1)", FORMS),
    ("None", "'None' (character 1)", FORMS),
    ("\u0662\u0662", "'\u0662\u0662' (character 1)", FORMS),
    ("192.0.2.1/20-30,~x", "'x' (character 18)", FORMS),
    ("0", "'0' (character 1)", PORT),
    ("22,65536", "'65536' (character 4)", PORT),
    ("22:0", "'0' (character 4)", PORT),
    ("9999999999999999999999", "'9999999999999999999999' (character 1)", PORT),
    ("22-23-24", "'22-23-24' (character 1)", "a range is FIRST-LAST"),
    ("22,30-20", "'30-20' (character 4)", "a range begins with the lower port: 20-30"),
    ("1:2:3", "'2:3' (character 3)", f"'2:3' is not an IPv4 or IPv6 address; {MAPPING}"),
    ("0.0.0.0/1:[192.0.2.9", "'[192.0.2.9' (character 11)",
     f"'[192.0.2.9' is not an IPv4 or IPv6 address; {MAPPING}"),
    ("0.0.0.0/1:224.0.0.1/2", "'224.0.0.1' (character 11)",
     f"224.0.0.1 is a multicast address, which cannot be used here; {MAPPING}"),
    ("1:192.0.2.9", "'192.0.2.9' (character 3)",
     "a target address takes an IPv4 address to listen on: 0.0.0.0/PORTS:192.0.2.9"),
    ("::/all:192.0.2.9", "'192.0.2.9' (character 8)",
     "a target address takes an IPv4 address to listen on: 0.0.0.0/PORTS:192.0.2.9"),
    ("0.0.0.0/1-2:192.0.2.9/3", "'1-2:192.0.2.9/3' (character 9)",
     "2 ports cannot go to 1; both ranges have to be of one size"),
    ("0.0.0.0/1:192.0.2.9/", "nothing at character 21", FORMS),
    ("5,20-30:40-51", "'20-30:40-51' (character 3)",
     "11 ports cannot go to 12; both ranges have to be of one size"),
    ("20-30:40", "'20-30:40' (character 1)", "11 ports cannot go to 1; both ranges have to be of one size"),
    ("22,~1:2", "'~1:2' (character 4)", "what is excluded has no target; leave out the colon"),
    ("22,none", "'none' (character 4)", "'none' stands alone"),
    ("eth0/22", "'eth0' (character 1)", "'eth0' is not an IPv4 or IPv6 address" + BEFORE),
    ("224.0.0.1/22", "'224.0.0.1' (character 1)",
     "224.0.0.1 is a multicast address, which cannot be used here" + BEFORE),
    ("192.0.2.1%/22", "nothing at character 11", "'' is not an interface name: it can have 1 to 15 bytes"),
    ("%abcdefghijklmnop/22", "'abcdefghijklmnop' (character 2)",
     "'abcdefghijklmnop' is not an interface name: it can have 1 to 15 bytes"),
    ("0:0", "'0' (character 3)", PORT),
    ("0:", "nothing at character 3", FORMS),
    ("22,0:x", "'x' (character 6)", FORMS),
    ("0-5:80", "'0' (character 1)", PORT),
    ("0:80-81", "'80-81' (character 3)", FORMS),
    ("~0", "'0' (character 2)", PORT),
    ("::/0:192.0.2.9/80", "'192.0.2.9' (character 6)",
     "a target address takes an IPv4 address to listen on: 0.0.0.0/PORTS:192.0.2.9"),
    ("fd:", "nothing at character 4", HANDED_OVER),
    ("fd:web", "'web' (character 4)", HANDED_OVER),
    ("fd::80", "':80' (character 4)", HANDED_OVER),
    ("fd:web:", "nothing at character 8", FORMS),
    ("fd:web:80,81", "'80,81' (character 8)", FORMS),
    ("fd:web:0", "'0' (character 8)", PORT),
    (f"fd:{'x' * 256}:80", f"'{'x' * 256}:80' (character 4)", HANDED_OVER),
    ("fd:w\u00e9b:80", "'w\u00e9b:80' (character 4)", HANDED_OVER),
    ("%eth0", "'%eth0' (character 1)", FORMS),
    ("::1", "'::1' (character 1)", MAPPING),
    ("192.0.2.1/22/23", "'22/23' (character 11)", FORMS),
])
def test_mistake_shows_specification_and_place_and_what_is_right(text: str, place: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(text)
    assert str(caught.value) == f"'{text}': {place}: {right}"


@pytest.mark.parametrize("text", ["0:80", "fd:web:80"])
def test_what_names_no_port_is_for_the_host_and_the_start_alone(text: str) -> None:
    for options in ({"prefix": False}, {"at_start": False}):
        with pytest.raises(ConfigError, match="a port is a number from 1 to 65535"):
            parse_spec(text, **options)


def test_free_port_cannot_follow_a_service() -> None:
    with pytest.raises(ConfigError, match=r"'auto' takes none then; give each an option of its own$"):
        parse_spec("0:80,auto")


def test_port_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^'22,20-30': port 22 is given twice; once is enough$"):
        parse_spec("22,20-30")


def test_what_an_option_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="-T and -U listen on loopback; give ports alone"):
        parse_spec("127.0.0.1/22", prefix=False)
    with pytest.raises(ConfigError, match="only pasta sees which ports are bound inside; give ports"):
        parse_spec("22,auto", auto=False)


@given(strategies.text("0123456789-:,~/%[]*.none all auto", max_size=20))
def test_anything_is_a_specification_or_one_line(text: str) -> None:
    # Any exception but ConfigError is a mistake of ours, and fails the test.
    with contextlib.suppress(ConfigError):
        assert all(1 <= first <= last <= 65535 and 1 <= target <= 65535 - (last - first)
                   for first, last, target in parse_spec(text).ranges)
