"""An engine between two namespaces: the one that we are in is the host's, the other one the guest's."""

import os
import socket
import time
from ipaddress import ip_address

from passt.dataplane.sockets.namespace_thread import NamespaceThread
from passt.facts.contracts import Target
from passt.host.syscalls import CLONE_NEWNET, unshare
from tests.dataplane.engine_bench import Bench
from tests.support.isolated import set_up

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
LIMIT_S = 60


class SpliceBench(Bench):
    """To be made in a namespace of its own, which becomes the guest's.

    `inside` opens sockets there for the test, another thread does for the engine.
    """

    def __init__(self) -> None:
        self._pipes_before = count_pipes()
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.inside = NamespaceThread(namespace)
        for_engine = NamespaceThread(namespace)
        os.close(namespace)
        unshare(CLONE_NEWNET)
        set_up("lo")
        super().__init__()
        self.engine.attach_namespace(for_engine)

    def end(self) -> None:
        super().end()
        self.inside.close()

    def n_pipes(self) -> int:
        """Number of pipes that the engine has open."""
        return (count_pipes() - self._pipes_before) // 2

    def open(self, proto: int, address: str, *, inside: bool) -> socket.socket:
        """Open a socket on one side."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if not inside:
            return socket.socket(family, KINDS[proto])
        sock = socket.socket(fileno=self.inside.open_socket(family, KINDS[proto], proto))
        sock.setblocking(True)
        return sock

    def server(self, proto: int, address: str, *, inside: bool) -> socket.socket:
        """Open a service on one side, bound to *address*."""
        sock = self.open(proto, address, inside=inside)
        sock.bind((address, 0))
        if proto == TCP:
            sock.listen()
        sock.settimeout(LIMIT_S)
        return sock

    def forward(self, proto: int, server: socket.socket, *, inward: bool) -> int:
        """Have a new listener on the other side lead to *server*; returns its port."""
        address, port = server.getsockname()[:2]
        return self.forward_to(proto, Target(ip_address(address).packed, port), inward=inward)

    def forward_to(self, proto: int, target: Target, *, inward: bool) -> int:
        """Have a new listener lead to *target*; returns its port."""
        if inward:
            self.policy.seen = target
        else:
            self.policy.on_host = target
        listener = self.inside if not inward else None
        if listener is None:
            here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            listener = NamespaceThread(here)
            os.close(here)
        (fd,) = listener.open_listener(proto, 0, ip4=True, ip6=True)
        if inward:
            listener.close()
        self.listener = fd
        with socket.socket(fileno=os.dup(fd)) as view:
            port: int = view.getsockname()[1]
        self.engine.add_listener(fd, proto, "rule", namespace=not inward)
        return port

    def connect(self, port: int, address: str, *, inward: bool) -> socket.socket:
        """Connect a client of the other side to *port*."""
        client = self.open(TCP, address, inside=not inward)
        client.settimeout(LIMIT_S)
        client.connect((address, port))
        return client

    def pair(self, address: str, *, inward: bool) -> tuple[socket.socket, socket.socket]:
        """Open a connection through the engine; returns client and server."""
        with self.server(TCP, address, inside=inward) as server:
            client = self.connect(self.forward(TCP, server, inward=inward), address, inward=inward)
            self.turns()
            accepted, _ = server.accept()
        accepted.settimeout(LIMIT_S)
        return client, accepted

    def turns(self, n: int = 4) -> None:
        """Run the loop until what is on its way has arrived."""
        for _ in range(n):
            self.turn()

    def receive(self, sock: socket.socket, n: int) -> bytes:
        """Receive *n* bytes while the loop runs; less at the end of the stream."""
        data = bytearray()
        sock.setblocking(False)
        deadline = time.monotonic() + LIMIT_S
        while len(data) < n:
            assert time.monotonic() < deadline, f"{len(data)} of {n} bytes"
            self.turn()
            try:
                piece = sock.recv(min(n - len(data), 1 << 18))
            except BlockingIOError:
                continue
            if not piece:
                break
            data += piece
        sock.settimeout(LIMIT_S)
        return bytes(data)


def count_pipes() -> int:
    """Number of pipe ends that this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
        except FileNotFoundError:
            continue
    return found
