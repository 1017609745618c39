"""passt: connects a virtual machine, whose emulator hands over frames on a stream socket.

Order of a start, after the common one of `app`, and why:

1. A connection that the caller hands over (-F) is checked first: it is a mistake of the command line or none.
2. Host facts are read, listeners bound and the socket made, with the caller's rights. Root becomes somebody
   else then (--runas, nobody), before there are threads.
3. The data plane is loaded and built, signals are blocked, capabilities dropped.
4. The caller learns that we are ready, and the loop runs. A client that came earlier has been waiting.

A start that fails takes the socket's file away again. Later the file stays, whatever ends us.

Signals keep their default actions until 3, so one that comes early simply ends us.
"""

from __future__ import annotations

from passt import log
from passt.host import unix_socket
from passt.process import identity, privileges, signals
from passt.run.clients import Clients
from passt.run.diagnostics import Report
from passt.run.network import Network, open_ports, print_banner, resolve_guest

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.guest import GuestNet
    from passt.facts.settings import Settings
    from passt.forward.guest_addresses import Observed
    from passt.process.background import Launch


def run(settings: Settings, launch: Launch) -> int:
    """Run passt until a signal ends it, or the end of its client does; return the exit status.

    Raises PasstError.
    """
    user = identity.choose(settings.runas)
    connection = unix_socket.adopt(settings.fd) if settings.fd is not None else None
    report = Report(settings)
    guest = resolve_guest(settings)
    ports = open_ports(settings, guest)
    listener = unix_socket.listen(settings.socket_path) if connection is None else None
    try:
        if user is not None:
            user.assume()
            launch.hold()
            if settings.runas is None:
                log.info(f"started as root: goes on as user {user.uid} (nobody); --runas names another one")
        network = Network(settings, guest, ports)
        if user is not None:
            network.load_services()  # while we may read them
        network.start_ports()
        clients = Clients(network.engine, listener, lambda: questions(guest, network.observed),
                          lambda: network.observed.mac is not None, one_off=settings.one_off)
        reader = signals.SignalReader(signals.ENDING)
        network.engine.add_reader(reader.fd, network.engine.stop)
        if listener is not None:
            log.info(f"UNIX domain socket bound at {listener.path}")
        print_banner(settings, guest)
        if listener is not None:
            tell_use(listener.path)
        privileges.drop_privileges()
        launch.announce()
    except BaseException:
        if listener is not None:
            listener.remove()
        raise
    clients.start(connection)
    network.serve(report)
    return 0


def tell_use(path: str) -> None:
    """Print how a machine is connected to the socket *path*; QEMU reads two commas as one."""
    log.info("")
    log.info("A virtual machine of QEMU 7.2 or newer is connected by:")
    log.info(f"    qemu-system-x86_64 ... -device virtio-net-pci,netdev=s"
             f" -netdev stream,id=s,server=off,addr.type=unix,addr.path={path.replace(',', ',,')}")
    log.info("or an older one by:")
    log.info("    qrap 5 qemu-system-x86_64 ... -net socket,fd=5 -net nic,model=virtio")


def questions(guest: GuestNet, observed: Observed) -> list[bytes]:
    """Make the frames that ask a machine for the hardware address of its guest."""
    from passt.responders.guest_solicitor import solicit

    known = (observed.ip4, observed.ip6, observed.ip6_link_local)
    return solicit(guest, dict.fromkeys(address for address in known if address))
