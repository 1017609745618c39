"""Events in one line each: every kind that a program tells, as `control.events` makes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from passt.control.events import KINDS, EventHub
from passt.control.flows import FlowTexts
from passt.facts.contracts import ListenerInfo
from passt.facts.guest import GuestNet
from passt.facts.host import HostChange
from passt.facts.port_rule import PortRule
from passt.passtctl.events import event_text
from tests.support.control import Source, make_flow

if TYPE_CHECKING:
    from passt.control.client import Client


class Listener:
    """A client that keeps what it is told."""

    def __init__(self) -> None:
        self.hub = EventHub(Source(), FlowTexts(GuestNet(ip4=None, ip6=None, ifname="tap0")),
                            clock=lambda: 7.25)
        self.response = self.hub.subscribe(cast("Client", self), None)

    def wake(self) -> None:
        """Do nothing: what is queued is taken when the test asks."""

    def lines(self) -> list[str]:
        """Return all events so far, without their time of day."""
        piece = next(iter(cast("Any", self.response.body))) or b""
        return [event_text(json.loads(line)).partition(" ")[2] for line in piece.splitlines()]


def test_each_kind_has_a_line() -> None:
    listener = Listener()
    hub = listener.hub
    there = make_flow(1)
    hub.on_flow_opened(there._replace(inbound=True))
    hub.on_flow_ended(there, "reset")
    hub.on_flow_refused(17, bytes(4), 5, bytes(15) + b"\1", 53, inbound=False)
    hub.on_name_refused("ads.example", "deny ads.example", "rule 'deny ads.example'")
    rules = [PortRule(6, 80, 81, 8080, spec="-t 80-81:8080-8081"), PortRule(17, 5, 5, 5)]
    hub.on_port_opened(ListenerInfo(6, 81, rules[0], namespace=False))
    hub.on_port_closed(ListenerInfo(17, 5, rules[1], namespace=True))
    hub.on_guest_learnt(bytes((192, 0, 2, 2)))
    hub.on_host_changed([HostChange("gateway", 4, "none", "192.0.2.1")])
    hub.on_host_changed([HostChange("search domains", 0, "a", "b")])
    hub._tell_limit("drop_no_fd", 3)
    told = listener.lines()
    assert told == [
        "flow opened 1.3 tcp 192.0.2.2:40000 <- 198.51.100.1:443",
        "flow closed 1.3 tcp 192.0.2.2:40000 -> 198.51.100.1:443: reset, sent 100, received 20.0G, 5s",
        "flow refused outbound udp 0.0.0.0:5 -> [::1]:53",
        "name refused ads.example: rule 'deny ads.example'",
        "port opened host tcp *:81 -> 8081 by -t 80-81:8080-8081",
        "port closed namespace udp *:5 -> 5 by udp 5",
        "guest address 192.0.2.2",
        "host changed ip4 gateway none -> 192.0.2.1",
        "host changed search domains a -> b",
        "limit reached drop_no_fd 3 times",
    ]
    kinds = {kind for kind in KINDS if any(line.startswith(kind.replace("_", " ")) for line in told)}
    assert kinds == set(KINDS) - {"lost"}


@pytest.mark.parametrize(("event", "text"), [
    ({"event": "lost", "events": 12}, "lost 12 events"),
    ({"event": "port_opened", "side": "host", "protocol": "tcp", "port": 80, "address": "::1",
      "interface": "lo", "leads_to": 90, "target_address": "2001:db8::9", "rule": None},
     "port opened host tcp [::1]%lo:80 -> [2001:db8::9]:90"),
    ({"event": "of_a_newer_one", "where": {"address": "::", "port": 1}, "why": None, "n": 3},
     "of a newer one where [::]:1 n 3"),
    ({"event": "of_a_newer_one", "why": {"what": 1}}, "of a newer one why {'what': 1}"),
])  # fmt: skip
def test_line_of_an_event(event: dict[str, Any], text: str) -> None:
    assert event_text({"time": 0.5} | event).partition(" ")[2] == text
