"""Each module imported alone, in a fresh interpreter: no circular import, no heavy import at start-up."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from passt.dataplane import PLANE

SOURCE = Path(__file__).parent.parent / "src"
# What start-up must not pay for, however deep below an import it lies.
HEAVY = (
    "argparse",
    "asyncio",
    "hypothesis",
    "pyroute2",
    "scapy",
    "subprocess",
    "typing_extensions",
    "unittest",
)
PROGRAM = """
import importlib, sys
importlib.import_module(sys.argv[1])
heavy = sorted(set(sys.argv[2:]) & set(sys.modules))
sys.exit(f"{sys.argv[1]} imports {heavy}" if heavy else 0)
"""


def module_name(path: Path) -> str:
    """Dotted name of the module with this source."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(
    module_name(path) for path in (SOURCE / "passt").rglob("*") if path.suffix in {".py", ".pyx"}
)


def import_alone(module: str, source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, module, *HEAVY],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
        timeout=300,
    )


@pytest.mark.parametrize("module", MODULES)
def test_module_can_be_imported_alone(module: str) -> None:
    result = import_alone(module, SOURCE)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


COMPILED = sorted(module_name(path) for path in (SOURCE / "passt" / "dataplane").rglob("*.pyx"))


@pytest.mark.parametrize("name", COMPILED)
def test_module_of_the_data_plane_is_in_its_one_object(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__name__, module.__package__) == (name, name.rpartition(".")[0])
    assert module.__spec__ is not None
    assert (module.__file__, module.__spec__.origin) == (PLANE, PLANE)


def test_object_of_the_data_plane_holds_nothing_else() -> None:
    assert {"passt.dataplane.tcp.from_guest", "passt.dataplane.udp.from_guest"} <= set(COMPILED)
    for name in ("passt.dataplane.nothing", "passt.dataplane.tcp.nothing"):
        with pytest.raises(ImportError, match=r"PyInit_.*nothing"):
            importlib.import_module(name)


def test_modules_are_found() -> None:
    assert {"passt", "passt.errors", "passt.wire.arp", "passt.responders.dispatch"} <= set(MODULES)


def test_circular_import_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("from two import b\na = 1\n", encoding="ascii")
    (tmp_path / "two.py").write_text("from one import a\nb = 1\n", encoding="ascii")
    assert "circular import" in import_alone("one", tmp_path).stderr


@pytest.mark.parametrize("heavy", ["asyncio", "argparse"])
def test_heavy_import_is_noticed(tmp_path: Path, heavy: str) -> None:
    (tmp_path / "one.py").write_text(f"import {heavy}\n", encoding="ascii")
    result = import_alone("one", tmp_path)
    assert result.returncode == 1
    assert f"one imports ['{heavy}'" in result.stderr


def test_start_of_pasta_loads_little() -> None:
    """What a container waits for: none of the modules that `value` is there to avoid."""
    modules = ("run.pasta", "namespace.interface", "host.listeners", "forward.bypass", "run.port_forwarding",
               "dataplane.engine", "responders.dispatch", "responders.router_advertiser", "log.syslog",
               "log.file", "run.banner")  # fmt: skip
    avoided = ("ast", "dataclasses", "inspect", "re", "typing")
    program = f"""
import sys
from passt import cli
from passt.run import start
from passt.config import settings
for name in {modules}:
    __import__("passt." + name)
print(*sorted(set({avoided}) & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-S", "-c", program], check=True, capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(SOURCE)}, timeout=300)  # fmt: skip
    assert result.stdout.split() == []
