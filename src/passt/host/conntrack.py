"""How long the host's connection tracking keeps unused UDP flows, to do alike.

The sysctls are there when its module is loaded (Documentation/networking/nf_conntrack-sysctl.rst);
anybody may read them.
"""

from __future__ import annotations

from pathlib import Path

SYSCTLS = Path("/proc/sys/net/netfilter")
# The kernel's defaults, seconds: a flow without an answer or with one, and one that went on.
ONCE_S, STREAM_S = 30, 120
LONGEST_S = 86400  # a day: whoever sets more means for ever, which a bounded table cannot have


def udp_timeouts(sysctls: Path = SYSCTLS) -> tuple[int, int]:
    """Return the seconds that an unused UDP flow lives: without an answer or with one, and as a stream."""
    return (_read(sysctls / "nf_conntrack_udp_timeout", ONCE_S),
            _read(sysctls / "nf_conntrack_udp_timeout_stream", STREAM_S))


def _read(path: Path, default: int) -> int:
    try:
        value = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return default
    return min(max(value, 1), LONGEST_S)
