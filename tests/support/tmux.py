"""A real terminal of a chosen size, by tmux: what a program shows there, and keys for it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Tmux:
    """Runs *argv* in a server of tmux that is ours alone; afterwards `status` has its exit status."""

    def __init__(self, argv: Sequence[str], width: int, height: int, env: Mapping[str, str]) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is missing: 'make test' installs it")
        self._place = Path(tempfile.mkdtemp(prefix="passt-tmux-"))
        self._status = self._place / "status"
        script = self._place / "script"
        words = " ".join(f"'{word}'" for word in argv)
        variables = " ".join(f"'{name}={value}'" for name, value in env.items())
        # A shell stays behind, so that what the program left on the screen can be looked at. It survives
        # the ctrl-C that ends the program.
        script.write_text(f"trap : INT\nenv -u NO_COLOR {variables} {words}\n"
                          f"echo $? >{self._place}/status.new\n"
                          f"mv {self._place}/status.new {self._status}\nexec cat\n", encoding="utf-8")
        self._run("new-session", "-d", "-x", str(width), "-y", str(height), f"sh {script}")

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self._place / "socket"), "-f", "/dev/null", *words], check=True,
            capture_output=True, encoding="utf-8", timeout=300)  # fmt: skip
        return done.stdout

    def screen(self) -> list[str]:
        """Return the lines that are shown, without blanks at their ends."""
        return [line.rstrip() for line in self._run("capture-pane", "-p").split("\n")]

    def text(self) -> str:
        return "\n".join(self.screen())

    def keys(self, *keys: str) -> None:
        """Press keys, by the names of tmux."""
        self._run("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def status(self) -> int | None:
        """Return the program's exit status; None while it runs."""
        return int(self._status.read_text(encoding="ascii")) if self._status.exists() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["tmux", "-S", str(self._place / "socket"), "kill-server"], check=False,
                       capture_output=True, timeout=300)
        shutil.rmtree(self._place)
