"""What a helper process keeps of its caller: the descriptors that it names, and nothing else."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from passt import log
from passt.process import helper


def look(kept: int) -> dict[str, Any]:
    links = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            links[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue              # that of the list itself
    for fd in (kept, *log.descriptors()):     # a test before this one may have opened a log
        links.pop(str(fd), None)
    name = Path("/proc/self/comm").read_text(encoding="ascii")
    return {"name": name, "links": links, "directory": os.getcwd(), "leads": os.getsid(0) == os.getpid(),
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))}


def test_helper_keeps_named_descriptors_only(tmp_path: Path) -> None:
    reader, kept = os.pipe()
    lost = os.open(tmp_path, os.O_RDONLY)
    life = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(tmp_path)
            helper.detach("a-helper", (kept,), life)
            os.close(life[0])
            os.write(kept, json.dumps(look(kept)).encode())
        finally:
            os._exit(0)
    for fd in (kept, lost, life[0]):
        os.close(fd)
    with os.fdopen(reader, "rb") as file:
        found = json.load(file)
    os.waitpid(pid, 0)
    os.close(life[1])
    assert found["name"] == "a-helper\n"
    assert found["links"] == dict.fromkeys(("0", "1", "2"), "/dev/null")
    assert (found["directory"], found["leads"]) == ("/", True)
    assert set(found["blocked"]) >= {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1,
                                     signal.SIGCHLD}
