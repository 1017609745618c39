"""A machine that a test makes up in a directory: files of /proc, /etc and so on, a user, programs in PATH."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passt.passtctl.doctor.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

USER = 1000


def make(
    root: Path,
    files: Mapping[str, str] | None = None,
    *,
    uid: int = USER,
    group: int = USER,
    programs: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Machine:
    """Make a machine with *files* and *programs*, path -> content; PATH has those of programs."""
    for name, content in (files or {}).items():
        write(root, name, content)
    directories = []
    for name, content in (programs or {}).items():
        path = write(root, name, content)
        path.chmod(0o755)
        directories.append(str(path.parent))
    return Machine(
        str(root),
        uid=uid,
        groups=(group,),
        environ={"PATH": ":".join(dict.fromkeys(directories)), **(environ or {})},
    )


def sysctls(values: Mapping[str, object]) -> dict[str, str]:
    """Give the files of sysctls, whose names have no dots within."""
    return {f"/proc/sys/{name.replace('.', '/')}": f"{value}\n" for name, value in values.items()}


def write(root: Path, name: str, content: str) -> Path:
    """Write one file of the machine, with its directories."""
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def says(text: str, status: int = 0) -> str:
    """Give a program that prints *text*."""
    return f"#!/bin/sh\n/bin/cat <<'END'\n{text}\nEND\nexit {status}\n"
