"""Port rules by HTTP: shown, added, deleted, replaced; all of a change or nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from passt.control.http import MAX_BODY, RefusalError
from passt.control.ports import PortRules, read_option
from passt.facts.contracts import ListenerInfo
from passt.host.listeners import cut_ports
from passt.light.values import replace
from passt.steer import messages
from passt.steer.tables import ClientTables
from tests.control.test_api import OPENAPI, Bench
from tests.run.test_port_tables import World, tcp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from passt.facts.port_rule import PortRule

EVERYTHING = 63
WEB = replace(tcp(80), target=8080, spec="-t 80:8080")


class Ports:
    """A program with tables whose listeners a test sees, asked over its socket."""

    def __init__(self, path: Path, abilities: int = EVERYTHING) -> None:
        self.bench = Bench(path)
        self.world = World(WEB, inside=[])
        shown = ClientTables(self.world.ports, {"HOST": abilities, "SPLICE": abilities & ~messages.FOLLOWS})
        self.bench.api.port_rules = PortRules(shown, self.cut)

    def cut(self, rules: Iterable[PortRule]) -> list[PortRule]:
        return cut_ports(rules, (32768, 60999))

    def ask(self, method: str, body: object = None) -> tuple[int, Any]:
        found = self.bench.ask(method, "/v1/ports", body)
        self.world.check()
        return found

    def texts(self) -> list[str]:
        """The rules as lines, those of SPLICE behind a mark."""
        return [f"{'inside ' if rule['table'] == 'SPLICE' else ''}{rule['text']}"
                for rule in self.ask("GET")[1]["rules"]]


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    made = Ports(tmp_path)
    yield made
    made.bench.close()


HAD = "TCP [*]:80  =>  8080"


def test_rules_are_shown_with_all_that_they_say(ports: Ports) -> None:
    ports.bench.source.ports = [ListenerInfo(6, 80, WEB, namespace=False)]
    status, found = ports.ask("GET")
    assert status == 200
    assert found["rules"] == [{
        "table": "HOST", "protocol": "tcp", "address": None, "interface": None, "first": 80, "last": 80,
        "target": 8080, "target_address": None, "optional": False, "auto": False, "text": HAD,
        "option": "-t 80:8080", "open": 1}]  # fmt: skip
    assert found["ports"] == [{
        "side": "host", "table": "HOST", "protocol": "tcp", "port": 80, "address": None, "interface": None,
        "leads_to": 8080, "target_address": None, "auto": False, "rule": "-t 80:8080"}]  # fmt: skip


def test_rules_are_added_deleted_and_replaced(ports: Ports) -> None:
    status, done = ports.ask("PATCH", {"add": ["-t 127.0.0.1/90-91:9090-9091", "--udp-ports=53", "-T 5432"]})
    assert (status, done["opened"], done["closed"], done["notes"]) == (200, 4, 0, [])
    added = ["TCP [127.0.0.1]:90-91  =>  9090-9091", "UDP [*]:53  =>  53", "inside TCP [*]%lo:5432  =>  5432"]
    assert ports.texts() == [HAD, *added]
    assert [rule["text"] for rule in done["rules"]][1:] == [text.removeprefix("inside ") for text in added]
    options = [rule["option"] for rule in done["rules"]]
    assert options == ["-t 80:8080", "-t 127.0.0.1/90-91:9090-9091", "-u 53", "-T 5432"]
    # One change: the old rule is out of the way of the new one, which takes its listener.
    status, done = ports.ask("PATCH", {"delete": ["-t 80:8080", "-u 53"], "add": ["-t 80:81"]})
    assert (status, done["opened"], done["closed"]) == (200, 0, 1)
    assert ports.texts() == [added[0], "TCP [*]:80  =>  81", added[2]]
    status, done = ports.ask("PUT", {"HOST": ["-t 80:81", "-t 7"]})
    assert (status, done["opened"], done["closed"]) == (200, 1, 2)
    assert ports.texts() == ["TCP [*]:80  =>  81", "TCP [*]:7  =>  7", added[2]]
    assert ports.ask("PUT", {"HOST": ["-t none"], "SPLICE": []})[0] == 200
    assert ports.texts() == []
    assert ports.world.side.listening == {}


def test_what_was_read_can_be_sent_back(ports: Ports) -> None:
    ports.ask("PATCH", {"add": ["-t [::1]/5000:6000", "-t 0.0.0.0/5001:192.0.2.9/80", "-t %eth0/5002",
                                "-T 5003", "-u auto", "-t 7000-7001,auto"]})  # fmt: skip
    before = ports.ask("GET")[1]["rules"]
    assert [rule["auto"] for rule in before] == [False, False, False, False, True, True, True, False]
    ports.world.side.log.clear()
    tables = {name: [rule for rule in before if rule["table"] == name] for name in ("HOST", "SPLICE")}
    status, done = ports.ask("PUT", tables)
    assert (status, done["opened"], done["closed"], ports.world.side.log) == (200, 0, 0, [])
    assert done["rules"] == before
    assert ports.ask("PATCH", {"delete": before})[0] == 200
    assert ports.texts() == []
    status, done = ports.ask("PATCH", {"add": [{"table": "HOST", "protocol": "udp", "first": 9}]})
    assert (status, done["opened"], ports.texts()) == (200, 1, ["UDP [*]:9  =>  9"])


def test_each_port_that_cannot_be_had_is_an_error_and_nothing_is_changed(ports: Ports) -> None:
    ports.world.side.refused = {81: errno.EADDRINUSE, 83: errno.EACCES}
    status, problem = ports.ask("PATCH", {"add": ["-t 81-84", "-T 5"]})
    assert (status, problem["status"], problem["title"]) == (409, 409, "Conflict")
    taken, low = problem["errors"]
    assert taken == "HOST: TCP port 81: cannot listen: Address already in use"
    assert low == ("HOST: TCP port 83: cannot listen: Permission denied; ports below 1024 are closed to users"
                   " (net.ipv4.ip_unprivileged_port_start)")
    assert problem["detail"] == f"nothing was changed: {problem['errors'][0]}; 1 more in errors"
    assert ports.texts() == [HAD]
    assert ports.world.inner_side.listening == {}
    # One that had to be closed for the change, and that another program took meanwhile.
    ports.world.side.on_close = lambda port: ports.world.side.refused.update({port: errno.EADDRINUSE})
    status, problem = ports.ask("PATCH", {"delete": ["-t 80:8080"], "add": ["-t 127.0.0.1/80"]})
    assert (status, problem["detail"][:41]) == (409, "ports that were forwarded are lost: HOST:")


@pytest.mark.parametrize(("body", "text"), [
    ({"add": ["-t 80"]}, r"conflict: TCP \[\*\]:80  =>  80 versus"),
    ({"add": ["-t 9", "-t 127.0.0.1/9"]}, "conflict"), ({"delete": ["-t 9"]}, "Couldn't find"),
    ({"delete": ["-t 80"]}, "doesn't match it"), ({"add": ["-t none"]}, "'none' contradicts"),
    ({"add": ["-t 9", "-t 7", "-t 9"]}, "conflict"), ({"add": ["-u 1-65535"]}, "65536 ports are more than"),
    ({"add": [f"-t 127.0.{i // 250}.{i % 250}/9" for i in range(255)]}, "more than 255 rules"),
    ({"add": [f"-t 127.0.0.{i}/all" for i in range(1, 9)]}, "conflict"),
    ({"add": [f"-u 127.0.0.{i}/all" for i in range(1, 9)]}, "ports are more than the 262144"),
])  # fmt: skip
def test_what_does_not_go_with_the_rules_is_a_conflict(ports: Ports, body: object, text: str) -> None:
    status, problem = ports.ask("PATCH", body)
    assert status == 409
    with pytest.raises(ValueError, match=text):
        raise ValueError(problem["detail"])
    assert problem["errors"]
    assert (ports.texts(), ports.world.side.log) == ([HAD], [])


RULE = {"table": "HOST", "protocol": "tcp", "first": 9}


@pytest.mark.parametrize("body", [
    {}, [], "x", None, {"add": "-t 9"}, {"add": {}}, {"add": None}, {"remove": []}, {"HOST": []},
    {"add": [9]}, {"add": [None]}, {"add": [[]]}, {"add": [True]}, {"add": [""]}, {"add": ["-t"]},
    {"add": ["9"]}, {"add": ["-x 9"]}, {"add": ["-t 0"]}, {"add": ["-t 9-8"]}, {"add": ["-t 65536"]},
    {"add": ["-t 9:"]}, {"add": ["-t x/9"]}, {"add": ["-T 127.0.0.1/9"]}, {"add": ["-t \ud800"]},
    {"add": ["-t %\ud800/9"]}, {"add": ["-t 1\x00"]}, {"add": ["-T auto"]}, {"add": ["--tcp-ports"]},
    {"add": ["--port 9"]}, {"add": ["-t 9", "-t 1-65535,~1-65535"]},
    *({"add": [RULE | change]} for change in (
        {"first": "9"}, {"first": 9.0}, {"first": True}, {"first": 0}, {"first": -1}, {"first": 1 << 70},
        {"last": 8}, {"last": 65536}, {"target": 0}, {"target": 65536, "last": 10}, {"table": "X"},
        {"table": 3}, {"protocol": "icmp"}, {"protocol": "TCP"}, {"address": "x"}, {"address": 3},
        {"address": "224.0.0.1"}, {"address": "fe80::1%eth0"}, {"address": "::ffff:1.2.3.4"},
        {"interface": ""}, {"interface": "a/b"}, {"interface": "x" * 16}, {"interface": "\ud800"},
        {"interface": "a\x00b"}, {"target_address": "192.0.2.1"}, {"optional": 1}, {"auto": None},
        {"colour": "red"}, {"table": "SPLICE", "interface": "eth0"}, {"table": "SPLICE", "auto": True})),
    {"add": [{"table": "HOST", "protocol": "tcp"}]}, {"add": [{}]},
    {"add": ["-t 9"] * 511}, {"add": ["-t " + ",".join(map(str, range(10000, 10900)))]},
    {"add": ["-t 1-65535" + ",~9" * 2000]},
])  # fmt: skip
def test_what_makes_no_sense_is_refused(ports: Ports, body: object) -> None:
    for method in ("PATCH", "PUT"):
        asked = body
        if method == "PUT" and isinstance(body, dict) and "add" in body:
            asked = {"HOST": body["add"]}
        elif method == "PUT" and body == {"HOST": []}:
            continue               # that one makes sense
        status, problem = ports.ask(method, asked)
        assert (status, problem["status"]) == (400, 400), (method, problem)
        assert problem["detail"]
        assert (ports.texts(), ports.world.side.log) == ([HAD], [])


def test_what_the_program_cannot_have_is_refused(tmp_path: Path) -> None:
    ports = Ports(tmp_path, messages.IP4 | messages.TCP | messages.INTERFACES)
    for rule in ("-u 9", "-t [::1]/9", "-t auto", RULE | {"protocol": "udp"}, RULE | {"address": "::1"},
                 RULE | {"auto": True}):  # fmt: skip
        assert ports.ask("PATCH", {"add": [rule]})[0] == 400, rule
    for body in ({"HOST": ["-T 9"]}, {"SPLICE": ["-t 9"]}, {"SPLICE": [RULE]}):
        assert ports.ask("PUT", body)[0] == 400
    assert ports.world.side.log == []
    ports.bench.close()


def test_a_large_body_is_refused_and_a_full_one_is_not(ports: Ports) -> None:
    connection = ports.bench.connect()
    with ports.bench.turning():
        connection.putrequest("PUT", "/v1/ports")
        connection.putheader("content-length", str(10 << 20))
        connection.endheaders()
        try:
            for _ in range(160):
                connection.send(b"[" * 65536)
        except OSError:
            pass               # it is told no, and the connection ends
        assert connection.getresponse().status == 413
    assert ports.texts() == [HAD]
    rule = ports.ask("GET")[1]["rules"][0] | {"address": "2001:db8:1111:2222:3333:4444:5555:6666",
                                              "interface": "a" * 15, "last": 20000}  # fmt: skip
    shown = ("text", "option", "open")
    full = {name: [{key: value for key, value in rule.items() if key not in shown}
                   | {"table": name, "first": port, "last": port, "target": port,
                      "interface": "lo" if name == "SPLICE" else "a" * 15, "address": "::1"}
                   for port in range(20000, 20255)] for name in ("HOST", "SPLICE")}
    assert len(json.dumps(full)) < MAX_BODY
    status, done = ports.ask("PUT", full)
    assert (status, done["opened"], done["closed"]) == (200, 510, 1)


def test_nonsense_never_raises_and_never_half_changes(ports: Ports) -> None:
    dice = random.Random(17)  # noqa: S311 - the same bodies each time
    seed = json.dumps({"add": [RULE, "-t 127.0.0.1/90-91:9090-9091"], "delete": ["-t 80:8080"]}).encode()
    rules = ports.bench.api.port_rules
    assert rules is not None
    for _ in range(3000):
        body = bytearray(seed)
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(len(body))
            body[at:at + dice.randrange(2)] = bytes((dice.choice(b'0189{}[]",:-tuTU ~*%/\\ud\xff'),))
        with contextlib.suppress(RefusalError):
            rules.change(bytes(body))
        ports.world.check()


def test_options_are_read_as_on_the_command_line() -> None:
    step = read_option("add", "-t 127.0.0.1/8080:80")
    assert (step.option, step.value, step.label) == ("tcp-ports", "127.0.0.1/8080:80", "-t")
    assert read_option("add", "--udp-ns=9").option == read_option("add", "--udp-ns 9").option == "udp-ns"


def test_requests_and_answers_are_what_openapi_says(ports: Ports) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))

    def check(part: dict[str, Any], value: object) -> None:
        schema = part["content"][next(iter(part["content"]))]["schema"]
        jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(value)

    methods = document["paths"]["/v1/ports"]
    rule = {"table": "HOST", "protocol": "udp", "first": 9, "address": "::1", "auto": True}
    for method, body in (("PATCH", {"add": ["-t auto,9", rule, "-T 5"], "delete": ["-t 80:8080"]}),
                         ("PUT", {"HOST": ["--tcp-ports=80:8080"], "SPLICE": []}),
                         ("PATCH", {"add": ["-t 80"]})):  # fmt: skip
        described = methods[method.lower()]
        check(described["requestBody"], body)
        status, found = ports.ask(method, body)
        check(described["responses"][str(status)], found)
    ports.bench.source.ports = [ListenerInfo(6, 80, WEB, namespace=False)]
    check(methods["get"]["responses"]["200"], ports.ask("GET")[1])
