"""Calls of a probe that end the process: each in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).parents[2]


def run_call(probe: str, call: str) -> subprocess.CompletedProcess[str]:
    """Evaluate `probe.call`; standard output has "went on" if the process has not ended by that."""
    program = f"from tests.dataplane.probes import {probe}; {probe}.{call}; print('went on')"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300,
                          check=False, cwd=TREE)
