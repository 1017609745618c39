"""The UDP timeouts of the host's connection tracking, which we take over.

The sysctls exist while the module nf_conntrack is loaded (Documentation/networking/nf_conntrack-sysctl.rst);
every user may read them.
"""

from __future__ import annotations

SYSCTLS = "/proc/sys/net/netfilter"
# The kernel's defaults in seconds: a flow with one answer at most, and a stream.
ONCE_S, STREAM_S = 30, 120
LONGEST_S = 86400  # a day; a longer timeout means for ever, which a bounded table cannot grant


def udp_timeouts(sysctls: str = SYSCTLS) -> tuple[int, int]:
    """Return the seconds that an unused UDP flow lives: with one answer at most, and as a stream."""
    return (_read(f"{sysctls}/nf_conntrack_udp_timeout", ONCE_S),
            _read(f"{sysctls}/nf_conntrack_udp_timeout_stream", STREAM_S))


def _read(path: str, default: int) -> int:
    try:
        with open(path, encoding="utf-8") as file:
            value = int(file.read())
    except (OSError, ValueError):
        return default
    return min(max(value, 1), LONGEST_S)
