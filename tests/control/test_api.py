"""What can be asked, on a real socket with the standard library's client, of an engine that is scripted."""

from __future__ import annotations

import json
import select
import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from passt import log
from passt.control.api import LISTENERS_AT_ONCE, RECORDS_AT_ONCE, Api, Known
from passt.control.events import KINDS, MAX_LISTENERS, MAX_QUEUED, NAMES_A_SECOND
from passt.control.http import Request, Response
from passt.control.ports import PortRules
from passt.control.routes import ROUTES
from passt.control.server import MAX_CLIENTS, MAX_PARTING, PIECE_S, Pace, Server
from passt.facts.contracts import ListenerInfo
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.host import HostChange
from passt.facts.port_rule import PortRule
from passt.facts.settings import Settings, SocketSettings
from passt.forward.egress import Refused
from passt.forward.guest_addresses import Observed
from passt.light.values import replace
from passt.steer.tables import ClientTables
from tests.support.control import Served, Source, Tables, make_flow
from tests.support.fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from passt.control.client import Client
    from passt.facts.contracts import FlowDetail, PortTables

GUEST = GuestNet(
    ip4=GuestFamily(
        address=IPv4Address("192.0.2.2"), prefix_len=24, gateway=IPv4Address("192.0.2.1"),
        our_address=IPv4Address("192.0.2.1"), map_host_loopback=IPv4Address("192.0.2.1")),
    ip6=None, ifname="tap0")  # fmt: skip
RULE = PortRule(proto=6, first=8000, last=8010, target=80, spec="-t 8000-8010:80-90")
SETTINGS = Settings("pasta")
OPENAPI = Path(__file__).parent.parent.parent / "docs" / "control-api.json"


class NoTables:
    """The port tables of a program that has none."""

    def names(self) -> tuple[str, ...]:
        return ()


class Bench(Served):
    """A server on a real socket, whose loop another thread turns while a test waits for an answer."""

    def __init__(self, path: Path, settings: Settings = SETTINGS) -> None:
        super().__init__(str(path / "c.sock"))
        self.source, self.wall = Source(), Clock(1_700_000_000.0)
        self.observed = Observed(GUEST)
        known = Known(settings, GUEST, self.observed, ["--control", "auto"], 1_699_999_990.0,
                      lambda: 10.0)
        self.api = Api(self.source, known, lambda: {"control_arp_answered": 3}, self.wall)
        self.server = Server(self.source, self.open_door(2000), self.api.serve)
        self.server.is_ours = lambda _client: True
        self.api.count_clients = self.server.count
        self.api.port_rules = PortRules(ClientTables(cast("PortTables", NoTables()), {}), list)
        self.server.start()

    def turn(self) -> bool:
        return self.source.turn()

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        with self.turning():
            return self.connect().ask(method, target, body)

    def close(self) -> None:
        self.close_connections()
        self.source.run()
        self.close_server()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_info_tells_who_and_how_full(bench: Bench) -> None:
    bench.source.records = [make_flow()]
    bench.wall.now_s -= 5000         # somebody sets the clock
    status, info = bench.ask("GET", "/v1/info")
    assert status == 200
    assert (info["mode"], info["options"], info["uptime_s"]) == ("pasta", ["--control", "auto"], 10.0)
    assert info["limits"]["flows"] == {"now": 1, "most": 65536}
    assert info["guest"]["ip4"]["gateway"] == "192.0.2.1"
    assert info["guest"]["addresses_in_use"] == ["192.0.2.2"]
    assert info["pid"] == log.own_pid()
    assert info["clients"] == 1
    assert info["socket"] is None


def test_passt_tells_the_socket_of_its_machine(tmp_path: Path) -> None:
    settings = Settings("passt", socket=SocketSettings(socket_path="/run/vm/passt_1.socket"))
    made = Bench(tmp_path, settings)
    status, info = made.ask("GET", "/v1/info")
    made.close()
    assert (status, info["mode"], info["socket"]) == (200, "passt", "/run/vm/passt_1.socket")


def test_flow_is_told_with_all_that_is_known(bench: Bench) -> None:
    bench.source.records = [make_flow(17)]
    _, listed = bench.ask("GET", "/v1/flows")
    assert listed["next"] is None
    assert listed["flows"] == [{
        "id": "17.3", "protocol": "tcp", "state": "ESTABLISHED", "path": "link", "direction": "outbound",
        "guest": {"address": "192.0.2.2", "port": 40000}, "remote": {"address": "198.51.100.1", "port": 443},
        "host": {"local": {"address": "203.0.113.9", "port": 40001},
                 "peer": {"address": "198.51.100.1", "port": 443}},
        "rule": None, "age_ms": 5000, "idle_ms": 7, "bytes": {"to_guest": 20_000_000_000, "to_host": 100},
        "packets": {"to_guest": 4, "to_host": 3}, "rtt_us": {"guest": 50, "host": 12000},
        "retransmits": {"to_guest": 1, "to_host": 2},
        "window": {"guest": 65535, "ours": 200000, "host": 14600}}]  # fmt: skip


def test_pages_cover_the_table_and_no_turn_looks_at_many_records(bench: Bench) -> None:
    bench.source.records = [make_flow(i) if i % 3 else None for i in range(1000)]
    seen: list[str] = []
    cursor: int | None = 0
    while cursor is not None:
        _, listed = bench.ask("GET", f"/v1/flows?cursor={cursor}&limit=150")
        assert len(listed["flows"]) <= 150
        seen += [flow["id"] for flow in listed["flows"]]
        cursor = listed["next"]
    assert seen == [f"{i}.3" for i in range(1000) if i % 3]
    assert max(bench.source.pages) <= RECORDS_AT_ONCE


@pytest.mark.parametrize(("query", "found"), [
    ("protocol=udp", [1]), ("protocol=tcp", [0, 2, 3]), ("path=bypass", [2]), ("direction=inbound", [3]),
    ("state=syn_sent", [3]), ("address=10.9.9.9", [1]), ("port=8003", [3]), ("rule=-t%208000", [3]),
    ("rule=map-host-loopback", [0]), ("protocol=tcp&direction=outbound&path=link", [0]),
])  # fmt: skip
def test_filters(bench: Bench, query: str, found: list[int]) -> None:
    bench.api.texts.tables = cast("PortTables", Tables((RULE,)))
    bench.source.records = [
        make_flow(0, remote_address=bytes((192, 0, 2, 1)), peer_address=bytes((127, 0, 0, 1))),
        make_flow(1, proto=17, remote_address=bytes((10, 9, 9, 9))),
        make_flow(2, bypassed=True),
        make_flow(3, inbound=True, state="SYN_SENT", local_port=8003),
    ]
    _, listed = bench.ask("GET", f"/v1/flows?{query}")
    assert [int(flow["id"].partition(".")[0]) for flow in listed["flows"]] == found


@pytest.mark.parametrize("target", [
    "/v1/flows?protocol=sctp", "/v1/flows?limit=0", "/v1/flows?limit=-1", "/v1/flows?cursor=1e3",
    "/v1/flows?address=10.0.0", "/v1/flows?colour=red", "/v1/flows?port=65536", "/v1/events?kinds=none",
    "/v1/info?x=1",
])  # fmt: skip
def test_values_that_make_no_sense_are_refused(bench: Bench, target: str) -> None:
    status, problem = bench.ask("GET", target)
    assert (status, problem["status"]) == (400, 400)


def test_one_flow_is_closed_by_its_id(bench: Bench) -> None:
    bench.source.records = [None, make_flow(1)]
    assert bench.ask("GET", "/v1/flows/1.3")[1]["id"] == "1.3"
    status, flow = bench.ask("DELETE", "/v1/flows/1.3")
    assert (status, flow["id"], bench.source.closed) == (200, "1.3", [(1, 3)])
    for name in ("1.4", "0.0", "9.9", "x", "1", "-1.3", "99999999999.0"):
        assert bench.ask("DELETE", f"/v1/flows/{name}")[0] == 404
    assert bench.source.closed == [(1, 3)]


def test_unknown_paths_and_methods(bench: Bench) -> None:
    assert bench.ask("GET", "/v2/info")[0] == 404
    assert bench.ask("GET", "/v1/info/")[0] == 404
    status, problem = bench.ask("POST", "/v1/info")
    assert (status, problem["detail"]) == (405, "/v1/info takes GET, HEAD")


def test_counters_are_those_of_engine_and_responders(bench: Bench) -> None:
    assert bench.ask("GET", "/v1/counters")[1] == bench.source.counts | {"control_arp_answered": 3}


def test_ports_tell_their_rule(bench: Bench) -> None:
    bench.source.ports = [ListenerInfo(6, 8003, RULE, namespace=False)]
    assert bench.ask("GET", "/v1/ports")[1]["ports"] == [
        {"side": "host", "table": "HOST", "protocol": "tcp", "port": 8003, "address": None, "interface": None,
         "leads_to": 83, "target_address": None, "auto": False, "rule": "-t 8000-8010:80-90"}]  # fmt: skip


def measured(bench: Bench, target: str) -> Any:
    """Ask for turns, and let the time pass."""
    asking = bench.connect()
    asking.request("GET", f"/v1/{target}")
    bench.source.run()
    bench.source.fire()
    with bench.turning():
        return json.loads(asking.getresponse().read())


def test_turns_are_measured_for_a_while_and_for_one_client(bench: Bench) -> None:
    asking, other = bench.connect(), bench.connect()
    asking.request("GET", "/v1/turns?seconds=7")
    bench.source.run()
    assert bench.source.measured == [True]
    assert [delay_s for delay_s, _ in bench.source.timers if delay_s == 7] == [7]
    with bench.turning():
        assert other.ask("GET", "/v1/turns")[0] == 409
    bench.source.fire()              # the time is over
    with bench.turning():
        answer = json.loads(asking.getresponse().read())
    assert answer == {"turns": 1000, "longest_us": 900, "cpu_in_longest_us": 400, "most_cpu_us": 500}
    assert bench.source.measured == [True, False]
    assert bench.ask("HEAD", "/v1/turns") == (200, None)
    for wrong in ("seconds=0", "seconds=61", "seconds=x"):
        assert bench.ask("GET", f"/v1/turns?{wrong}")[0] == 400
    assert bench.source.measured == [True, False]


def test_turns_are_measured_no_longer_when_who_asked_is_gone(bench: Bench) -> None:
    gone = bench.connect()
    gone.request("GET", "/v1/turns?seconds=7")
    bench.source.run()
    gone.close()
    bench.source.run()
    assert bench.source.measured == [True, False]
    other = bench.connect()
    other.request("GET", "/v1/turns")
    bench.source.fire()              # for the one that is gone, too: nothing happens
    bench.source.run()
    assert bench.source.measured == [True, False, True]
    bench.source.fire()
    with bench.turning():
        assert other.getresponse().status == 200


def pieces_of(response: Response) -> list[bytes]:
    return [piece or b"" for piece in response.body]


def test_piece_of_a_list_grows_while_there_is_time_and_no_longer(bench: Bench) -> None:
    """What a flow costs differs much: by the machine, rules, filters, and what the kernel is asked."""
    clock = Clock(50.0)
    bench.api._pace = Pace(clock)
    bench.source.records = [make_flow(i) for i in range(400)]
    page = bench.source.detail_page

    def slow_page(start: int = 0, limit: int = 64) -> tuple[list[FlowDetail], int | None]:
        clock.now_s += 0.00002 * limit
        return page(start, limit)

    bench.source.detail_page = slow_page  # type: ignore[method-assign]
    pieces = pieces_of(bench.api.flows(Request("GET", "/v1/flows", {}, b""), cast("Client", None)))
    assert [flow["id"] for flow in json.loads(b"".join(pieces))["flows"]] == [f"{i}.3" for i in range(400)]
    sizes = [piece.count(b'"id"') for piece in pieces[:-2]]        # the last ones: what is left, the end
    assert set(sizes) == {12}      # of 20 us each, looked at by four
    clock.now_s, bench.source.detail_page = 60.0, page  # type: ignore[method-assign]
    [all_at_once, _] = pieces_of(bench.api.flows(Request("GET", "/v1/flows", {}, b""), cast("Client", None)))
    assert all_at_once.count(b'"id"') == 400


def test_ports_and_rules_come_piece_by_piece(bench: Bench) -> None:
    rules = tuple(PortRule(6, port, port, port, spec=f"-t {port}") for port in range(1000, 1200))
    tables = cast("PortTables", Tables(host=rules))
    bench.api.port_rules = PortRules(ClientTables(tables, {"HOST": 63, "SPLICE": 63}), list)
    bench.source.ports = [ListenerInfo(6, port, rules[0], namespace=False) for port in range(1, 301)]

    class Ticking(Clock):
        def __call__(self) -> float:
            self.now_s += PIECE_S / 10       # each look at the clock
            return self.now_s

    bench.api._pace = Pace(Ticking(1.0))
    pieces = pieces_of(bench.api.ports(Request("GET", "/v1/ports", {}, b""), cast("Client", None)))
    assert max(piece.count(b'"protocol"') for piece in pieces) <= 11 * LISTENERS_AT_ONCE
    found = json.loads(b"".join(pieces))
    assert [rule["first"] for rule in found["rules"]] == list(range(1000, 1200))
    assert [each["port"] for each in found["ports"]] == list(range(1, 301))


def test_log_level_is_told_and_set(bench: Bench) -> None:
    before = log.level()
    try:
        assert bench.ask("PUT", "/v1/log", {"level": "debug"}) == (200, {"level": "debug"})
        assert (log.level(), bench.source.trace) == (log.DEBUG, log.debug)
        assert bench.ask("PUT", "/v1/log", {"level": "warning"})[0] == 200
        assert (log.level(), bench.source.trace) == (log.WARNING, None)
        assert bench.ask("GET", "/v1/log")[1] == {"level": "warning"}
        for body in ({"level": "loud"}, {"level": 3}, {}, {"levels": "info"}, [1], "x"):
            assert bench.ask("PUT", "/v1/log", body)[0] == 400
        assert log.level() == log.WARNING
    finally:
        log.configure(debug=before == log.DEBUG, quiet=before == log.WARNING)


def test_events_come_as_lines_and_only_while_somebody_listens(bench: Bench) -> None:
    connection = bench.connect()
    with bench.turning():
        connection.request("GET", "/v1/events")
        response = connection.getresponse()
    watcher = bench.source.watcher
    assert watcher is not None
    watcher.on_flow_opened(make_flow(4))
    watcher.on_flow_ended(make_flow(4), "finished")
    watcher.on_flow_refused(17, bytes(4), 1, bytes((1, 2, 3, 4)), 53, False)
    bench.api.events.why_refused = lambda *flow: Refused(17, b"", 53, f"rule 'deny {flow}'", f"deny {flow}")
    watcher.on_flow_refused(17, bytes(4), 1, bytes((1, 2, 3, 4)), 53, False)
    watcher.on_flow_refused(17, bytes(4), 1, bytes((1, 2, 3, 4)), 53, True)
    bench.api.events.on_name_refused("ads.example", "deny ads.example", "rule 'deny ads.example'")
    bench.source.ports = [ListenerInfo(6, 8003, RULE, namespace=False)]
    bench.source.listener_page = bench.source.listeners_at = None  # type: ignore[assignment,method-assign]
    watcher.on_port_opened(bench.source.ports[0])     # there may be 60,000 others: they are not looked at
    bench.observed.on_guest_address(bytes((192, 0, 2, 77)))
    bench.source.counts["drop_no_fd"] += 7
    bench.source.fire()
    moved = replace(GUEST, mtu=1400)
    bench.api.on_host_changed(moved, [HostChange("address", 4, "192.0.2.5/24", "192.0.2.6/24")])
    with bench.turning():
        events = [json.loads(response.readline()) for _ in range(10)]
    assert [event["event"] for event in events] == [
        "flow_opened", "flow_closed", *["flow_refused"] * 3, "name_refused", "port_opened", "guest_address",
        "limit_reached", "host_changed"]
    assert [events[9][name] for name in ("what", "family", "before", "after")] == [
        "address", "ip4", "192.0.2.5/24", "192.0.2.6/24"]
    assert (events[1]["reason"], events[1]["flow"]["bytes"]["to_guest"]) == ("finished", 20_000_000_000)
    assert [event["reason"] for event in events[2:5]] == [
        None, f"rule 'deny {(17, 53, bytes((1, 2, 3, 4)))}'", None]
    assert [event["rule"] for event in events[2:5]] == [
        None, f"deny {(17, 53, bytes((1, 2, 3, 4)))}", None]
    assert [event["direction"] for event in events[2:5]] == ["outbound", "outbound", "inbound"]
    assert events[2]["destination"] == {"address": "1.2.3.4", "port": 53}
    assert [events[5][name] for name in ("name", "rule", "reason")] == [
        "ads.example", "deny ads.example", "rule 'deny ads.example'"]
    assert events[7]["address"] == "192.0.2.77"
    assert (events[8]["counter"], events[8]["times"]) == ("drop_no_fd", 7)
    connection.close()
    bench.source.run()
    assert bench.source.watcher is None


def test_names_are_told_up_to_so_many_a_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = [bench.connect(), bench.connect()]
    responses = []
    with bench.turning():
        for connection, kinds in zip(connections, ("name_refused,lost", "guest_address,lost"), strict=True):
            connection.request("GET", f"/v1/events?kinds={kinds}")
            responses.append(connection.getresponse())
    now = 1000.0
    monkeypatch.setattr(bench.api.events, "_clock", lambda: now)
    for n in range(NAMES_A_SECOND + 5):
        bench.api.events.on_name_refused(f"n{n}.test", None, "no rule allows it")
    now += 1
    bench.api.events.on_name_refused("last.test", None, "no rule allows it")
    bench.observed.on_guest_address(bytes((192, 0, 2, 78)))
    with bench.turning():
        lines = [json.loads(responses[0].readline()) for _ in range(NAMES_A_SECOND + 2)]
        other = json.loads(responses[1].readline())
    assert [line["name"] for line in lines[:-2]] == [f"n{n}.test" for n in range(NAMES_A_SECOND)]
    assert (lines[-2]["event"], lines[-2]["events"], lines[-1]["name"]) == ("lost", 5, "last.test")
    assert other["event"] == "guest_address"


def test_a_slow_reader_loses_events_and_is_told_how_many(bench: Bench) -> None:
    connection = bench.connect()
    with bench.turning():
        connection.request("GET", "/v1/events?kinds=flow_opened,lost")
        response = connection.getresponse()
    watcher = bench.source.watcher
    assert watcher is not None
    for i in range(MAX_QUEUED + 100):
        watcher.on_flow_opened(make_flow(i))
    bench.source.untold += 23        # that the engine kept for itself
    bench.source.fire()
    with bench.turning():
        lines = [json.loads(response.readline()) for _ in range(MAX_QUEUED + 1)]
    assert [line["flow"]["id"] for line in lines[:-1]] == [f"{i}.3" for i in range(MAX_QUEUED)]
    assert (lines[-1]["event"], lines[-1]["events"]) == ("lost", 123)


def test_events_are_written_for_who_wants_them_and_lost_by_who_could_have_had_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = bench.connect()
    with bench.turning():
        connection.request("GET", "/v1/events?kinds=guest_address,limit_reached")
        response = connection.getresponse()
    assert bench.source.watcher is not None
    monkeypatch.setattr(bench.api.texts, "write", None)
    bench.source.watcher.on_flow_opened(make_flow(1))
    bench.source.untold += 23        # of flows and ports, which are not wanted
    bench.source.fire()
    bench.observed.on_guest_address(bytes((192, 0, 2, 78)))
    with bench.turning():
        assert json.loads(response.readline())["event"] == "guest_address"


def test_a_stalled_reader_of_events_is_not_sent_away(bench: Bench) -> None:
    connection = bench.connect()
    with bench.turning():
        connection.request("GET", "/v1/events")
        response = connection.getresponse()
    assert bench.source.watcher is not None
    for i in range(MAX_QUEUED):
        bench.source.watcher.on_flow_opened(make_flow(i))
    bench.source.run()               # until the socket is full
    [client] = bench.server._clients
    client._deadline -= 1000
    bench.source.fire()              # who is late is closed now
    with bench.turning():
        lines = [json.loads(response.readline()) for _ in range(MAX_QUEUED)]
    assert lines[-1]["flow"]["id"] == f"{MAX_QUEUED - 1}.3"


def test_the_head_of_events_makes_nobody_a_listener(bench: Bench) -> None:
    connection = bench.connect()
    with bench.turning():
        for _ in range(3 * MAX_LISTENERS):
            connection.request("HEAD", "/v1/events")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"")
    assert (bench.api.events.count(), bench.source.watcher) == (0, None)


def test_a_slow_reader_is_told_of_losses_before_what_came_after(bench: Bench) -> None:
    connection = bench.connect()
    with bench.turning():
        connection.request("GET", "/v1/events?kinds=flow_opened")
        response = connection.getresponse()
    watcher = bench.source.watcher
    assert watcher is not None
    for i in range(MAX_QUEUED + 7):
        watcher.on_flow_opened(make_flow(i))
    for _ in range(3):
        bench.source.turn()          # a part of the queue leaves, and there is room again
    watcher.on_flow_opened(make_flow(5000))
    with bench.turning():
        lines = [json.loads(response.readline()) for _ in range(MAX_QUEUED + 2)]
    assert [line["event"] for line in lines[-3:]] == ["flow_opened", "lost", "flow_opened"]
    assert (lines[-2]["events"], lines[-1]["flow"]["id"]) == (7, "5000.3")


def test_listeners_of_events_have_a_limit(bench: Bench) -> None:
    with bench.turning():
        for _ in range(MAX_LISTENERS):
            connection = bench.connect()
            connection.request("GET", "/v1/events")
            connection.getresponse()
        assert bench.connect().ask("GET", "/v1/events")[0] == 503


def test_too_many_clients_are_told_so_and_others_are_served_again_later(bench: Bench) -> None:
    sockets = []
    for _ in range(1000):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(60)
        sock.connect(bench.path)
        sockets.append(sock)
    bench.source.run()
    assert bench.server.count() == MAX_CLIENTS
    for sock in sockets[MAX_CLIENTS:]:
        assert sock.recv(100).startswith(b"HTTP/1.1 503 ")
    for sock in sockets:
        sock.close()
    bench.source.run()
    assert bench.server.count() == 0
    assert bench.ask("GET", "/v1/info")[0] == 200


@pytest.mark.parametrize(("is_ours", "status"), [(True, 200), (False, 403)])
def test_who_did_not_start_the_program_is_refused(bench: Bench, is_ours: bool, status: int) -> None:
    bench.server.is_ours = lambda _client: is_ours
    assert bench.ask("GET", "/v1/info")[0] == status


def test_refused_client_hears_the_response_before_its_request_is_sent(bench: Bench) -> None:
    """As curl does: what is closed at both ends before it has said a word is no connection to it."""
    bench.server.is_ours = lambda _client: False
    socks = [socket.socket(socket.AF_UNIX) for _ in range(MAX_PARTING + 4)]
    for sock in socks:
        sock.connect(bench.path)
    bench.source.run()
    assert [has_hung_up(sock) for sock in socks] == [*[True] * 4, *[False] * MAX_PARTING]
    assert all(sock.recv(1000).startswith(b"HTTP/1.1 403 ") for sock in socks)
    socks[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
    bench.source.fire()
    assert all(has_hung_up(sock) for sock in socks)
    for sock in socks:
        sock.close()


def has_hung_up(sock: socket.socket) -> bool:
    """Tell whether both directions are closed."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def test_openapi_names_exactly_what_there_is() -> None:
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    described = {
        (method.upper(), path): {each["name"] for each in row.get("parameters", ()) if each["in"] == "query"}
        for path, methods in document["paths"].items() for method, row in methods.items()}  # fmt: skip
    assert described == {(route.method, route.path): set(route.parameters) for route in ROUTES}
    assert set(document["components"]["schemas"]["Event"]["properties"]["event"]["enum"]) == set(KINDS)


def test_answers_are_what_openapi_says(bench: Bench) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    bench.source.records = [
        make_flow(),
        make_flow(1, proto=17, idle_ns=None, rtt_guest_us=None, local_address=b"", window_ours=None)]
    bench.source.ports = [ListenerInfo(6, 8003, RULE, namespace=False)]
    answers = {target: bench.ask("GET", f"/v1/{target}")[1]
               for target in ("info", "flows", "flows/0.3", "counters", "ports", "log")}  # fmt: skip
    answers["turns"] = measured(bench, "turns")
    for target, answer in answers.items():
        path = "/v1/flows/{id}" if "/" in target else f"/v1/{target}"
        content = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        schema = content | {"components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer)
