"""pasta: connects a network namespace of this machine, a new one for a command or one that exists.

Order of a start, after the common one of `app`, and why:

1. Host facts are read and listeners bound, with the caller's rights.
2. The user namespace is entered and the child started. While it makes the tap, we load and build
   the data plane: a second core does half of the start-up.
3. The tap arrives. Signals are blocked, capabilities dropped; the loop knows all its descriptors.
4. The caller learns that we are ready, the command begins, and the loop runs.

Signals keep their default actions until 3, so one that comes early simply ends us, and the child goes
with us. What is not needed by every run, or by the child only, is imported where it is used.
"""

from __future__ import annotations

import os
import signal
import socket

from passt import assembly, log
from passt.errors import HostError
from passt.host import init, namespaces, privileges, signals
from passt.host.supervisor import Supervisor
from passt.host.tun import interface_index
from passt.report import Report

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.dataplane.engine import Engine
    from passt.dataplane.nsthread import NamespaceThread
    from passt.host.channel import Channel
    from passt.host.daemon import Launch
    from passt.host.listeners import HostPorts
    from passt.host.namespaces import Child, TapFacts
    from passt.model import GuestNet, Settings


def run(settings: Settings, caller: privileges.Caller, launch: Launch) -> int:
    """Run pasta until the command, a signal, or the end of the namespace ends it; return the exit status.

    Raises PasstError. After Ctrl-C it may not return, but end the process by SIGINT.
    """
    report = Report(settings)
    guest = assembly.resolve_guest(settings)
    ports = assembly.open_ports(settings, guest)
    if settings.pid is not None:
        return _run_attached(settings, guest, ports, launch, report, settings.pid)
    command = init.Command(settings.command, caller.file_limits, caller.ignored_signals)
    return _run_command(settings, guest, ports, launch, report, command)


def _run_command(settings: Settings, guest: GuestNet, ports: HostPorts | None, launch: Launch,
                 report: Report, command: init.Command) -> int:
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
        report.on_asked = supervisor.ask_command
        privileges.drop_privileges()
        assembly.print_banner(settings, guest)
        launch.announce()
        log.share_terminal()
        supervisor.start_command()
        privileges.leave_stdio()
        assembly.run_loop(engine, report)
    except BaseException:
        child.end()
        raise
    status = supervisor.finish()
    if supervisor.was_interrupted():
        signals.die_by(signal.SIGINT)
    return status


def _run_attached(settings: Settings, guest: GuestNet, ports: HostPorts | None, launch: Launch,
                  report: Report, pid: int) -> int:
    """Serve the namespaces of process *pid* until it ends, or a signal comes."""
    target = namespaces.Target(pid)

    def main(channel: Channel) -> None:
        target.join_network_namespace()
        namespaces.make_tap(channel, guest.ifname, lambda: _configure(settings, guest),
                            watch_ports=settings.has_auto_ports)

    target.join_user_namespace()
    launch.hold()
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
    assembly.print_banner(settings, guest)
    launch.announce()
    assembly.run_loop(engine, report)
    return 0


def _configure(settings: Settings, guest: GuestNet) -> TapFacts:
    """Set up the interfaces of the network namespace that we are in: a child's work."""
    from passt.host.configure import bring_lo_up, configure

    bring_lo_up()
    facts = configure(guest.ifname, guest, settings.config_net)
    for warning in facts.warnings:
        log.warning(warning)
    return facts


def _build_engine(settings: Settings, guest: GuestNet, ports: HostPorts | None, child: Child,
                  open_namespace: Callable[[], int]) -> Engine:
    """Load and build the data plane, then wait for the tap of *child* and attach it.

    *open_namespace* gives a descriptor of the network namespace.
    """
    inside = _enter(settings, open_namespace)
    network = assembly.Network(settings, guest, ports, bypassed=inside is not None)
    engine = network.engine
    tap = child.receive_tap()
    engine.attach_tap(tap.fd, tap.mac, tap.offloads)
    network.observed.on_guest_mac(tap.mac)
    if tap.link_local is not None:
        network.observed.on_guest_address(tap.link_local.packed)
    side = None
    if inside is not None and network.bypass is not None:
        from passt.ports import NamespaceSide

        network.bypass.scope_id = _find_index(inside, guest.ifname)
        engine.attach_namespace(inside)
        side = NamespaceSide(engine, inside, ip4=settings.ip4, ip6=settings.ip6)
    network.start_ports(tap.port_sources, side)
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
