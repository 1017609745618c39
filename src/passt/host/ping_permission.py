"""Why the kernel refuses ping sockets (icmp(7)), and what the user can do."""

from __future__ import annotations

import os

RANGE = "net.ipv4.ping_group_range"
RANGE_PATH = "/proc/sys/net/ipv4/ping_group_range"
GID_MAP_PATH = "/proc/self/gid_map"


def explain_refusal(range_path: str = RANGE_PATH, gid_map_path: str = GID_MAP_PATH) -> str:
    """Word which group may have no ping sockets, by which sysctl, and what would help."""
    group = outer_group(os.getegid(), gid_map_path)
    text = f"ping does not work: group {group} may not open ping sockets"
    try:
        with open(range_path, encoding="utf-8") as file:
            now = " ".join(file.read().split())
    except OSError:
        return f"{text}; {RANGE} has to include it"
    return f'{text} ({RANGE} = "{now}"): as root, run sysctl -w "{RANGE}=0 {group}"'


def outer_group(group: int, gid_map_path: str = GID_MAP_PATH) -> int:
    """Return the host's number of *group*, a group of our user namespace (user_namespaces(7), gid_map)."""
    try:
        with open(gid_map_path, encoding="utf-8") as file:
            for line in file:
                inside, outside, length = map(int, line.split())
                if inside <= group < inside + length:
                    return outside + group - inside
    except (OSError, ValueError):
        return group
    return group
