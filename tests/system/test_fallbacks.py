"""The program with what older kernels lack taken away: whole streams both ways, one run per lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lab import FAR4, FAR6, Lab
from tests.system.servers import stream_sha256

pytestmark = pytest.mark.needs_root

SIZE = 30_000_000
ECHOED = 5_000_000
# As `Engine` names them; without "offloads" the guest's frames are cut and summed up by us.
SINGLE = ["peek_off4", "peek_off6", "meminfo", "bytes_acked", "pwait2", "offloads"]
# The lab's program, with one argument more before the options. Masks are set in the process that has them.
MASKING = """
import functools
import passt.dataplane.engine as engine

masked = frozenset(sys.argv.pop(1).split(","))
made = functools.partial(engine.Engine, without=masked - {"offloads"})

class Masked:
    def __getattr__(self, name):
        return getattr(self.engine, name)

    def __init__(self, *args, **keywords):
        self.engine = made(*args, **keywords)

    def attach_tap(self, fd, mac, offloads):
        self.engine.attach_tap(fd, mac, 0 if "offloads" in masked else offloads)

engine.Engine = Masked
from passt.cli import main
"""


@pytest.fixture
def masking(lab: Lab) -> Path:
    """Write the program that takes the name of what to lack first."""
    text = Path(lab.pasta).read_text(encoding="utf-8")
    program = lab.directory / "masking" / "pasta"
    program.parent.mkdir(exist_ok=True)
    program.write_text(text.replace("from passt.cli import main\n", MASKING.lstrip()), encoding="utf-8")
    program.chmod(0o755)
    program.parent.chmod(0o755)
    return program


@pytest.mark.parametrize("lack", [*SINGLE, ",".join(SINGLE)])
def test_streams_are_whole_without(lab: Lab, masking: Path, lack: str) -> None:
    lines = []
    for address in (FAR4, FAR6):
        host = f"[{address}]" if ":" in address else address
        lines.append(f"curl -sSf --max-time 120 http://{host}:8000/{SIZE} | sha256sum")
        lines.append(f"{' '.join(lab.client)} tcp,end-first,end-last {address} 8000 {ECHOED} >&2")
    script = "set -e -o pipefail; " + "; ".join(lines)
    result = lab.host.run(
        [str(masking), lack, "--config-net", "--", "bash", "-c", script], user=False, timeout=280
    )
    sums = [line.split()[0] for line in result.stdout.decode().splitlines()]
    assert sums == [stream_sha256(SIZE)] * 2


def test_masks_reach_the_engine(lab: Lab, masking: Path) -> None:
    # A keyword that it does not take ends the program.
    text = masking.read_text(encoding="utf-8").replace("without=", "no_such_mask=")
    masking.write_text(text, encoding="utf-8")
    result = lab.host.run([str(masking), "meminfo", "--config-net", "--", "true"], user=False, check=False)
    assert result.returncode != 0
    assert b"no_such_mask" in result.stderr
