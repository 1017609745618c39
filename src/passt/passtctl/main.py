"""A run of passtctl: one function for each command."""

from __future__ import annotations

import json
import os
import time
from urllib.parse import quote

from passt.errors import ConfigError, HostError
from passt.passtctl import capture, instances
from passt.passtctl.command import parse_filters
from passt.passtctl.events import event_text
from passt.passtctl.explain import explain
from passt.passtctl.instances import NOT_UNDERSTOOD
from passt.passtctl.names import served, short_name
from passt.passtctl.output import print_json, print_lines
from passt.passtctl.policy import policy
from passt.passtctl.ports import ports
from passt.passtctl.table import amount, duration, endpoint, layout

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from passt.passtctl.command import Command
    from passt.passtctl.instances import Instance

RATE_S = 0.5       # over which rates are measured
WATCH_S = 1.0
MOST = 1 << 64     # of any number that is told
_FLOWS = ("flows_tcp", "flows_udp", "flows_ping", "flows_splice_tcp", "flows_splice_udp")
_RATES = ("bytes_from_guest", "splice_bytes_to_host", "bytes_to_guest", "splice_bytes_to_guest")


def run(command: Command) -> int:
    """Carry *command* out; return the exit status. Raises PasstError."""
    if command.name == "list":
        return _list(command)
    if command.name == "doctor":
        return _doctor(command)
    instance = _choose(command)
    handlers: dict[str, Callable[[Instance, Command], int]] = {
        "flows": _flows, "top": _top, "stats": _stats, "events": _events, "metrics": _metrics, "log": _log,
        "close": _close, "ports": ports, "policy": policy, "explain": explain,
        "capture": capture.run}  # fmt: skip
    try:
        return handlers[command.name](instance, command)
    except KeyboardInterrupt:
        return 130
    except NOT_UNDERSTOOD as error:
        raise HostError(f"{instance.path}: what it answers makes no sense ({type(error).__name__}: {error}):"
                        " is it pasta or passt?") from error


def _choose(command: Command) -> Instance:
    return instances.choose(command.pid, command.path, command.instance)


def _list(command: Command) -> int:
    """Show all instances, with rates over a moment."""
    silent: list[HostError] = []
    is_named = (command.pid, command.path, command.instance) != (None, None, None)
    if not is_named:
        found = instances.reachable(silent)
    else:
        instance = _choose(command)
        found = [(instance, instance.ask("/v1/info"))]
    print_lines((f"passtctl: {error}" for error in silent), 2)
    if command.names:
        names = [short_name(info) for _, info in found]
        print_json(names) if command.json else print_lines(names)
        return 0
    before = _count_all(found, is_named)
    time.sleep(RATE_S if found else 0)
    after = _count_all(found, is_named)
    rows = []
    for instance, info in found:
        old, new = before.get(instance.path), after.get(instance.path)
        if old is None or new is None:
            continue              # it has ended meanwhile
        rates = [max(new[name] - old[name], 0) / RATE_S for name in _RATES]
        flows = sum(new[name] for name in _FLOWS)
        rows.append({"pid": info["pid"], "mode": info["mode"], "serves": served(info),
                     "ports": info["limits"]["listeners"]["now"], "flows": flows,
                     "bytes_from_guest_per_s": sum(rates[:2]), "bytes_to_guest_per_s": sum(rates[2:]),
                     "uptime_s": info["uptime_s"], "socket": instance.path})
    if command.json:
        return print_json(rows)
    print_lines(layout(
        ("PID", "MODE", "UP", "PORTS", "FLOWS", "OUT/s", "IN/s", "COMMAND, NAMESPACE OR SOCKET"),
        [(str(row["pid"]), row["mode"], duration(int(row["uptime_s"] * 1000)), str(row["ports"]),
          str(row["flows"]), amount(row["bytes_from_guest_per_s"]), amount(row["bytes_to_guest_per_s"]),
          row["serves"]) for row in rows], frozenset((0, 2, 3, 4, 5, 6))))
    return 0


def _count_all(found: list[tuple[Instance, Any]], is_named: bool) -> dict[str, dict[str, int]]:
    """Return the counters of all that still answer, by the path of their socket.

    Others are told, unless they have ended, and taken out of *found*.
    Raises HostError for one that *is_named*.
    """
    counts = {}
    for each in list(found):
        instance, info = each
        try:
            counts[instance.path] = instance.ask("/v1/counters")
            _check_told(instance, info, counts[instance.path])
        except HostError as error:
            if is_named:
                raise
            found.remove(each)
            if not isinstance(error, instances.GoneError):
                print_lines([f"passtctl: {error}"], 2)
    return counts


def _check_told(instance: Instance, info: Any, counters: Any) -> None:
    """See that *info* and *counters* have what a list shows. Raises HostError."""
    try:
        numbers = (info["pid"], info["limits"]["listeners"]["now"],
                   *(counters[name] for name in _RATES + _FLOWS))
        is_told = (all(type(n) is int and 0 <= n < MOST for n in numbers) and type(info["mode"]) is str
                   and 0 <= info["uptime_s"] < MOST
                   and all(type(word) is str for word in info["command"] or ())
                   and type(info["namespace"]) in {str, int, type(None)}
                   and type(info.get("socket")) in {str, type(None)})
    except NOT_UNDERSTOOD:
        is_told = False
    if not is_told:
        raise HostError(f"{instance.path}: what it answers makes no sense: is it pasta or passt?")


def _flows(instance: Instance, command: Command) -> int:
    """Show flows, once or again and again."""
    query = parse_filters(command.words)
    if command.watch and not command.json and os.isatty(1) and os.environ.get("TERM", "dumb") != "dumb":
        from passt.passtctl.top.table_watch import watch

        watch(lambda: flow_table(instance.flows(query)), WATCH_S)
    while True:
        found = list(instance.flows(query))
        if command.json:
            if command.watch:
                print_lines([json.dumps(found, separators=(",", ":"))])
            else:
                print_json(found)
        else:
            print_lines(flow_table(found))
        if not command.watch:
            return 0
        time.sleep(WATCH_S)


def _top(instance: Instance, command: Command) -> int:
    """Watch everything on the full screen."""
    from passt.passtctl.top.loop import run as run_top

    return run_top(instance, command, print_lines)


def flow_table(flows: Iterable[dict[str, Any]]) -> list[str]:
    """Write flows as ss(8) users expect."""
    rows = []
    for flow in flows:
        rtt = flow["rtt_us"]
        rows.append((
            flow["id"], flow["protocol"], flow["state"], "in" if flow["direction"] == "inbound" else "out",
            flow["path"], endpoint(flow["guest"]), endpoint(flow["remote"]), endpoint(flow["host"]["peer"]),
            amount(flow["bytes"]["to_host"]), amount(flow["bytes"]["to_guest"]), duration(flow["age_ms"]),
            duration(flow["idle_ms"]), _milliseconds(rtt["guest"]), _milliseconds(rtt["host"]),
            flow["rule"] or "-"))
    heading = ("ID", "PROTO", "STATE", "DIR", "PATH", "GUEST", "REMOTE", "PEER", "SENT", "RECEIVED", "AGE",
               "IDLE", "RTT-G", "RTT-H", "RULE")
    return layout(heading, rows, frozenset((8, 9, 10, 11, 12, 13)))


def _milliseconds(microseconds: int | None) -> str:
    return "-" if microseconds is None else f"{microseconds / 1000:.1f}ms"


def _stats(instance: Instance, command: Command) -> int:
    """Show limits, and counters that are not 0."""
    info, counters = instance.ask("/v1/info"), instance.ask("/v1/counters")
    if command.json:
        return print_json({"limits": info["limits"], "counters": counters})
    limits = [(name, str(limit["now"]), str(limit["most"]),
               f"{100 * limit['now'] / limit['most'] if limit['most'] else 0:.1f} %")
              for name, limit in info["limits"].items()]
    counts = [(name, str(n)) for name, n in counters.items() if n]
    print_lines([*layout(("LIMIT", "NOW", "MOST", "FULL"), limits, frozenset((1, 2, 3))), "",
            *layout(("COUNTER", "VALUE"), counts, frozenset((1,)))])
    return 0


def _events(instance: Instance, command: Command) -> int:
    """Print events as they come."""
    kinds = f"?kinds={quote(','.join(command.words))}" if command.words else ""
    for line in instance.lines(f"/v1/events{kinds}"):
        try:
            event = json.loads(line)
            text = json.dumps(event, separators=(",", ":")) if command.json else event_text(event)
        except (*NOT_UNDERSTOOD, OSError):   # OSError: no time that localtime(3) can write
            raise HostError(f"{instance.path}: what it tells is no event") from None
        print_lines([text])
    raise HostError(f"{instance.path}: the instance has ended")


def _metrics(instance: Instance, command: Command) -> int:
    """Print metrics, or serve them."""
    if command.listen is not None:
        from passt.passtctl.exporter import serve

        return serve(instance, command.listen)
    print_lines(instance.text("/v1/metrics").decode(errors="replace").splitlines())
    return 0


def _log(instance: Instance, command: Command) -> int:
    """Show or set the level."""
    if command.words:
        answer = instance.ask("/v1/log", "PUT", {"level": command.words[0]})
    else:
        answer = instance.ask("/v1/log")
    if command.json:
        return print_json(answer)
    print_lines([answer["level"]])
    return 0


def _close(instance: Instance, command: Command) -> int:
    """End one flow."""
    name = command.words[0]
    if not all(part.isascii() and part.isdecimal() for part in name.split(".")):
        raise ConfigError(f"'{name}' is not the id of a flow, which is like 17.0")
    closed = instance.ask(f"/v1/flows/{name}", "DELETE")
    return print_json(closed) if command.json else 0


def _doctor(command: Command) -> int:
    """Look for what is wrong, without an instance or with one."""
    from passt.passtctl.doctor import report

    found = report.look(pid=command.pid, path=command.path, name=command.instance, port=command.port)
    if command.json:
        print_json(report.to_json(found))
    else:
        print_lines(report.to_lines(found, is_root=not os.geteuid()))
    return report.status(found)
