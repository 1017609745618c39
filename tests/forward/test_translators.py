"""IPv4 addresses are found where a translator or tunnel would take them out, by the examples of the RFCs."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.forward.translators import NAT64_LENGTHS, embedded_ip4


def found(address: str, *nat64: str) -> list[str]:
    networks = [ip_network(each) for each in nat64]
    prefixes = [(each.network_address.packed, each.prefixlen) for each in networks]
    return [str(ip_address(each)) for each in embedded_ip4(ip_address(address).packed, prefixes)]


@pytest.mark.parametrize(("address", "wanted"), [
    ("64:ff9b::192.0.2.33", ["192.0.2.33"]),                            # RFC 6052 2.4
    ("2002:c000:221::1", ["192.0.2.33"]),
    # RFC 4380 4: the server, flags and port, and the client with all bits turned round.
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", ["65.54.227.120", "192.0.2.45"]),
    ("fe80::5efe:192.0.2.143", ["192.0.2.143"]),                        # RFC 5214 6.1
    ("2001:db8::200:5efe:192.0.2.143", ["192.0.2.143"]),
    ("2002:c000:221::5efe:198.51.100.7", ["192.0.2.33", "198.51.100.7"]),   # ISATAP behind 6to4
    ("::192.0.2.33", ["192.0.2.33"]), ("::ffff:192.0.2.33", ["192.0.2.33"]),
    ("2001:1::192.0.2.33", []), ("2001:db8::5eff:192.0.2.33", []), ("2001:db8::100:5efe:c000:221", []),
    ("64:ff9b:0:0:0:1:c000:221", []), ("2003:c000:221::1", []), ("192.0.2.33", []), ("::5efe:0:0:0", []),
])
def test_addresses_of_the_standards(address: str, wanted: list[str]) -> None:
    assert found(address) == wanted


@pytest.mark.parametrize(("prefix", "address"), [                         # RFC 6052 2.4
    ("2001:db8::/32", "2001:db8:c000:221::"), ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
])
def test_prefix_of_each_length(prefix: str, address: str) -> None:
    assert found(address) == []
    assert found(address, prefix) == ["192.0.2.33"]
    assert found(address, "2001:db9::/32", prefix) == ["192.0.2.33"]
    assert found("2001:dba" + address.removeprefix("2001:db8"), prefix) == []


def test_prefix_for_local_use_may_have_any_length_within() -> None:
    for address in ("64:ff9b:1::192.0.2.33", "64:ff9b:1:0:c0:2:2100:0", "64:ff9b:1:c0:0:221::",
                    "64:ff9b:1:c000:2:2100::"):
        assert "192.0.2.33" in found(address)


@given(st.binary(min_size=16, max_size=16), st.sampled_from(NAT64_LENGTHS))
def test_whatever_is_found_is_an_address(address: bytes, length: int) -> None:
    assert all(len(each) == 4 for each in embedded_ip4(address, [(address, length)]))
