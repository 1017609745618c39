"""A second opinion on frames: tshark, which decodes more strictly than any client."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, 1)
_CHECKS = ("udp.check_checksum:TRUE", "ip.check_checksum:TRUE")


def write_pcap(path: Path, frames: Iterable[bytes]) -> None:
    """Write *frames*, one millisecond apart, as pcap(5) has it."""
    records = (
        struct.pack("<IIII", 0, 1000 * number, len(frame), len(frame)) + frame
        for number, frame in enumerate(frames)
    )
    path.write_bytes(_PCAP_HEADER + b"".join(records))


def tshark(path: Path, *arguments: str) -> list[str]:
    """Lines that tshark prints of a capture; skips the test if it is missing."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is missing: 'make test' installs it")
    preferences = [word for check in _CHECKS for word in ("-o", check)]
    done = subprocess.run(
        ["tshark", "-n", *preferences, "-r", str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.splitlines()


def complaints(path: Path) -> list[str]:
    """What tshark finds wrong, or only strange, in a capture."""
    return tshark(
        path,
        "-Y",
        "_ws.expert || _ws.malformed",
        "-T",
        "fields",
        "-e",
        "frame.number",
        "-e",
        "_ws.col.Info",
        "-e",
        "_ws.expert.message",
    )
