"""Control frames without sense, through the compiled parser to the real responders: none raises.

The responders are the program's own, so this is the whole way of a hostile frame. All is seeded.
"""

from pathlib import Path

import pytest

from passt.forward.policy import Policy
from passt.responders.dispatch import Dispatcher
from tests.dataplane.probes.world import World
from tests.fuzz.harness import NET, seeds
from tests.fuzz.mutate import Mutator, truncations

N_FRAMES = 6000
FRAME_INTERVAL_NS = 10**7
EVERYTHING = seeds("responder")


def corpus(*beginnings: str) -> list[bytes]:
    """Golden frames whose names begin so."""
    vectors = Path(__file__).parent.parent / "vectors"
    return [
        bytes.fromhex("".join(line.partition("#")[0] for line in path.read_text("ascii").splitlines()))
        for path in sorted(vectors.glob("*.hex"))
        if path.name.startswith(beginnings)
    ]


class Line:
    """A guest's end of the link: the real policy and responders behind the compiled code."""

    def __init__(self) -> None:
        self.policy = Policy(NET, tcp=True, udp=True, icmp=True)
        self.dispatcher = Dispatcher(NET, is_guest=self.policy.observed.is_guest)
        assert NET.ip4
        assert NET.ip4.our_address
        self.world = World(
            self.policy,
            self.dispatcher,
            self.policy.observed,
            our_mac=NET.our_mac,
            our_ip4=NET.ip4.our_address.packed,
            scripted=True,
        )
        self.world.now = 10**9

    def give(self, frame: bytes) -> dict[str, int]:
        """Give one frame, late enough for the limit of rate; tell which counters it moved."""
        before = self.world.counters() | self.dispatcher.counters()
        self.world.now += FRAME_INTERVAL_NS
        self.world.inject(frame)
        after = self.world.counters() | self.dispatcher.counters()
        return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def check(moved: dict[str, int], frame: bytes) -> None:
    """See that a frame for the responders was counted once by them."""
    malformed = sum(count for name, count in moved.items() if name.endswith("_malformed"))
    answered = sum(count for name, count in moved.items() if name.endswith("_answered"))
    assert moved.get("control_ethernet_received", 0) == moved.get("control_frames", 0) <= 1, frame.hex()
    assert malformed + answered <= moved.get("control_frames", 0), frame.hex()
    assert moved.get("frames_to_guest", 0) <= 1, frame.hex()


@pytest.mark.parametrize(
    "beginning", ["arp", "dhcp_", "dhcpv6", "neighbour", "router"], ids=lambda name: name.strip("_")
)
def test_every_truncation_and_every_byte_spoiled(beginning: str) -> None:
    line = Line()
    moved: set[str] = set()
    for good in corpus(beginning):
        spoiled = [
            good[:at] + bytes((good[at] ^ bit,)) + good[at + 1 :]
            for at in range(len(good))
            for bit in (1, 0x80, 0xFF)
        ]
        for frame in [*list(truncations(good))[14:], *spoiled, good, good + bytes(100)]:
            changes = line.give(frame)
            check(changes, frame)
            moved |= changes.keys()
    layer = {"arp": "arp", "dhcp_": "dhcp", "dhcpv6": "dhcpv6"}.get(beginning, "ndp")
    assert {f"control_{layer}_answered", f"drop_control_{layer}_malformed"} <= moved


def test_mutated_control_frames_are_survived() -> None:
    line = Line()
    moved: set[str] = set()
    for frame in Mutator(EVERYTHING, seed=547).inputs(N_FRAMES):
        if len(frame) < 14:
            continue  # no link hands over less than an Ethernet header
        changes = line.give(frame)
        check(changes, frame)
        moved |= changes.keys()
    wanted = {f"control_{layer}_answered" for layer in ("arp", "dhcp", "ndp", "dhcpv6")}
    wanted |= {f"drop_control_{layer}_malformed" for layer in ("arp", "dhcp", "icmp6", "ndp", "dhcpv6")}
    assert wanted <= moved


def test_learnt_addresses_stay_plausible() -> None:
    line = Line()
    for frame in Mutator(corpus("arp", "udp", "neighbour"), seed=67).inputs(N_FRAMES):
        if len(frame) >= 14:
            line.give(frame)
            observed = line.policy.observed
            assert observed.ip4 is None or observed.ip4[0] not in {0, 127}
            assert observed.ip6 is None or observed.ip6[0] != 0xFF


def test_flood_of_control_frames_is_held_back() -> None:
    line = Line()
    frame = corpus("dhcpv6_solicit")[0]
    for _ in range(20_000):
        line.world.inject(frame)
    counters = line.world.counters()
    assert counters["drop_control_rate"] > 15_000
    assert counters["control_frames"] + counters["drop_control_rate"] == 20_000
    assert line.dispatcher.counters()["control_dhcpv6_answered"] == counters["control_frames"]
