"""passt: connects a virtual machine whose emulator sends and receives frames on a stream socket.

The stages of a start, after those of `run.start`, and what each opens and gives up:

    stage                                   opened, made                  given up
    1 choose the user; check what -F gives  its connection
    2 read the host, bind its ports         listeners, packet capture
    3 make the socket                       listening socket, its file
    4 become the user                                                     root of the host
    5 load and build the data plane         engine
    6 watch signals                         signalfd                      default actions of signals
    7 drop privileges                                                     all capabilities
    8 tell the caller that we are ready     content of the pid file       standard descriptors (if in
                                                                          the background)
    9 load the responders, run the loop

All before 4 has the caller's rights. A client that connects before 9 waits. If the start fails, the socket's
file is removed; after 8 it stays, whatever ends us. Signals keep their default actions until 6, so a signal
that comes early ends us.
"""

from __future__ import annotations

from passt import log
from passt.host import unix_socket
from passt.process import identity, privileges, signals
from passt.process.seccomp import CallFilter
from passt.run.clients import Clients
from passt.run.diagnostics import Diagnostics
from passt.run.network import Network, load_all, open_ports, print_banner, resolve_guest

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.settings import Settings
    from passt.process.background import Background


def run(settings: Settings, background: Background) -> int:
    """Run passt until a signal ends it, or with --one-off the end of its client; return the exit status.

    Raises PasstError.
    """
    user = identity.choose(settings.process.runas)
    connection = unix_socket.adopt(settings.socket.fd) if settings.socket.fd is not None else None
    diagnostics = Diagnostics(settings.diagnostics, debug=settings.log.debug)
    guest = resolve_guest(settings)
    ports = open_ports(settings.forwarding, guest)
    listener = unix_socket.listen(settings.socket.socket_path) if connection is None else None
    try:
        load_all()
        if user is not None:
            user.assume()
            background.hold()
            if settings.process.runas is None:
                log.info(f"started as root: goes on as user {user.uid} (nobody); --runas names another one")
        network = Network(settings, guest, ports)
        network.start_ports()
        clients = Clients(network.engine, listener, network.ask_guest, network.engine.is_guest_known,
                          one_off=settings.socket.one_off)
        reader = signals.SignalReader(signals.ENDING)
        network.engine.add_reader(reader.fd, network.engine.stop)
        if listener is not None:
            log.info(f"UNIX domain socket bound at {listener.path}")
        print_banner(settings, guest)
        if listener is not None:
            tell_use(listener.path)
        privileges.drop_privileges()
        background.announce()
    except BaseException:
        if listener is not None:
            listener.remove()
        raise
    network.load_services()
    clients.start(connection)
    network.serve(diagnostics, CallFilter("passt"))
    return 0


def tell_use(path: str) -> None:
    """Print the QEMU options that connect to the socket *path*; QEMU reads two commas as one."""
    log.info("")
    log.info("A virtual machine of QEMU 7.2 or newer is connected by:")
    log.info(f"    qemu-system-x86_64 ... -device virtio-net-pci,netdev=s"
             f" -netdev stream,id=s,server=off,addr.type=unix,addr.path={path.replace(',', ',,')}")
    log.info("or an older one by:")
    log.info("    qrap 5 qemu-system-x86_64 ... -net socket,fd=5 -net nic,model=virtio")
