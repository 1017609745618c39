"""Why the kernel refuses ping sockets (icmp(7)), and what the user can do."""

from __future__ import annotations

import os

from passt import log

RANGE = "net.ipv4.ping_group_range"
RANGE_PATH = "/proc/sys/net/ipv4/ping_group_range"
GID_MAP_PATH = "/proc/self/gid_map"
OVERFLOW_GID = 65534               # of a group that the user namespace does not know: user_namespaces(7)


class PingRefusal:
    """What to say when the kernel refuses ping sockets, by files that may be out of reach then."""

    def __init__(self, range_path: str = RANGE_PATH, gid_map_path: str = GID_MAP_PATH) -> None:
        self._paths = range_path, gid_map_path
        self._group = 0
        self._range = ""

    def read(self) -> None:
        """Read the files, with the group and in the user namespace that we shall have."""
        range_path, gid_map_path = self._paths
        self._group = outer_group(os.getegid(), gid_map_path)
        self._range = read_range(range_path)

    def forecast(self, allowed: str) -> str:
        """Return what `explain` says if *allowed*, of `read_range`, has none of our groups; else nothing.

        Where a bound is a group that the reader's namespace does not know, nothing is foretold.
        """
        try:
            first, last = map(int, allowed.split())
        except ValueError:
            return ""
        groups = {outer_group(group, self._paths[1]) for group in (os.getegid(), *os.getgroups())}
        if OVERFLOW_GID in {first, last} or any(first <= group <= last for group in groups):
            return ""
        self._group, self._range = outer_group(os.getegid(), self._paths[1]), allowed
        return self.explain()

    def warn(self) -> None:
        """Log the warning."""
        log.warning(self.explain())

    def explain(self) -> str:
        """Word which group may have no ping sockets, by which sysctl, and what would help."""
        text = f"ping does not work: group {self._group} may not open ping sockets"
        if not self._range:
            return f"{text}; {RANGE} has to include it"
        return (f'{text} ({RANGE} = "{self._range}"): as root, run sysctl -w '
                f'"{RANGE}=0 {self._group}"')


def read_range(path: str = RANGE_PATH) -> str:
    """Return the groups that may have ping sockets, first and last, as our user namespace numbers them.

    Empty if that cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return " ".join(file.read().split())
    except OSError:
        return ""


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
