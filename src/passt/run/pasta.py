"""pasta: connects a network namespace of this machine, a new one for a command or one that exists.

Order of a start, after the common one of `app`, and why:

1. Host facts are read, listeners bound, and namespaces and their watch opened, with the caller's rights.
2. The user namespace is entered, the child started, and the main process becomes somebody else if it
   was root. While the child makes the tap, we load and build the data plane: a second core does half
   of the start-up.
3. The tap arrives. Signals are blocked, capabilities dropped; the loop knows all its descriptors.
4. The caller learns that we are ready, the command begins, and the loop runs.

Who changes when. To join a user namespace takes capabilities over it, and there the users of the host
have no numbers, so the main process becomes another user before, and keeps its capabilities until 3.
The helper that makes the tap of an existing namespace keeps them all: root may enter any of them. The
main process may end its child at any time of this, as nobody but its own user may. No user changes once
there are threads, as the C library would change theirs too.

Signals keep their default actions until 3, so one that comes early simply ends us, and the child goes
with us. What is not needed by every run, or by the child only, is imported where it is used.
"""

from __future__ import annotations

import os
import signal
import socket

from passt import log
from passt.errors import HostError
from passt.host import descriptors
from passt.host.tap import interface_index
from passt.namespace import create, pid1
from passt.namespace.child import make_tap, start_child
from passt.namespace.existing import PathWatch, ProcessWatch, Target, watch_path
from passt.namespace.supervisor import Supervisor
from passt.process import identity, privileges, signals
from passt.run.diagnostics import Report
from passt.run.network import Network, open_ports, print_banner, resolve_guest

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.dataplane.engine import Engine
    from passt.dataplane.sockets.namespace_thread import NamespaceThread
    from passt.facts.guest import GuestNet
    from passt.facts.settings import Settings
    from passt.host.listeners import HostPorts
    from passt.namespace.child import Child, TapFacts
    from passt.namespace.child_channel import Channel
    from passt.process.background import Launch
    from passt.process.identity import Identity

MAX_RESERVE = 64  # sockets of each kind that `dataplane.sockets.namespace_thread` opens in advance


def run(settings: Settings, caller: privileges.Caller, launch: Launch) -> int:
    """Run pasta until the command, a signal, or the end of the namespace ends it; return the exit status.

    Raises PasstError. After Ctrl-C it may not return, but end the process by SIGINT.
    """
    report = Report(settings)
    user = identity.choose(settings.runas)
    guest = resolve_guest(settings)
    ports = open_ports(settings, guest)
    if settings.is_attached:
        return _run_attached(settings, guest, ports, launch, report, user)
    command = pid1.Command(settings.command, caller.file_limits, caller.signals)
    return _run_command(settings, guest, ports, launch, report, command, user)


def _run_command(settings: Settings, guest: GuestNet, ports: HostPorts | None, launch: Launch,
                 report: Report, command: pid1.Command, user: Identity | None) -> int:
    """Run *command* in new namespaces and return its status."""

    def main(channel: Channel) -> None:
        if settings.userns is not None:
            create.become_root_inside()
        pid1.prepare_namespaces(settings.hostname)
        make_tap(channel, guest.ifname, lambda: _configure(settings, guest),
                 watch_ports=settings.has_auto_ports)
        pid1.run_command(channel, command)

    later = _enter_user_namespace(settings, user)
    child = start_child(create.COMMAND_NAMESPACES, main, privileged=settings.netns_only)
    try:
        network = _connect(settings, guest, ports, child, later.assume if later is not None else None)
        supervisor = Supervisor(child)
        supervisor.watch(network.engine)
        report.on_asked = supervisor.ask_command
        privileges.drop_privileges()
        print_banner(settings, guest)
        launch.announce()
        log.share_terminal()
        supervisor.start_command()
        descriptors.leave_stdio()
        network.serve(report)
    except BaseException:
        child.end()
        raise
    status = supervisor.finish()
    if supervisor.was_interrupted():
        signals.die_by(signal.SIGINT)
    return status


def _enter_user_namespace(settings: Settings, user: Identity | None) -> Identity | None:
    """Go to the user namespace of a command; return whom to become once the command's child is there.

    The command belongs to the *user* of --runas, but root that becomes nobody keeps it.
    """
    is_asked_for = settings.runas is not None
    if user is not None and (is_asked_for or settings.userns is not None):
        user.assume()
    if settings.userns is not None:
        target = Target.of_paths(None, settings.userns)
        target.join_user_namespace()
        target.close()
        return None
    nobody = None if is_asked_for else user
    if settings.netns_only:
        return nobody
    create.enter_new_user_namespace(nobody)
    return identity.Identity(identity.NOBODY_ID, identity.NOBODY_ID) if nobody is not None else None


def _run_attached(settings: Settings, guest: GuestNet, ports: HostPorts | None, launch: Launch,
                  report: Report, user: Identity | None) -> int:
    """Serve namespaces that exist until they are gone, or a signal comes."""
    target, watch = _open_target(settings)

    def main(channel: Channel) -> None:
        target.join_network_namespace()
        make_tap(channel, guest.ifname, lambda: _configure(settings, guest),
                 watch_ports=settings.has_auto_ports)

    was_root = os.geteuid() == 0
    if user is not None:
        if settings.runas is None:
            log.info(f"started as root: goes on as user {user.uid} (nobody); --runas names another one")
        user.assume()
        launch.hold()
    settle = None
    if user is not None and was_root:
        # With what root may do, the helper enters any namespace and opens any device.
        settle = target.join_user_namespace
    else:
        target.join_user_namespace()
        launch.hold()
    child = start_child(0, main)
    try:
        network = _connect(settings, guest, ports, child, settle)
    finally:
        child.end()
    target.close()
    engine = network.engine
    reader = signals.SignalReader(signals.ENDING)
    engine.add_reader(reader.fd, engine.stop)
    if watch is not None:
        watch.start(engine, lambda: _leave(engine))
    privileges.drop_privileges()
    print_banner(settings, guest)
    launch.announce()
    network.serve(report)
    return 0


def _open_target(settings: Settings) -> tuple[Target, ProcessWatch | PathWatch | None]:
    """Open the namespaces to join, and what tells that they are gone, if that matters."""
    watch: ProcessWatch | PathWatch
    if settings.pid is not None:
        watch = ProcessWatch(settings.pid)
        target = Target.of_process(settings.pid, settings.userns, netns_only=settings.netns_only)
        if watch.has_ended():
            # The number may be another process's by now.
            raise HostError(f"process {settings.pid} ended before its namespaces could be joined")
        return target, watch if settings.netns_quit else None
    target = Target.of_paths(settings.netns, settings.userns)
    if settings.netns is None or not settings.netns_quit:
        return target, None
    watch = watch_path(settings.netns)
    if watch.has_ended():
        raise HostError(f"{settings.netns} is gone before it could be joined")
    return target, watch


def _leave(engine: Engine) -> None:
    log.info("the namespace is gone: exiting")
    engine.stop()


def _configure(settings: Settings, guest: GuestNet) -> TapFacts:
    """Set up the interfaces of the network namespace that we are in: a child's work."""
    from passt.namespace.interface import bring_lo_up, configure

    bring_lo_up()
    facts = configure(guest.ifname, guest, settings.config_net)
    for warning in facts.warnings:
        log.warning(warning)
    return facts


def _connect(settings: Settings, guest: GuestNet, ports: HostPorts | None, child: Child,
             settle: Callable[[], None] | None) -> Network:
    """Load and build the data plane, then wait for the tap of *child* and attach it.

    *settle* is called when the child has done its work: we become somebody who could not end it any more, nor
    read our own program's files.
    """
    # What bypasses the link needs the thread inside.
    bypassed = bool(settings.namespace_rules or (settings.port_rules and settings.splice))
    network = Network(settings, guest, ports, bypassed=bypassed)
    engine = network.engine
    if settle is not None:
        network.load_services()
    if bypassed:
        from passt.dataplane.sockets.namespace_thread import NamespaceThread
        from passt.run.port_forwarding import NamespaceSide
    tap = child.receive_tap()
    engine.attach_tap(tap.fd, tap.mac, tap.offloads)
    network.observed.on_guest_mac(tap.mac)
    if tap.link_local is not None:
        network.observed.on_guest_address(tap.link_local.packed)
    if settle is not None:
        settle()
    side = None
    if network.bypass is not None:
        inside = _enter(settings, tap.namespace, NamespaceThread)
        network.bypass.scope_id = _find_index(inside, guest.ifname)
        engine.attach_namespace(inside)
        side = NamespaceSide(engine, inside, ip4=settings.ip4, ip6=settings.ip6)
    os.close(tap.namespace)
    network.start_ports(tap.port_sources, side)
    return network


def _enter(settings: Settings, namespace: int,
           thread: Callable[[int, int], NamespaceThread]) -> NamespaceThread:
    """Start the *thread* in the network *namespace*."""
    try:
        # Of each of four kinds; together a sixteenth of what may be open.
        inside = thread(namespace, min(max(descriptors.file_limit() // 64, 1), MAX_RESERVE))
    except OSError as error:
        raise HostError(f"cannot open sockets in the network namespace: {error.strerror}") from None
    for proto in {rule.proto for rule in settings.port_rules if settings.splice}:
        inside.warm(proto, ip4=settings.ip4, ip6=settings.ip6)
    return inside


def _find_index(inside: NamespaceThread, ifname: str) -> int:
    """Index of the guest's interface in its namespace, which link-local addresses need."""
    try:
        fd = inside.open_socket(socket.AF_INET, socket.SOCK_DGRAM, 0)
    except OSError as error:
        raise HostError(f"cannot open sockets in the network namespace: {error.strerror}") from None
    try:
        return interface_index(fd, ifname)
    finally:
        os.close(fd)
