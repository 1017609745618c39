"""The one place that knows everybody: reads the host, builds the parts, isolates, runs, tears down.

Order of a start, and why:

1. Descriptors, limits and signals are put into a known state. Signals keep their default actions
   until the loop runs, so one that comes early simply ends us, and the child goes with us.
2. Host facts are read and listeners bound, with the caller's rights.
3. The user namespace is entered and the child started. While it makes the tap, we load and build
   the data plane: a second core does half of the start-up.
4. The tap arrives. Signals are blocked, capabilities dropped; the loop knows all its descriptors.
5. The command begins, now that all it needs is there, and the loop runs.

What is not needed by every run, or by the child only, is imported where it is used.
"""

from __future__ import annotations

import gc
import os
import signal
import socket

from passt import log
from passt.errors import ConfigError, HostError
from passt.host import init, namespaces, ping_sockets, privileges, signals
from passt.host.supervisor import Supervisor
from passt.host.tun import interface_index

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.dataplane.engine import Engine
    from passt.dataplane.nsthread import NamespaceThread
    from passt.host.channel import Channel
    from passt.host.listeners import HostPorts
    from passt.host.namespaces import Child, TapFacts
    from passt.model import GuestNet, Settings

SECRET_LEN = 16  # what Engine wants


def run(settings: Settings) -> int:
    """Run pasta as *settings* say until the command, or a signal, ends it; return the exit status.

    To be called once, early, by a process with one thread: it closes all descriptors above 2.
    Raises PasstError. After Ctrl-C it may not return, but end the process by SIGINT.
    """
    if settings.pid is not None and not settings.foreground:
        raise ConfigError("running in the background is not available yet in this version: "
                          "add --foreground (-f)")
    gc.disable()  # what a start allocates lives on
    privileges.tidy_descriptors()
    file_limits = privileges.raise_file_limit()
    ignored = signals.let_signals_end_us()
    guest = _resolve(settings)
    ports = _open_ports(settings, guest)
    if settings.pid is not None:
        return _run_attached(settings, guest, ports, settings.pid)
    return _run_command(settings, guest, ports, init.Command(settings.command, file_limits, ignored))


def _run_command(settings: Settings, guest: GuestNet, ports: HostPorts | None, command: init.Command) -> int:
    """Run *command* in new namespaces and return its status."""

    def main(channel: Channel) -> None:
        init.prepare_namespaces(settings.hostname)
        namespaces.make_tap(channel, guest.ifname, lambda: _configure(settings, guest),
                            watch_ports=settings.has_auto_ports)
        init.run_command(channel, command)

    namespaces.enter_new_user_namespace()
    child = namespaces.start_child(namespaces.COMMAND_NAMESPACES, main)
    try:
        engine = _build_engine(settings, guest, ports, child, child.open_network_namespace)
        supervisor = Supervisor(child)
        supervisor.watch(engine)
        privileges.drop_privileges()
        supervisor.start_command()
        privileges.leave_stdio()
        _loop(engine)
    except BaseException:
        child.end()
        raise
    status = supervisor.finish()
    if supervisor.was_interrupted():
        signals.die_by(signal.SIGINT)
    return status


def _run_attached(settings: Settings, guest: GuestNet, ports: HostPorts | None, pid: int) -> int:
    """Serve the namespaces of process *pid* until it ends, or a signal comes."""
    target = namespaces.Target(pid)

    def main(channel: Channel) -> None:
        target.join_network_namespace()
        namespaces.make_tap(channel, guest.ifname, lambda: _configure(settings, guest),
                            watch_ports=settings.has_auto_ports)

    target.join_user_namespace()
    child = namespaces.start_child(0, main)
    try:
        engine = _build_engine(settings, guest, ports, child, target.open_network_namespace)
    finally:
        child.end()
    target.close_network_namespace()
    reader = signals.SignalReader(signals.ENDING)
    engine.add_reader(reader.fd, engine.stop)
    engine.add_reader(target.pidfd, engine.stop)
    privileges.drop_privileges()
    _loop(engine)
    return 0


def _loop(engine: Engine) -> None:
    """Run *engine* until it is stopped; all it needs is open and loaded."""
    gc.freeze()
    gc.enable()
    engine.run()
    engine.close()


def _resolve(settings: Settings) -> GuestNet:
    from passt.config.resolve import resolve
    from passt.host.probe import probe

    facts = probe(interface=settings.interface, outbound_if4=settings.outbound_if4,
                  outbound_if6=settings.outbound_if6, want4=settings.ip4, want6=settings.ip6)
    guest = resolve(settings, facts)
    for warning in guest.warnings:
        log.warning(warning)
    return guest


def _open_ports(settings: Settings, guest: GuestNet) -> HostPorts | None:
    """Bind the host's ports that are named; None if there is nothing to forward at all."""
    if not (settings.port_rules or settings.namespace_rules):
        return None
    from passt.contracts import MAX_LISTENERS
    from passt.host.listeners import HostPorts

    return HostPorts(settings, guest, MAX_LISTENERS)


def _configure(settings: Settings, guest: GuestNet) -> TapFacts:
    """Set up the interfaces of the network namespace that we are in: a child's work."""
    from passt.host.configure import bring_lo_up, configure

    bring_lo_up()
    facts = configure(guest.ifname, guest, settings.config_net)
    for warning in facts.warnings:
        log.warning(warning)
    return facts


def _our_ip4(guest: GuestNet) -> bytes:
    address = guest.ip4.our_address if guest.ip4 else None
    return address.packed if address else bytes(4)


def _warn_of_ping() -> None:
    log.warning(ping_sockets.explain_refusal())


def _build_engine(settings: Settings, guest: GuestNet, ports: HostPorts | None, child: Child,
                  open_namespace: Callable[[], int]) -> Engine:
    """Load and build the data plane, then wait for the tap of *child*.

    *open_namespace* gives a descriptor of the network namespace.
    """
    from passt.dataplane.engine import Engine
    from passt.forward.policy import Policy
    from passt.host.conntrack import udp_timeouts
    from passt.responders.advertiser import Advertiser
    from passt.responders.dispatch import Dispatcher

    explain = log.debug if log.is_debug() else None
    policy = Policy(guest, tcp=settings.tcp, udp=settings.udp, icmp=settings.icmp, explain=explain,
                    on_ping_forbidden=_warn_of_ping)
    inside = _enter(settings, open_namespace)
    bypass = None
    if inside is not None:
        from passt.forward.bypass import Bypass

        bypass = Bypass(policy, policy.observed, keep_loopback=settings.host_lo_to_ns_lo,
                        splice=settings.splice, explain=explain)
    # A guest that is configured by us must not configure itself once more from advertisements.
    advertise = settings.ndp and settings.router_advertisements and not settings.config_net
    responder = Dispatcher(guest, dhcp=settings.dhcp, ndp=settings.ndp, router_advertisements=advertise,
                           dhcpv6=settings.dhcpv6, explain=explain, warn=log.warning,
                           is_guest=policy.observed.is_guest)
    engine = Engine(bypass or policy, responder, policy.observed, our_mac=guest.our_mac, mtu=guest.mtu or 0,
                    secret=os.urandom(SECRET_LEN), our_ip4=_our_ip4(guest), udp_timeouts=udp_timeouts())
    if guest.ip6 and advertise:
        Advertiser(responder.advertise, engine.send_frame, engine.call_later, _dice, explain=explain).arm()
    engine.switch(ip4=guest.ip4 is not None, ip6=guest.ip6 is not None, tcp=settings.tcp, udp=settings.udp,
                  icmp=settings.icmp)
    if ports is not None:
        from passt.ports import PortForwarding

        forwarding = PortForwarding(engine, ports)
    tap = child.receive_tap()
    engine.attach_tap(tap.fd, tap.mac, tap.offloads)
    policy.observed.on_guest_mac(tap.mac)
    if tap.link_local is not None:
        policy.observed.on_guest_address(tap.link_local.packed)
    side = None
    if inside is not None and bypass is not None:
        from passt.ports import NamespaceSide

        bypass.scope_id = _find_index(inside, guest.ifname)
        engine.attach_namespace(inside)
        side = NamespaceSide(engine, inside, ip4=settings.ip4, ip6=settings.ip6)
    if ports is not None:
        forwarding.start(tap.port_sources, side)
    return engine


def _enter(settings: Settings, open_namespace: Callable[[], int]) -> NamespaceThread | None:
    """Start the thread in the network namespace; None if nothing bypasses the link."""
    if not settings.namespace_rules and not (settings.port_rules and settings.splice):
        return None
    from passt.dataplane.nsthread import NamespaceThread

    namespace = open_namespace()
    try:
        inside = NamespaceThread(namespace)
    except OSError as error:
        raise HostError(f"cannot open sockets in the network namespace: {error.strerror}") from None
    finally:
        os.close(namespace)
    for proto in {rule.proto for rule in settings.port_rules if settings.splice}:
        inside.warm(proto, ip4=settings.ip4, ip6=settings.ip6)
    return inside


def _find_index(inside: NamespaceThread, ifname: str) -> int:
    """Index of the guest's interface in its namespace, which link-local addresses need."""
    fd = inside.open_socket(socket.AF_INET, socket.SOCK_DGRAM, 0)
    try:
        return interface_index(fd, ifname)
    finally:
        os.close(fd)


def _dice() -> float:
    """Draw a random number from 0 up to 1, without the import of `random`."""
    return int.from_bytes(os.urandom(4), "big") / (1 << 32)
