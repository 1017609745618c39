"""How long the host's connection tracking keeps unused UDP flows, to do alike.

The sysctls are there when its module is loaded (Documentation/networking/nf_conntrack-sysctl.rst);
anybody may read them.
"""

from __future__ import annotations

SYSCTLS = "/proc/sys/net/netfilter"
# The kernel's defaults, seconds: a flow without an answer or with one, and one that went on.
ONCE_S, STREAM_S = 30, 120
LONGEST_S = 86400  # a day: whoever sets more means for ever, which a bounded table cannot have


def udp_timeouts(sysctls: str = SYSCTLS) -> tuple[int, int]:
    """Return the seconds that an unused UDP flow lives: without an answer or with one, and as a stream."""
    return (_read(f"{sysctls}/nf_conntrack_udp_timeout", ONCE_S),
            _read(f"{sysctls}/nf_conntrack_udp_timeout_stream", STREAM_S))


def _read(path: str, default: int) -> int:
    try:
        with open(path, encoding="utf-8") as file:
            value = int(file.read())
    except (OSError, ValueError):
        return default
    return min(max(value, 1), LONGEST_S)
