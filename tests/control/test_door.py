"""What --control loads, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from passt.control import door
from passt.errors import ConfigError
from passt.host.unix_socket import ListeningSocket

if TYPE_CHECKING:
    from pathlib import Path

# Loads as a start does, has a request and a response sent, and prints which of some modules are there.
SCRIPT = """
import sys
from passt.control import door
heavy = {"inspect", "ast", "dis", "tokenize", "dataclasses", "typing"}
before = heavy & set(sys.modules)
door._load()
import h11
server, client = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
server.receive_data(client.send(h11.Request(method="POST", target="/", headers=[
    ("host", "x"), ("transfer-encoding", "chunked")])))
server.receive_data(client.send(h11.Data(data=b"ab")) + client.send(h11.EndOfMessage()))
request, data, end = (server.next_event() for _ in range(3))
client.receive_data(server.send(h11.Response(status_code=200, headers=[("connection", "close")])))
client.receive_data(server.send(h11.Data(data=b"c")) + server.send(h11.EndOfMessage()))
client.receive_data(b"")
answer = [type(client.next_event()).__name__ for _ in range(4)]
after = heavy & set(sys.modules)
print(request.method, bytes(data.data), type(end).__name__, *answer, *before, *after)
"""
# Each an h11 that takes more of these modules than the stand-ins have.
OTHERS = ("""
from dataclasses import dataclass, field
@dataclass
class Event:
    values: list = field(default_factory=list)
""", """
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar
T = TypeVar("T")
class Box(Generic[T]):
    pass
@dataclass
class Event:
    values: list
Event = Event([])
Event = (lambda made: lambda: made)(Event)
""", """
from dataclasses import dataclass
class Base:
    values: list
@dataclass(frozen=True)
class Event(Base):
    values: list
Event = (lambda made: lambda: made([]))(Event)
""", """
from beside import dataclasses
def Event():
    return dataclasses.make_dataclass("Event", [("values", list)])([])
""")
# Of h11 0.14, which distributions have: it imports `field`, and does not use it.
OLD = """
from dataclasses import dataclass, field
from typing import List
class Event:
    pass
@dataclass(init=False, frozen=True)
class Request(Event):
    values: List[int]
    def __init__(self, values):
        object.__setattr__(self, "values", values)
@dataclass(frozen=True)
class ConnectionClosed(Event):
    pass
"""


def run_alone(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_h11_works_without_what_only_type_checkers_and_debuggers_need() -> None:
    assert run_alone(SCRIPT) == ["b'POST'", "b'ab'", "EndOfMessage", "Response", "Data", "EndOfMessage",
                                 "ConnectionClosed"]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=["field", "generic", "init", "beside"])
def test_another_h11_is_loaded_as_it_is_meant_to_be(tmp_path: Path, other: str) -> None:
    (tmp_path / "h11.py").write_text(other)
    (tmp_path / "beside.py").write_text("import dataclasses, typing")
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from passt.control import door
door._load_h11()
import h11
print(h11.Event(), "field" in dir(sys.modules["dataclasses"]))
"""
    assert run_alone(script) == ["Event(values=[])", "True"]


def test_h11_of_distributions_needs_no_more_than_the_newest(tmp_path: Path) -> None:
    (tmp_path / "h11.py").write_text(OLD)
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from passt.control import door
door._load_h11()
import h11
print(h11.Request([7]).values, *{{"dataclasses", "typing"}} & set(sys.modules))
"""
    assert run_alone(script) == ["[7]"]


def test_h11_that_is_not_there_is_told() -> None:
    script = """
import sys
from passt.control import door
sys.modules["h11"] = None
try:
    door._load()
except door.HostError as error:
    print(error, *{"dataclasses", "typing"} & set(sys.modules))
"""
    said = " ".join(run_alone(script))
    assert said.startswith("option '--control' needs the Python package h11,")
    assert said.endswith("pip install h11")


def test_name_that_another_instance_has_is_left_to_it(tmp_path: Path) -> None:
    """The PID of one may be that of another in a container that shares the directory."""
    control = object.__new__(door.Control)
    with socket.socket(socket.AF_UNIX) as ours, socket.socket(socket.AF_UNIX) as other:
        ours.bind(str(tmp_path / "5.sock"))
        other.bind(str(tmp_path / "7.sock"))
        inodes = [(tmp_path / name).stat().st_ino for name in ("5.sock", "7.sock")]
        control._socket = ListeningSocket(ours, str(tmp_path / "5.sock"))
        assert control._take_name(7) == str(tmp_path / "5.sock")
        assert [(tmp_path / name).stat().st_ino for name in ("5.sock", "7.sock")] == inodes
        assert control._take_name(8) == str(tmp_path / "8.sock")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["7.sock", "8.sock"]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_directory_that_others_may_change_is_refused(tmp_path: Path, mode: int) -> None:
    """Somebody else could put a socket there that passtctl would take for ours."""
    directory = tmp_path / "passt"
    door._make_directory(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700
    door._make_directory(str(directory))          # it was there already
    directory.chmod(mode)
    with pytest.raises(ConfigError, match="others than user"):
        door._make_directory(str(directory))


def test_directory_that_is_none_or_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(ConfigError, match="is no directory"):
            door._make_directory(str(tmp_path / name))
    with pytest.raises(ConfigError, match="cannot read"):
        door.remove_stale(str(tmp_path / "nothing"))
