"""resolv.conf as glibc reads it."""

from __future__ import annotations

import errno
import os
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.facts.host import ResolverFacts
from passt.host import resolvconf

if TYPE_CHECKING:
    from pathlib import Path


def servers(content: bytes) -> list[str]:
    return [str(server) for server in resolvconf.parse(content).servers]


@pytest.mark.parametrize(("content", "expected"), [
    (b"nameserver 192.0.2.1\n", ["192.0.2.1"]),
    (b"nameserver 192.0.2.1", ["192.0.2.1"]),
    (b"nameserver\t 192.0.2.1 \t\n", ["192.0.2.1"]),
    (b"nameserver 192.0.2.1 # office\n", ["192.0.2.1"]),
    (b"nameserver 192.0.2.1;office\n", ["192.0.2.1"]),
    (b"nameserver 192.0.2.1 192.0.2.2\n", ["192.0.2.1"]),
    (b"nameserver 127.1\n", ["127.0.0.1"]),
    (b"nameserver fe80::1\n", ["fe80::1"]),
    (b"nameserver fe80::1%lo\n", ["fe80::1%1"]),
    (b"nameserver fe80::1%7\n", ["fe80::1%7"]),
    (b"nameserver fe80::1%0\n", ["fe80::1"]),
    (b"nameserver fe80::1%none-such\n", ["fe80::1"]),
    (b"nameserver fe80::1%\n", ["fe80::1"]),
    (b"nameserver fe80::1%99999999999\n", ["fe80::1"]),
    (b"nameserver fe80::1%\xff\n", ["fe80::1"]),
    (b"nameserver 2001:db8::1%lo\n", ["2001:db8::1"]),
    (b"nameserver ::ffff:192.0.2.1\n", ["192.0.2.1"]),
    (b"nameserver ::ffff:127.0.0.53%lo\n", ["127.0.0.53"]),
    (b"nameserver ::1\n", ["::1"]),
    (b"#nameserver 192.0.2.1\n;nameserver 192.0.2.2\n", []),
    (b" nameserver 192.0.2.1\n", []),
    (b"nameserver192.0.2.1\n", []),
    (b"nameservers 192.0.2.1\n", []),
    (b"NAMESERVER 192.0.2.1\n", []),
    (b"nameserver\n", []),
    (b"nameserver \t\n", []),
    (b"nameserver # none\n", []),
    (b"nameserver dns.example\n", []),
    (b"nameserver 192.0.2.1\r\n", []),
    (b"nameserver 2001:db8::g\n", []),
    (b"nameserver 192.0.2.1\0\n", ["192.0.2.1"]),
    (b"\0nameserver 192.0.2.1\n", []),
])
def test_nameserver_line(content: bytes, expected: list[str]) -> None:
    assert servers(content) == expected


def test_servers_beyond_the_third_valid_one_are_left_out() -> None:
    content = b"".join(b"nameserver %s\n" % name
                       for name in (b"192.0.2.1", b"bad", b"::1", b"192.0.2.3", b"192.0.2.4"))
    assert servers(content) == ["192.0.2.1", "::1", "192.0.2.3"]


@pytest.mark.parametrize(("content", "expected"), [
    (b"search a.example b.example\n", ("a.example", "b.example")),
    (b"search\ta.example \t b.example \n", ("a.example", "b.example")),
    (b"search a.example\nsearch b.example c.example\n", ("b.example", "c.example")),
    (b"domain a.example b.example\n", ("a.example",)),
    (b"search a.example\ndomain b.example\n", ("b.example",)),
    (b"domain b.example\nsearch a.example\n", ("a.example",)),
    (b"search a.example\nsearch\n", ("a.example",)),
    (b"search a.example\nsearch  \n", ("a.example",)),
    (b"search a.example.\n", ("a.example",)),
    (b"search .\n", ()),
    (b"search b\xc3\xbccher.example a.example\n", ("a.example",)),
    (b"search \x1b[2J a.example\n", ("[2J", "a.example")[1:]),
    (b"options ndots:3\n", ()),
])
def test_search_list(content: bytes, expected: tuple[str, ...]) -> None:
    assert resolvconf.parse(content).search == expected


@given(st.binary(max_size=200) | st.lists(st.sampled_from(
    [b"nameserver", b"search", b"domain", b" ", b"\t", b"#", b";", b"%", b"\0", b"\n", b"::1", b"1", b"."],
)).map(b"".join))
def test_any_bytes_do_not_raise(content: bytes) -> None:
    facts = resolvconf.parse(content)
    assert len(facts.servers) <= resolvconf.MAX_SERVERS
    assert all(name.isascii() and name.isprintable() and " " not in name for name in facts.search)


@given(st.lists(st.ip_addresses(), max_size=3))
def test_servers_written_are_read(written: list[IPv4Address | IPv6Address]) -> None:
    content = "".join(f"nameserver {server}\n" for server in written).encode()
    # An IPv4-mapped address is the IPv4 address.
    assert servers(content) == [str(getattr(server, "ipv4_mapped", None) or server) for server in written]


@pytest.mark.parametrize(("content", "expected"), [
    (b"", (5, 2, False)),
    (b"options rotate timeout:2 attempts:3\n", (2, 3, True)),
    (b"options timeout:2\noptions attempts:4\n", (2, 4, False)),
    (b"options timeout:99 attempts:99\n", (30, 5, False)),
    (b"options timeout:0 attempts:0\n", (1, 1, False)),
    (b"options timeout:3s attempts:1x\n", (3, 1, False)),
    (b"options timeout: attempts:-1 rotate:1 timeout:x\n", (5, 2, False)),
    (b"options timeout:" + b"9" * 5000 + b"\n", (30, 2, False)),
    (b"options edns0 trust-ad ndots:5\n", (5, 2, False)),
    (b" options rotate\n;options rotate\noptionsrotate\n", (5, 2, False)),
])  # fmt: skip
def test_options_lines(content: bytes, expected: tuple[int, int, bool]) -> None:
    found = resolvconf.parse(content)
    assert (found.timeout_s, found.attempts, found.rotate) == expected


def test_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"# made by hand\nnameserver 192.0.2.1\nsearch a.example\n")
    assert resolvconf.read(str(path)) == ResolverFacts((IPv4Address("192.0.2.1"),), ("a.example",))


def test_missing_file_and_directory_have_no_content(tmp_path: Path) -> None:
    assert resolvconf.read(str(tmp_path / "none")) == ResolverFacts()
    assert resolvconf.read(str(tmp_path / "none" / "deeper")) == ResolverFacts()
    assert resolvconf.read(str(tmp_path)) == ResolverFacts()


def test_fifo_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert resolvconf.read(str(path)) == ResolverFacts()


def test_endless_file_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"nameserver 192.0.2.1\n" + b"#" * (1 << 20) + b"\nnameserver 192.0.2.2\n")
    assert [str(server) for server in resolvconf.read(str(path)).servers] == ["192.0.2.1"]
    assert resolvconf.read("/dev/zero") == ResolverFacts()


def test_scope_is_looked_up_by_who_may() -> None:
    asked: list[str] = []

    def index_of(name: str) -> int:
        asked.append(name)
        if name != "wlan0":
            raise OSError(errno.ENODEV, "No such device")
        return 3

    content = b"nameserver fe80::1%wlan0\nnameserver fe80::2%gone0\nnameserver fe80::3%7\n"
    servers = resolvconf.parse(content, index_of).servers
    assert [str(server) for server in servers] == ["fe80::1%3", "fe80::2", "fe80::3%7"]
    assert asked == ["wlan0", "gone0"]


def test_line_that_is_cut_off_names_no_server(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    first = b"nameserver 192.0.2.1\n"
    path.write_bytes(first + b"\n" * (resolvconf._MAX_LEN - len(first) - 20) + b"nameserver 192.0.2.53\n")
    assert resolvconf.read(str(path)).servers == (IPv4Address("192.0.2.1"),)


@pytest.mark.parametrize(("content", "limit", "expected"), [
    (b"", 4, b""), (b"a\nb", 4, b"a\nb"), (b"a\nbc", 4, b"a\n"), (b"abc\n", 4, b"abc\n"), (b"abcd", 4, b""),
])
def test_whole_lines_of_what_was_read(content: bytes, limit: int, expected: bytes) -> None:
    assert resolvconf.whole_lines(content, limit) == expected
