"""pasta: connects a network namespace: a new one for a command, or one that exists.

The stages of a start, after those of `run.start`, and what each opens and gives up:

    stage                                        opened, made              given up
    1  choose the user; read the host            signalfd, packet capture
    2  bind the host's ports                     listeners
    3  open the namespaces (attached)            namespaces, watch for their end
    4  enter the user namespace (`credentials`)  capabilities inside       capabilities outside
    5  start the child                           channel to the child
    6  load and build the data plane             engine
    7  take over the tap from the child          tap, network namespace    the child (attached)
    8  change user again (`credentials`)                                   root of the host
    9  start the thread in the namespace         sockets there             network namespace
    10 open the namespace's ports                listeners there
    11 watch signals and the end                 signalfd                  default actions of signals
    12 drop privileges                                                     all capabilities
    13 tell the caller that we are ready         content of the pid file   standard descriptors (if in
                                                                           the background)
    14 start the command, if there is one
    15 load the responders, run the loop

All before 4 has the caller's rights: ports below 1024, files, namespaces. While the child makes the tap we
load and build the data plane (6), so a second core does half of the start-up. The main process may end its
child until 8, as only a process of the child's user may. No user changes once there are threads (9), as the
C library would change the user of each thread.

Where a capability opens the program's files to us, or the user changes, all modules are loaded after stage 2
(`network.load_all`): later nobody could read them.

Signals keep their default actions until 11, so a signal that comes early ends us, and the child with us.
"""

from __future__ import annotations

import errno
import os
import signal
import socket

from passt import log
from passt.errors import HostError
from passt.host import descriptors
from passt.host.interface_index import index_seen_by
from passt.namespace import create, pid1
from passt.namespace.child import make_tap, start_child
from passt.namespace.existing import PathWatch, ProcessWatch, TargetNamespaces, watch_path
from passt.namespace.interface import bring_lo_up, configure
from passt.namespace.supervisor import Supervisor
from passt.process import identity, privileges, signals
from passt.process.seccomp import CallFilter
from passt.run import credentials
from passt.run.diagnostics import Diagnostics
from passt.run.network import Network, load_all, open_ports, print_banner, resolve_guest
from passt.run.port_forwarding import NamespaceSide

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.dataplane.engine import Engine
    from passt.dataplane.sockets.namespace_thread import NamespaceThread
    from passt.facts.guest import GuestNet
    from passt.facts.settings import ForwardingSettings, NamespaceSettings, ProtocolSettings, Settings
    from passt.namespace.child import Child, TapFacts
    from passt.namespace.child_channel import Channel
    from passt.process.background import Background
    from passt.process.identity import Identity

MAX_RESERVE = 64  # sockets of each kind that `dataplane.sockets.namespace_thread` opens in advance


def run(settings: Settings, caller: privileges.Caller, background: Background) -> int:
    """Run pasta until the command, a signal, or the end of the namespace ends it; return the exit status.

    Raises PasstError. After Ctrl-C it may not return, but end the process by SIGINT.
    """
    _need_proc()
    pasta = _Pasta(settings, background)
    if settings.namespace.is_attached:
        return pasta.run_attached()
    return pasta.run_command(
        pid1.Command(settings.namespace.command, caller.file_limits, caller.signals))


def _need_proc() -> None:
    """Refuse a place without /proc, which tells namespaces and takes ID maps. Raises HostError."""
    if not os.path.exists("/proc/self/ns/net"):
        raise HostError("/proc is not mounted, or is that of another PID namespace, and no namespace can be"
                        " made or entered without: mount it (mount -t proc proc /proc)")


class _Pasta:
    """One run; the numbers are those of the stages."""

    def __init__(self, settings: Settings, background: Background) -> None:
        self._settings = settings
        self._background = background
        self._diagnostics = Diagnostics(settings.diagnostics, debug=settings.log.debug)
        self._user = identity.choose(settings.process.runas)  # 1
        self._guest = resolve_guest(settings)
        self._ports = open_ports(settings.forwarding, self._guest)  # 2
        if _must_load_first(settings.namespace, self._user):
            load_all()

    def run_command(self, command: pid1.Command) -> int:
        """Run *command* in new namespaces and return its status."""
        settings = self._settings

        def main(channel: Channel) -> None:
            if settings.namespace.userns is not None:
                create.become_root_inside()
            pid1.prepare_namespaces(settings.names.hostname)
            self._make_tap(channel)
            pid1.run_command(channel, command)

        change_user = credentials.enter_for_command(  # 4
            settings.namespace, self._user, is_asked_for=settings.process.runas is not None)
        child = start_child(  # 5
            create.COMMAND_NAMESPACES, main, privileged=settings.namespace.netns_only)
        try:
            network = self._connect(child, change_user)  # 6 to 10
            supervisor = Supervisor(child)
            supervisor.watch(network.engine)  # 11
            self._diagnostics.on_asked = supervisor.ask_command
            privileges.drop_privileges()  # 12
            print_banner(settings, self._guest)
            self._background.announce()  # 13
            log.share_terminal()
            supervisor.start_command()  # 14
            descriptors.leave_stdio()
            network.serve(self._diagnostics, self._filter)  # 15
        except BaseException:
            child.end()
            raise
        status = supervisor.finish()
        if supervisor.was_interrupted():
            signals.die_by(signal.SIGINT)
        return status

    def run_attached(self) -> int:
        """Serve namespaces that exist until they are gone, or a signal comes."""
        settings = self._settings
        target, watch = _open_target(settings.namespace)  # 3

        def main(channel: Channel) -> None:
            target.join_network_namespace()
            self._make_tap(channel)

        join_later = credentials.enter_for_target(  # 4
            target, self._user, self._background, is_asked_for=settings.process.runas is not None)
        child = start_child(0, main)  # 5
        try:
            network = self._connect(child, join_later)  # 6 to 10
        finally:
            child.end()
        target.close()
        engine = network.engine
        reader = signals.SignalReader(signals.ENDING)  # 11
        engine.add_reader(reader.fd, engine.stop)
        if watch is not None:
            watch.start(engine, lambda: _leave(engine))
        privileges.drop_privileges()  # 12
        print_banner(settings, self._guest)
        self._background.announce()  # 13
        network.serve(self._diagnostics, self._filter)  # 15
        return 0

    def _make_tap(self, channel: Channel) -> None:
        """Make, configure and send the tap: work of the child."""
        config_net = self._settings.namespace.config_net
        make_tap(channel, self._guest.ifname, lambda: _configure(self._guest, config_net=config_net),
                 watch_ports=self._settings.forwarding.has_auto_ports)

    def _connect(self, child: Child, change_user: Callable[[], None] | None) -> Network:
        """Build the data plane, then wait for the tap of *child* and attach it: stages 6 to 10.

        *change_user* is called when the child has done its work: we become a user who could no longer end the
        child, nor read our own program's files.
        """
        settings, forwarding = self._settings, self._settings.forwarding
        # Flows that bypass the link need the thread in the namespace.
        bypassed = bool(forwarding.namespace_rules or (forwarding.port_rules and forwarding.splice))
        network = Network(settings, self._guest, self._ports, bypassed=bypassed)  # 6
        engine = network.engine
        if change_user is not None:
            network.load_services()
        tap = child.receive_tap()  # 7
        engine.attach_tap(tap.fd, tap.mac, tap.offloads)
        network.observed.on_guest_mac(tap.mac)
        if tap.link_local is not None:
            network.observed.on_guest_address(tap.link_local.packed)
        if change_user is not None:
            change_user()  # 8
        # Not before the child is there, which must not have it.
        self._filter = CallFilter("attached" if settings.namespace.is_attached else "command")
        side = None
        if network.bypass is not None:
            thread = _start_thread(tap.namespace, self._filter.thread_program)  # 9
            _warm_up(thread, forwarding, settings.protocols)
            network.bypass.scope_id = _find_index(thread, self._guest.ifname)
            engine.attach_namespace(thread)
            side = NamespaceSide(engine, thread, ip4=settings.protocols.ip4, ip6=settings.protocols.ip6)
        os.close(tap.namespace)
        network.start_ports(tap.port_sources, side)  # 10
        return network


def _must_load_first(asked: NamespaceSettings, user: Identity | None) -> bool:
    """Tell whether the first change takes away what opens the program's files to us."""
    reads_all = privileges.may_read_all()
    if asked.is_attached and user is not None and os.geteuid() == 0:
        return not reads_all  # kept with all capabilities until the child has done its work
    return reads_all or user is not None


def _open_target(asked: NamespaceSettings) -> tuple[TargetNamespaces, ProcessWatch | PathWatch | None]:
    """Open the namespaces to join, and a watch for their end unless --no-netns-quit is given."""
    watch: ProcessWatch | PathWatch
    if asked.pid is not None:
        watch = ProcessWatch(asked.pid)
        target = TargetNamespaces.of_process(asked.pid, asked.userns, netns_only=asked.netns_only)
        if watch.has_ended():
            # The number may belong to another process by now.
            raise HostError(f"process {asked.pid} ended before its namespaces could be joined")
        return target, watch if asked.netns_quit else None
    target = TargetNamespaces.of_paths(asked.netns, asked.userns)
    if asked.netns is None or not asked.netns_quit:
        return target, None
    watch = watch_path(asked.netns)
    if watch.has_ended():
        raise HostError(f"{asked.netns} is gone before it could be joined")
    return target, watch


def _leave(engine: Engine) -> None:
    log.info("the namespace is gone: exiting")
    engine.stop()


def _configure(guest: GuestNet, *, config_net: bool) -> TapFacts:
    """Set up the interfaces of the network namespace that we are in: work of the child."""
    bring_lo_up()
    facts = configure(guest.ifname, guest, config_net)
    for warning in facts.warnings:
        log.warning(warning)
    return facts


def _start_thread(namespace: int, program: bytes) -> NamespaceThread:
    """Start the thread in the network *namespace*, under the filter *program*."""
    from passt.dataplane.sockets.namespace_thread import NamespaceThread  # loaded with the engine

    try:
        # The thread keeps spare sockets of four kinds; together they may be a sixteenth of all descriptors.
        reserve = min(max(descriptors.file_limit() // 64, 1), MAX_RESERVE)
        return NamespaceThread(namespace, reserve, program)
    except OSError as error:
        raise HostError(f"cannot open sockets in the network namespace: {error.strerror}") from None


def _warm_up(thread: NamespaceThread, forwarding: ForwardingSettings, protocols: ProtocolSettings) -> None:
    """Have spare sockets opened for the flows that will bypass the link."""
    for proto in {rule.proto for rule in forwarding.port_rules if forwarding.splice}:
        thread.warm(proto, ip4=protocols.ip4, ip6=protocols.ip6)


def _find_index(thread: NamespaceThread, ifname: str) -> int:
    """Return the index of the guest's interface in its namespace, the scope of link-local addresses."""
    try:
        fd = thread.open_socket(socket.AF_INET, socket.SOCK_DGRAM, 0)
    except OSError as error:
        raise HostError(f"cannot open sockets in the network namespace: {error.strerror}") from None
    try:
        return index_seen_by(fd, ifname)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise HostError(f"cannot look for interface {ifname}: {error.strerror}") from None
        return 0
    finally:
        os.close(fd)
