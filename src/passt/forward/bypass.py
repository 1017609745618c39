"""Which flows bypass the guest's link, and where they go (passt(1), "Handling of local traffic in pasta").

From the host: flows of clients on the host's loopback to a forwarded port. The service is the guest's address
last seen, so that services bound to the namespace's loopback are not exposed; with --host-lo-to-ns-lo it is
the loopback address that the client used. The kernel in the namespace chooses the source. Flows of other
clients go through the link, as no socket in the namespace could have their addresses; so do flows by a rule
that names a target address, which may be that of a machine behind the namespace.

From the namespace: flows of clients on the namespace's loopback to a port of -T or -U. The service on the
host has the loopback address that the client used, and our socket there the client's. A client that has or
uses another address is refused: the listener is bound to lo, which carries the namespace's other addresses
too.

All other flows are left to the policy behind this one, or refused where there is no link (--splice-only).
"""

from __future__ import annotations

from socket import IPPROTO_TCP

from passt.facts.address import IP4_LOOPBACK, IP6_LOOPBACK, format_endpoint, is_loopback, needs_scope6
from passt.facts.contracts import Explained, Target
from passt.forward.guest_addresses import NO_GUEST
from passt.forward.policy import NOT_A_CLIENT
from passt.light.values import cast, replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.contracts import InboundTarget
    from passt.facts.port_rule import PortRule
    from passt.forward.guest_addresses import Observed
    from passt.forward.policy import Policy

# The source that the kernel chooses for any loopback destination.
_USUAL_SOURCES = frozenset((IP4_LOOPBACK, IP6_LOOPBACK))
NO_LINK = "there is no link (--splice-only)"
NO_NAME = "--verify-names reads nothing of what bypasses the link: allow the address itself"
_NOT_LOOPBACK = "not from loopback to loopback"


class Bypass:
    """Implements `contracts.FlowPolicy`: decides on loopback flows and leaves the others to *policy*.

    With *splice* False the host's flows are left to *policy* too. With *keep_loopback* loopback clients of
    the host reach the namespace's loopback. If it is *alone* there is no link: other flows are refused.
    *explain* gets a line for each decision, if given. Set `scope_id` to the index of the guest's interface
    when it is known.
    """

    def __init__(self, policy: Policy, observed: Observed, *, splice: bool = True,
                 keep_loopback: bool = False, alone: bool = False,
                 explain: Callable[[str], None] | None = None) -> None:
        self._policy = policy
        self._observed = observed
        self._splice = splice
        self._keep_loopback = keep_loopback
        self._alone = alone
        self._explain = explain
        self._lasting = explain is None  # else the policy is asked for each flow, to explain it
        self.scope_id = 0
        self.outbound = policy.outbound  # the same for both
        self.judge_opening = policy.judge_opening
        self.explain_outbound = policy.explain_outbound
        self.guest_visible_source = policy.guest_visible_source
        self.leads_to = policy.leads_to

    def inbound(self, proto: int, rule: object, peer: bytes, peer_port: int,
                local: bytes, local_port: int) -> InboundTarget | Target | None:
        """Map a flow accepted on the host for *rule*, a `PortRule`; None refuses it."""
        if self._find_bar(rule, peer):
            if self._alone:
                return None
            return self._policy.inbound(proto, rule, peer, peer_port, local, local_port)
        target, why = self._decide_inbound(rule, peer, local, local_port)
        if self._explain is not None:
            self._explain_flow("to the namespace", proto, (peer, peer_port, local, local_port), target, why)
        return target

    def explain_inbound(self, proto: int, rule: object, peer: bytes, peer_port: int,
                        local: bytes, local_port: int) -> Explained:
        """Decide as `inbound`, and say how."""
        bar = self._find_bar(rule, peer)
        if bar and self._alone:
            return Explained(None, NO_LINK, (f"it cannot bypass the link: {bar}",))
        if bar:
            found = self._policy.explain_inbound(proto, rule, peer, peer_port, local, local_port)
            return replace(found, steps=(f"it takes the link: {bar}", *found.steps))
        target, why = self._decide_inbound(rule, peer, local, local_port)
        return Explained(target, why,
                         ("it bypasses the link: client and port are of the host's loopback",))

    def outbound_bypass(self, proto: int, rule: object, peer: bytes, peer_port: int,
                       local: bytes, local_port: int) -> Target | None:
        """Map a flow accepted in the namespace for *rule*, a `PortRule`; None refuses it."""
        target = self._decide_outbound(rule, peer, local, local_port)
        why = _NOT_LOOPBACK
        egress = self._policy.egress
        if target is not None and egress is not None:
            is_allowed, place = egress.decide(proto, target.port, target.address, target.address)
            if not is_allowed:
                egress.refuse(proto, local_port, local, place)
                target, why = None, egress.describe(place)
            elif self._must_say_name(proto, target):
                egress.refuse(proto, local_port, local, place, NO_NAME)
                target, why = None, NO_NAME
            elif egress.has_names:
                target = target._replace(lasting=False)    # what a name has is over some time
        elif target is not None and self._policy.learning is not None:
            self._policy.learning.note(proto, target.port, target.address, target.address)
        if self._explain is not None:
            self._explain_flow("to the host", proto, (peer, peer_port, local, local_port), target, why)
        return target

    def explain_outbound_bypass(self, proto: int, rule: object, peer: bytes, _peer_port: int,
                                local: bytes, local_port: int) -> Explained:
        """Decide as `outbound_bypass`, and say how."""
        target = self._decide_outbound(rule, peer, local, local_port)
        if target is None:
            return Explained(None, _NOT_LOOPBACK, ())
        steps = ["it bypasses the link: client and port are of the namespace's loopback"]
        egress = self._policy.egress
        if egress is not None:
            is_allowed, place = egress.decide(proto, target.port, target.address, target.address)
            steps.append(f"{egress.describe(place)}: it is {'allowed' if is_allowed else 'denied'}")
            if not is_allowed:
                return Explained(None, egress.describe(place), tuple(steps))
            if self._must_say_name(proto, target):
                return Explained(None, NO_NAME, tuple(steps))
        return Explained(target, "bypass", tuple(steps))

    def _must_say_name(self, proto: int, target: Target) -> bool:
        openings = self._policy.openings
        return (proto == IPPROTO_TCP and openings is not None
                and openings.is_wanted(target.port, target.address, target.address))

    def _find_bar(self, rule: object, peer: bytes) -> str:
        """Say why a flow of the host does not bypass the link; empty if it does."""
        if not self._splice:
            return "the bypass is off (--no-splice)"
        if not is_loopback(peer):
            return "the client is not on the host's loopback"
        if cast("PortRule", rule).target_address is not None:
            return "the rule has a target address"
        return ""

    def _decide_inbound(self, rule: object, peer: bytes, local: bytes, local_port: int
                        ) -> tuple[Target | None, str]:
        """Return where a flow of the host goes, or None, and why."""
        if self._policy.ingress is not None and not self._policy.ingress.may_connect(peer):
            return None, NOT_A_CLIENT
        if self._keep_loopback and is_loopback(local):
            destination: bytes | None = local
        elif self._alone:
            return None, NO_GUEST
        else:
            destination = self._observed.inbound_destination(peer)
        if destination is None:
            return None, NO_GUEST
        scope_id = self.scope_id if needs_scope6(destination) else 0
        return Target(destination, _target_port(rule, local_port), scope_id, lasting=self._lasting), "bypass"

    def _decide_outbound(self, rule: object, peer: bytes, local: bytes, local_port: int) -> Target | None:
        if not (is_loopback(peer) and is_loopback(local)):
            return None
        source = None if peer in _USUAL_SOURCES else peer
        return Target(local, _target_port(rule, local_port), source=source, lasting=self._lasting)

    def _explain_flow(self, where: str, proto: int, flow: tuple[bytes, int, bytes, int],
                      target: Target | None, reason: str) -> None:
        if self._explain is not None:
            source, destination = format_endpoint(*flow[:2]), format_endpoint(*flow[2:])
            outcome = f"to {format_endpoint(target.address, target.port)}" if target else f"refused, {reason}"
            name = "TCP" if proto == IPPROTO_TCP else "UDP"
            self._explain(f"bypass {where}, {name} {source} -> {destination}: {outcome}")


def _target_port(rule: object, port: int) -> int:
    port_rule: PortRule = cast("PortRule", rule)
    return port_rule.service_port(port)
