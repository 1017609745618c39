"""passt: connects a virtual machine whose emulator sends and receives frames on a stream socket.

A start goes through the stages of `process.stages`. All before "user" has the caller's rights. A client that
connects before "loop" waits. If the start does not succeed, the socket's file is removed; after "ready" it
stays, whatever ends us. Signals end us until "signals".
"""

from __future__ import annotations

from passt import log
from passt.host import unix_socket
from passt.process import identity, signals
from passt.process.stages import PASST, Progress
from passt.run import credentials
from passt.run.clients import Clients
from passt.run.diagnostics import Diagnostics
from passt.run.isolation import Isolation
from passt.run.network import Network, load_all, open_ports, print_banner, resolve_guest

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.guest import GuestNet
    from passt.facts.settings import Settings
    from passt.host.listeners import HostPorts
    from passt.host.unix_socket import ListeningSocket
    from passt.process.background import Background


def run(settings: Settings, background: Background) -> int:
    """Run passt until a signal ends it, or with --one-off the end of its client; return the exit status.

    Raises PasstError.
    """
    progress = Progress(PASST)
    progress.enter("host")
    user = identity.choose(settings.process.runas)
    connection = unix_socket.adopt(settings.socket.fd) if settings.socket.fd is not None else None
    diagnostics = Diagnostics(settings.diagnostics, debug=settings.log.debug)
    guest = resolve_guest(settings)
    progress.enter("ports")
    ports = open_ports(settings.forwarding, guest)
    progress.enter("socket")
    listener = None
    if connection is None:
        background.expect_file()
        listener = unix_socket.listen(settings.socket.socket_path)
        background.has_made(listener.path)
    load_all()
    progress.enter("user")
    progress.enter("user-namespace")
    credentials.enter_for_machine(user, is_asked_for=settings.process.runas is not None)
    own_pids = progress.enter("pid-namespace")
    if not settings.process.foreground:
        background.go_to_background(own_pids=own_pids)
    network, clients = _build(settings, guest, ports, listener, progress)
    background.prepare()
    network.read_last_paths()
    isolation = Isolation(progress)
    isolation.close_paths()
    progress.enter("inner-ports")
    network.start_ports()
    progress.enter("signals")
    network.engine.add_reader(signals.read_ending().fd, network.engine.stop)
    isolation.finish(network.engine)
    progress.enter("ready")
    if listener is not None:
        log.info(f"UNIX domain socket bound at {listener.path}")
    print_banner(settings, guest)
    if listener is not None:
        tell_use(listener.path)
    background.announce()
    progress.enter("loop")
    clients.start(connection)
    network.serve(diagnostics)
    return 0


def _build(settings: Settings, guest: GuestNet, ports: HostPorts | None, listener: ListeningSocket | None,
           progress: Progress) -> tuple[Network, Clients]:
    """Load and build the data plane."""
    progress.enter("network")
    network = Network(settings, guest, ports)
    clients = Clients(network.engine, listener, network.ask_guest, network.engine.is_guest_known,
                      one_off=settings.socket.one_off)
    return network, clients


def tell_use(path: str) -> None:
    """Print the QEMU options that connect to the socket *path*; QEMU reads two commas as one."""
    log.info("")
    log.info("A virtual machine of QEMU 7.2 or newer is connected by:")
    log.info(f"    qemu-system-x86_64 ... -device virtio-net-pci,netdev=s"
             f" -netdev stream,id=s,server=off,addr.type=unix,addr.path={path.replace(',', ',,')}")
    log.info("or an older one by:")
    log.info("    qrap 5 qemu-system-x86_64 ... -net socket,fd=5 -net nic,model=virtio")
