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
from passt.facts.contracts import Target
from passt.light.values import cast

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.contracts import FlowPolicy, InboundTarget
    from passt.facts.port_rule import PortRule
    from passt.forward.guest_addresses import Observed

# The source that the kernel chooses for any loopback destination.
_USUAL_SOURCES = frozenset((IP4_LOOPBACK, IP6_LOOPBACK))


class Bypass:
    """Implements `contracts.FlowPolicy`: decides on loopback flows and leaves the others to *policy*.

    With *splice* False the host's flows are left to *policy* too. With *keep_loopback* loopback clients of
    the host reach the namespace's loopback. If it is *alone* there is no link: other flows are refused.
    *explain* gets a line for each decision, if given. Set `scope_id`
    to the index of the guest's interface when it is known.
    """

    def __init__(self, policy: FlowPolicy, observed: Observed, *, splice: bool = True,
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
        self.guest_visible_source = policy.guest_visible_source
        self.leads_to = policy.leads_to

    def inbound(self, proto: int, rule: object, peer: bytes, peer_port: int,
                local: bytes, local_port: int) -> InboundTarget | Target | None:
        """Map a flow accepted on the host for *rule*, a `PortRule`; None refuses it."""
        if not (self._splice and is_loopback(peer)) or cast("PortRule", rule).target_address is not None:
            if self._alone:
                return None
            return self._policy.inbound(proto, rule, peer, peer_port, local, local_port)
        if self._keep_loopback and is_loopback(local):
            destination: bytes | None = local
        elif self._alone:
            destination = None
        else:
            destination = self._observed.inbound_destination(peer)
        target = None
        if destination is not None:
            scope_id = self.scope_id if needs_scope6(destination) else 0
            target = Target(destination, _target_port(rule, local_port), scope_id,
                            lasting=self._lasting)
        if self._explain is not None:
            self._explain_flow("to the namespace", proto, (peer, peer_port, local, local_port), target,
                               "no guest address known yet")
        return target

    def outbound_bypass(self, proto: int, rule: object, peer: bytes, peer_port: int,
                       local: bytes, local_port: int) -> Target | None:
        """Map a flow accepted in the namespace for *rule*, a `PortRule`; None refuses it."""
        target = None
        if is_loopback(peer) and is_loopback(local):
            source = None if peer in _USUAL_SOURCES else peer
            target = Target(local, _target_port(rule, local_port), source=source,
                            lasting=self._lasting)
        if self._explain is not None:
            self._explain_flow("to the host", proto, (peer, peer_port, local, local_port), target,
                               "not from loopback to loopback")
        return target

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
