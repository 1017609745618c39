"""Ports of the host: from which number on a plain user has them, and who has one already."""

from __future__ import annotations

import shlex

from passt.errors import ConfigError, HostError
from passt.host import bound_ports
from passt.host.port_owner import find_process
from passt.passtctl import instances
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, Finding, set_sysctl

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from passt.passtctl.doctor.machine import Machine

SUBJECT = "ports"
FIRST = "net.ipv4.ip_unprivileged_port_start"     # Linux' Documentation/networking/ip-sysctl.rst
PROTOCOLS = {"tcp": bound_ports.TCP, "udp": bound_ports.UDP}
_DEFAULT_FIRST = 1024
_OURS = frozenset({"pasta", "passt"})
_OPTIONS = frozenset({"-t", "-u"})
_FOR_ANOTHER = ": it forwards it for another guest, which would lose "


def parse_port(text: str) -> tuple[int, tuple[str, ...]]:
    """Read PORT, PORT/tcp or PORT/udp: the port and the protocols that are meant. Raises ConfigError."""
    port, slash, protocol = text.partition("/")
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536
            and (not slash or protocol in PROTOCOLS)):
        raise ConfigError(f"option '--port' {text}: give a port, like 8080, 8080/tcp or 8080/udp")
    return int(port), (protocol,) if slash else tuple(PROTOCOLS)


def check_low(machine: Machine) -> list[Finding]:
    """Say which ports this user can forward."""
    if machine.is_root:
        return [Finding(OK, SUBJECT, "root may forward every port")]
    first = _first(machine)
    if first <= 1:
        return [Finding(OK, SUBJECT, "every port may be forwarded")]
    return [Finding(NOTE, SUBJECT, f"ports below {first} are root's: to forward port 80 and those above it",
                    (set_sysctl(FIRST, min(80, first - 1)),), as_root=True)]


def _first(machine: Machine) -> int:
    first = machine.number(FIRST)
    return _DEFAULT_FIRST if first is None else first


def bound(protocols: Iterable[str]) -> dict[str, set[int]]:
    """Return the ports that are bound now, by the kernel's own account. Raises OSError."""
    scanner = bound_ports.PortScanner(bound_ports.open_sources())
    try:
        found = scanner.scan(PROTOCOLS[name] for name in protocols)
    finally:
        scanner.close()
    return {name: found[PROTOCOLS[name]] for name in protocols}


def find_forwarder(port: int, protocol: str) -> tuple[str, int, str] | None:
    """Return program, PID and rule of an instance of this user that forwards *port*; None if none says so.

    What a pasta or passt has open is hidden from its own user, too: it is not dumpable (proc_pid_fd(5)).
    Only what can be a PID is taken for one: kill(1) means many processes by 0 and -1.
    """
    try:
        there = instances.reachable()
    except ConfigError:
        return None
    for instance, info in there:
        try:
            for found in instance.ask("/v1/ports")["ports"]:
                is_it = (found["side"], found["protocol"], found["port"]) == ("host", protocol, port)
                if is_it and type(info["pid"]) is int and info["pid"] > 0:
                    return str(info["mode"]), info["pid"], str(found["rule"])
        except (HostError, *instances.NOT_UNDERSTOOD):
            continue
    return None


def check_one(machine: Machine, port: int, protocols: tuple[str, ...],
              scan: Callable[[Iterable[str]], dict[str, set[int]]] = bound,
              forwarder: Callable[[int, str], tuple[str, int, str] | None] = find_forwarder) -> list[Finding]:
    """Say whether *port* could be forwarded for each of *protocols*, and who has it otherwise."""
    found = []
    in_use = scan(protocols)
    lowest = _first(machine)
    for protocol in protocols:
        subject = f"port {port}/{protocol}"
        if port in in_use[protocol]:
            found.append(_held(machine, subject, port, protocol, forwarder))
        elif not machine.is_root and port < lowest:
            found.append(Finding(ERROR, subject, f"it is root's: ports of plain users begin at {lowest}",
                                 (set_sysctl(FIRST, port),), as_root=True))
        else:
            found.append(Finding(OK, subject, "it is free"))
    return found


def _held(machine: Machine, subject: str, port: int, protocol: str,
          forwarder: Callable[[int, str], tuple[str, int, str] | None]) -> Finding:
    """Say who has the port, and how to end that."""
    process = find_process(PROTOCOLS[protocol], port, machine.path("/proc"))
    instance = forwarder(port, protocol) if process is None else None
    if instance is not None:
        program, pid, rule = instance
        text = f"{program}, PID {pid}, has it{_FOR_ANOTHER}"
        option, _, spec = rule.partition(" ")
        if option not in _OPTIONS:     # a rule that follows bound ports cannot be deleted by its text
            return Finding(ERROR, subject, f"{text}its network", (f"kill {pid}",))
        return Finding(ERROR, subject, f"{text}it",
                       (f"passtctl -p {pid} ports del {option} {shlex.quote(spec)}",))
    if process is None:
        who = "no process that is to be seen here" if machine.is_root else "a process that root can see"
        return Finding(ERROR, subject, f"{who} has it: this names it, perhaps outside this container",
                       (f"ss -Hln{protocol[0]}p sport = :{port}",), as_root=True)
    name, pid = process
    text = f"{name}, PID {pid}, has it"
    if name in _OURS:
        text += f"{_FOR_ANOTHER}its network"
    service = _service(machine, pid)
    if service is not None:
        return Finding(ERROR, subject, f"{text}, of the service {service}", (f"systemctl stop {service}",),
                       as_root=True)
    return Finding(ERROR, subject, text, (f"kill {pid}",), as_root=_owner_differs(machine, pid))


def _service(machine: Machine, pid: int) -> str | None:
    """Return the unit of systemd that started a process, by its control group (cgroups(7)); None if none."""
    for line in (machine.read(f"/proc/{pid}/cgroup") or "").splitlines():
        parts = line.split("/")
        if "system.slice" in parts and parts[-1].endswith(".service"):
            return shlex.quote(parts[-1])
    return None


def _owner_differs(machine: Machine, pid: int) -> bool:
    """Tell whether the process is of another user; for root that makes no difference."""
    for line in (machine.read(f"/proc/{pid}/status") or "").splitlines():
        if line.startswith("Uid:"):
            return machine.is_root or str(machine.uid) not in line.split()[1:3]
    return machine.is_root
