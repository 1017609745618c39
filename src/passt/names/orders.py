"""What the main process tells the forwarder while it runs: a `NameService` as text, numbers and addresses."""

from __future__ import annotations

from ipaddress import ip_address

from passt.facts.guest import NameService

MAX_MESSAGE = 4096


def build_service(service: NameService) -> bytes:
    """Write *service* for the channel."""
    numbers = (service.timeout_s, service.attempts, int(service.rotate), service.ifindex)
    return " ".join(map(str, (*numbers, *service.servers))).encode()


def parse_service(message: bytes) -> NameService:
    """Read what `build_service` wrote."""
    timeout_s, attempts, rotate, ifindex, *servers = message.decode().split()
    return NameService(tuple(map(ip_address, servers)), int(timeout_s), int(attempts), rotate == "1",
                       int(ifindex))
