"""One running instance, by its control socket: how full its limits are, what was dropped and why, the guest.

Each reason of a drop has a sentence for users here; docs/debugging.md has the same for developers, and a test
holds that both know all counters of the data plane.
"""

from __future__ import annotations

from passt import __version__
from passt.errors import PasstError
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from passt.passtctl.instances import NOT_UNDERSTOOD

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Asked(Protocol):
        """The part of `passt.passtctl.instances.Instance` that is used."""

        def ask(self, target: str, /) -> Any:
            """Return the JSON of an answer. Raises HostError."""


SUBJECT = "instance"
FULL, NEARLY_FULL = 99.5, 80.0    # percent
_FILES = ("prlimit --pid {pid} --nofile=1048576:1048576",)

# Reasons of drops: how bad, what it means. What is not bad happens in every healthy network.
DROPS = {
    "short": (NOTE, "frames of the guest with less than a header"),
    "bad_length": (NOTE, "frames whose lengths contradict each other"),
    "bad_version": (NOTE, "packets of another IP version than their frame says"),
    "oversize": (WARNING, "frames longer than the link's may be: give guest and program the same --mtu"),
    "fragment": (NOTE, "fragments that make no sense"),
    "bad_address": (NOTE, "packets from or to addresses that no packet may have"),
    "bad_port": (NOTE, "packets from or to port 0"),
    "ethertype": (OK, "frames that are neither ARP nor IP, which are not passed on"),
    "protocol": (OK, "packets that are neither TCP, UDP nor ping, as every guest's kernel sends some"),
    "extension_header": (NOTE, "IPv6 packets whose extension headers lead nowhere"),
    "disabled": (NOTE, "packets of a family or protocol that an option switches off, or that the host lacks"),
    "refused": (NOTE, "first packets of flows that a rule refuses: passtctl log debug tells which"),
    "flows_full": (WARNING, "first packets of flows for which there was no room in the flow table"),
    "no_fd": (ERROR, "packets for which no descriptor was left: raise the limit of open files"),
    "crowd": (WARNING, "connections of one neighbour, or to one port, with most of the descriptors already"),
    "socket": (NOTE, "packets that the host refused: no route, a firewall, no ping sockets"),
    "link_full": (NOTE, "frames that the guest was too slow to take"),
    "link_down": (WARNING, "frames for a guest whose interface is down, or for a machine that is not there"),
    "truncated": (NOTE, "datagrams larger than the link's frames: a larger --mtu takes them"),
    "tcp_sequence": (OK, "TCP segments outside the window, as after each loss"),
    "tcp_ack": (NOTE, "TCP segments that acknowledge what was never sent"),
    "tcp_flags": (NOTE, "TCP segments that make no sense where their connection is"),
    "tcp_timestamp": (NOTE, "TCP segments that came too late (PAWS)"),
    "tcp_memory": (NOTE, "TCP segments for which there was no room; the guest sent them again"),
    "unknown_flow": (OK, "packets of flows that are gone, as after a restart"),
    "control_rate": (WARNING, "control frames (ARP, NDP, DHCP) that came faster than they are answered"),
    "gso": (NOTE, "frames to be cut into segments that cannot be"),
    "fragment_overlap": (NOTE, "fragments that overlap others"),
    "fragment_time": (NOTE, "packets of which not all fragments came"),
    "fragment_memory": (NOTE, "packets in fragments for which there was no room"),
    "bad_checksum": (WARNING, "damaged packets"),
    "too_big": (NOTE, "messages about packets too big that cannot be true"),
    "own_echo": (OK, "copies of what the guest itself sent to a group"),
    "names_no_query": (NOTE, "messages to --dns-forward that are no queries"),
    "names_malformed": (NOTE, "queries to --dns-forward that make no sense"),
    "names_refused": (NOTE, "queries to --dns-forward of a kind that it does not serve"),
    "names_forbidden": (NOTE, "names that rules of egress forbid: passtctl events name_refused"),
    "names_repeated": (OK, "queries sent again while the first was on its way"),
    "names_full": (WARNING, "queries beyond those that may be on their way: raise the limit of open files"),
    "names_no_answer": (WARNING, "queries that no name server of the host has answered"),
    "names_wrong_answer": (WARNING, "messages of name servers that answer what nobody asked"),
    "names_connections": (NOTE, "connections to --dns-forward beyond those that may be open"),
    "names_oversize": (NOTE, "queries to --dns-forward that are too long"),
    "names_unread": (NOTE, "connections to --dns-forward whose client did not read its answers"),
    "names_unsent": (OK, "answers of --dns-forward to clients that had gone"),
}  # fmt: skip
# Other counters that tell of trouble.
COUNTERS = {
    "flows_evicted": (WARNING, "flows were ended to make room for new ones", _FILES),
    "flows_refused": (NOTE, "flows were refused by a rule", ("{ask} events flow_refused",)),
    "splice_connect_failures": (NOTE, "bypassed connections found no service behind their port",
                                ("{ask} ports",)),
    "splice_copies": (NOTE, "times no pipe was left for a bypassed connection, so data was copied", _FILES),
    "tcp_reneged": (NOTE, "guests dropped data that they had acknowledged", ()),
}  # fmt: skip


def check(choose: Callable[[], Asked], option: str | None = None) -> list[Finding]:
    """Ask the instance that *choose* returns, and judge its answers.

    *option* of passtctl names the instance in commands; None is -p with its PID.
    """
    try:
        instance = choose()
        info, counters = instance.ask("/v1/info"), instance.ask("/v1/counters")
        ports = instance.ask("/v1/ports")["ports"]
        return judge(info, counters, ports, option)
    except PasstError as error:
        return [Finding(ERROR, SUBJECT, str(error))]
    except NOT_UNDERSTOOD as error:
        # Whatever is behind the socket: what it says is not what our programs say.
        return [Finding(ERROR, SUBJECT, f"its answers make no sense ({type(error).__name__}: {error}): is it"
                        " pasta or passt?")]


def judge(info: dict[str, Any], counters: dict[str, Any], ports: list[Any],
          option: str | None = None) -> list[Finding]:
    """Judge what an instance tells. Raises the exceptions of values that are of another kind than told."""
    pid = int(info["pid"])
    ask = f"passtctl {option or f'-p {pid}'}"
    found = [Finding(OK, SUBJECT, f"{info['mode']} {info['version']}, PID {pid}, listens on"
                     f" {len(ports)} ports")]
    if info["version"] != __version__:
        found.append(Finding(NOTE, SUBJECT, f"it runs version {info['version']}, installed is {__version__}:"
                             " it was not started anew since"))
    found += _guest(info)
    found += _limits(info["limits"], ask)
    found += _drops(counters, pid)
    for name, (level, text, commands) in COUNTERS.items():
        if n := int(counters.get(name, 0)):
            found.append(Finding(level, "counters", f"{n} {text}",
                                 tuple(command.format(pid=pid, ask=ask) for command in commands),
                                 as_root=commands == _FILES))
    return found


def _guest(info: dict[str, Any]) -> list[Finding]:
    """Say whether the guest was heard, and its addresses."""
    guest, mode = info["guest"], info["mode"]
    seen = ", ".join(map(str, guest["addresses_in_use"]))
    if guest["mac"] is None:
        level = WARNING if mode == "passt" else NOTE
        hint = ("is it started, and its card on passt's socket? See 'A machine without network' in"
                " docs/debugging.md") if mode == "passt" else "is its interface configured (--config-net)?"
        return [Finding(level, "guest", f"nothing was heard of it: {hint}")]
    if not seen:
        return [Finding(NOTE, "guest", f"it is {guest['mac']}, and has used no address yet")]
    return [Finding(OK, "guest", f"it is {guest['mac']}, with {seen}")]


def _limits(limits: dict[str, Any], ask: str) -> list[Finding]:
    found = []
    fullest = 0.0
    for name, limit in limits.items():
        now, most = int(limit["now"]), int(limit["most"])
        percent = 100 * now / most if most > 0 else 0.0
        fullest = max(fullest, percent)
        if percent >= NEARLY_FULL:
            found.append(Finding(ERROR if percent >= FULL else WARNING, "limits",
                                 f"{name} is {percent:.0f} % full: {now} of {most}",
                                 (f"{ask} flows",)))
    return found or [Finding(OK, "limits", f"none is more than {fullest:.0f} % full")]


def _drops(counters: dict[str, Any], pid: int) -> list[Finding]:
    """Explain drops: one finding each, those of healthy networks in one."""
    found, healthy = [], 0
    for name, value in counters.items():
        reason = name.removeprefix("drop_")
        if reason == name or not (n := int(value)):
            continue
        level, text = DROPS.get(reason, (NOTE, f"frames were no valid messages ({reason})"))
        if level == OK:
            healthy += n
            continue
        commands = (_FILES[0].format(pid=pid),) if reason in {"no_fd", "crowd", "flows_full"} else ()
        found.append(Finding(level, "drops", f"{n} {text} ({reason})", commands, as_root=bool(commands)))
    if healthy or not found:
        text = f"{healthy} frames or queries, as every network has them" if healthy else "none so far"
        found.append(Finding(OK, "drops", text))
    return found
