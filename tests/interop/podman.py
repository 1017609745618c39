"""Rootless podman in the tree: an image, and containers that use the tree's programs."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.interop.tree import CLIENT_LIMIT_S, HOME, Tree
from tests.support.processes import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

    from tests.support.lab import Lab

IMAGE = "localhost/base"
# The image has no program: containers see those of the tree, read only.
SHARED = ("--volume=/usr:/usr:ro", "--volume=/tmp:/srv:ro")
CLIENT = ("python3", "-I", "/srv/client.py")
TRANSFER = ("python3", "-I", "/srv/transfer.py")
# netavark gives a bridge its IPv6 address and starts aardvark-dns at once, which cannot bind that address
# while the kernel still asks whether others have it (issue 725 of containers/aardvark-dns): it is a race.
TOO_EARLY = b"Cannot assign requested address"
MAX_TRIES = 10
MAKE_IMAGE = f"""
set -e
mkdir {HOME}/base
cd {HOME}/base
mkdir -p etc proc sys dev run root srv usr tmp var
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
echo root:x:0:0::/root:/bin/sh >etc/passwd
tar -c . | podman import - {IMAGE}
"""


def sender(lab: Lab) -> list[str]:
    """Start of a command line that sends a transfer from a place of the lab: `KIND HOST PORTS SIZE SEED`."""
    return ["/usr/bin/python3", "-I", str(lab.directory / "transfer.py"), "send"]


@dataclass
class Podman:
    """podman as the plain user of *tree* starts it."""

    tree: Tree
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def import_image(self) -> None:
        """Make the image."""
        self.tree.run(["sh", "-c", MAKE_IMAGE], user=True, timeout=CLIENT_LIMIT_S)

    def run(self, *arguments: str, check: bool = True, timeout: float = CLIENT_LIMIT_S
            ) -> subprocess.CompletedProcess[bytes]:
        """Run podman with *arguments* to its end, once more if its own name server was too early."""
        command = ["podman", *arguments]
        for _ in range(MAX_TRIES):
            done = self.tree.run(command, user=True, check=False, timeout=timeout)
            if b"aardvark-dns failed to start" not in done.stderr or TOO_EARLY not in done.stderr:
                break
        said = f"{' '.join(command)}: status {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
        assert not check or done.returncode == 0, said
        return done

    def inside(self, options: Sequence[str], *command: str, network: str = "pasta", check: bool = True
               ) -> subprocess.CompletedProcess[bytes]:
        """Run *command* in a new container to its end."""
        setting = ("--rm", f"--network={network}", *SHARED, *options)
        return self.run("run", *setting, IMAGE, *command, check=check)

    def json(self, options: Sequence[str], *command: str, network: str = "pasta") -> Any:
        """Run *command* in a new container and read the JSON that it prints."""
        return json.loads(self.inside(options, *command, network=network).stdout)

    def start(self, options: Sequence[str], *command: str, network: str = "pasta", ready: str = "") -> str:
        """Start a container in the background; its name, when its log has a line *ready*."""
        name = f"c{next(self._numbers)}"
        setting = ("--detach", "--name", name, "--replace", f"--network={network}", *SHARED, *options)
        self.run("run", *setting, IMAGE, *command)
        if ready:
            wait_until(lambda: ready in self.log(name), f"container says {ready!r}")
        return name

    def log(self, name: str) -> list[str]:
        """Lines that a container has printed."""
        return self.run("logs", name).stdout.decode().splitlines()
