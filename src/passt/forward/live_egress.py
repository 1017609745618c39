"""Rules of egress that change while the program runs.

A change is carried out as a whole or not at all. The forwarder of names goes first, as it is the one who may
not take it; from then on nothing that it has pinned by the rules of before counts (`names.orders`). Flows
that are open live on, unless the change asks for their end: then the flow table is gone through, a few
records at a time, and flows of the guest end that the rules would refuse. A name's addresses count for these
even if their time is over: that is no reason for a flow to end.
"""

from __future__ import annotations

from passt.errors import ConfigError
from passt.facts.contracts import FORWARDER
from passt.light.values import replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Protocol

    from passt.facts.contracts import FlowDetail
    from passt.facts.egress import EgressRules
    from passt.forward.egress import Egress

    class Flows(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def detail_page(self, start: int = ..., limit: int = ...) -> tuple[list[FlowDetail], int | None]:
            """Look at *limit* records of the flow table; return flows, and the start of the next page."""

        def close_flow(self, index: int, generation: int) -> bool:
            """End a flow; False if it is gone."""

        def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
            """Call *callback* once, after *delay_s* seconds."""

RECORDS_AT_ONCE = 64               # of the flow table: some 0.3 ms
PAUSE_S = 0.001


class LiveEgress:
    """Changes the rules of *egress*, and of the forwarder by *set_names*, if there is one.

    *doors* tells where the forwarder listens, *renew* has the data plane forget what it was told, *path* is
    the absolute path of the file of --policy, *compose* puts its rules behind those of the command line.
    *tell* gets a line for people. With *verifies* all rules that come have names verified.
    """

    def __init__(self, egress: Egress, flows: Flows, *, set_names: Callable[[EgressRules], bool] | None,
                 doors: Callable[[], Collection[tuple[bytes, int]]], renew: Callable[[], None],
                 tell: Callable[[str], None], path: str | None = None,
                 compose: Callable[[EgressRules], EgressRules] = lambda rules: rules,
                 verifies: bool = False) -> None:
        self.egress = egress
        self.path = path
        self.compose = compose
        self._verifies = verifies
        self._flows = flows
        self._set_names = set_names
        self._doors = doors
        self._renew = renew
        self._tell = tell
        self._n_changes = 0

    def replace(self, rules: EgressRules, *, kill: bool = False) -> None:
        """Judge new flows by *rules*; with *kill* end those that are open and would be refused.

        Raises ConfigError; all is as before then.
        """
        if self._verifies:
            rules = replace(rules, verifies=True)
        if rules.has_names and not self._doors():
            raise ConfigError("rules by name need a forwarder of names, which this run does not have: start"
                              " it with --dns-forward or a rule by name")
        if self._set_names is not None and self._doors() and not self._set_names(rules):
            raise ConfigError("the forwarder of names does not take so many rules now; try again, or with"
                              " fewer names")
        self.egress.replace(rules)
        self._renew()
        n_rules = len(rules.rules)
        self._tell(f"{n_rules} rule{'s' if n_rules != 1 else ''} of egress in use now, all else is"
                   f" {'allowed' if rules.allows_rest else 'denied'}")
        self._n_changes += 1
        if kill:
            self._end_refused(0, 0, self._n_changes)

    def _end_refused(self, start: int, n_ended: int, change: int) -> None:
        """Look at some records from *start* on, and at the others later, unless there is a newer *change*."""
        if change != self._n_changes:
            return
        found, after = self._flows.detail_page(start, RECORDS_AT_ONCE)
        n_ended += sum(self._flows.close_flow(flow.number, flow.generation)
                       for flow in found if not self.may_stay(flow))
        if after is None:
            self._tell(f"{n_ended} flows that the rules of egress refuse were ended")
            return
        self._flows.call_later(PAUSE_S, lambda: self._end_refused(after, n_ended, change))

    def may_stay(self, flow: FlowDetail) -> bool:
        """Tell whether the rules would let *flow* be opened; what comes from outside is none of theirs."""
        if flow.inbound:
            return True
        address, port, asked = flow.peer_address, flow.peer_port, flow.remote_address
        if flow.bypassed:
            asked = address
        else:
            if (address, port) in self._doors():
                address = FORWARDER
            port = flow.remote_port
        return self.egress.decide(flow.proto, port, address, asked, lapsed=True)[0]
