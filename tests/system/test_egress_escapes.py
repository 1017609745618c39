"""Ways past rules of egress, tried from inside: each opens something without rules, and nothing with them.

Each attempt is made without any capability, and as root of the namespace; one with raw sockets by root alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.lab import (
    FAR4,
    FAR6,
    HOST4,
    HOST6,
    OUTSIDE4,
    OUTSIDE6,
    Lab,
    Place,
    Running,
    next_line,
)
from tests.system.escapes import GROUP4, GROUP6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = pytest.mark.needs_root

PYTHON = ("/usr/bin/python3", "-I")
NONE = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
ECHO, SINK, MARKER = 8007, 9810, 9811
DOH_BASE = 436                     # of `servers.py`, whose echo is then at 443
# Beside FAR4 and FAR6, which rules may open: what they do not.
BAD4, BAD6 = "198.51.100.2", "2001:db8:2::2"
# What a translator or a tunnel would take to BAD4: NAT64, NAT64 for local use, 6to4, Teredo, ISATAP, NAT64
# with the prefix OWN64 (RFC 6052, 8215, 3056, 4380, 5214).
OWN64 = "2001:db8:64::/96"
TRANSLATED = ("64:ff9b::c633:6402", "64:ff9b:1:c633:64:200::", "2002:c633:6402::1",
              "2001:0:cb00:7109:0:1234:39cc:9bfd", "2001:db8:2::5efe:c633:6402", "2001:db8:64::c633:6402")
FORWARD4, FORWARD6 = "198.51.100.53", "2001:db8:53::53"
FORWARD = ("--dns-forward", FORWARD4, "--dns-forward", FORWARD6)
# The last datagrams of those that go to a sink.
ENDS = (f"say,{FAR4},{MARKER},end", f"say,{FAR6},{MARKER},end")
LOOP4, LOOP6 = "192.0.2.77", "2001:db8:77::77"
# How a refusal by a rule shows: a reset, and ICMP's and ICMPv6's "administratively prohibited" (Linux:
# net/ipv4/icmp.c, icmp_err_convert; net/ipv6/icmp.c, tab_unreach).
PROHIBITED = {4: "EHOSTUNREACH", 6: "EACCES"}
# The words of the second argument are tried without any capability; they and all others by root.
BOTH = """
program=$1 both=$2; shift 2
setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs \\
    /usr/bin/python3 -I "$program" $both && echo -- && /usr/bin/python3 -I "$program" $both "$@"
"""


def start(place: Place, *arguments: str) -> Running:
    """Start a program of the other side that says when it is ready."""
    running = place.spawn([*PYTHON, *arguments])
    assert next_line(running) == "ready"
    return running


@pytest.fixture
def far(lab: Lab) -> Iterator[None]:
    """Give the outside the addresses that no rule opens."""
    addresses = [f"{BAD4}/32", *(f"{each}/128" for each in (BAD6, *TRANSLATED))]
    for address in addresses:
        lab.outside.run(["ip", "addr", "add", address, "dev", "lo"])
    yield
    for address in addresses:
        lab.outside.run(["ip", "addr", "del", address, "dev", "lo"])


@pytest.fixture
def sink(lab: Lab) -> Iterator[Running]:
    """Note on the outside what arrives."""
    running = start(lab.outside, str(lab.directory / "escapes.py"), "sink", str(SINK), str(MARKER))
    yield running
    running.kill()


def attempt(lab: Lab, options: Iterable[str], words: Iterable[str], *, user: bool,
            by_root: Iterable[str] = ()) -> dict[str, str]:
    """Try *words* in one namespace, those *by_root* as root alone; return what came of each."""
    words = list(words)
    result = lab.run(["--config-net", *NONE, *options],
                     ["sh", "-c", BOTH, "sh", str(lab.directory / "escapes.py"), " ".join(words), *by_root],
                     user=user, timeout=280)
    halves = [dict(line.split(" ", 1) for line in half.splitlines())
              for half in result.stdout.decode().split("--\n")]
    assert list(halves[0]) == words, result.stderr
    for word in words:
        assert halves[0][word] == halves[1][word], f"{word}: without capabilities, and by root"
    return halves[1]


def ways(*addresses: str, kinds: str = "tcp udp ping") -> list[str]:
    return [f"{kind},{address}" + (f",{ECHO}" if kind != "ping" else "")
            for address in addresses for kind in kinds.split()]


def outcomes(words: Iterable[str], opened: Iterable[str]) -> dict[str, str]:
    """Say what comes of each word where *opened* are open, and nothing else is."""
    opened = set(opened)

    def outcome(word: str) -> str:
        kind, address = word.split(",")[:2]
        refused = "ECONNREFUSED" if kind == "tcp" else PROHIBITED[6 if ":" in address else 4]
        return "open" if word in opened else refused

    return {word: outcome(word) for word in words}


def arrived(running: Running) -> list[str]:
    """Return what came to the sink before the ends, of each family one: these do not wait for each other."""
    lines, n_ends = [], 0
    while n_ends < len(ENDS):
        line = next_line(running)
        if line.endswith(" end"):
            n_ends += 1
        else:
            lines.append(line)
    return lines


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize(("rules", "opened"), [
    ((), ways(FAR4, BAD4, FAR6, BAD6)),
    (("--allow", FAR4), ways(FAR4)),                        # IPv6, where all rules are of IPv4
    (("--allow", f"tcp:{FAR4}:{ECHO}", "--allow", f"tcp:[{FAR6}]:{ECHO}"), ways(FAR4, FAR6, kinds="tcp")),
    (("--allow", f"udp:{FAR4}", "--allow", f"icmp:{FAR6}"),
     [*ways(FAR4, kinds="udp"), *ways(FAR6, kinds="ping")]),
    (("--allow", "198.51.100.0/24", "--allow", "::/0", "--deny", BAD4, "--deny", BAD6), ways(FAR4, FAR6)),
])
def test_literal_address_protocol_or_family_that_no_rule_opens(lab: Lab, user: bool, rules: tuple[str, ...],
                                                               opened: list[str]) -> None:
    words = ways(FAR4, BAD4, FAR6, BAD6)
    assert attempt(lab, rules, words, user=user) == outcomes(words, opened)


@pytest.mark.usefixtures("far")
def test_denied_address_within_an_ipv6_address(lab: Lab, user: bool) -> None:
    """An IPv4-mapped destination is IPv4 to the guest's kernel; as a frame it is tried below."""
    words = ways(*TRANSLATED, kinds="tcp udp")
    mapped = f"tcp,::ffff:{BAD4},{ECHO}"
    assert attempt(lab, (), [*words, mapped], user=user) == outcomes([*words, mapped], [*words, mapped])
    rules = ("--allow", "::/0", "--allow", "0.0.0.0/0", "--deny", BAD4, "--nat64-prefix", OWN64)
    assert attempt(lab, rules, [*words, mapped], user=user) == outcomes([*words, mapped], [])


@pytest.mark.usefixtures("far")
def test_fragments_source_routes_and_mapped_frames(lab: Lab, user: bool, sink: Running) -> None:
    raw = [*(f"pieces,{address},{SINK},pieces" for address in (BAD4, BAD6)),
           *(f"overlap,{address},{MARKER},{SINK},overlap" for address in (FAR4, FAR6)),
           f"by,{BAD4},{SINK},{FAR4},route4", f"by,{BAD6},{SINK},{FAR6},route6",
           f"mapped,{BAD4},{SINK},mapped", *ENDS]
    found = attempt(lab, (), (), user=user, by_root=raw)
    assert set(found.values()) == {"sent"}
    lines = arrived(sink)
    # Where nothing is forbidden, fragments come; where a frame says two things, or one of another family, not
    # even then; and a source route leads nowhere but to its first station.
    assert {f"{address} {SINK} pieces" for address in (BAD4, BAD6)} <= set(lines)
    assert not [line for line in lines if "overlap" in line and f" {SINK} " in line]
    assert not [line for line in lines if line.startswith((BAD4, BAD6)) and "pieces" not in line]
    rules = ("--allow", f"{FAR4}:{MARKER}", "--allow", f"[{FAR6}]:{MARKER}")
    assert set(attempt(lab, rules, (), user=user, by_root=raw).values()) == {"sent"}
    assert not [line for line in arrived(sink) if f" {SINK} " in line or line.startswith((BAD4, BAD6))]


def test_bypass(lab: Lab, user: bool) -> None:
    running = start(lab.host, str(lab.directory / "escapes.py"), "sink", str(SINK), str(MARKER))
    try:
        tcp = ways("127.0.0.1", "::1", kinds="tcp")
        said = [*(f"say,{address},{SINK},bypass" for address in ("127.0.0.1", "::1")),
                *(f"say,{address},{MARKER},end" for address in ("127.0.0.1", "::1"))]
        options = ("-T", str(ECHO), "-U", f"{SINK},{MARKER}")
        found = attempt(lab, options, tcp, user=user, by_root=said)
        assert found == {**outcomes(tcp, tcp), **dict.fromkeys(said, "sent")}
        assert set(arrived(running)) == {f"{address} {SINK} bypass" for address in ("127.0.0.1", "::1")}
        for rules in (("--deny", f"tcp:host:{ECHO}", "--deny", f"udp:host:{SINK}"),
                      ("--allow", FAR4, "--allow", f"udp:127.0.0.1:{MARKER}",
                       "--allow", f"udp:[::1]:{MARKER}")):
            found = attempt(lab, (*options, *rules), tcp, user=user, by_root=said)
            # The connection is made in the namespace, and ended when the rule is known.
            assert {found[word] for word in tcp} <= {"ECONNREFUSED", "ECONNRESET", "EPIPE", "ended"}
            assert arrived(running) == []
    finally:
        running.kill()


def test_what_means_the_host(lab: Lab, user: bool) -> None:
    """The gateway and --map-host-loopback, with rules that have these addresses literally."""
    loops = ("--map-host-loopback", LOOP4, "--map-host-loopback", LOOP6)
    for options, addresses in (((), (OUTSIDE4, OUTSIDE6)), (loops, (LOOP4, LOOP6))):
        words = ways(*addresses, kinds="tcp udp")
        assert attempt(lab, options, words, user=user) == outcomes(words, words)
        literal = [word for address in addresses for word in ("--allow", address)]
        assert attempt(lab, (*options, *literal), words, user=user) == outcomes(words, [])
        every = ("--allow", "0.0.0.0/0", "--allow", "::/0", "--deny", "host")
        assert attempt(lab, (*options, *every), words, user=user) == outcomes(words, [])


def test_groups(lab: Lab, user: bool, sink: Running) -> None:
    words = [f"say,{GROUP4},{SINK},group", f"say,{GROUP6},{SINK},group"]
    assert set(attempt(lab, (), words, user=user, by_root=ENDS).values()) == {"sent"}
    assert set(arrived(sink)) == {f"{group} {SINK} group" for group in (GROUP4, GROUP6)}
    for rules in (("--allow", FAR4, "--allow", FAR6), ("--deny", "multicast")):
        found = attempt(lab, rules, words, user=user, by_root=ENDS)
        assert set(found.values()) == {"sent"}
        assert arrived(sink) == []


# Names


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize(("server", "good", "bad"), [(FORWARD4, FAR4, BAD4), (FORWARD6, FAR6, BAD6)])
def test_address_that_nobody_asked_for_here(lab: Lab, user: bool, server: str, good: str, bad: str,
                                            name_server: Callable[[str, str], Running]) -> None:
    """One that is remembered from elsewhere is as good as a literal one, until its name is asked for."""
    kind = "AAAA" if ":" in good else "A"
    name_server("good", good)
    rules = (*FORWARD, "--allow", f"tcp:www.good.test:{ECHO}")
    words = ways(good, bad)
    assert attempt(lab, rules, words, user=user) == outcomes(words, [])
    asked = f"ask,{server},www.good.test,{kind},udp"
    assert attempt(lab, rules, [asked, *words], user=user) == {
        asked: f"NOERROR {good}", **outcomes(words, ways(good, kinds="tcp"))}


def test_other_resolvers(lab: Lab, user: bool) -> None:
    """DNS over UDP and TCP at the host's servers, and over TLS there and at ours, whatever is open."""
    asked = [f"ask,{server},www.lab.example,A,{way}" for server in (FAR4, FAR6) for way in ("udp", "tcp")]
    ours = [f"ask,{server},www.lab.example,A,{way}" for server in (FORWARD4, FORWARD6)
            for way in ("udp", "tcp")]
    over_tls = [f"tcp,{server},853" for server in (FAR4, FAR6, FORWARD4, FORWARD6)]
    free = attempt(lab, FORWARD, [*asked, *ours], user=user)
    assert free == dict.fromkeys([*asked, *ours], "NOERROR 192.0.2.80")
    rules = ("--allow", "www.lab.example", "--allow", "0.0.0.0/0", "--allow", "::/0")
    found = attempt(lab, (*FORWARD, *rules), [*asked, *ours, *over_tls], user=user)
    assert {word: found[word] for word in ours} == dict.fromkeys(ours, "NOERROR 192.0.2.80")
    assert {found[word] for word in asked} == {"ECONNREFUSED", *PROHIBITED.values()}
    assert {found[word] for word in over_tls} == {"ECONNREFUSED"}


def test_names_tell_nobody_anything(lab: Lab, user: bool,
                                    name_server: Callable[[str, str], Running]) -> None:
    """A tunnel in names beside and below those that are allowed, of any type; servers of DNS over HTTPS."""
    server = name_server("tells", FAR4)
    doors = ((FORWARD4, "udp"), (FORWARD6, "tcp"))
    questions = [f"ask,{address},{name},{kind},{way}" for address, way in doors
                 for name, kind in (("c2VjcmV0.tunnel.test", "TXT"), ("c2VjcmV0.www.good.test", "A"),
                                    ("good.test", "AAAA"), ("dns.google", "A"), ("x.dns.google", "HTTPS"))]
    end = f"ask,{FORWARD4},www.good.test,A,udp"
    found = attempt(lab, FORWARD, [*questions, end], user=user)
    assert {answer.split()[0] for answer in found.values()} == {"NOERROR"}
    names = {word.split(",")[2] for word in questions}
    told = [next_line(server) for _ in range(2 * (len(questions) + 1))]
    assert set(told) == {*names, "www.good.test"}
    rules = ("--allow", "www.good.test", "--allow", "*.google")
    found = attempt(lab, (*FORWARD, *rules), [*questions, end], user=user)
    allowed = {f"ask,{address},x.dns.google,HTTPS,{way}" for address, way in doors}
    # No rule is about these but the last, whose hints and keys are kept from the guest.
    assert {word: found[word] for word in questions} == {
        word: "NOERROR" if word in allowed else "REFUSED" for word in questions}
    assert [next_line(server) for _ in range(2)] == ["www.good.test"] * 2


def test_alias_to_a_denied_name(lab: Lab, user: bool, name_server: Callable[[str, str], Running]) -> None:
    name_server("alias", FAR4)
    words = [f"ask,{FORWARD4},www.good.test,A,udp", *ways(FAR4, kinds="tcp")]
    rules = (*FORWARD, "--allow", "www.good.test")
    assert list(attempt(lab, rules, words, user=user).values()) == [f"NOERROR {FAR4}", "open"]
    denied = (*rules, "--deny", "cdn.test")
    assert list(attempt(lab, denied, words, user=user).values()) == ["REFUSED", "ECONNREFUSED"]


def test_names_that_are_spelled_otherwise(lab: Lab, user: bool,
                                         name_server: Callable[[str, str], Running]) -> None:
    """Upper case, a dot or a zero within a label, other bytes than ASCII's, names of 255 bytes."""
    name_server("good", FAR4)
    longest = ".".join([*["x" * 63] * 3, "y" * 52, "sub.test"])
    assert len(longest) + 2 == 255

    def ask(*names: str) -> list[str]:
        return [f"ask,{FORWARD4},{name},A,udp" for name in names]

    same = ask("www.good.test", "WwW.gOOd.TEST", "x.sub.test", "X.SUB.test", longest)
    others = ask("www%2Egood.test", "www.good%2Etest", "x%2Esub.test", "www.good.test%00", "%00www.good.test",
                 "b%C3%BCcher.test", longest.replace("sub", "tub"))
    free = attempt(lab, FORWARD, [*same, *others], user=user)
    assert set(free.values()) == {f"NOERROR {FAR4}"}
    names = ("www.good.test", "*.sub.test", "xn--bcher-kva.test")
    rules = [word for name in names for word in ("--allow", name)]
    found = attempt(lab, (*FORWARD, *rules), [*same, *others], user=user)
    assert found == {**dict.fromkeys(same, f"NOERROR {FAR4}"),
                     **dict.fromkeys(others, "REFUSED")}
    rules = [word for name in names for word in ("--deny", name)]
    assert set(attempt(lab, (*FORWARD, *rules), same, user=user).values()) == {"REFUSED"}


def test_dns_over_https_by_address(lab: Lab, user: bool) -> None:
    """However wide the rules about networks are: with rules by name such a server takes a rule of its own."""
    servers = ("8.8.8.8", "2001:4860:4860::8888")
    running = start(lab.outside, str(lab.directory / "servers.py"), str(DOH_BASE))
    for address in servers:
        lab.outside.run(["ip", "addr", "add", address, "dev", "lo"])
    try:
        words = [f"tcp,{address},443" for address in servers]
        wide = ("--allow", "0.0.0.0/0", "--allow", "::/0")
        assert attempt(lab, (*FORWARD, *wide), words, user=user) == outcomes(words, words)
        named = (*FORWARD, *wide, "--allow", "www.good.test")
        assert attempt(lab, named, words, user=user) == outcomes(words, [])
        assert attempt(lab, (*named, "--allow", "8.8.8.8"), words, user=user) == outcomes(words, words[:1])
    finally:
        running.kill()
        for address in servers:
            lab.outside.run(["ip", "addr", "del", address, "dev", "lo"])


@pytest.mark.parametrize("address", [
    "127.0.0.1", "0.0.0.0", OUTSIDE4, HOST4, "10.0.0.1", "169.254.169.254", "::1", "::", OUTSIDE6, HOST6,
    "fd00:ec2::254", "fe80::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1",
])
def test_name_that_leads_to_this_host_or_its_networks(lab: Lab, user: bool, address: str,
                                                      name_server: Callable[[str, str], Running]) -> None:
    """The gateway means the host's loopback."""
    name_server("good", address)
    asked = f"ask,{FORWARD4},www.good.test,{'AAAA' if ':' in address else 'A'},udp"
    words = ways(OUTSIDE4, OUTSIDE6, kinds="tcp")
    assert attempt(lab, FORWARD, [asked, *words], user=user)[asked].startswith("NOERROR ")
    found = attempt(lab, (*FORWARD, "--allow", "www.good.test"), [asked, *words], user=user)
    assert found == {asked: "REFUSED", **outcomes(words, [])}


def test_second_name_at_one_address(lab: Lab, user: bool,
                                    name_server: Callable[[str, str], Running]) -> None:
    """The other name has no answer; the address is open once the first is asked for, as the docs say."""
    name_server("good", FAR4)
    rules = (*FORWARD, "--allow", "www.good.test")
    other, first = (f"ask,{FORWARD4},{name},A,udp" for name in ("www.evil.test", "www.good.test"))
    word = f"tcp,{FAR4},{ECHO}"
    assert attempt(lab, rules, [other, word], user=user) == {other: "REFUSED", word: "ECONNREFUSED"}
    assert attempt(lab, rules, [other, first, word], user=user) == {
        other: "REFUSED", first: f"NOERROR {FAR4}", word: "open"}
