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

from passt import log
from passt.errors import ConfigError
from passt.host import init, namespaces, ping_sockets, privileges, signals
from passt.host.supervisor import Supervisor

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.dataplane.engine import Engine
    from passt.host.channel import Channel
    from passt.host.listeners import Listener
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
    listeners = _open_listeners(settings)
    if settings.pid is not None:
        return _run_attached(settings, guest, listeners, settings.pid)
    return _run_command(settings, guest, listeners, init.Command(settings.command, file_limits, ignored))


def _run_command(settings: Settings, guest: GuestNet, listeners: Iterable[Listener],
                 command: init.Command) -> int:
    """Run *command* in new namespaces and return its status."""

    def main(channel: Channel) -> None:
        init.prepare_namespaces(settings.hostname)
        namespaces.make_tap(channel, guest.ifname, lambda: _configure(settings, guest))
        init.run_command(channel, command)

    namespaces.enter_new_user_namespace()
    child = namespaces.start_child(namespaces.COMMAND_NAMESPACES, main)
    try:
        engine = _build_engine(settings, guest, listeners, child)
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


def _run_attached(settings: Settings, guest: GuestNet, listeners: Iterable[Listener], pid: int) -> int:
    """Serve the namespaces of process *pid* until it ends, or a signal comes."""
    target = namespaces.Target(pid)

    def main(channel: Channel) -> None:
        target.join_network_namespace()
        namespaces.make_tap(channel, guest.ifname, lambda: _configure(settings, guest))

    target.join_user_namespace()
    child = namespaces.start_child(0, main)
    target.close_network_namespace()
    try:
        engine = _build_engine(settings, guest, listeners, child)
    finally:
        child.end()
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


def _open_listeners(settings: Settings) -> list[Listener]:
    if not settings.port_rules:
        return []
    from passt.host.listeners import open_listeners

    return open_listeners(settings.port_rules, ip4=settings.ip4, ip6=settings.ip6)


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


def _build_engine(settings: Settings, guest: GuestNet, listeners: Iterable[Listener], child: Child) -> Engine:
    """Load and build the data plane, then wait for the tap of *child*."""
    from passt.dataplane.engine import Engine
    from passt.forward.policy import Policy
    from passt.host.conntrack import udp_timeouts
    from passt.responders.advertiser import Advertiser
    from passt.responders.dispatch import Dispatcher

    explain = log.debug if log.is_debug() else None
    policy = Policy(guest, tcp=settings.tcp, udp=settings.udp, icmp=settings.icmp, explain=explain,
                    on_ping_forbidden=_warn_of_ping)
    # A guest that is configured by us must not configure itself once more from advertisements.
    advertise = settings.ndp and settings.router_advertisements and not settings.config_net
    responder = Dispatcher(guest, dhcp=settings.dhcp, ndp=settings.ndp, router_advertisements=advertise,
                           dhcpv6=settings.dhcpv6, explain=explain, warn=log.warning,
                           is_guest=policy.observed.is_guest)
    engine = Engine(policy, responder, policy.observed, our_mac=guest.our_mac, mtu=guest.mtu or 0,
                    secret=os.urandom(SECRET_LEN), our_ip4=_our_ip4(guest), udp_timeouts=udp_timeouts())
    if guest.ip6 and advertise:
        Advertiser(responder.advertise, engine.send_frame, engine.call_later, _dice, explain=explain).arm()
    for listener in listeners:
        engine.add_listener(listener.fd, listener.proto, listener.rule)
    tap = child.receive_tap()
    engine.attach_tap(tap.fd, tap.mac, tap.offloads)
    policy.observed.on_guest_mac(tap.mac)
    if tap.link_local is not None:
        policy.observed.on_guest_address(tap.link_local.packed)
    return engine


def _dice() -> float:
    """Draw a random number from 0 up to 1, without the import of `random`."""
    return int.from_bytes(os.urandom(4), "big") / (1 << 32)
