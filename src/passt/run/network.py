"""Builds the parts of a run from settings and joins them: policy, responder, engine, port forwarding.

Nothing here knows of namespaces or machines. A mode reads the host (`resolve_guest`), binds its ports
(`open_ports`), builds a `Network`, attaches its link to the network's engine, has the ports followed
(`Network.start_ports`), and serves (`Network.serve`).

What is loaded when. The program's files may lie where only their owner and root look, as below a home of
mode 0700, and root loses that right with its user or by entering another user namespace. So whoever may lose
it loads everything before (`load_all`). A plain user keeps what it may read whatever namespace it enters; for
it the two large parts wait, as start-up counts: the data plane until a child does its work on another core,
the services until the caller knows that we are ready. All that is small is loaded with this module. Nothing
is loaded once the loop runs.
"""

from __future__ import annotations

import gc
import os

from passt import log
from passt.facts.contracts import MAX_LISTENERS
from passt.forward.bypass import Bypass
from passt.forward.policy import Policy
from passt.host import ping_permission
from passt.host.udp_timeouts import udp_timeouts
from passt.run.banner import banner
from passt.run.port_forwarding import PortForwarding

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from passt.dataplane.engine import Engine
    from passt.facts.contracts import ListenerSide
    from passt.facts.guest import GuestNet
    from passt.facts.settings import ForwardingSettings, Settings
    from passt.host.listeners import HostPorts
    from passt.responders.dispatch import Dispatcher
    from passt.run.diagnostics import Diagnostics

SECRET_LEN = 16  # what Engine wants


def load_all() -> None:
    """Load the parts of a `Network` that wait for their time otherwise."""
    for name in ("passt.dataplane.engine", "passt.responders.dispatch", "passt.responders.router_advertiser"):
        __import__(name)


def resolve_guest(settings: Settings) -> GuestNet:
    """Read the host and work out the guest's network; warnings and notes are printed. Raises PasstError."""
    from passt.config.resolve import resolve
    from passt.host.host_facts import read_host

    asked, namespace = settings.addresses, settings.namespace
    facts = read_host(interface=asked.interface, outbound_if4=asked.outbound_if4,
                      outbound_if6=asked.outbound_if6, want4=settings.protocols.ip4,
                      want6=settings.protocols.ip6,
                      want_routes=namespace.config_net and namespace.copy_routes)
    guest = resolve(settings, facts)
    for warning in guest.warnings:
        log.warning(warning)
    if settings.log.banner:
        for note in guest.notes:
            log.info(note)
    return guest


def print_banner(settings: Settings, guest: GuestNet) -> None:
    """Tell the user what the guest gets, unless that is not wanted: to be called when all is ready."""
    if settings.log.banner and not settings.log.quiet:
        for line in banner(settings.mode, settings.services, settings.forwarding, guest):
            log.info(line)
    if settings.diagnostics.pcap is not None:
        log.info(f"Saving packet capture to {settings.diagnostics.pcap}")


def open_ports(asked: ForwardingSettings, guest: GuestNet) -> HostPorts | None:
    """Bind the host's ports that are named; None if there is nothing to forward at all. Raises PasstError."""
    if not (asked.port_rules or asked.namespace_rules):
        return None
    from passt.host.listeners import HostPorts

    return HostPorts(asked.port_rules, asked.namespace_rules, guest, MAX_LISTENERS, freebind=asked.freebind)


class Network:
    """The parts of one run, joined, without a link yet.

    *engine* has them all; *observed* is what is known of the guest's addresses. *bypass* is the policy for
    flows that do not take the link, None unless *bypassed* asks for it. *ports* are served from now on.
    """

    def __init__(self, settings: Settings, guest: GuestNet, ports: HostPorts | None, *,
                 bypassed: bool = False) -> None:
        from passt.dataplane.engine import Engine

        explain = log.debug if log.is_debug() else None
        protocols = settings.protocols
        policy = Policy(guest, tcp=protocols.tcp, udp=protocols.udp, icmp=protocols.icmp, explain=explain,
                        warn=log.warning, on_ping_forbidden=_warn_of_ping)
        self.observed = policy.observed
        self.bypass = None
        if bypassed:
            self.bypass = Bypass(policy, policy.observed, keep_loopback=settings.forwarding.host_lo_to_ns_lo,
                                 splice=settings.forwarding.splice, explain=explain)
        self._asked = settings.services
        self._is_configured = settings.namespace.config_net
        self._guest = guest
        self._explain = explain
        self._services = _Services()
        self.engine = Engine(self.bypass or policy, self._services, policy.observed, our_mac=guest.our_mac,
                             mtu=guest.mtu or 0, secret=os.urandom(SECRET_LEN), our_ip4=_our_ip4(guest),
                             udp_timeouts=udp_timeouts())
        self.engine.switch(ip4=guest.ip4 is not None, ip6=guest.ip6 is not None, tcp=protocols.tcp,
                           udp=protocols.udp, icmp=protocols.icmp)
        self._forwarding = None
        if ports is not None:
            self._forwarding = PortForwarding(self.engine, ports)

    def start_ports(self, namespace_sources: Sequence[int] = (), side: ListenerSide | None = None) -> None:
        """Open the namespace's ports on *side*, if there is one, and follow bound ports as rules say.

        *namespace_sources* are as for `PortForwarding.start`. To be called when the link is there.
        Raises ConfigError.
        """
        if self._forwarding is not None:
            self._forwarding.start(namespace_sources, side)

    def load_services(self) -> None:
        """Load what answers the guest's control frames, if that has not been done.

        It is a third of all code, and needed with the first such frame only, so `serve` does it by itself
        when the caller knows already that we are ready; the link keeps the frames that come meanwhile.
        """
        if self._services.is_loaded:
            return
        from passt.responders.dispatch import Dispatcher
        from passt.responders.guest_solicitor import solicit
        from passt.responders.router_advertiser import RouterAdvertiser

        asked, guest = self._asked, self._guest
        # A guest that is configured by us must not configure itself once more from advertisements.
        advertise = asked.ndp and asked.router_advertisements and not self._is_configured
        dispatcher = Dispatcher(guest, dhcp=asked.dhcp, ndp=asked.ndp, router_advertisements=advertise,
                                dhcpv6=asked.dhcpv6, explain=self._explain, warn=log.warning,
                                is_guest=self.observed.is_guest)
        self._services.load(dispatcher)

        def ask() -> None:
            for frame in solicit(guest, self.observed.addresses()):
                self.engine.send_frame(frame)

        self.observed.ask = ask
        if guest.ip6 and advertise:
            RouterAdvertiser(dispatcher.advertise, self.engine.send_frame, self.engine.call_later, _dice,
                             explain=self._explain).arm()

    def serve(self, diagnostics: Diagnostics) -> None:
        """Run the engine until it is stopped, *diagnostics* looking on."""
        self.load_services()
        run_loop(self.engine, diagnostics, self._services.counters)


class _Services:
    """Stands for the responder in the engine, which must not run before it is loaded."""

    respond: Callable[[bytes], list[bytes]]
    counters: Callable[[], dict[str, int]]

    def __init__(self) -> None:
        self.is_loaded = False

    def load(self, dispatcher: Dispatcher) -> None:
        self.respond = dispatcher.respond
        self.counters = dispatcher.counters
        self.is_loaded = True


def run_loop(engine: Engine, diagnostics: Diagnostics,
             control_counters: Callable[[], dict[str, int]]) -> None:
    """Run *engine* until it is stopped, *diagnostics* looking on; all it needs is open and loaded.

    *control_counters* are those of the responders.
    """
    diagnostics.attach(engine, control_counters)
    gc.freeze()
    gc.enable()
    engine.run()
    diagnostics.finish()
    engine.close()


def _our_ip4(guest: GuestNet) -> bytes:
    address = guest.ip4.our_address if guest.ip4 else None
    return address.packed if address else bytes(4)


def _warn_of_ping() -> None:
    log.warning(ping_permission.explain_refusal())


def _dice() -> float:
    """Draw a random number from 0 up to 1, without the import of `random`."""
    return int.from_bytes(os.urandom(4), "big") / (1 << 32)
