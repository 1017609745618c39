"""Strict checks of option arguments: text in, value out.

Each function raises ConfigError with what is wrong and what would be right; callers put the option's name in
front.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address

from passt.errors import ConfigError
from passt.facts.domain_name import MAX_NAME_LEN, normalise_name

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.address import IPAddress

IFNAMSIZ = 16           # linux/if.h; one byte of it is the terminating zero
MIN_MTU = 68            # RFC 791 3.2: every internet module forwards 68 bytes
MAX_MTU = 65521         # the largest frame, 65535 bytes, without its Ethernet header
MAX_PID = 2**31 - 1
MIN_LOG_SIZE = 40960    # bytes; a cut of a smaller file would leave too few lines
MAX_LOG_SIZE = 2**40
MAX_STATS_S = 86400
MAX_WAIT_S = 86400
MAX_FD = 2**31 - 1
MAX_SOCKET_PATH = 107   # unix(7): sun_path has 108 bytes, one of them the terminating zero
MIN_MTU_IP6 = 1280      # RFC 8200 5
MAX_DNS_CACHE = 100_000 # answers of up to 4 KiB
MAX_DNS_ROUTES = 256    # pairs of a suffix and a server
MAX_DNS_HOSTS = 4096    # pairs of a name and an address
MAX_RESOLVERS = 3       # per family, as many as glibc reads (MAXNS in resolv.h)
# Kinds of addresses to which no socket connects.
_NO_TARGET = "unspecified 0.0.0.0/8 broadcast multicast IPv4-mapped IPv4-compatible"
MAX_ID = 2**32 - 2      # setuid(2): the highest number stands for "no change"
NETNS_DIRECTORY = "/run/netns"  # ip-netns(8)
MAX_SEARCH = 32         # glibc reads any number since 2.26; what a message holds is less than this


def parse_number(text: str, low: int, high: int) -> int:
    """Read a decimal number from *low* to *high*: digits only, no sign, no leading zero."""
    if not (text.isascii() and text.isdecimal()) or (text.startswith("0") and text != "0"):
        raise ConfigError(f"'{text}' is not a decimal number; give one from {low} to {high}")
    if len(text) > len(str(high)) or not low <= int(text) <= high:
        raise ConfigError(f"{text} is out of range; give a number from {low} to {high}")
    return int(text)


def parse_mtu(text: str) -> int | None:
    """Read an MTU in bytes; 0 is None: assign none."""
    if text == "0":
        return None
    try:
        return parse_number(text, MIN_MTU, MAX_MTU)
    except ConfigError as error:
        raise ConfigError(f"{error}, or 0 to assign none") from None


def parse_address(text: str) -> IPAddress:
    """Read a literal IPv4 or IPv6 address without a zone."""
    try:
        if ":" not in text:
            return IPv4Address(text)
        if "%" not in text:
            return IPv6Address(text)
    except ValueError:
        pass
    else:
        raise ConfigError(f"'{text}' names a zone; give the address without it")
    raise ConfigError(f"'{text}' is not an IPv4 or IPv6 address")


def _parse_without(text: str, kinds: str) -> IPAddress:
    """Read an address of none of the *kinds*: keys of the dictionary below, separated by blanks."""
    address = parse_address(text)
    is_kind = {
        "unspecified": address.is_unspecified,
        # RFC 1122 3.2.1.3: only the source of a host that does not know its address yet
        "0.0.0.0/8": address.version == 4 and int(address) >> 24 == 0,
        "loopback": address.is_loopback,
        "multicast": address.is_multicast,
        "broadcast": address == IPv4Address(0xFFFFFFFF),
        "IPv4-mapped": address.version == 6 and int(address) >> 32 == 0xFFFF,
        # RFC 4291 2.5.5.1; :: and ::1 have the same form but are kinds of their own
        "IPv4-compatible": address.version == 6 and 1 < int(address) < 1 << 32,
    }
    for kind in kinds.split():
        if is_kind[kind]:
            raise ConfigError(f"{text} is {'an' if kind[0] in 'uI' else 'a'} {kind} address,"
                              f" which cannot be used here")
    return address


def parse_host_address(text: str) -> IPAddress:
    """Read an address that an interface can have (-a, -g): unicast and not loopback."""
    return _parse_without(text, f"loopback {_NO_TARGET}")


def parse_assigned_address(text: str) -> tuple[IPAddress, int | None]:
    """Read ADDR or ADDR/LEN; the prefix length is None if it is not given."""
    literal, slash, length = text.partition("/")
    address = parse_host_address(literal)
    if not slash:
        return address, None
    try:
        return address, parse_number(length, 1, address.max_prefixlen)
    except ConfigError as error:
        raise ConfigError(f"length of '{text}': {error}") from None


def parse_source_address(text: str) -> IPAddress:
    """Read an address to bind outgoing sockets to; IPv4 loopback is allowed, as the kernel allows it."""
    kinds = _NO_TARGET
    return _parse_without(text, f"{kinds} loopback" if ":" in text else kinds)


def parse_bound_address(text: str) -> IPAddress:
    """Read an address to listen on: loopback and the unspecified address, which means any, are allowed."""
    return _parse_without(text, "broadcast multicast IPv4-mapped IPv4-compatible")


def parse_mapped_address(text: str) -> IPAddress | None:
    """Read an address that will mean the host, or `none` (None)."""
    if text == "none":
        return None
    try:
        return parse_host_address(text)
    except ConfigError as error:
        raise ConfigError(f"{error}; give another one, or 'none'") from None


def parse_resolver(text: str) -> IPAddress | None:
    """Read the address of a name server to hand out, or `none` (None); the guest's own loopback is one."""
    if text == "none":
        return None
    try:
        return _parse_without(text, _NO_TARGET)
    except ConfigError as error:
        raise ConfigError(f"{error}; give the name server's address, or 'none'") from None


def parse_host_resolver(text: str) -> IPAddress:
    """Read the address of a name server as the host reaches it; loopback is allowed."""
    return _parse_without(text, _NO_TARGET)


def parse_dns_route(text: str) -> tuple[str, IPAddress]:
    """Read SUFFIX=ADDR, a suffix of names and a server for them; the suffix `.` is empty: all names."""
    suffix, server = _split_name(text, "SUFFIX", parse_host_resolver)
    return "" if suffix == "." else _parse_part(text, suffix.removeprefix(".")).lower(), server


def parse_dns_name(text: str) -> tuple[str, IPAddress]:
    """Read NAME=ADDR, a name and an address that it has; loopback is allowed, as in hosts(5)."""
    name, address = _split_name(text, "NAME", parse_host_resolver)
    return _parse_part(text, name).lower(), address


def _split_name(text: str, what: str, parse: Callable[[str], IPAddress]) -> tuple[str, IPAddress]:
    """Split *what*=ADDR."""
    name, equals, literal = text.rpartition("=")
    if not equals:
        raise ConfigError(f"'{text}' has no address; give {what}=ADDR")
    try:
        return name, parse(literal)
    except ConfigError as error:
        raise ConfigError(f"address of '{text}': {error}") from None


def _parse_part(text: str, name: str) -> str:
    try:
        return parse_domain(name)
    except ConfigError as error:
        raise ConfigError(f"name of '{text}': {error}") from None


def parse_domain(text: str) -> str:
    """Read a domain or host name, maybe with a final dot; returns it without."""
    name = normalise_name(text)
    if name is None:
        raise ConfigError(f"'{text}' is not a domain name; give labels of 1 to 63 printable ASCII"
                          f" characters joined by dots, {MAX_NAME_LEN - 2} characters at most")
    return name


def parse_search(text: str) -> tuple[str, ...]:
    """Read search domains separated by blanks; `none` alone is no domain at all (`none.` is that one)."""
    if text == "none":
        return ()
    names = tuple(map(parse_domain, text.split()))
    if not names:
        raise ConfigError("the list is empty; give domains separated by blanks, or 'none'")
    return names


def parse_netmask(text: str) -> int | None:
    """Read an IPv4 netmask, dotted or as a number of bits, to a prefix length; 0 is None: the default."""
    if "." not in text:
        try:
            return parse_number(text, 0, 32) or None
        except ConfigError as error:
            raise ConfigError(f"{error}, or a mask like 255.255.255.0") from None
    try:
        mask = int(IPv4Address(text))
    except ValueError:
        raise ConfigError(f"'{text}' is not a netmask; give 0 to 32, or a mask like 255.255.255.0") from None
    host_bits = ~mask & 0xFFFFFFFF
    if host_bits & (host_bits + 1):
        raise ConfigError(f"netmask {text} has ones after zeros; give one like 255.255.255.0")
    return mask.bit_count() or None


def parse_mac(text: str) -> bytes:
    """Read a unicast hardware address written as six pairs of hexadecimal digits with colons."""
    pairs = text.split(":")
    digits = "0123456789abcdefABCDEF"
    if len(pairs) != 6 or any(len(pair) != 2 or pair.strip(digits) for pair in pairs):
        raise ConfigError(f"'{text}' is not a hardware address; write it like 9a:55:9a:55:9a:55")
    mac = bytes.fromhex("".join(pairs))
    if mac[0] & 1:
        raise ConfigError(f"{text} is a multicast hardware address; the first byte has to be even")
    return mac


def parse_our_mac(text: str) -> bytes:
    """Read our hardware address, which must not be all zeros."""
    mac = parse_mac(text)
    if not any(mac):
        raise ConfigError(f"{text} is not usable as a hardware address")
    return mac


def parse_path(text: str) -> str:
    """Read the path of a file; the kernel checks it later."""
    if not text:
        raise ConfigError("'' is not a path; give the name of a file")
    return text


def parse_netns(text: str) -> str:
    """Read a path, or a name as of ip-netns(8); return a path."""
    path = parse_path(text)
    if path in {".", ".."}:
        raise ConfigError(f"'{text}' is a directory; give the name or path of a network namespace")
    return path if "/" in path else f"{NETNS_DIRECTORY}/{path}"


def parse_identity(text: str) -> str:
    """Check the form of UID, UID:GID, LOGIN or LOGIN:GROUP; names are looked up later."""
    user, colon, group = text.partition(":")
    for part, what in ((user, "user"), (group, "group")):
        if not part and (what == "user" or colon):
            raise ConfigError(f"'{text}' names no {what}; give UID, UID:GID, LOGIN or LOGIN:GROUP")
        if part.isascii() and part.isdecimal() and int(part[:len(str(MAX_ID)) + 1]) > MAX_ID:
            raise ConfigError(f"'{text}': {part} is not the number of a {what}; it can be 0 to {MAX_ID}")
    if ":" in group:
        raise ConfigError(f"'{text}' is not UID, UID:GID, LOGIN or LOGIN:GROUP")
    return text


def parse_ifname(text: str) -> str:
    """Read an interface name that the kernel would take (its dev_valid_name()), "lo" included."""
    n_bytes = len(os.fsencode(text))
    if not 0 < n_bytes < IFNAMSIZ:
        raise ConfigError(f"'{text}' is not an interface name: it can have 1 to {IFNAMSIZ - 1} bytes")
    if text in {".", ".."} or any(letter in "/:" or letter.isspace() for letter in text):
        raise ConfigError(f"'{text}' is not an interface name: it can have no '/', ':' or blank")
    return text


def parse_new_ifname(text: str) -> str:
    """Read the name of a new interface; no "%", which the kernel would replace by a number."""
    name = parse_ifname(text)
    if "%" in name or name == "lo":
        raise ConfigError(f"'{text}' cannot name the interface: 'lo' is taken, and '%' is not allowed")
    return name


def parse_socket_path(text: str) -> str:
    """Read the path of a UNIX domain socket."""
    n_bytes = len(os.fsencode(text))
    if not n_bytes:
        raise ConfigError("the path is empty; give one like /tmp/passt.socket")
    if n_bytes > MAX_SOCKET_PATH:
        raise ConfigError(f"'{text}' has {n_bytes} bytes; the path of a socket can have {MAX_SOCKET_PATH} at"
                          f" most, so give a shorter one")
    return text


def parse_pid(text: str) -> int:
    """Read the PID operand: a whole decimal number, maybe with a minus sign that makes it wrong."""
    if not text.startswith("-"):
        digits = text.lstrip("0") or "0"
        if len(digits) <= len(str(MAX_PID)) and 0 < int(digits) <= MAX_PID:
            return int(digits)
    raise ConfigError(f"PID {text} is out of range; it can be 1 to {MAX_PID}")
