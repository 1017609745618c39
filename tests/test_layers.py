"""Imports go downward only: every import and cimport line of the package against two tables.

A unit is a module or a sub-package directly below `passt`; `passt` itself (`__init__`) is the unit
"passt". The table names what each unit may import besides itself. A unit that is not in the table
is an error too, so that a new one finds its place here first. The rooms of the data plane have an
order: each may cimport from itself and from those before it. No two files import each other, not
even by a detour.
"""

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
SUFFIXES = (".py", ".pyx", ".pxd", ".pxi", ".pyi")

BASE = frozenset({"passt", "errors", "light"})
FACTS = BASE | {"facts", "log"}
ROOMS = frozenset({"config", "forward", "host", "namespace", "process", "responders", "dataplane",
                   "control", "follow", "names", "steer", "vhost_user"})  # fmt: skip
ALLOWED: dict[str, frozenset[str]] = {
    "__main__": BASE | {"cli"},
    "cli": FACTS | {"config", "passtctl", "pesto", "qrap", "run"},
    "run": FACTS | ROOMS,
    "qrap": FACTS | {"config", "wire"},
    "passtctl": FACTS | {"host", "process"},
    "pesto": FACTS | {"config", "forward", "host", "steer"},
    "namespace": FACTS | {"process", "host"},
    "process": FACTS | {"host"},
    "host": FACTS,
    "config": FACTS | {"forward"},
    "forward": FACTS | {"wire"},
    "responders": FACTS | {"wire"},
    "dataplane": BASE | {"facts"},
    "vhost_user": FACTS,
    "control": FACTS | {"config", "forward", "host", "process", "steer"},
    "names": FACTS | {"host", "process", "wire"},
    "follow": FACTS | {"config", "host", "namespace", "process"},
    "steer": FACTS | {"config", "forward"},
    "wire": BASE | {"facts"},
    "facts": BASE,
    "log": BASE,
    "light": frozenset(),
    "errors": frozenset(),
    "passt": frozenset(),
}

# Rooms of the data plane, lowest first.
DATAPLANE_ROOMS = (
    "base", "packet", "loop", "sockets", "flow", "observe", "virtio", "link", "state", "core", "ip",
    "datagram", "bypass", "tcp", "ping", "udp", "ingress", "turn", "engine",
)  # fmt: skip
MAX_MODULES = 15  # of a folder

FROM = re.compile(
    r"^[ \t]*from[ \t]+(?P<module>\.*[\w.]*)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n]+)", re.MULTILINE
)
PLAIN = re.compile(r"^[ \t]*c?import[ \t]+(?P<modules>[\w., \t]+)", re.MULTILINE)
CONTINUED = re.compile(r"\\\n")
COMMENT = re.compile(r"#[^\n]*")


def imported_modules(text: str, package: str) -> set[str]:
    """Absolute dotted names that the source *text* of a module in *package* imports.

    For `from a import b` both a and a.b are given, as b may be a module.
    """
    text = COMMENT.sub("", CONTINUED.sub(" ", text))
    found = set()
    for match in FROM.finditer(text):
        module = absolute(match["module"], package)
        found.add(module)
        found |= {
            f"{module}.{name.split()[0]}"
            for name in match["names"].strip("() \t\n").split(",")
            if name.split()
        }
    for match in PLAIN.finditer(text):
        found |= {name.split()[0] for name in match["modules"].split(",") if name.split()}
    return found


def absolute(module: str, package: str) -> str:
    """Resolve leading dots of *module* against *package*."""
    name = module.lstrip(".")
    dots = len(module) - len(name)
    if not dots:
        return module
    parents = package.split(".")
    base = parents[: len(parents) - dots + 1]
    return ".".join([*base, name] if name else base)


def unit_of(module: str) -> str | None:
    """Name the unit that the dotted name *module* lies in; None if it is not ours."""
    parts = module.split(".")
    if parts[0] != "passt":
        return None
    # A name that is no unit is an attribute of the package itself, such as __version__.
    return parts[1] if len(parts) > 1 and parts[1] in units() else "passt"


def units() -> frozenset[str]:
    """Every unit there is in the source tree, and every one in the table."""
    below = (path for path in (SOURCE / "passt").iterdir() if path.suffix in SUFFIXES or path.is_dir())
    return frozenset(ALLOWED) | {path.stem for path in below if path.stem not in {"__init__", "__pycache__"}}


def violations(relative: Path, text: str) -> list[str]:
    """Lines that say which import of the file *relative* to the source tree is not allowed."""
    package = ".".join(relative.parent.parts)
    own = relative.parts[1] if len(relative.parts) > 2 else relative.stem
    own = "passt" if own == "__init__" else own
    if own not in ALLOWED:
        return [f"{relative}: {own} is not in the table of layers"]
    imported = {unit_of(module) for module in imported_modules(text, package)}
    return [
        f"{relative}: {own} must not import {unit}"
        for unit in sorted(
            unit for unit in imported if unit is not None and unit != own and unit not in ALLOWED[own]
        )
    ]


FILES = sorted(path.relative_to(SOURCE) for path in (SOURCE / "passt").rglob("*") if path.suffix in SUFFIXES)


@pytest.mark.parametrize("relative", FILES, ids=str)
def test_imports_go_downward(relative: Path) -> None:
    assert violations(relative, (SOURCE / relative).read_text(encoding="utf-8")) == []


def room_violations(relative: Path, text: str) -> list[str]:
    """Lines that say which import of a file of the data plane goes up, or that it is in no room."""
    if relative.parts[:2] != ("passt", "dataplane") or str(relative) == "passt/dataplane/__init__.py":
        return []
    own = relative.parts[2] if len(relative.parts) > 3 else relative.stem
    if own not in DATAPLANE_ROOMS:
        return [f"{relative}: {own} is not a room of the data plane"]
    below = DATAPLANE_ROOMS[: DATAPLANE_ROOMS.index(own) + 1]
    parts = (name.split(".") for name in imported_modules(text, ".".join(relative.parent.parts)))
    rooms = {part[2] for part in parts if part[:2] == ["passt", "dataplane"] and len(part) > 2}
    return [f"{relative}: {own} must not import {room}" for room in sorted(rooms - {*below})]


@pytest.mark.parametrize("relative", [path for path in FILES if "dataplane" in path.parts], ids=str)
def test_rooms_of_the_data_plane_have_an_order(relative: Path) -> None:
    assert room_violations(relative, (SOURCE / relative).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("passt/dataplane/tcp/segments.pyx", "from passt.dataplane.turn cimport finish_flows", 1),
        ("passt/dataplane/tcp/segments.pxd", "from ..udp.flows cimport end_udp", 1),
        ("passt/dataplane/ping.pyx", "from passt.dataplane.udp.flows cimport end_udp", 1),
        ("passt/dataplane/core/core.pxd", "from passt.dataplane.udp.flows cimport end_udp", 1),
        ("passt/dataplane/link/link.pxd", "from passt.dataplane.state.udp cimport UdpState", 1),
        ("passt/dataplane/state/udp.pxd", "from passt.dataplane.core.core cimport Core", 1),
        ("passt/dataplane/base/pool.pyx", "cimport passt.dataplane.flow.table", 1),
        ("passt/dataplane/loose.pyx", "", 1),
        ("passt/dataplane/extra/thing.pxd", "", 1),
        ("passt/dataplane/tcp/segments.pyx", "from passt.dataplane.tcp.timing cimport on_rtt", 0),
        ("passt/dataplane/engine.pyx", "from passt.dataplane.ping cimport on_echo", 0),
        ("passt/dataplane/__init__.py", "", 0),
    ],
)
def test_way_up_between_rooms_is_found(path: str, text: str, found: int) -> None:
    assert len(room_violations(Path(path), text)) == found


def graph(files: dict[str, str]) -> dict[str, set[str]]:
    """Which module imports which, of the *files* path -> text; a .pyx, its .pxd and its .pyi are one."""
    found: dict[str, set[str]] = {module_name(Path(path)): set() for path in files}
    for path, text in files.items():
        own = module_name(Path(path))
        # What only the type checker imports is not imported.
        really = re.sub(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", "", text, flags=re.MULTILINE)
        names = imported_modules(really, ".".join(Path(path).parent.parts))
        # A package is imported with each of its modules; that is no circle.
        found[own] |= {name for name in names & set(found) if name != own and not own.startswith(f"{name}.")}
    return found


def module_name(relative: Path) -> str:
    """Give a file's dotted name."""
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def in_circles(imports: dict[str, set[str]]) -> set[str]:
    """Name the modules that are left when those that import nothing, or only such, are taken away."""
    left = dict(imports)
    while ready := {name for name, below in left.items() if not below & set(left)}:
        left = {name: below for name, below in left.items() if name not in ready}
    # What merely imports a circle is none.
    while idle := {name for name in left if not any(name in below for below in left.values())}:
        left = {name: below for name, below in left.items() if name not in idle}
    return set(left)


def test_no_two_files_import_each_other() -> None:
    files = [path for path in FILES if path.suffix != ".pyi"]
    texts = {str(path): (SOURCE / path).read_text(encoding="utf-8") for path in files}
    assert in_circles(graph(texts)) == set()


def test_circle_is_found() -> None:
    files = {
        "passt/a.py": "from passt import b",
        "passt/b.py": "from passt.c import x",
        "passt/c.pyx": "from passt.d cimport y",
        "passt/d.pxd": "from .b cimport z",
        "passt/e.py": "from passt.a import w",
        "passt/f.py": "if TYPE_CHECKING:\n    from passt.g import v\n\n",
        "passt/g.py": "from passt.f import v",
    }
    assert in_circles(graph(files)) == {"passt.b", "passt.c", "passt.d"}


def test_no_folder_has_too_many_modules() -> None:
    modules: dict[Path, set[str]] = {}
    for path in FILES:
        if path.stem != "__init__":
            modules.setdefault(path.parent, set()).add(path.stem)
    assert {str(folder): len(names) for folder, names in modules.items() if len(names) > MAX_MODULES} == {}


def test_there_are_files_of_each_kind_of_layer() -> None:
    names = {str(path) for path in FILES}
    assert {
        "passt/errors.py",
        "passt/wire/arp.py",
        "passt/forward/policy.py",
        "passt/dataplane/engine.pyi",
    } <= names


def test_table_allows_no_way_back_up() -> None:
    order: list[str] = []
    left = dict(ALLOWED)
    while left:
        ready = sorted(unit for unit, below in left.items() if below - {"passt"} <= {*order, unit})
        assert ready, f"a cycle among {sorted(left)}"
        order += ready
        left = {unit: below for unit, below in left.items() if unit not in ready}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("passt/wire/arp.py", "from passt.log import once"),
        ("passt/wire/arp.py", "from passt import log"),
        ("passt/wire/arp.py", "from passt import errors, log"),
        ("passt/wire/arp.py", "from passt import (\n    errors,\n    log,\n)"),
        ("passt/wire/arp.py", "from passt import errors, \\\n    log"),
        ("passt/wire/arp.py", "import passt.log.file"),
        ("passt/wire/arp.py", "import struct, passt.log as m"),
        ("passt/wire/arp.py", "from ..log import once"),
        ("passt/wire/arp.py", "from .. import log"),
        ("passt/wire/arp.py", "from ..responders.dispatch import Dispatcher"),
        ("passt/wire/arp.py", "if TYPE_CHECKING:\n    from passt.host.tap import open_tap"),
        ("passt/wire/arp.py", "def f():\n    from passt.log import once  # lazily"),
        ("passt/responders/arp.py", "from passt.forward.policy import Policy"),
        ("passt/forward/policy.py", "from passt.responders.arp import ArpResponder"),
        ("passt/vhost_user/session.py", "from passt.dataplane.engine import Engine"),
        ("passt/host/tap.py", "from passt.config import options"),
        ("passt/host/tap.py", "from passt.process import signals"),
        ("passt/process/user.py", "from passt.namespace.pid1 import Command"),
        ("passt/config/resolve.py", "from passt.host.host_facts import probe"),
        ("passt/host/sys.pyx", "from passt.dataplane.base.externs cimport read"),
        ("passt/host/sys.pyx", "cimport passt.dataplane.base.externs"),
        ("passt/dataplane/engine.pyx", "from passt.log import warning"),
        ("passt/dataplane/engine.pyx", "from passt.forward.policy cimport Policy"),
        ("passt/dataplane/tcp/states.pxd", "from ...config.options cimport x"),
        ("passt/dataplane/engine.pyi", "from passt.run.start import run"),
        ("passt/run/start.py", "from passt.cli import main"),
        ("passt/run/start.py", "from passt.wire.arp import ArpPacket"),
        ("passt/facts/guest.py", "from passt.host.tap import open_tap"),
        ("passt/facts/contracts.py", "from .. import log"),
        ("passt/light/values.py", "from passt.errors import PasstError"),
        ("passt/errors.py", "import passt"),
        ("passt/__init__.py", "from .errors import PasstError"),
        ("passt/helpers.py", ""),
        ("passt/extra/thing.py", ""),
    ],
)
def test_violation_is_found(path: str, text: str) -> None:
    assert len(violations(Path(path), f'"""Docstring."""\n\n{text}\n')) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "passt/wire/arp.py",
            "from passt.errors import WireError\nfrom passt.wire.cursor import Reader\nimport struct",
        ),
        (
            "passt/wire/arp.py",
            "from . import cursor\nfrom .cursor import Reader\nfrom ..errors import WireError",
        ),
        ("passt/wire/arp.py", "from passt import errors, light"),
        ("passt/wire/arp.py", "# from passt.log import once"),
        (
            "passt/responders/dispatch.py",
            "from passt.wire.arp import ArpPacket\nfrom passt.facts.guest import GuestNet",
        ),
        (
            "passt/dataplane/engine.pyx",
            "from passt.facts.contracts import Target\nfrom .base.externs cimport read\ncimport cython",
        ),
        (
            "passt/dataplane/engine.pyx",
            "from libc.stdint cimport uint8_t\nfrom passt.dataplane.flow.table.table cimport (a,\n  b)",
        ),
        ("passt/config/options.py", "from passt import __version__"),
        ("passt/__main__.py", "from passt.cli import main"),
        ("passt/cli.py", "from passt.run import start\nfrom passt.config.options import parse"),
        ("passt/run/start.py", "import passt.host.tap\nfrom passt.dataplane.engine import Engine"),
        ("passt/host/tap.py", "from passtalong import x\nimport passt_other"),
    ],
)
def test_downward_import_is_allowed(path: str, text: str) -> None:
    assert violations(Path(path), f'"""Docstring."""\n\n{text}\n') == []
