"""Builds the parts of a run from settings and joins them: policy, responder, engine, port forwarding.

Nothing here depends on namespaces or virtual machines. `run.pasta` and `run.passt` read the host
(`resolve_guest`), bind its ports (`open_ports`), build a `Network`, attach a link to its engine, start the
forwarding (`Network.start_ports`), and run the loop (`Network.serve`).

What is loaded when. The program's files may lie where only their owner and root look, as below a home of
mode 0700, and root loses that right with its user or by entering another user namespace. So a start that
may lose it loads everything before (`load_all`). A plain user keeps it whatever namespace it enters; the two
large parts, the data plane and the responders, wait then until a child does its work on another core. All
small modules are loaded with this one. Nothing is loaded once the root directory is empty.
"""

from __future__ import annotations

import gc
import os
import signal
import time

from passt import log
from passt.errors import ConfigError, HostError
from passt.facts.contracts import MAX_LISTENERS
from passt.forward.bypass import Bypass
from passt.forward.policy import Policy
from passt.host.descriptors import file_limit
from passt.host.ping_permission import PingRefusal
from passt.host.udp_timeouts import udp_timeouts
from passt.light.values import replace
from passt.process import signals
from passt.run.banner import banner
from passt.run.port_forwarding import PortForwarding, has_low_port_of_interface

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import TypeVar

    from passt.config.learned_file import LearnedFile
    from passt.control.door import Control
    from passt.dataplane.engine import Engine
    from passt.facts.guest import GuestNet
    from passt.facts.settings import ForwardingSettings, Settings
    from passt.follow.lookout import Lookout
    from passt.follow.policy_reader import PolicyReader
    from passt.follow.watched_host import WatchedHost
    from passt.forward.egress import Egress, Ingress
    from passt.forward.learning import Learning
    from passt.forward.live_egress import LiveEgress
    from passt.forward.openings import Openings
    from passt.host.listeners import HostPorts
    from passt.names.process import NameForwarder
    from passt.process.background import Background
    from passt.process.identity import Identity
    from passt.process.ports_file import PortsFile
    from passt.responders.reconfiguration import Reconfiguration
    from passt.run.diagnostics import Diagnostics
    from passt.run.port_forwarding import NamespaceSide
    from passt.run.port_helper import PortHelper
    from passt.run.steering import Steering

    T = TypeVar("T")

# What `Network` imports.
_LARGE_PARTS = ("passt.dataplane.engine", "passt.responders.dispatch", "passt.responders.guest_solicitor",
                "passt.responders.router_advertiser")
# What follows the host.
FOLLOWING_PARTS = ("passt.responders.reconfiguration", "passt.responders.reconfigurer")
SECRET_LEN = 16  # bytes, as Engine takes it
MIN_FILES_TO_FOLLOW = 128          # open at once: a start that was not told to follow takes none of fewer


def load_all(*others: str) -> None:
    """Load the parts of a `Network` that wait for their time otherwise, and the modules *others*."""
    for name in (*_LARGE_PARTS, *others):
        __import__(name)


def watch_host(settings: Settings) -> tuple[Settings, WatchedHost | None]:
    """Wait for the host's network, and open what is needed to follow it, as far as that is wanted.

    Returns *settings* as they are from now on: a start that was not told to follow does without where it
    cannot. Raises PasstError.
    """
    asked = settings.addresses
    if asked.wait_online_s is None and not asked.follow:
        return settings, None
    from passt.follow.watched_host import WatchedHost, wait_online

    if asked.wait_online_s is not None and not wait_online(settings, asked.wait_online_s):
        log.warning(f"option '--wait-online={asked.wait_online_s}': the host has no network yet; goes on"
                    " with link-local addresses")
    host = None
    if asked.follow and (asked.must_follow or file_limit() >= MIN_FILES_TO_FOLLOW):
        host = follow_if_possible(settings, lambda: WatchedHost(settings))
    if host is None:
        settings = replace(settings, addresses=replace(asked, follow=False))
    return settings, host


def follow_if_possible(settings: Settings, step: Callable[[], T]) -> T | None:
    """Return what *step* does; None if it fails, and nobody has asked for --follow. Raises HostError."""
    try:
        return step()
    except (HostError, OSError) as error:
        if settings.addresses.must_follow:
            raise
        log.debug(f"the host is not followed: {error}")
        return None


def start_resolver_reader(settings: Settings, host: WatchedHost | None, user: Identity | None) -> None:
    """Start the program that reads resolv.conf for *host*, if that is watched, as *user*. Raises HostError.

    Call with one thread and the caller's rights.
    """
    if host is not None:
        follow_if_possible(settings, lambda: host.start_reader(user))


def prepare_following(settings: Settings, host: WatchedHost | None) -> Lookout | None:
    """Read the modules that follow *host*, if it is watched. Call while a child does its work.

    Raises ImportError, or OSError if it must follow.
    """
    if host is None:
        return None
    from passt.follow.lookout import Lookout

    return follow_if_possible(settings, lambda: Lookout(settings, host))


def start_names(settings: Settings, guest: GuestNet, user: Identity | None) -> NameForwarder | None:
    """Start the process that answers --dns-forward, as *user*, if that is wanted. Raises HostError.

    Call with one thread and the caller's rights.
    """
    if guest.names is None or settings.forwarding.splice_only:
        return None
    from passt.names.process import NameForwarder

    rules = settings.egress.rules if settings.egress.has_rules else None
    if settings.egress.learn_file is not None:
        from passt.facts.egress import EgressRules

        rules = EgressRules(learns=True)
    return NameForwarder(settings.names, guest, user, rules)


def start_policy_reader(settings: Settings, user: Identity | None) -> PolicyReader | None:
    """Start the process that reads the file of --policy again, as *user*, if there is one. Raises HostError.

    Call with one thread and the caller's rights.
    """
    if settings.egress.policy_file is None:
        return None
    from passt.follow.policy_reader import PolicyReader

    return PolicyReader(settings.egress.policy_file, user)


def watch_signals(engine: Engine, reader: PolicyReader | None, *, in_background: bool) -> None:
    """Have signals end the run, or *reader* read its file; call in the stage "signals", without a command.

    SIGHUP of a terminal that hangs up is none of these in the background, nor where the caller ignores it.
    """
    outlives_terminal = in_background or signal.getsignal(signals.RELOADING) == signal.SIG_IGN
    ending = signals.read_ending(in_background=in_background, reloads=reader is not None)

    def on_signals() -> None:
        for received in ending.read():
            if received.number != signals.RELOADING or (received.is_from_kernel and not outlives_terminal):
                engine.stop()
            elif reader is not None and received.is_from_user:
                reader.ask()

    engine.add_reader(ending.fd, engine.stop if reader is None else on_signals)


def resolve_guest(settings: Settings, host: WatchedHost | None = None) -> GuestNet:
    """Read the host, work out the guest's network, and print warnings and notes. Raises PasstError.

    A *host* that is watched has been read already.
    """
    from passt.config.resolve import resolve
    from passt.host.host_facts import read_host

    asked, namespace = settings.addresses, settings.namespace
    facts = host.facts if host is not None else read_host(
        interface=asked.interface, outbound_if4=asked.outbound_if4, outbound_if6=asked.outbound_if6,
        want4=settings.protocols.ip4, want6=settings.protocols.ip6,
        want_routes=namespace.config_net and namespace.copy_routes)
    guest = resolve(settings, facts, may_come=asked.must_follow)
    for warning in guest.warnings:
        log.warning(warning)
    if settings.log.banner:
        for note in guest.notes:
            log.info(note)
    return guest


def print_banner(settings: Settings, guest: GuestNet, control: Control | None = None) -> None:
    """Print the banner if it is wanted, *control* in it; call when the start is complete."""
    if control is not None and settings.log.banner and not settings.log.quiet:
        log.info(f"Control socket: {control.path}")
    if settings.log.banner and not settings.log.quiet:
        if settings.control.conf_path is not None:
            log.info(f"Configuration socket: {settings.control.conf_path}")
        for line in banner(settings.mode, settings.services, settings.forwarding, guest):
            log.info(line)
    if settings.diagnostics.pcap is not None:
        log.info(f"Saving packet capture to {settings.diagnostics.pcap}")


def open_ports(settings: Settings, guest: GuestNet) -> HostPorts | None:
    """Bind the host ports of fixed rules; return None if there are no rules, and none can come later.

    Raises PasstError.
    """
    asked = settings.forwarding
    if not (asked.port_rules or asked.namespace_rules or settings.control.changes_ports):
        return None
    from passt.host.listeners import HostPorts

    handed_over = {}
    if asked.takes_sockets:
        from passt.host import inherited_sockets

        handed_over = inherited_sockets.list_handed_over()
    ports = HostPorts(asked.port_rules, asked.namespace_rules, guest, MAX_LISTENERS, freebind=asked.freebind,
                      handed_over=handed_over, waits=settings.addresses.follow)
    if handed_over:
        inherited_sockets.forget(handed_over)
    return ports


def open_helper(settings: Settings, ports: HostPorts | None, user: Identity | None) -> PortHelper | None:
    """Start the process that binds low ports again when their interface is made anew, if that may come.

    It becomes *user*. Call before any right is given up. Raises HostError.
    """
    if not settings.addresses.follow or ports is None or not has_low_port_of_interface(ports.inbound):
        return None
    from passt.run.port_helper import start_helper

    return follow_if_possible(settings, lambda: start_helper(ports.binder, user))


def open_ports_file(asked: ForwardingSettings, background: Background) -> PortsFile | None:
    """Open the file of --ports-file, if it is asked for. Raises ConfigError."""
    if asked.ports_file is None:
        return None
    from passt.process.ports_file import PortsFile

    return PortsFile(asked.ports_file, background)


def tell_ports(file: PortsFile | None, ports: HostPorts | None) -> None:
    """Write *ports* into the file of --ports-file, if there is one. Raises HostError."""
    if file is not None:
        file.write(ports.named() if ports is not None else ())


def settle_ports(settings: Settings, ports: HostPorts | None) -> Settings:
    """Return *settings* with the ports that *ports* has for rules that named none of the host's."""
    forwarding = settings.forwarding
    if ports is None or all(rule.first for rule in forwarding.port_rules):
        return settings
    named = [rule for rule in forwarding.port_rules if rule.first]
    return replace(settings, forwarding=replace(forwarding, port_rules=(*named, *ports.settled)))


def prepare_egress(settings: Settings, background: Background) -> tuple[Settings, LearnedFile | None]:
    """Load what judges or notes flows, and open the file of --learn, as far as that is asked for.

    Returns *settings* with the rules of the file of --policy. Call with the caller's rights.
    Raises ConfigError.
    """
    if not settings.egress.is_asked:
        return settings, None
    from passt.run import egress

    return egress.read_policy(settings), egress.open_learned(settings.egress, background)


def follows_ports(settings: Settings) -> bool:
    """Tell whether bound ports are followed (pasta), or may be one day."""
    return settings.forwarding.has_auto_ports or (
        settings.mode == "pasta" and settings.control.changes_ports)


def _build_judges(settings: Settings, guest: GuestNet
                  ) -> tuple[Egress | None, Ingress | None, Learning | None, Openings | None]:
    """Build what judges flows of the guest, what those from outside, and what notes the former, as asked for.

    The last one judges what flows of the guest say first.

    Raises HostError.
    """
    asked, own_names = settings.egress, settings.names.dns_hosts
    if not asked.is_asked:
        return None, None, None, None
    from passt.run import egress

    judge = egress.build_egress(asked, guest, own_names)
    return (judge, egress.build_ingress(asked), egress.build_learning(asked, guest, own_names),
            egress.build_openings(judge))


def _open_reconfiguration() -> Reconfiguration:
    from passt.responders.reconfiguration import Reconfiguration

    return Reconfiguration(os.urandom(SECRET_LEN), time.time_ns())


class Network:
    """The parts of one run, joined, without a link yet.

    *engine* holds all parts; *observed* has the guest's addresses as far as known. *bypass* is the policy for
    flows that bypass the link, None unless *bypassed* asks for it; *policy* is that which the engine asks.
    The engine serves *ports* from now on; *helper* binds low ports later, *names* answers --dns-forward, and
    *learned* takes what the run has needed.
    """

    def __init__(self, settings: Settings, guest: GuestNet, ports: HostPorts | None, *,
                 bypassed: bool = False, helper: PortHelper | None = None,
                 names: NameForwarder | None = None, learned: LearnedFile | None = None) -> None:
        from passt.dataplane.engine import Engine
        from passt.responders.dispatch import Dispatcher
        from passt.responders.guest_solicitor import solicit

        # Who may set the level later (--control) gets all that debug messages tell, from then on.
        explain = log.debug if log.is_debug() or settings.control.control_path is not None else None
        self._ping_refusal = PingRefusal()
        self._protocols = settings.protocols
        self._loopback_to_loopback = settings.forwarding.host_lo_to_ns_lo
        asked, protocols = settings.services, settings.protocols
        egress, ingress, learning, openings = _build_judges(settings, guest)
        policy = Policy(guest, tcp=protocols.tcp, udp=protocols.udp, icmp=protocols.icmp, explain=explain,
                        warn=log.warning, on_ping_forbidden=self._ping_refusal.warn,
                        egress=egress, ingress=ingress, learning=learning, openings=openings)
        self._policy = policy
        self._learned = learned
        self._names = names
        if names is not None:
            policy.serve_names(names.doors)
        if policy.egress is not None and policy.egress.has_names and (names is None or not names.doors):
            log.warning("rules of --allow by name: there is no forwarder of names here, so none is answered")
        self.observed = policy.observed
        self.bypass = None
        if bypassed:
            self.bypass = Bypass(policy, policy.observed, keep_loopback=settings.forwarding.host_lo_to_ns_lo,
                                 splice=settings.forwarding.splice, alone=settings.forwarding.splice_only,
                                 explain=explain)
        # We have set up the guest's addresses: it must not configure others from advertisements.
        advertise = asked.ndp and asked.router_advertisements and not settings.namespace.config_net
        calls = settings.addresses.follow and asked.dhcpv6 and not settings.namespace.config_net
        reconfiguration = _open_reconfiguration() if calls else None
        self._dispatcher = Dispatcher(guest, dhcp=asked.dhcp, ndp=asked.ndp, router_advertisements=advertise,
                                      dhcpv6=asked.dhcpv6, explain=explain, warn=log.warning,
                                      is_guest=policy.observed.is_guest,
                                      short_leases=settings.addresses.follow,
                                      reconfiguration=reconfiguration)
        self.policy = self.bypass or policy
        self.engine = Engine(self.policy, self._dispatcher, policy.observed, our_mac=guest.our_mac,
                             mtu=guest.mtu or 0, secret=os.urandom(SECRET_LEN), our_ip4=_our_ip4(guest),
                             udp_timeouts=udp_timeouts())
        self.live_egress: LiveEgress | None = None
        if policy.egress is not None:
            from passt.run.egress import build_live_egress

            self.live_egress = build_live_egress(settings.egress, policy.egress, self.engine, names,
                                                 lambda: self.engine.renew(_our_ip4(self._guest)))
        self.engine.switch(ip4=guest.ip4 is not None, ip6=guest.ip6 is not None, tcp=protocols.tcp,
                           udp=protocols.udp, icmp=protocols.icmp)
        self._guest = guest
        self._solicit = solicit
        self.observed.ask = self.ask_guest
        if guest.ip6 and advertise:
            self._advertise(explain)
        if reconfiguration is not None:
            self._call_clients(reconfiguration)
        self._forwarding = None
        if ports is not None:
            self._forwarding = PortForwarding(self.engine, ports, follows=follows_ports(settings),
                                              changes=settings.control.changes_ports, helper=helper,
                                              own_sockets=names.descriptors() if names is not None else ())

    def _advertise(self, explain: Callable[[str], None] | None) -> None:
        from passt.responders.router_advertiser import RouterAdvertiser

        RouterAdvertiser(self._dispatcher.advertise, self.engine.send_frame, self.engine.call_later, _dice,
                         explain=explain).arm()

    def _call_clients(self, reconfiguration: Reconfiguration) -> None:
        from passt.responders.reconfigurer import Reconfigurer

        reconfiguration.on_begin = Reconfigurer(self._dispatcher.reconfigure, self.engine.send_frame,
                                                self.engine.call_later).start

    def read_last_paths(self) -> None:
        """Read what may be asked for when no path can be opened; call before that, as the last user."""
        self._ping_refusal.read()

    def start_ports(self, namespace_sources: Sequence[int] = (), side: NamespaceSide | None = None) -> None:
        """Open the namespace's ports on *side*, if there is one, and follow bound ports for `auto` rules.

        *namespace_sources* are as for `PortForwarding.start`. Call when the link is attached.
        Raises ConfigError.
        """
        if self._forwarding is not None:
            self._forwarding.start(namespace_sources, side)

    def serve_control(self, control: Control | None, settings: Settings) -> None:
        """Build what answers clients of *control*, if there is one; call before paths are closed."""
        if control is not None:
            control.serve(settings, self._guest, self.engine, self.observed, self.policy,
                          self.control_counters, self._ping_refusal.forecast)
            if self.live_egress is not None:
                control.govern(self.live_egress)

    def steer(self, steering: Steering | None, control: Control | None) -> None:
        """Have the port rules changed by clients of *steering* and *control*; call after `start_ports`."""
        if steering is None or self._forwarding is None:
            return
        live = self._forwarding.live_ports(self._protocols, loopback_to_loopback=self._loopback_to_loopback)
        tables = steering.start(self.engine, live, self._protocols, self._guest)
        if control is not None:
            control.steer(tables, self._forwarding.leave_out_ephemeral, steering.is_ours)

    def _leave_names(self) -> None:
        """Do without the forwarder of names, which has ended."""
        self._policy.serve_names({})
        self.engine.renew(_our_ip4(self._guest))

    def ask_guest(self) -> None:
        """Send the frames that ask for the guest's hardware address."""
        for frame in self._solicit(self._guest, self.observed.addresses()):
            self.engine.send_frame(frame)

    def renew(self, guest: GuestNet) -> None:
        """Serve *guest* from now on: one frozen fact in the place of another.

        The families that there are stay; flows go on as they are.
        """
        self._guest = guest
        self._policy.renew(guest)
        if self._policy.egress is not None:
            self._judge_by(guest, self._policy.egress, None)
        if self._names is not None:
            self._names.renew(guest.names)
        self.engine.renew(_our_ip4(guest))
        if self._forwarding is not None:
            self._forwarding.renew(guest)
        for frame in self._dispatcher.renew(guest):
            self.engine.send_frame(frame)

    @property
    def judges_host(self) -> bool:
        """Whether it matters which addresses are the host's: rules of egress may be about them."""
        return self._policy.egress is not None

    def take_host(self, addresses: Collection[bytes]) -> None:
        """Take it that these are the host's addresses now."""
        if self._policy.egress is not None:
            self._judge_by(self._guest, self._policy.egress, addresses)
            self.engine.renew(_our_ip4(self._guest))

    @staticmethod
    def _judge_by(guest: GuestNet, egress: Egress, addresses: Collection[bytes] | None) -> None:
        """Have flows judged by the networks of *guest*, and by the host's *addresses* if they are others."""
        from passt.run.egress import networks_of, resolvers_of

        egress.renew(addresses, resolvers_of(guest), networks_of(guest))

    def set_neighbours(self, entries: dict[bytes, bytes]) -> None:
        """Show the guest hosts on our link by the MAC addresses in *entries* from now on, others by ours."""
        self.engine.set_neighbours(entries)
        for frame in self._dispatcher.set_neighbours(entries):
            self.engine.send_frame(frame)

    def assign(self, guest: GuestNet) -> None:
        """Take it that the guest has the addresses of *guest* now."""
        for family in (guest.ip4, guest.ip6):
            if family is not None and family.address is not None:
                self.observed.on_guest_address(family.address.packed)

    def listened_interfaces(self) -> set[str]:
        """Name the interfaces of the host that rules of open listeners name."""
        return self._forwarding.listened_interfaces() if self._forwarding is not None else set()

    def listen_anew(self, indices: Mapping[str, int]) -> None:
        """Open the listeners again whose interface is another one now; *indices* are those of all."""
        if self._forwarding is not None:
            self._forwarding.listen_anew(indices)

    def _take_policy(self, content: bytes) -> None:
        """Judge new flows by the rules in *content*, that of --policy's file; a mistake changes nothing."""
        from passt.config.policy_file import parse_policy

        live = self.live_egress
        if live is None:
            return
        try:
            live.replace(live.compose(parse_policy(content)))
        except ConfigError as error:
            log.warning(f"option '--policy' {live.path}: {error}; the rules of egress stay as they are")

    def serve(self, diagnostics: Diagnostics, policy_reader: PolicyReader | None = None) -> None:
        """Run the engine, observed by *diagnostics*, until it is stopped.

        *policy_reader* sends rules of egress.
        """
        if policy_reader is not None:
            policy_reader.start(self.engine, self._take_policy)
        egress, learning = self._policy.egress, self._policy.learning
        if self._names is not None:
            self._names.start(self.engine, self._leave_names, egress.pin if egress is not None else None,
                              learning.note_name if learning is not None else None,
                              egress.refuse_names if egress is not None else None)
        run_loop(self.engine, diagnostics, self.control_counters)
        if self._learned is not None and learning is not None:
            self._learned.write(learning)

    def control_counters(self) -> dict[str, int]:
        """Return what the responders have counted, and the forwarder of names."""
        names = self._names.counters() if self._names is not None else {}
        return self._dispatcher.counters() | names


def run_loop(engine: Engine, diagnostics: Diagnostics,
             control_counters: Callable[[], dict[str, int]]) -> None:
    """Run *engine*, observed by *diagnostics*, until it is stopped; all is open and loaded by now.

    *control_counters* are those of what is not the data plane.
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


def _dice() -> float:
    """Draw a random number from 0 up to 1; the import of `random` would cost start-up time."""
    return int.from_bytes(os.urandom(4), "big") / (1 << 32)
