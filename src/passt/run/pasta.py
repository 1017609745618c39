"""pasta: connects a network namespace: a new one for a command, or one that exists.

A start goes through the stages of `process.stages`. All before "user-namespace" has the caller's rights:
ports below 1024, files, namespaces. While the child makes the tap we load and build the data plane
("network"), so a second core does half of the start-up. The main process may end its child until
"inner-user", as only a process of the child's user may. No user changes once there are threads ("thread"), as
the C library would change the user of each thread.

Where a capability opens the program's files to us, or the user changes, all modules are loaded after "ports"
(`network.load_all`): later nobody could read them.

Signals end us until "signals", and the child with us.
"""

from __future__ import annotations

import errno
import os
import signal
import socket

from passt import log
from passt.errors import HostError
from passt.host import descriptors, seccomp
from passt.host.interface_index import index_seen_by
from passt.namespace import create, pid1
from passt.namespace.child import NoTap, make_tap, start_child
from passt.namespace.existing import ProcessWatch, TargetNamespaces, watch_path
from passt.namespace.interface import bring_lo_up, configure
from passt.namespace.socket_file import SocketFile
from passt.namespace.supervisor import Supervisor
from passt.namespace.terminal import Terminal
from passt.process import identity, privileges, signals
from passt.process.stages import ATTACHED, COMMAND, Progress
from passt.run import credentials
from passt.run.diagnostics import Diagnostics
from passt.run.isolation import Isolation
from passt.run.network import (
    FOLLOWING_PARTS,
    Network,
    follow_if_possible,
    follows_ports,
    load_all,
    open_helper,
    open_ports,
    open_ports_file,
    prepare_egress,
    prepare_following,
    print_banner,
    resolve_guest,
    settle_ports,
    start_names,
    start_policy_reader,
    start_resolver_reader,
    tell_ports,
    watch_host,
    watch_signals,
)
from passt.run.port_forwarding import NamespaceSide

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.control.door import Control
    from passt.dataplane.engine import Engine
    from passt.dataplane.sockets.namespace_thread import NamespaceThread
    from passt.facts.guest import GuestNet
    from passt.facts.settings import ForwardingSettings, NamespaceSettings, ProtocolSettings, Settings
    from passt.follow.lookout import Lookout
    from passt.follow.policy_reader import PolicyReader
    from passt.names.process import NameForwarder
    from passt.namespace.child import Child, TapFacts
    from passt.namespace.child_channel import Channel
    from passt.namespace.existing import PathWatch, ProcfsWatch
    from passt.process.background import Background
    from passt.process.identity import Identity
    from passt.run.port_helper import PortHelper
    from passt.run.steering import Steering

    Watch = ProcessWatch | ProcfsWatch | PathWatch

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
    """One run, from its first stage to its end."""

    def __init__(self, settings: Settings, background: Background) -> None:
        self._background = background
        self._progress = Progress(ATTACHED if settings.namespace.is_attached else COMMAND)
        self._isolation = Isolation(self._progress)
        self._progress.enter("host")
        settings, self._learned = prepare_egress(settings, background)
        if settings.diagnostics.pcap is not None:
            background.expect_file()
        self._diagnostics = Diagnostics(settings.diagnostics, debug=settings.log.debug,
                                        on_created=background.has_made)
        self._user = identity.choose(settings.process.runas)
        settings, self._host = watch_host(settings)
        self._settings = settings
        self._configurer = self._host.configurer if self._host is not None else None
        self._following: Lookout | None = None
        self._guest = resolve_guest(settings, self._host)
        self._progress.enter("ports")
        self._control: Control | None = None
        self._conf_path = settings.control.conf_path
        self._ports_file = open_ports_file(settings.forwarding, background)
        self._ports = open_ports(settings, self._guest)
        self._settings = settle_ports(settings, self._ports)
        self._steering: Steering | None = None
        self._names: NameForwarder | None = None
        self._policy_reader: PolicyReader | None = None
        self._helper: PortHelper | None = None
        if _must_load_first(settings.namespace, self._user):
            load_all(*(FOLLOWING_PARTS if self._host is not None else ()))
            self._following = prepare_following(settings, self._host)

    def _open_socket(self) -> None:
        """Make the sockets and processes that are asked for and take the caller's rights."""
        self._progress.enter("socket")
        start_resolver_reader(self._settings, self._host, self._user)
        self._names = start_names(self._settings, self._guest, self._user)
        self._policy_reader = start_policy_reader(self._settings, self._user)
        if self._settings.control.control_path is not None:
            from passt.control.door import Control

            self._control = Control(self._settings.control.control_path, self._background)
        if self._settings.control.changes_ports and self._ports is not None:
            from passt.run.steering import Steering

            self._steering = Steering(self._conf_path, self._background, self._ports.binder, self._user)
            self._helper = self._steering.helper
        else:
            self._helper = open_helper(self._settings, self._ports, self._user)

    def run_command(self, command: pid1.Command) -> int:
        """Run *command* in new namespaces and return its status."""
        settings, enter = self._settings, self._progress.enter
        self._open_socket()

        def main(channel: Channel) -> None:
            paths = (self._conf_path, self._control.path if self._control is not None else None)
            socket_file = SocketFile(*(path for path in paths if path is not None))
            if settings.namespace.userns is not None:
                create.become_root_inside()
            pid1.prepare_namespaces(settings.names.hostname)
            self._make_tap(channel)
            pid1.run_command(channel, command, socket_file)

        enter("user")
        enter("user-namespace")
        change_user = credentials.enter_for_command(
            settings.namespace, self._user, is_asked_for=settings.process.runas is not None)
        enter("child")
        child = start_child(
            create.COMMAND_NAMESPACES, main, privileged=settings.namespace.netns_only)
        self._leave_configurer()
        try:
            network = self._build_network()
            null, terminal = descriptors.open_null(), Terminal()
            self._connect(network, child, change_user)
            enter("signals")
            supervisor = Supervisor(child, terminal)
            supervisor.watch(network.engine)
            if self._policy_reader is not None:
                supervisor.on_reload = self._policy_reader.ask
            self._diagnostics.on_asked = supervisor.ask_command
            self._isolation.finish(network.engine)
            enter("ready")
            print_banner(settings, self._guest, self._control)
            tell_ports(self._ports_file, self._ports)
            self._background.announce()
            log.share_terminal()
            enter("start-command")
            supervisor.start_command()
            descriptors.leave_stdio(null)
            enter("loop")
            self._start_to_serve(network)
        except BaseException:
            child.end()
            raise
        status = supervisor.finish()
        if supervisor.was_interrupted():
            signals.die_by(signal.SIGINT)
        return status

    def run_attached(self) -> int:
        """Serve namespaces that exist until they are gone, or a signal comes."""
        settings, enter = self._settings, self._progress.enter
        enter("target")
        target, watch = _open_target(settings.namespace)
        self._open_socket()

        def main(channel: Channel) -> None:
            target.join_network_namespace()
            self._make_tap(channel)

        enter("user")
        enter("user-namespace")
        join_later = credentials.enter_for_target(
            target, self._user, is_asked_for=settings.process.runas is not None)
        own_pids = enter("pid-namespace")
        if not settings.process.foreground:
            self._background.go_to_background(own_pids=own_pids)
        enter("child")
        child = start_child(0, main)
        self._leave_configurer()
        try:
            network = self._build_network()
            self._background.prepare()
            self._connect(network, child, join_later)
        finally:
            child.end()
        target.close()
        enter("signals")
        watch_signals(network.engine, self._policy_reader, in_background=not settings.process.foreground)
        if watch is not None:
            watch.start(network.engine, lambda: _leave(network.engine))
        self._isolation.finish(network.engine)
        enter("ready")
        print_banner(settings, self._guest, self._control)
        tell_ports(self._ports_file, self._ports)
        self._background.announce()
        enter("loop")
        self._start_to_serve(network)
        return 0

    def _start_to_serve(self, network: Network) -> None:
        """Run the loop."""
        if self._control is not None:
            self._control.start()
        if self._following is not None:
            if self._control is not None:
                self._following.on_changed = self._control.on_host_changed
            self._following.start(network, self._guest)
        network.serve(self._diagnostics, self._policy_reader)

    def _make_tap(self, channel: Channel) -> None:
        """Make, configure and send the tap: work of the child."""
        watch_ports = follows_ports(self._settings)
        if self._settings.forwarding.splice_only:
            make_tap(channel, None, _configure_loopback, watch_ports=watch_ports)
            return
        make_tap(channel, self._guest.ifname, self._configure_tap, watch_ports=watch_ports)

    def _configure_tap(self) -> TapFacts:
        facts = _configure(self._guest, config_net=self._settings.namespace.config_net,
                           lifetimes=self._configurer is not None)
        configurer = self._configurer
        if configurer is not None:
            follow_if_possible(self._settings, lambda: configurer.hand_over(self._guest.ifname))
        return facts

    def _leave_configurer(self) -> None:
        if self._configurer is not None:
            self._configurer.close_inner_end()

    def _build_network(self) -> Network:
        """Load and build the data plane, and what follows the host."""
        forwarding = self._settings.forwarding
        self._progress.enter("network")
        if self._following is None:
            self._following = prepare_following(self._settings, self._host)
        # Flows that bypass the link need the thread in the namespace.
        bypassed = bool(forwarding.namespace_rules or (forwarding.port_rules and forwarding.splice)
                        or forwarding.splice_only or self._steering is not None)
        if bypassed:
            import passt.dataplane.sockets.namespace_thread  # noqa: F401 - no file can be read when it starts
        return Network(self._settings, self._guest, self._ports, bypassed=bypassed,
                       helper=self._helper, names=self._names, learned=self._learned)

    def _connect(self, network: Network, child: Child, change_user: Callable[[], None] | None) -> None:
        """Wait for the tap of *child*, attach it, give up paths, and open the namespace's ports.

        *change_user* is called when the child has done its work: we become a user who could no longer end the
        child, nor read our own program's files.
        """
        settings, engine, enter = self._settings, network.engine, self._progress.enter
        enter("tap")
        tap = child.receive_tap()
        if self._configurer is not None:
            follow_if_possible(settings, self._configurer.start_program)
        if settings.forwarding.splice_only:
            os.close(tap.fd)
            engine.go_without_link()
        else:
            engine.attach_tap(tap.fd, tap.mac, tap.offloads)
            network.observed.on_guest_mac(tap.mac)
        if tap.link_local is not None:
            network.observed.on_guest_address(tap.link_local.packed)
        enter("inner-user")
        if change_user is not None:
            change_user()
            self._background.hold()
        if self._steering is not None:
            from passt.dataplane.base import wait_limit

            wait_limit.prepare()  # its clients may send descriptors
        network.serve_control(self._control, settings)
        network.read_last_paths()
        self._isolation.close_paths()
        enter("thread")
        side = None
        if network.bypass is not None:
            thread = _start_thread(tap.namespace, self._isolation.thread_program)
            network.bypass.scope_id = _find_index(thread, self._guest.ifname)
            _warm_up(thread, settings.forwarding, settings.protocols)
            engine.attach_namespace(thread)
            side = NamespaceSide(engine, thread, ip4=settings.protocols.ip4, ip6=settings.protocols.ip6)
        os.close(tap.namespace)
        enter("inner-ports")
        network.start_ports(tap.port_sources, side)
        network.steer(self._steering, self._control)


def _must_load_first(asked: NamespaceSettings, user: Identity | None) -> bool:
    """Tell whether the first change takes away what opens the program's files to us."""
    reads_all = privileges.may_read_all()
    if asked.is_attached and user is not None and os.geteuid() == 0:
        return not reads_all  # kept with all capabilities until the child has done its work
    return reads_all or user is not None


def _open_target(asked: NamespaceSettings) -> tuple[TargetNamespaces, Watch | None]:
    """Open the namespaces to join, and a watch for their end unless --no-netns-quit is given."""
    watch: Watch
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


def _configure(guest: GuestNet, *, config_net: bool, lifetimes: bool) -> TapFacts:
    """Set up the interfaces of the network namespace that we are in: work of the child."""
    bring_lo_up()
    facts = configure(guest.ifname, guest, config_net, lifetimes=lifetimes)
    for warning in facts.warnings:
        log.warning(warning)
    return facts


def _configure_loopback() -> TapFacts:
    """Set up the network namespace that we are in where it gets no interface: work of the child."""
    bring_lo_up()
    return NoTap()


def _start_thread(namespace: int, program: bytes) -> NamespaceThread:
    """Start the thread in the network *namespace*, under the filter *program*."""
    from passt.dataplane.sockets.namespace_thread import NamespaceThread  # loaded before

    try:
        # The thread keeps spare sockets of four kinds; together they may be a sixteenth of all descriptors.
        reserve = min(max(descriptors.file_limit() // 64, 1), MAX_RESERVE)
        return NamespaceThread(namespace, reserve, program, seccomp.LOADER)
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
