"""`passtctl COMMAND --help`: what one command takes."""

from __future__ import annotations

from passt.passtctl.command import COMMANDS

_FLOW_FILTER = (
    "FILTER: all that are given have to fit", (
        ("tcp udp icmp icmp6", "the protocol"),
        ("link bypass", "whether the flow takes the guest's link"),
        ("inbound outbound", "who opened it"),
        ("ADDRESS  :PORT", "of any of its ends"),
        ("KEY=VALUE", "protocol, path, direction, state, address, port, or rule (a part of it)")))
_ALWAYS = (
    ("-p, --pid PID", "the instance with this PID"),
    ("-s, --socket PATH", "the instance with this control socket"))
_JSON = ("--json", "print JSON, which has all that is known")
# Command -> parts, each with a heading and lines of two columns.
_PARTS: dict[str, tuple[tuple[str, tuple[tuple[str, str], ...]], ...]] = {
    "flows": (("Options", (("--watch", "again each second, until Ctrl-C"),)), _FLOW_FILTER),
    "top": (_FLOW_FILTER, ("Keys", (("h", "all of them"), ("q", "quit")))),
    "events": (("KIND", (
        ("flow_opened flow_closed flow_refused", "closed: what it carried, and why"),
        ("name_refused", "a name that rules of egress forbid"),
        ("port_opened port_closed", "a port that we listen on"),
        ("guest_address host_changed", "learnt of the guest; followed by --follow"),
        ("limit_reached lost", "lost: for who reads slowly; always told"))),),
    "metrics": (("Options", (("--listen ADDR:PORT", "serve http://ADDR:PORT/metrics, until a signal"),)),),
    "log": (("LEVEL", (("debug", "as of -d"), ("info", "as by default"), ("warning", "as of -q"))),),
    "close": (("FLOW", (("17.0", "an id as flows and top show it"),)),),
    "ports": (("SPEC as of pasta and passt", (
        ("-t, -u SPEC", "TCP or UDP ports of the host, for the guest"),
        ("-T, -U SPEC", "TCP or UDP ports of the namespace, for the host"))),),
    "policy": (("Options", (
        ("--kill", "end open flows of the guest that the rules refuse now"),)),
        ("FILE", (("PATH", "rules in TOML, as for --policy; - is standard input"),))),
    "explain": (("Options", (
        ("--inbound PORT", "a flow to that port of the host, or to that of ADDR"),
        ("--source ADDR", "where the flow comes from"),
        ("NAME", "whether rules of egress let it be asked for"))),),
    "doctor": (("Options", (
        ("--port PORT", "also: who has that port of the host; 8080, 8080/tcp or 8080/udp"),
        ("-p, -s", "also: what is wrong with that instance"))),),
    "capture": (
        ("Options", (
            ("-w, --write FILE", "write packets there, until Ctrl-C; - is standard output, for a pipe"),
            ("--ring SIZE", "keep the newest in memory, 256K to 64M; prints the id for get and stop"),
            ("--snaplen SIZE", "keep that many bytes of each packet"))),
        ("FILTER: words of one line are alternatives, and each line that is given has to fit", (
            ("tcp udp icmp icmp6 arp", "the protocol"),
            ("ip ip4 ip6", "the family"),
            ("link bypass", "which way the packets take"),
            ("port N, port N-M, :N", "the port of either end"),
            ("host ADDRESS, net ADDRESS/LENGTH", "the address of either end; host may be left out")))),
}  # fmt: skip


def command_help(name: str) -> str:
    """Return what the command *name*, one of COMMANDS, does and takes."""
    words, text = COMMANDS[name]
    lines = [f"       passtctl [OPTION]... {name} {way}".rstrip() for way in words.split(" | ")]
    lines[0] = f"Usage:{lines[0][6:]}"
    lines += ["", text]
    # What is for Prometheus is not JSON.
    always = _ALWAYS if name == "metrics" else (*_ALWAYS, _JSON)
    for heading, rows in (*_PARTS.get(name, ()), ("Options of all commands", always)):
        width = max(len(left) for left, _ in rows)
        lines += ["", f"{heading}:", *(f"  {left:{width}}  {right}" for left, right in rows)]
    return "\n".join([*lines, "", "passtctl(1) has more.", ""])
