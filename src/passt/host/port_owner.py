"""The process that has a port, as far as /proc shows it: for messages only."""

from __future__ import annotations

import os
import socket

TCP_LISTEN = b"0A"                # linux/tcp_states.h, as /proc/net/tcp writes it
UDP_BOUND = b"07"
_TABLES = {
    socket.IPPROTO_TCP: (("tcp", "tcp6"), TCP_LISTEN),
    socket.IPPROTO_UDP: (("udp", "udp6"), UDP_BOUND),
}


def find_owner(proto: int, port: int, root: str = "/proc") -> str | None:
    """Name a process that has *port*, as in "nginx, PID 12"; None if it is hidden from this user, or gone."""
    found = find_process(proto, port, root)
    return None if found is None else f"{found[0]}, PID {found[1]}"


def find_process(proto: int, port: int, root: str = "/proc") -> tuple[str, int] | None:
    """Return the name and the PID of a process that has *port*, as `find_owner` does."""
    inodes = _find_inodes(proto, port, root)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in filter(str.isdecimal, os.listdir(root)):
        try:
            with os.scandir(f"{root}/{pid}/fd") as entries:
                if any(_read_link(entry.path) in wanted for entry in entries):
                    with open(f"{root}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return file.read().rstrip(), int(pid)
        except OSError:
            continue
    return None


def _find_inodes(proto: int, port: int, root: str) -> set[str]:
    """Return the inodes of the sockets bound to *port* (proc_pid_net(5): columns 2, 4 and 10)."""
    found = set()
    suffix = b":%04X" % port
    names, state = _TABLES[proto]
    for name in names:
        try:
            with open(f"{root}/self/net/{name}", "rb") as file:
                rows = [line.split() for line in file.read().splitlines()[1:]]
        except OSError:
            continue
        found |= {row[9].decode() for row in rows
                  if len(row) > 9 and row[1].endswith(suffix) and row[3] == state}
    return found


def _read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
