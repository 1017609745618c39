"""IPv4 addresses within IPv6 ones, to which a translator or tunnel may take a packet. Pure, no I/O.

Nobody tells us which of them there are, and what is found here is denied, never allowed: so all forms count
everywhere. An address may have several. One that has the form by chance is denied with the rules for an IPv4
address that it does not mean, which is one interface identifier of 2^31 for ISATAP, and none for the others,
whose prefixes are for this alone. A network's own prefix of NAT64 cannot be known by an address: the user
says it (--nat64-prefix).
"""

from __future__ import annotations

from passt.facts.address import IP4_LEN, IP6_LEN

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Collection

# Lengths of prefixes of NAT64 in bits (RFC 6052 2.2).
NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)
UNUSED_BYTE = 8                   # between bits 64 and 71 there is none of the address (RFC 6052 2.2)
_WELL_KNOWN = bytes.fromhex("0064ff9b0000000000000000")        # RFC 6052 2.1
# For networks' own use, with a prefix of any length within (RFC 8215).
_LOCAL_USE = bytes.fromhex("0064ff9b0001")
_LOCAL_LENGTHS = tuple(length for length in NAT64_LENGTHS if length >= 8 * len(_LOCAL_USE))
_6TO4 = bytes.fromhex("2002")      # RFC 3056 2
_TEREDO = bytes.fromhex("20010000")                            # RFC 4380 2.6
_COMPATIBLE, _MAPPED = bytes(12), bytes(10) + b"\xff\xff"      # RFC 4291 2.5.5
_ISATAP = (bytes.fromhex("00005efe"), bytes.fromhex("02005efe"))         # RFC 5214 6.1; bytes 8 to 11


def embedded_ip4(address: bytes, nat64: Collection[tuple[bytes, int]] = ()) -> list[bytes]:
    """Return the IPv4 addresses to which a translator or tunnel may take what is sent to *address*.

    An IPv4 address has none. *nat64* are prefixes of NAT64, packed and with their length in bits.
    """
    if len(address) != IP6_LEN:
        return []
    found = []
    if address.startswith((_WELL_KNOWN, _COMPATIBLE, _MAPPED)):
        found.append(address[12:])
    elif address.startswith(_LOCAL_USE):
        found += [_translated(address, length) for length in _LOCAL_LENGTHS]
    elif address.startswith(_6TO4):
        found.append(address[2:6])
    elif address.startswith(_TEREDO):
        # The server, and the client behind its NAT, bit by bit turned round (RFC 4380 4).
        found += [address[4:8], bytes(byte ^ 0xFF for byte in address[12:])]
    if address[8:12] in _ISATAP:
        found.append(address[12:])
    for prefix, length in nat64:
        if address.startswith(prefix[:length // 8]):
            found.append(_translated(address, length))
    return found


def _translated(address: bytes, length: int) -> bytes:
    """Cut out of *address* what follows a prefix of NAT64 with *length* bits."""
    start = length // 8
    if start <= UNUSED_BYTE:
        address = address[:UNUSED_BYTE] + address[UNUSED_BYTE + 1:]
    return address[start:start + IP4_LEN]
