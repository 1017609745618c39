"""A loop that polls for real, an engine that a test scripts, and a client of the control socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

from passt.dataplane.base.wait_limit import WaitLimit
from passt.facts.contracts import HOST_TABLE, NAMESPACE_TABLE, FlowDetail, ListenerInfo, TurnsMeasured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from passt.control.server import Server
    from passt.facts.contracts import FlowWatcher, Recorder
    from passt.facts.port_rule import PortRule

MAX_TURNS = 10_000


def make_flow(number: int = 0, **changes: Any) -> FlowDetail:
    """A TCP connection of the guest; *changes* of fields."""
    flow = FlowDetail(
        number=number, generation=3, proto=6, state="ESTABLISHED", bypassed=False, inbound=False,
        guest_address=bytes((192, 0, 2, 2)), guest_port=40000, remote_address=bytes((198, 51, 100, 1)),
        remote_port=443, peer_address=bytes((198, 51, 100, 1)), peer_port=443,
        local_address=bytes((203, 0, 113, 9)), local_port=40001, age_ns=5_000_000_000, idle_ns=7_000_000,
        bytes_to_host=100, bytes_to_guest=20_000_000_000, packets_to_host=3, packets_to_guest=4,
        rtt_guest_us=50, rtt_host_us=12_000, retransmits_to_guest=1, retransmits_to_host=2,
        window_guest=65535, window_ours=200_000, window_host=14_600)  # fmt: skip
    return flow._replace(**changes)


class PollLoop:
    """Watches descriptors with poll(2), as the engine does with epoll; time passes when a test says so."""

    def __init__(self) -> None:
        self.watched: dict[int, tuple[Callable[[], None], int]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.n_calls = 0

    def add_reader(
        self, fd: int, callback: Callable[[], None], readable: bool = True, writable: bool = False
    ) -> None:
        events = (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0)
        self.watched[fd] = callback, events

    def remove_reader(self, fd: int) -> None:
        del self.watched[fd]

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((delay_s, callback))

    def wait_limit(self) -> WaitLimit:
        return WaitLimit()

    def turn(self) -> bool:
        """One turn; False if nothing was ready."""
        poll = select.poll()
        for fd, (_, events) in self.watched.items():
            poll.register(fd, events)
        ready = poll.poll(0)
        for fd, _ in ready:
            if fd in self.watched:
                self.n_calls += 1
                self.watched[fd][0]()
        return bool(ready)

    def run(self) -> None:
        """Take turns until nothing is ready."""
        for _ in range(MAX_TURNS):
            if not self.turn():
                return
        raise AssertionError("the loop spins")

    def fire(self) -> None:
        """Let all timers that are set now be due."""
        due, self.timers = self.timers, []
        for _, callback in due:
            callback()


class Source(PollLoop):
    """An engine with the flows, listeners and counters that a test gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[FlowDetail | None] = []
        self._n_port_changes = 0
        self._ports: list[ListenerInfo] = []
        self.counts = {"frames_from_guest": 5, "frames_to_guest": 6, "flows_tcp": 1, "flows_evicted": 0,
                       "drop_flows_full": 0, "drop_no_fd": 0, "drop_crowd": 0, "drop_tcp_memory": 0,
                       "drop_control_rate": 0, "pipes_open": 2, "tcp_retransmits": 9}  # fmt: skip
        self.watcher: FlowWatcher | None = None
        self.untold = 0
        self.closed: list[tuple[int, int]] = []
        self.pages: list[int] = []
        self.measured: list[bool] = []
        self.trace: Callable[[str], None] | None = None

    @property
    def ports(self) -> list[ListenerInfo]:
        """Tests give it other ports, and do not change those that it has."""
        return self._ports

    @ports.setter
    def ports(self, ports: list[ListenerInfo]) -> None:
        self._ports = ports
        self._n_port_changes += 1

    def detail_page(self, start: int = 0, limit: int = 64) -> tuple[list[FlowDetail], int | None]:
        self.pages.append(limit)
        end = min(start + limit, len(self.records))
        found = [flow for flow in self.records[start:end] if flow is not None]
        return found, end if end < len(self.records) else None

    def close_flow(self, index: int, generation: int) -> bool:
        self.closed.append((index, generation))
        return True

    def listeners_at(self, proto: int, port: int) -> list[ListenerInfo]:
        return [each for each in self.ports if (each.proto, each.port) == (proto, port)]

    def listener_page(self, start: int = 0, limit: int = 256) -> tuple[list[ListenerInfo], int | None]:
        end = min(start + limit, len(self.ports))
        return self.ports[start:end], end if end < len(self.ports) else None

    def measure_turns(self, wanted: bool = True) -> TurnsMeasured:
        self.measured.append(wanted)
        return TurnsMeasured(1000, 900_000, 400_000, 500_000)

    def counters(self) -> dict[str, int]:
        return dict(self.counts)

    def usage(self) -> dict[str, tuple[int, int]]:
        return {"flows": (len(self.records), 65536), "listeners": (len(self.ports), 65534)}

    def memory_ceiling(self) -> int:
        return 72 << 20

    def set_watcher(self, watcher: FlowWatcher | None) -> None:
        self.watcher = watcher

    def n_untold(self) -> int:
        return self.untold

    def start_recorder(self, *_arguments: object, **_options: object) -> Recorder:
        raise NotImplementedError("a real engine has recorders: tests.support.live_control")

    def stop_recorder(self, _recorder: Recorder) -> None:
        raise NotImplementedError

    def trace_flows(self, flows: Callable[[str], None] | None) -> None:
        self.trace = flows


class Tables:
    """Port tables with the rules that a test gives them; `contracts.PortTables` as far as it is read."""

    def __init__(self, host: tuple[PortRule, ...] = (), namespace: tuple[PortRule, ...] | None = ()) -> None:
        self._rules = {HOST_TABLE: host}
        if namespace is not None:
            self._rules[NAMESPACE_TABLE] = namespace

    def names(self) -> tuple[str, ...]:
        return tuple(self._rules)

    def rules(self, name: str) -> tuple[PortRule, ...]:
        return self._rules[name]

    def count_open(self, name: str) -> dict[PortRule, int]:
        return dict.fromkeys(self._rules[name], 0)


class UnixConnection(http.client.HTTPConnection):
    """The standard library's client on a UNIX socket: a second opinion on HTTP."""

    def __init__(self, path: str) -> None:
        super().__init__("passt", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Send one request; return the status, and the JSON of the response."""
        self.request(method, target, None if body is None else json.dumps(body))
        response = self.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None


class Served:
    """What serves a control socket in this process: `server` at `path`, whose loop other threads turn."""

    server: Server

    def __init__(self, path: str) -> None:
        self.path = path
        self.connections: list[UnixConnection] = []

    def open_door(self, backlog: int) -> int:
        """Make the listening socket for `server`; return its descriptor."""
        door = socket.socket(socket.AF_UNIX)
        door.bind(self.path)
        door.listen(backlog)
        door.setblocking(False)
        return door.detach()

    def turn(self) -> bool:
        """One turn of the loop; False if nothing was there to do."""
        raise NotImplementedError

    def connect(self) -> UnixConnection:
        connection = UnixConnection(self.path)
        self.connections.append(connection)
        return connection

    @contextlib.contextmanager
    def turning(self) -> Iterator[None]:
        """Turn the loop until the block ends."""
        done = threading.Event()

        def turn() -> None:
            while not done.is_set():
                if not self.turn():
                    done.wait(0.001)

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close_connections(self) -> None:
        for connection in self.connections:
            connection.close()

    def close_server(self) -> None:
        for client in list(self.server._clients):
            client.close()
        self.server._close_parting()
        self.server._sock.close()
