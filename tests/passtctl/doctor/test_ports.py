"""Ports of the host: what a plain user may have, and who has a port already."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.errors import ConfigError
from passt.facts.contracts import ListenerInfo
from passt.facts.port_rule import PortRule
from passt.light.values import replace
from passt.passtctl import instances
from passt.passtctl.doctor.finding import ERROR, NOTE, OK
from passt.passtctl.doctor.ports import FIRST, bound, check_low, check_one, find_forwarder, parse_port
from tests.control.test_api import Bench
from tests.support.made_machine import make, sysctls, write

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TCP_TITLE = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)


def in_use(**ports: set[int]) -> dict[str, set[int]]:
    return {"tcp": set(), "udp": set(), **ports}


@pytest.mark.parametrize(
    ("text", "port", "protocols"),
    [("80", 80, ("tcp", "udp")), ("65535/tcp", 65535, ("tcp",)), ("1/udp", 1, ("udp",))],
)
def test_port_is_read(text: str, port: int, protocols: tuple[str, ...]) -> None:
    assert parse_port(text) == (port, protocols)


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "-1", "x", "80/", "80/sctp", "80/tcp/udp", "\u0668", "8" * 9]
)
def test_no_port(text: str) -> None:
    with pytest.raises(ConfigError, match="--port"):
        parse_port(text)


@pytest.mark.parametrize(
    ("value", "level", "commands"),
    [(0, OK, ()), (1, OK, ()), (1024, NOTE, (f"sysctl -w {FIRST}=80",)),
     (80, NOTE, (f"sysctl -w {FIRST}=79",)),
     ("many", NOTE, (f"sysctl -w {FIRST}=80",))],
)  # fmt: skip
def test_low_ports(tmp_path: Path, value: object, level: str, commands: tuple[str, ...]) -> None:
    [found] = check_low(make(tmp_path, sysctls({FIRST: value})))
    assert (found.level, found.commands) == (level, commands)
    assert check_low(make(tmp_path, uid=0))[0].level == OK


def test_free_ports(tmp_path: Path) -> None:
    machine = make(tmp_path, sysctls({FIRST: 1024}))
    assert [finding.level for finding in check_one(machine, 8080, ("tcp", "udp"), lambda _: in_use())] == [
        OK,
        OK,
    ]
    [found] = check_one(machine, 80, ("tcp",), lambda _: in_use(udp={80}))
    assert (found.level, found.commands, found.as_root) == (ERROR, (f"sysctl -w {FIRST}=80",), True)
    [found] = check_one(make(tmp_path, uid=0), 80, ("tcp",), lambda _: in_use())
    assert found.level == OK


def hold(root: Path, comm: str = "nginx", uid: int = 1000, cgroup: str = "0::/user.slice\n") -> None:
    """Have process 12 of a made-up machine listen on TCP port 8080."""
    write(
        root,
        "/proc/self/net/tcp",
        TCP_TITLE
        + "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 777 1\n",
    )
    write(root, "/proc/12/comm", f"{comm}\n")
    write(root, "/proc/12/cgroup", cgroup)
    write(root, "/proc/12/status", f"Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    (root / "proc/12/fd").mkdir(exist_ok=True)
    if not (root / "proc/12/fd/5").is_symlink():
        (root / "proc/12/fd/5").symlink_to("socket:[777]")


@pytest.mark.parametrize(
    ("held", "commands", "as_root"),
    [({}, ("kill 12",), False), ({"uid": 33}, ("kill 12",), True),
     ({"cgroup": "0::/system.slice/nginx.service\n"}, ("systemctl stop nginx.service",), True),
     ({"cgroup": "0::/system.slice/a$(reboot).service\n"}, ("systemctl stop 'a$(reboot).service'",), True),
     ({"cgroup": "odd\0\n"}, ("kill 12",), False), ({"comm": "pasta"}, ("kill 12",), False)],
)  # fmt: skip
def test_holder(tmp_path: Path, held: dict[str, object], commands: tuple[str, ...], as_root: bool) -> None:
    hold(tmp_path, **held)  # type: ignore[arg-type]
    [found] = check_one(make(tmp_path), 8080, ("tcp",), lambda _: in_use(tcp={8080}))
    assert (found.level, found.commands, found.as_root) == (ERROR, commands, as_root)
    assert "PID 12" in found.text


def test_hidden_holder(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    for uid, protocol in ((1000, "tcp"), (0, "udp")):
        [found] = check_one(
            make(tmp_path, uid=uid), 8080, (protocol,), lambda _: in_use(tcp={8080}, udp={8080}),
            lambda *_: None)  # fmt: skip
        assert (found.level, found.as_root) == (ERROR, True)
        assert found.commands == (f"ss -Hln{protocol[0]}p sport = :8080",)


@pytest.mark.parametrize(
    ("rule", "command", "lost"),
    [("-t 8080", "passtctl -p 7 ports del -t 8080", "it"), ("udp 1-65535 (auto)", "kill 7", "its network"),
     ("-t [::1]/8080", "passtctl -p 7 ports del -t '[::1]/8080'", "it"),
     ("-t 1;reboot", "passtctl -p 7 ports del -t '1;reboot'", "it"),
     ("-x;reboot 1", "kill 7", "its network")],
)  # fmt: skip
def test_holder_that_hides_and_is_an_instance(tmp_path: Path, rule: str, command: str, lost: str) -> None:
    (tmp_path / "proc").mkdir()
    [found] = check_one(make(tmp_path), 8080, ("tcp",), lambda _: in_use(tcp={8080}),
                        lambda *_: ("passt", 7, rule))  # fmt: skip
    assert (found.level, found.commands, found.as_root) == (ERROR, (command,), False)
    assert found.text == f"passt, PID 7, has it: it forwards it for another guest, which would lose {lost}"


def test_instances_are_asked_for_their_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert find_forwarder(8000, "tcp") is None
    (tmp_path / "passt").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert find_forwarder(8000, "tcp") is None
    bench = Bench(tmp_path / "passt")
    rule = PortRule(6, 8000, 8000, 80, spec="-t 8000:80")
    bench.source.ports = [ListenerInfo(6, 8001, replace(rule, first=8001, last=8001), namespace=True),
                          ListenerInfo(6, 8000, rule, namespace=False)]  # fmt: skip
    with bench.turning():
        assert find_forwarder(8000, "tcp") == ("pasta", log.own_pid(), "-t 8000:80")
        assert find_forwarder(8000, "udp") is None
        assert find_forwarder(8001, "tcp") is None
    bench.close()


@pytest.mark.parametrize("pid", ["-1", "0", "true", "1e999", '"7"', "[]"])
def test_instance_that_lies_about_its_pid_is_not_to_be_killed(
    monkeypatch: pytest.MonkeyPatch, pid: str
) -> None:
    class Liar:
        def ask(self, _target: str) -> object:
            return {"ports": [{"side": "host", "protocol": "tcp", "port": 8000, "rule": ""}]}

    info = {"mode": "pasta", "pid": json.loads(pid)}
    monkeypatch.setattr(instances, "reachable", lambda: [(Liar(), info)])
    assert find_forwarder(8000, "tcp") is None
    info["pid"] = 7
    assert find_forwarder(8000, "tcp") == ("pasta", 7, "")


def test_kernel_tells_what_is_bound() -> None:
    def scan(protocols: Iterable[str]) -> dict[str, set[int]]:
        return bound(protocols)

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port in scan(["tcp"])["tcp"]
    assert port not in scan(["tcp", "udp"])["tcp"]
