"""passt: connects a virtual machine whose emulator shares its memory, or sends frames on a stream socket.

A start goes through the stages of `process.stages`. All before "user" has the caller's rights. A client that
connects before "loop" waits. If the start does not succeed, the socket's file is removed; after "ready" it
stays, whatever ends us. Signals end us until "signals".
"""

from __future__ import annotations

from passt import log
from passt.facts.contracts import MAX_REGIONS
from passt.host import unix_socket
from passt.light.values import replace
from passt.process import identity
from passt.process.stages import PASST, VHOST, Progress
from passt.run import credentials
from passt.run.clients import Clients
from passt.run.diagnostics import Diagnostics
from passt.run.isolation import Isolation
from passt.run.network import (
    FOLLOWING_PARTS,
    Network,
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

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.dataplane.engine import Engine
    from passt.facts.guest import GuestNet
    from passt.facts.settings import Settings
    from passt.process.background import Background
    from passt.run.clients import Attach

# What `vhost_sessions` imports.
_SHARING_PARTS = ("passt.dataplane.link.vhost", "passt.vhost_user.backend", "passt.vhost_user.session")


def run(settings: Settings, background: Background) -> int:
    """Run passt until a signal ends it, or with --one-off the end of its client; return the exit status.

    Raises PasstError.
    """
    return _Passt(settings, background).run()


class _Passt:
    """One run, from its first stage to its end."""

    def __init__(self, settings: Settings, background: Background) -> None:
        self._background = background
        self._progress = Progress(VHOST if settings.socket.vhost_user else PASST)
        self._isolation = Isolation(self._progress)
        self._progress.enter("host")
        settings, self._learned = prepare_egress(settings, background)
        self._user = identity.choose(settings.process.runas)
        self._connection = None if settings.socket.fd is None else unix_socket.adopt(
            settings.socket.fd, passes_descriptors=settings.socket.vhost_user)
        if settings.diagnostics.pcap is not None:
            background.expect_file()
        self._diagnostics = Diagnostics(settings.diagnostics, debug=settings.log.debug,
                                        on_created=background.has_made)
        settings, self._host = watch_host(settings)
        self._guest = resolve_guest(settings, self._host)
        self._progress.enter("ports")
        self._ports_file = open_ports_file(settings.forwarding, background)
        self._ports = open_ports(settings, self._guest)
        self._settings = settle_ports(settings, self._ports)
        self._progress.enter("socket")
        start_resolver_reader(settings, self._host, self._user)
        self._names = start_names(settings, self._guest, self._user)
        self._policy_reader = start_policy_reader(settings, self._user)
        self._listener = None
        if self._connection is None:
            background.expect_file()
            self._listener = unix_socket.listen(settings.socket.socket_path)
            background.has_made(self._listener.path)
            self._settings = replace(self._settings, socket=replace(
                self._settings.socket, socket_path=self._listener.path))
        self._control = None
        if settings.control.control_path is not None:
            from passt.control.door import Control

            self._control = Control(settings.control.control_path, background)
        self._steering = None
        if settings.control.changes_ports and self._ports is not None:
            from passt.run.steering import Steering

            self._steering = Steering(settings.control.conf_path, background, self._ports.binder, self._user)
            self._helper = self._steering.helper
        else:
            self._helper = open_helper(settings, self._ports, self._user)
        load_all(*(_SHARING_PARTS if settings.socket.vhost_user else ()),
                 *(FOLLOWING_PARTS if self._host is not None else ()))
        self._following = prepare_following(settings, self._host)

    def run(self) -> int:
        """Serve the machine until a signal ends us, or with --one-off the end of its client."""
        enter = self._progress.enter
        enter_later = self._change_user()
        own_pids = enter("pid-namespace")
        if not self._settings.process.foreground:
            self._background.go_to_background(own_pids=own_pids)
        network, clients = self._build()
        self._background.prepare()
        enter("inner-user")
        if enter_later is not None:
            enter_later()
            self._background.hold()
        network.serve_control(self._control, self._settings)
        network.read_last_paths()
        self._isolation.close_paths()
        enter("inner-ports")
        network.start_ports()
        network.steer(self._steering, self._control)
        enter("signals")
        watch_signals(network.engine, self._policy_reader,
                      in_background=not self._settings.process.foreground)
        self._isolation.finish(network.engine)
        enter("ready")
        self._tell_ready()
        tell_ports(self._ports_file, self._ports)
        self._background.announce()
        enter("loop")
        clients.start(self._connection)
        if self._control is not None:
            self._control.start()
        if self._following is not None:
            if self._control is not None:
                self._following.on_changed = self._control.on_host_changed
            self._following.start(network, self._guest)
        network.serve(self._diagnostics, self._policy_reader)
        return 0

    def _change_user(self) -> Callable[[], None] | None:
        """Become the user who serves; return what to do later to enter the user namespace."""
        self._progress.enter("user")
        self._progress.enter("user-namespace")
        return credentials.enter_for_machine(
            self._user, is_asked_for=self._settings.process.runas is not None)

    def _build(self) -> tuple[Network, Clients]:
        """Build the data plane."""
        from passt.dataplane.base import wait_limit

        self._progress.enter("network")
        wait_limit.prepare()
        network = Network(self._settings, self._guest, self._ports,
                          helper=self._helper, names=self._names, learned=self._learned)
        attach: Attach = network.engine.attach_stream
        if self._settings.socket.vhost_user:
            attach = vhost_sessions(network.engine, self._guest)
        clients = Clients(network.engine, self._listener, attach, network.ask_guest,
                          network.engine.is_guest_known, one_off=self._settings.socket.one_off)
        return network, clients

    def _tell_ready(self) -> None:
        """Print the path of the socket, the banner, and how a machine is connected."""
        if self._listener is not None:
            log.info(f"UNIX domain socket bound at {self._listener.path}")
        print_banner(self._settings, self._guest, self._control)
        if self._listener is not None:
            tell = tell_vhost_use if self._settings.socket.vhost_user else tell_use
            tell(self._listener.path)


def vhost_sessions(engine: Engine, guest: GuestNet) -> Attach:
    """Return what serves a client as a vhost-user front end."""
    from passt.dataplane.link import vhost, vhost_rings
    from passt.vhost_user.backend import Backend
    from passt.vhost_user.session import Session

    vhost.prepare()
    backend = Backend(vhost_rings.OFFERED_FEATURES, vhost_rings.MAX_QUEUE_PAIRS, MAX_REGIONS, guest.mtu or 0)
    return lambda fd, on_end: Session(engine, fd, backend, on_end)


def tell_vhost_use(path: str) -> None:
    """Print the QEMU options that connect to the socket *path* and share the machine's memory."""
    log.info("")
    log.info("A virtual machine of QEMU, here with 1 GiB of memory, is connected by:")
    log.info(f"    qemu-system-x86_64 ... -m 1G -object memory-backend-memfd,id=m,size=1G,share=on"
             f" -machine memory-backend=m -chardev socket,id=c,path={path.replace(',', ',,')}"
             f" -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n")


def tell_use(path: str) -> None:
    """Print the QEMU options that connect to the socket *path*; QEMU reads two commas as one."""
    log.info("")
    log.info("A virtual machine of QEMU 7.2 or newer is connected by:")
    log.info(f"    qemu-system-x86_64 ... -device virtio-net-pci,netdev=s"
             f" -netdev stream,id=s,server=off,addr.type=unix,addr.path={path.replace(',', ',,')}")
    log.info("or an older one by:")
    log.info("    qrap 5 qemu-system-x86_64 ... -net socket,fd=5 -net nic,model=virtio")
