"""What the main process and the forwarder tell each other while they run, a message each.

To the forwarder: a `NameService` as text, numbers and addresses; or, beginning with a letter, the number of
pins and whether they are there. From it: pins, with a number; with --learn names and what they have.
"""

from __future__ import annotations

from ipaddress import ip_address
from struct import Struct

from passt.errors import WireError
from passt.facts.address import IP4_LEN, IP6_LEN
from passt.facts.guest import NameService

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

    from passt.names.name_rules import Pin

MAX_MESSAGE = 4096
MAX_PINS_LEN = 32 * 1024           # 1,024 pins, of 23 bytes at most
PINNED = b"p"
_NUMBER = Struct("!I")
_SETTLED = Struct("!cI?")
_PIN = Struct("!HIB")              # place, TTL, length of the address, which follows


def build_service(service: NameService) -> bytes:
    """Write *service* for the channel."""
    numbers = (service.timeout_s, service.attempts, int(service.rotate), service.ifindex)
    return " ".join(map(str, (*numbers, *service.servers))).encode()


def parse_service(message: bytes) -> NameService:
    """Read what `build_service` wrote."""
    timeout_s, attempts, rotate, ifindex, *servers = message.decode().split()
    return NameService(tuple(map(ip_address, servers)), int(timeout_s), int(attempts), rotate == "1",
                       int(ifindex))


def build_pins(number: int, pins: Sequence[Pin]) -> bytes:
    """Write *pins* with their *number*."""
    return _NUMBER.pack(number) + b"".join(
        _PIN.pack(pin.place, pin.ttl, len(pin.address)) + pin.address for pin in pins)


def parse_pins(message: bytes) -> tuple[int, list[tuple[int, bytes, int]]]:
    """Read what `build_pins` wrote: the number, and place, address and TTL of each. Raises WireError.

    It is not trusted: the forwarder reads what strangers write.
    """
    if len(message) < _NUMBER.size:
        raise WireError(f"pins: {len(message)} bytes")
    (number,) = _NUMBER.unpack_from(message)
    pins = []
    at = _NUMBER.size
    while at < len(message):
        if at + _PIN.size > len(message):
            raise WireError("pins: one is cut off")
        place, ttl, addr_len = _PIN.unpack_from(message, at)
        at += _PIN.size
        address = message[at:at + addr_len]
        at += addr_len
        if addr_len not in {IP4_LEN, IP6_LEN} or at > len(message):
            raise WireError("pins: address of a wrong length")
        pins.append((place, address, ttl))
    return number, pins


def build_learned(number: int, pins: Sequence[Pin]) -> bytes:
    """Write the names and addresses of *pins* with their *number*."""
    return _NUMBER.pack(number) + b"".join(
        bytes((len(pin.name),)) + pin.name + bytes((len(pin.address),)) + pin.address for pin in pins)


def parse_learned(message: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Read what `build_learned` wrote: the number, and names as text, each with an address or b"".

    It is not trusted, as `parse_pins` says. Raises WireError.
    """
    if len(message) < _NUMBER.size:
        raise WireError(f"names: {len(message)} bytes")
    (number,) = _NUMBER.unpack_from(message)
    fields = []
    at = _NUMBER.size
    while at < len(message):
        end = at + 1 + message[at]
        fields.append(message[at + 1:end])
        at = end
    if at > len(message) or len(fields) % 2:
        raise WireError("names: one is cut off")
    found = list(zip(fields[::2], fields[1::2], strict=True))
    if any(len(address) not in {0, IP4_LEN, IP6_LEN} for _, address in found):
        raise WireError("names: address of a wrong length")
    return number, found


def build_settled(number: int, *, is_pinned: bool) -> bytes:
    """Write whether the pins with this *number* are there."""
    return _SETTLED.pack(PINNED, number, is_pinned)


def parse_settled(message: bytes) -> tuple[int, bool]:
    """Read what `build_settled` wrote."""
    _, number, is_pinned = _SETTLED.unpack(message)
    return number, is_pinned
