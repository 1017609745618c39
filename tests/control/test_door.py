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

# Loads as a start does, answers a request, and prints which of some modules are there.
SCRIPT = """
import sys
from passt.control import door
before = {"inspect", "ast", "dis", "tokenize"} & set(sys.modules)
door._load()
import h11
server, client = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
server.receive_data(client.send(h11.Request(method="GET", target="/", headers=[("host", "x")])))
after = {"inspect", "ast", "dis", "tokenize"} & set(sys.modules)
print(type(server.next_event()).__name__, *before, *after)
"""


def test_what_made_the_classes_of_h11_is_let_go() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Request"], done.stdout


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
