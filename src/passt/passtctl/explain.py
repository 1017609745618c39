"""`passtctl explain`: what would become of a flow, step by step, as the instance itself says."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlencode

from passt.errors import ConfigError
from passt.facts.domain_name import normalise_name
from passt.passtctl.output import print_json, print_lines
from passt.passtctl.table import endpoint

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any

    from passt.passtctl.command import Command
    from passt.passtctl.instances import Instance

PROTOCOLS = ("tcp", "udp", "icmp")
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


def explain(instance: Instance, command: Command) -> int:
    """Print the explanation; return the exit status. Raises PasstError."""
    found = instance.ask(f"/v1/explain?{urlencode(parse_flow(command))}")
    if command.json:
        return print_json(found)
    print_lines([line for flow in found["flows"] for line in flow_lines(flow)])
    if "name" in found:
        print_lines(name_lines(found["name"]))
    return 0


def parse_flow(command: Command) -> dict[str, str]:
    """Turn the words of *command* into parameters of a request. Raises ConfigError."""
    words = list(command.words)
    asked = {"protocol": words.pop(0)} if words and words[0] in PROTOCOLS else {}
    if command.inbound is not None:
        asked["inbound"] = command.inbound
    if command.source is not None:
        asked["source"] = command.source
    if len(words) > 1 or (not words and command.inbound is None):
        raise ConfigError(f"passtctl explain takes ADDR, ADDR:PORT or --inbound PORT, and in front one of"
                          f" {', '.join(PROTOCOLS)} if you like, or NAME")
    if words and is_name(words[0]):
        if asked:
            raise ConfigError(f"'{words[0]}' is a name, which is asked for before there is a flow; give it"
                              " alone")
        return {"name": words[0]}
    if words:
        address, port = split_endpoint(words[0])
        asked["address"] = address
        if port:
            asked["port"] = port
    return asked


def is_name(text: str) -> bool:
    """Tell whether *text* is a domain name of several labels, or with a dot at its end; no address is one."""
    name = normalise_name(text)
    return (name is not None and "." in text and ":" not in text
            and not name.rpartition(".")[2].isdecimal() and set(name.lower()) <= _NAME_LETTERS)


def split_endpoint(text: str) -> tuple[str, str]:
    """Take ADDR, ADDR:PORT or [ADDR]:PORT apart; the port is empty if there is none. Raises ConfigError."""
    address, port = text, ""
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ConfigError(f"'{text}' is not [ADDRESS]:PORT")
        port = port[1:]
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    try:
        ip_address(address)
    except ValueError:
        raise ConfigError(f"'{address}' is not an IP address; write ADDR, ADDR:PORT or [ADDR]:PORT") from None
    if port and not (port.isascii() and port.isdecimal()):
        raise ConfigError(f"'{port}' is not a port")
    return address, port


def name_lines(name: dict[str, Any]) -> list[str]:
    """Write what is told of a name."""
    return [f"name {name['name']}: {name['verdict']} ({name['why']})",
            *(f"    {step}" for step in name["steps"])]


def flow_lines(flow: dict[str, Any]) -> list[str]:
    """Write one explanation."""
    source, destination = flow["source"], flow["destination"]
    has_ports = flow["protocol"] in {"tcp", "udp"}

    def write(end: dict[str, Any] | None) -> str:
        if end is None or end["address"] is None:
            return "-" if end is None else f"port {end['port']}"
        return endpoint(end) if has_ports and end["port"] else str(end["address"])

    head = f"{flow['direction']} {flow['protocol']}"
    head += f" {write(source)} -> {write(destination)}" if source is not None else f" {write(destination)}"
    lines = [f"{head}: {flow['verdict']} ({flow['why']})"]
    lines += [f"    {step}" for step in flow["steps"]]
    if flow["verdict"] != "forwarded":
        return lines
    lines.append(f"    path: {flow['path']}")
    if flow["rule"] is not None:
        lines.append(f"    rule: {flow['rule']}")
    for side in ("host", "guest"):
        ends = flow[side]
        if ends is None:
            continue
        start = write(ends["source"]) if ends["source"] is not None else "an address that the kernel chooses"
        text = f"    {side} sees: {start} -> {write(ends['destination'])}"
        if ends.get("interface"):
            text += f", by interface {ends['interface']}"
        if ends.get("scope"):
            text += f", scope {ends['scope']}"
        lines.append(text)
    return lines
