"""What --control loads, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

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
