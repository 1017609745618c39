"""Rules of egress as text: the grammar, and what is said of mistakes."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.config.egress_grammar import parse_egress_rule
from passt.errors import ConfigError
from passt.facts.egress import MAX_PORT_RANGES, WORDS, EgressRule


def network(text: str) -> tuple[bytes, int]:
    literal, _, length = text.partition("/")
    return ip_address(literal).packed, int(length)


GOOD = [
    ("192.0.2.5", "192.0.2.5/32", "", ()),
    ("192.0.2.5:22", "192.0.2.5/32", "", ((22, 22),)),
    ("192.0.2.0/24:22,80,8000-8010", "192.0.2.0/24", "", ((22, 22), (80, 80), (8000, 8010))),
    ("0.0.0.0/0", "0.0.0.0/0", "", ()),
    ("tcp:192.0.2.5", "192.0.2.5/32", "tcp", ()),
    ("udp:192.0.2.5:53", "192.0.2.5/32", "udp", ((53, 53),)),
    ("icmp:198.51.100.7", "198.51.100.7/32", "icmp", ()),
    ("2001:db8::5", "2001:db8::5/128", "", ()),
    ("2001:DB8::/32", "2001:db8::/32", "", ()),
    # Without brackets it is all address.
    ("2001:db8::5:443", "2001:db8::5:443/128", "", ()),
    ("[2001:db8::5]:443", "2001:db8::5/128", "", ((443, 443),)),
    ("[2001:db8::5]", "2001:db8::5/128", "", ()),
    ("udp:[2001:db8::/32]:1-65535", "2001:db8::/32", "udp", ((1, 65535),)),
    ("[2001:db8::]/32:443", "2001:db8::/32", "", ((443, 443),)),
    ("::/0", "::/0", "", ()),
    ("64:ff9b::192.0.2.5", "64:ff9b::192.0.2.5/128", "", ()),
    ("64:0:0:0:0:0:192.0.2.5", "64::192.0.2.5/128", "", ()),
    ("::192.0.2.5", "::192.0.2.5/128", "", ()),
    ("tcp:[64:ff9b::192.0.2.5]:80", "64:ff9b::192.0.2.5/128", "tcp", ((80, 80),)),
]


@pytest.mark.parametrize(("text", "where", "protocol", "ports"), GOOD)
@pytest.mark.parametrize("allows", [True, False])
def test_text_makes_a_rule(text: str, where: str, protocol: str, ports: tuple[tuple[int, int], ...],
                           allows: bool) -> None:
    wanted = EgressRule(allows, (network(where),), "", protocol, ports, text)
    assert parse_egress_rule(text, allows=allows) == wanted
    assert wanted.text == f"{'allow' if allows else 'deny'} {text}"


@pytest.mark.parametrize(("text", "name", "is_suffix", "ports"), [
    ("pypi.org", "pypi.org", False, ()),
    ("PyPI.org.", "pypi.org", False, ()),
    ("*.PythonHosted.org:443", "pythonhosted.org", True, ((443, 443),)),
    ("tcp:x_y-1.example:80,443", "x_y-1.example", False, ((80, 80), (443, 443))),
    ("localhost.", "localhost", False, ()),
    ("host.", "host", False, ()),
    ("*.lan.", "lan", True, ()),
    ("*.lan", "lan", True, ()),
    ("1.2.example", "1.2.example", False, ()),
])
def test_name_makes_a_rule(text: str, name: str, is_suffix: bool, ports: tuple[tuple[int, int], ...]) -> None:
    rule = parse_egress_rule(text, allows=True)
    assert (rule.name, rule.is_suffix, rule.ports) == (name, is_suffix, ports)
    assert (rule.networks, rule.word) == ((), "")


@pytest.mark.parametrize("word", WORDS)
def test_word_stands_for_networks(word: str) -> None:
    rule = parse_egress_rule(f"tcp:{word}:80", allows=False)
    assert rule == EgressRule(False, WORDS[word], word, "tcp", ((80, 80),), f"tcp:{word}:80")


@pytest.mark.parametrize(("text", "said"), [
    ("", "no destination"),
    ("tcp:", "no destination"),
    (":443", "no destination"),
    ("192.0.2.1.", "'192.0.2.1.' is not an IPv4 or IPv6 address"),
    ("x", "the name is written 'x.'"),
    ("x", "nor one of the words private"),
    ("prvate", "did you mean private? The name is written 'prvate.'"),
    ("Private:80", "did you mean private?"),
    ("metadta", "did you mean metadata?"),
    ("linklocal", "did you mean link-local?"),
    ("DNS", "did you mean dns?"),
    ("hots", "did you mean host?"),
    ("*", "all addresses are 0.0.0.0/0 and ::/0"),
    ("tcp:any:443", "all addresses are 0.0.0.0/0 and ::/0"),
    ("localhost", "127.0.0.1 and ::1 are two; the name is written 'localhost.'"),
    ("443", "give 0.0.0.0/0:443 and [::/0]:443"),
    ("udp:53", "give 0.0.0.0/0:53 and [::/0]:53"),
    ("https://x.example/a", "is a URL; rules know hosts and ports: give x.example:443"),
    ("http://u@x.example:8080", "give x.example:8080"),
    ("ssh://x.example", "give x.example"),
    ("x.example/a:443", "rules know no paths: give x.example"),
    ("x.example,y.example:443", "more than one destination"),
    ("host,private:80", "more than one destination"),
    ("192.0.2.5 192.0.2.6", "more than one destination"),
    ("192.0.2.5:x.example", "more than one destination"),
    ("x.example:tcp:443", "not its parts in order"),
    ("192.0.2.5:443:tcp", "not its parts in order"),
    ("443:x.example", "not its parts in order"),
    ("192.0.2.5:443/tcp", "give tcp:192.0.2.5:443"),
    ("2001:db8::/32:443", "give [2001:db8::/32]:443"),
    ("TCP:192.0.2.5", "no protocol that rules know; give tcp"),
    ("SCTP:x.example:80", "no protocol that rules know; give tcp, udp, icmp"),
    ("b\u00fccher.example", "where they begin with xn--"),
    ("*x.example", "all names below: *.x.example"),
    ("a..b", "is not a domain name"),
    ("2130706433.", "is not an IPv4 or IPv6 address"),
    (".example", "is not a domain name"),
    ("a.*.example", "is not a domain name"),
    ("a_%.example", "is not a domain name"),
    ("a b.example", "more than one destination"),
    ("1.2.3", "is not an IPv4 or IPv6 address"),
    ("sctp:192.0.2.5", "'sctp' is no protocol that rules know; give tcp, udp, icmp"),
    ("fe80::1%eth0", "names a zone"),
    ("192.0.2.5/24", "give 192.0.2.0/24 or 192.0.2.5"),
    ("192.0.2.0/33", "from 0 to 32"),
    ("192.0.2.0/", "not a decimal number"),
    ("2001:db8::/129", "from 0 to 128"),
    ("[::1", "no ']'"),
    ("[::1]x:80", "'x' behind its ']'"),
    ("[192.0.2.5]:80", "brackets are for IPv6"),
    ("::ffff:192.0.2.5", "give the IPv4 address"),
    ("192.0.2.5:", "not a decimal number"),
    ("192.0.2.5:0", "from 1 to 65535"),
    ("192.0.2.5:65536", "from 1 to 65535"),
    ("192.0.2.5:9-3", "give 3-9"),
    ("192.0.2.5:1,,2", "not a decimal number"),
    ("icmp:192.0.2.5:80", "leave them out"),
    (f"192.0.2.5:{','.join(map(str, range(1, MAX_PORT_RANGES + 2)))}", "a rule can have 64"),
])
def test_mistake_is_named_with_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_egress_rule(text, allows=True)
    assert said in str(caught.value)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(f"'{text}'") <= 1


@given(st.text(alphabet="0123456789abcdef.:/[],-tcpudmi", max_size=40))
def test_any_text_is_a_rule_or_a_mistake(text: str) -> None:
    try:
        rule = parse_egress_rule(text, allows=True)
    except ConfigError:
        pass
    else:
        assert rule.networks or rule.name or rule.word in {"host", "dns"}
