"""Events in one line each, for eyes."""

from __future__ import annotations

import time

from passt.passtctl.table import amount, duration, endpoint

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def event_text(event: dict[str, Any]) -> str:
    """Write an event in one line. Raises what Python does of a value that is not what it should be."""
    stamp = time.strftime("%H:%M:%S", time.localtime(event["time"])) + f"{event['time'] % 1:.3f}"[1:]
    write = _WRITERS.get(event["event"], _anything)
    return f"{stamp} {event['event'].replace('_', ' ')} {write(event)}".rstrip()


def _flow(event: dict[str, Any]) -> str:
    flow = event["flow"]
    text = (f"{flow['id']} {flow['protocol']} {endpoint(flow['guest'])}"
            f" {'<-' if flow['direction'] == 'inbound' else '->'} {endpoint(flow['remote'])}")
    if "reason" in event:
        text += (f": {event['reason']}, sent {amount(flow['bytes']['to_host'])}, received"
                 f" {amount(flow['bytes']['to_guest'])}, {duration(flow['age_ms'])}")
    return text


def _refused(event: dict[str, Any]) -> str:
    text = (f"{event['direction']} {event['protocol']} {endpoint(event['source'])} ->"
            f" {endpoint(event['destination'])}")
    return f"{text}: {event['reason']}" if event.get("reason") else text


def _name(event: dict[str, Any]) -> str:
    return f"{event['name']}: {event['reason']}"


def _port(event: dict[str, Any]) -> str:
    """Write where a port listens, where it leads, and the option of its rule."""
    where = event["address"] or "*"
    where = f"[{where}]" if ":" in where else where
    where += f"%{event['interface']}" if event["interface"] else ""
    text = f"{event['side']} {event['protocol']} {where}:{event['port']}"
    if event["target_address"] is not None:
        text += f" -> {endpoint({'address': event['target_address'], 'port': event['leads_to']})}"
    elif event["leads_to"] is not None:
        text += f" -> {event['leads_to']}"
    return f"{text} by {event['rule']}" if event["rule"] else text


def _host_changed(event: dict[str, Any]) -> str:
    family = f"{event['family']} " if event["family"] else ""
    return f"{family}{event['what']} {event['before']} -> {event['after']}"


def _anything(event: dict[str, Any]) -> str:
    """Write what a newer program tells."""
    if "flow" in event:
        return _flow(event)
    return " ".join(f"{key} {endpoint(value) if isinstance(value, dict) and 'port' in value else value}"
                    for key, value in event.items() if key not in {"event", "time"} and value is not None)


def _guest_address(event: dict[str, Any]) -> str:
    return str(event["address"])


def _limit(event: dict[str, Any]) -> str:
    return f"{event['counter']} {event['times']} times"


def _lost(event: dict[str, Any]) -> str:
    return f"{event['events']} events"


_WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "flow_opened": _flow, "flow_closed": _flow, "flow_refused": _refused, "name_refused": _name,
    "port_opened": _port,
    "port_closed": _port, "host_changed": _host_changed, "guest_address": _guest_address,
    "limit_reached": _limit, "lost": _lost,
}  # fmt: skip
