"""Facts about the machine, and whether it is quiet enough to measure on."""

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

QUIET_BUSY_PERCENT = 10.0  # of all CPUs, over the sample
SAMPLE_S = 1.0
SYSCTLS = (
    "net/core/rmem_max", "net/core/wmem_max", "net/core/rmem_default", "net/core/wmem_default",
    "net/core/netdev_max_backlog", "net/core/default_qdisc", "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem",
    "net/ipv4/tcp_congestion_control", "net/ipv4/tcp_available_congestion_control", "net/ipv4/tcp_tw_reuse",
    "kernel/sched_autogroup_enabled",
)  # fmt: skip


def cpu_times() -> tuple[int, int]:
    """Return (busy, all) ticks of all CPUs since boot; stolen time counts as busy."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


def busy_percent(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return how busy the CPUs were between two readings of cpu_times()."""
    total = after[1] - before[1]
    return 100.0 * (after[0] - before[0]) / total if total else 0.0


def noise(seconds: float = SAMPLE_S) -> str:
    """Sample the machine; return "" if it is quiet, else a line that says what is not."""
    before = cpu_times()
    time.sleep(seconds)
    busy = busy_percent(before, cpu_times())
    load = os.getloadavg()[0]
    if busy <= QUIET_BUSY_PERCENT:
        return ""
    return (f"the machine is not quiet: its CPUs were {busy:.0f} % busy in a sample of {seconds:g} s "
            f"(load average {load:.2f}); expect spread, trust ratios only")  # fmt: skip


def _sysctl(name: str) -> str:
    try:
        return " ".join(Path("/proc/sys", name).read_text().split())
    except OSError:
        return "absent"


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def iperf3_version() -> str:
    """Return iperf3's version line."""
    out = subprocess.run(["iperf3", "--version"], capture_output=True, text=True, check=False, timeout=10)
    return out.stdout.split("\n", 1)[0].strip()


def facts() -> dict[str, Any]:
    """Return what a reader of the figures needs to know about the machine."""
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return {
        "kernel": platform.release(),
        "system": _distribution(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": int(memory[1]) // 1024 if memory else 0,
        "python": platform.python_version(),
        "iperf3": iperf3_version(),
        "load_average": list(os.getloadavg()),
        "sysctls": {name.replace("/", "."): _sysctl(name) for name in SYSCTLS},
    }
