"""net.ipv4.ping_group_range: who may open ping sockets (icmp(7))."""

from __future__ import annotations

from passt.host.ping_permission import RANGE
from passt.passtctl.doctor.finding import NOTE, OK, WARNING, Finding, set_sysctl
from passt.passtctl.doctor.machine import parse_number

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.passtctl.doctor.machine import Machine

SUBJECT = "ping"


def check(machine: Machine) -> list[Finding]:
    """Say whether guests of this user can ping; root's pasta runs as nobody, so its group counts then."""
    text = machine.sysctl(RANGE)
    if text is None:
        return [Finding(NOTE, SUBJECT, f"there is no {RANGE}: the kernel may have no ping sockets")]
    groups = (machine.group_of_nobody(),) if machine.is_root else machine.groups
    limits = [parse_number(word) for word in text.split()]
    low, high = limits if len(limits) == 2 else (None, None)
    if low is None or high is None:
        return [_refused(groups[0], text, f"0 {groups[0]}")]
    if any(low <= group <= high for group in groups):
        return [Finding(OK, SUBJECT, f"ping sockets are open to this user's guests ({RANGE} = {text})")]
    group = groups[0]
    wider = f"{min(low, group)} {max(high, group)}" if low <= high else f"0 {group}"
    return [_refused(group, text, wider)]


def _refused(group: int, text: str, wider: str) -> Finding:
    return Finding(WARNING, SUBJECT, f"guests cannot ping: group {group} may not open ping sockets"
                   f' ({RANGE} = "{text}")', (set_sysctl(RANGE, wider),), as_root=True)
