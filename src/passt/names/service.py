"""Joins the parts of the forwarder, in its own process, and gives up what it does not need."""

from __future__ import annotations

import gc
import socket

from passt.host import descriptors
from passt.names.answer_cache import AnswerCache
from passt.names.clients import DatagramDoor, StreamDoor
from passt.names.forwarder import Forwarder
from passt.names.judge import Judge
from passt.names.loop import Loop
from passt.names.name_rules import NameLearner, NameRules
from passt.names.orders import (
    MAX_MESSAGE,
    PINNED,
    RULES,
    RulesReader,
    build_learned,
    build_pins,
    parse_service,
    parse_settled,
)
from passt.names.outlet import Outlet, Way
from passt.names.pinboard import Pinboard
from passt.names.refusals import NameRefusals
from passt.names.upstreams import Upstreams
from passt.process import helper
from passt.wire.dns.message import Rcode

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.facts.egress import EgressRules
    from passt.facts.guest import GuestNet
    from passt.facts.settings import NameSettings
    from passt.names.counts import Counts
    from passt.process.identity import Identity


FORM = "names"                     # of the filter
MAX_EXCHANGES = 1024               # questions on their way
_SOCKETS_EACH = 4                  # if servers are silent
_RESERVE = 128                     # descriptors for all else


def run(channel: socket.socket, doors: Iterable[socket.socket], asked: NameSettings, guest: GuestNet,
        user: Identity | None, rules: EgressRules | None, counts: Counts) -> None:
    """Serve until the main process has gone, without any right. Raises OSError or HostError."""
    loop = serve(channel, doors, asked, guest, rules, counts)
    helper.confine(FORM, user)
    gc.freeze()
    gc.enable()
    loop.run()


def max_exchanges() -> int:
    """Return how many questions may be on their way by the limit of open files."""
    return max(min(MAX_EXCHANGES, (descriptors.file_limit() - _RESERVE) // _SOCKETS_EACH), _SOCKETS_EACH)


def serve(channel: socket.socket, doors: Iterable[socket.socket], asked: NameSettings, guest: GuestNet,
          rules: EgressRules | None, counts: Counts) -> Loop:
    """Return the loop that serves *doors*, and takes orders from *channel* until its end."""
    assert guest.names is not None  # noqa: S101 - else there is no such process
    loop = Loop()
    outlet = Outlet({version: Way(str(family.outbound_address) if family.outbound_address else None,
                                  family.outbound_ifname)
                     for version, family in ((4, guest.ip4), (6, guest.ip6)) if family is not None})
    outlet.ifindex = guest.names.ifindex
    cache = AnswerCache(asked.dns_cache, loop.clock) if asked.dns_cache else None
    rules_reader = RulesReader()
    judge = Judge(asked.dns_hosts, asked.dns_routes, has_ip6=guest.ip6 is not None, rules=_judge_of(rules),
                  refusal=Rcode.NXDOMAIN if asked.dns_refuse == "nxdomain" else Rcode.REFUSED)
    build = build_learned if rules is not None and rules.learns else build_pins
    pinboard = Pinboard(loop, channel.send, build) if rules is not None else None
    refusals = NameRefusals(loop, channel.send)
    forwarder = Forwarder(loop, judge, Upstreams(guest.names), outlet, cache, max_exchanges(), pinboard,
                          refusals, counts=counts)
    for door in doors:
        opened = StreamDoor if door.type == socket.SOCK_STREAM else DatagramDoor
        opened(loop, door, forwarder)
    channel.setblocking(False)

    def on_order() -> None:
        try:
            message = channel.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message.startswith(PINNED) and pinboard is not None:
            pinboard.settle(*parse_settled(message))
        elif message.startswith(RULES) and pinboard is not None:
            renewed = rules_reader.add(message)
            if renewed is not None:
                rules_now, pinboard.generation = renewed
                refusals.renew(pinboard.generation)
                judge.renew(NameRules(rules_now) if rules_now.has_names else None)
        elif message:
            forwarder.renew(parse_service(message))
        else:
            loop.is_running = False

    loop.watch(channel.fileno(), on_order)
    return loop


def _judge_of(rules: EgressRules | None) -> NameRules | NameLearner | None:
    """Return what judges names by *rules*, None if all may be asked for."""
    if rules is None:
        return None
    if rules.learns:
        return NameLearner()
    return NameRules(rules) if rules.has_names else None
