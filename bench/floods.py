"""The floods: what each is, and the command line of who makes it.

Every flood runs beside the same innocent guest (`load innocent`), whose remote is 20 ms away.
"""

from dataclasses import dataclass
from enum import StrEnum

from bench.lab import HOST_ADDRESSES

# Addresses of the lab's own network; nobody has SILENT, and nobody says so.
SILENT = "192.0.2.77"
HOST = HOST_ADDRESSES[0].split("/")[0]
HOST_SIDE, REMOTE = "203.0.113.1", "203.0.113.9"  # the host's end of the wire to the remote, and the remote's
ATTACKER = "198.51.100.66"  # in the guest's prefix, and not its kernel's, which does not answer for it
PORT = 4000  # of the remote's server, where the innocent guest asks
SOURCE, SINK, OTHER = PORT + 1, PORT + 2, PORT + 3  # it sends; it never reads; it answers too
CLOSED_PORT = 4444
SPARE_DESCRIPTORS = 1000  # of the hard limit, which the crowd and the server have as well
# Each has data in three kernels that are one here, and share net.ipv4.tcp_mem with the rest of the machine.
MOST_WITH_DATA = 3072
RATE = 20_000


class By(StrEnum):
    """How a flood is made."""

    FRAMES = "frames"  # by `load flood`, which waits for no answer
    GRIP = "grip"  # by `load grip`, which opens connections and mistreats them
    CROWD = "crowd"  # by the guest's own TCP
    OUTSIDE = "outside"  # by the TCP of a neighbour of the host, at a forwarded port
    OUTSIDE_FRAMES = "outside-frames"  # by frames of that neighbour, from addresses of no one
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Flood:
    """One flood. *kind* is that of the subcommand; *target* and *port* are what it is aimed at."""

    name: str
    label: str
    by: By
    kind: str = ""
    target: str = REMOTE
    port: int = OTHER

    def command(
        self, device: str, mac: str, host_port: int, limit: int, rate: float, seconds: float
    ) -> list[str]:
        """Return the arguments of `load`, at a limit of descriptors and a rate of frames per second.

        *device* is the interface that frames are sent by, *mac* the host's for its neighbour, *host_port* the
        first of the forwarded ports.
        """
        count = min(3 * limit, 20_000 - SPARE_DESCRIPTORS)
        if self.port in {SOURCE, SINK, 2}:
            count = min(count, MOST_WITH_DATA)
        match self.by:
            case By.FRAMES:
                return ["flood", self.kind, device, ATTACKER, self.target, str(self.port), f"{rate:g}",
                        f"{seconds:g}"]  # fmt: skip
            case By.GRIP:
                # Each of its acts is answered, and it answers that.
                return ["grip", self.kind, device, ATTACKER, self.target, str(self.port), str(count),
                        f"{rate / 4:g}", f"{seconds:g}"]  # fmt: skip
            case By.CROWD:
                return ["crowd", self.target, str(self.port), str(count), self.kind, f"{seconds:g}"]
            case By.OUTSIDE:
                return ["crowd", HOST, str(host_port + self.port), str(count), self.kind, f"{seconds:g}"]
            case By.OUTSIDE_FRAMES:
                return ["flood", self.kind, device, SILENT, HOST, str(host_port), f"{rate:g}", f"{seconds:g}",
                        mac]  # fmt: skip
            case By.NONE:
                return []


FLOODS = (
    Flood("none", "no flood", By.NONE),
    Flood("syn-silent", "SYN to a silent address", By.FRAMES, "syn", SILENT),
    Flood("syn-spread", "SYN to many silent addresses", By.FRAMES, "syn-spread"),
    Flood("syn-spoofed", "SYN from many addresses, to a silent one", By.FRAMES, "syn-spoofed", SILENT),
    Flood("syn-open", "SYN to an open port", By.FRAMES, "syn"),
    Flood("syn-same", "SYN to the innocent guest's remote", By.FRAMES, "syn", port=PORT),
    Flood("syn-closed", "SYN to a closed port", By.FRAMES, "syn", port=CLOSED_PORT),
    Flood("udp-ports", "UDP from many ports, answered", By.FRAMES, "udp-ports"),
    Flood("udp-same", "UDP from many ports to the innocent guest's remote", By.FRAMES, "udp-ports",
          port=PORT),
    Flood("udp-ports-silent", "UDP from many ports, silent", By.FRAMES, "udp-ports", SILENT),
    Flood("udp-hosts", "UDP to many hosts and ports", By.FRAMES, "udp-hosts"),
    Flood("udp-both", "UDP from many ports to many hosts", By.FRAMES, "udp-both"),
    Flood("ping", "echo requests, many identifiers", By.FRAMES, "ping"),
    Flood("fragment-first", "first fragments only", By.FRAMES, "fragment-first"),
    Flood("fragment-holes", "packets with holes", By.FRAMES, "fragment-holes"),
    Flood("fragment-ids", "stray fragments, many identifications", By.FRAMES, "fragment-ids"),
    Flood("arp", "ARP requests", By.FRAMES, "arp"),
    Flood("ndp", "neighbour solicitations", By.FRAMES, "ndp"),
    Flood("dhcp", "DHCP discoveries", By.FRAMES, "dhcp"),
    Flood("dhcpv6", "DHCPv6 solicitations", By.FRAMES, "dhcpv6"),
    Flood("window0", "closed windows, data waiting", By.GRIP, "window0", HOST_SIDE, SOURCE),
    Flood("window1", "windows of one byte, data waiting", By.GRIP, "window1", HOST_SIDE, SOURCE),
    Flood("sack", "SACK blocks at random, reneged", By.GRIP, "sack", HOST_SIDE, SOURCE),
    Flood("early", "data with holes", By.GRIP, "early", HOST_SIDE, SINK),
    Flood("crowd-hold", "idle connections to one port", By.CROWD, "hold"),
    Flood("crowd-same", "idle connections to the innocent guest's remote", By.CROWD, "hold", port=PORT),
    Flood("crowd-come", "connections opened and closed", By.CROWD, "come-and-go"),
    Flood("guest-slow", "a guest that never reads", By.CROWD, "hold", HOST_SIDE, SOURCE),
    Flood("remote-slow", "a remote that never reads", By.CROWD, "write", HOST_SIDE, SINK),
    Flood("outside-hold", "idle connections from outside", By.OUTSIDE, "hold", port=0),
    Flood("outside-come", "connections from outside, opened and closed", By.OUTSIDE, "come-and-go", port=0),
    Flood("outside-slow", "connections from outside, data never read", By.OUTSIDE, "write", port=2),
    Flood("outside-syn", "SYN from outside", By.OUTSIDE_FRAMES, "syn-spoofed"),
)


def chosen(only: str | None) -> list[Flood]:
    """Return the floods named in a list with commas, all for None. Raises KeyError for an unknown name."""
    by_name = {flood.name: flood for flood in FLOODS}
    if only is None:
        return list(FLOODS)
    return [by_name[name.strip()] for name in only.split(",")]
