"""Podman's settings: which program connects containers without root, and which pasta it would take.

containers.conf(5): the files in this order, each one's values in place of those before; with CONTAINERS_CONF
that file alone, with CONTAINERS_CONF_OVERRIDE that one last. A program is looked for in the directory of
CONTAINERS_HELPER_BINARY_DIR, then in those of helper_binaries_dir, then in PATH.

`podman info` is asked only where Podman has been used: for a plain user it makes a directory of images and
starts a process that stays, if they are not there yet.
"""

from __future__ import annotations

import json
import os
import tomllib

from passt.passtctl.doctor.finding import NOTE, OK, WARNING, Finding
from passt.passtctl.doctor.machine import parse_version

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any

    from passt.passtctl.doctor.machine import Machine

SUBJECT = "Podman"
NAME = "containers.conf"
SYSTEM = ("/usr/share/containers", "/etc/containers")
HELPERS = ("/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman")
_PASTA_SINCE = (4, 4)           # podman-run(1) knows --network=pasta
_DEFAULT_SINCE = (5, 0)         # and uses it by itself
_MAX_CONF = 1 << 20


def check(machine: Machine) -> list[Finding]:
    """Say what Podman would do; nothing of interest if there is none."""
    programs = machine.find_programs("podman")
    if not programs:
        return [Finding(OK, SUBJECT, "it is not installed")]
    version = parse_version(machine.run([programs[0], "--version"]) or "")
    told = "" if version is None else " " + ".".join(map(str, version))
    if version is not None and version < _PASTA_SINCE:
        return [Finding(WARNING, SUBJECT, f"Podman{told} does not know pasta; 4.4 and newer do",
                        ("apt-get install podman",), as_root=True)]
    settings, found = read_settings(machine)
    uses = _text(settings, "network", "default_rootless_network_cmd")
    uses = uses or ("pasta" if version is None or version >= _DEFAULT_SINCE else "slirp4netns")
    if uses != "pasta":
        found.append(Finding(NOTE, SUBJECT, f"Podman{told} connects containers without root by {uses}, unless"
                             " told by --network=pasta", (_setting(machine),)))
    return [*found, *_program(machine, settings, programs[0], told)]


def _setting(machine: Machine) -> str:
    directory = "/etc/containers" if machine.is_root else "~/.config/containers"
    text = r'[network]\ndefault_rootless_network_cmd = "pasta"\n'
    return f"mkdir -p {directory}/{NAME}.d && printf '{text}' >{directory}/{NAME}.d/pasta.conf"


def read_settings(machine: Machine) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """Return the tables of all files together, and what is wrong with files."""
    settings: dict[str, dict[str, Any]] = {"engine": {"helper_binaries_dir": list(HELPERS)}}
    found = []
    for path in _files(machine):
        text = machine.read(path, _MAX_CONF)
        if text is None:
            continue
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            found.append(Finding(WARNING, SUBJECT, f"{path} is not valid: {error}"))
            continue
        for name, table in content.items():
            if isinstance(table, dict):
                known = settings.setdefault(name, {})
                known.update({key: _joined(known.get(key), value) for key, value in table.items()})
    return settings, found


def _joined(old: object, new: object) -> object:
    """Return what a key has after a file: *new*, or both where the list *new* has the mark {append=true}."""
    if not isinstance(new, list) or {"append": True} not in new:
        return new
    return [*(old if isinstance(old, list) else []), *new]


def _files(machine: Machine) -> list[str]:
    """List the files that Podman reads, the last one counts most."""
    override = machine.environ.get("CONTAINERS_CONF_OVERRIDE")
    last = [override] if override else []
    if only := machine.environ.get("CONTAINERS_CONF"):
        return [only, *last]
    home = machine.environ.get("XDG_CONFIG_HOME") or f"{machine.environ.get('HOME', '/root')}/.config"
    files = []
    for directory in (*SYSTEM, *(() if machine.is_root else (f"{home}/containers",))):
        parts = f"{directory}/{NAME}.d"
        files += [f"{directory}/{NAME}",
                  *(f"{parts}/{name}" for name in machine.names(parts) if name.endswith(".conf"))]
    return files + last


def _text(settings: dict[str, dict[str, Any]], table: str, key: str) -> str:
    value = settings.get(table, {}).get(key)
    return value if isinstance(value, str) else ""


def find_helper(machine: Machine, settings: dict[str, dict[str, Any]], name: str) -> str | None:
    """Return the program that Podman takes for *name*; None if there is none."""
    listed = settings.get("engine", {}).get("helper_binaries_dir")
    directories = [word for word in listed if isinstance(word, str)] if isinstance(listed, list) else []
    if first := machine.environ.get("CONTAINERS_HELPER_BINARY_DIR"):
        directories.insert(0, first)
    for directory in directories:
        path = machine.path(f"{directory}/{name}")
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    in_path = machine.find_programs(name)
    return in_path[0] if in_path else None


def _program(machine: Machine, settings: dict[str, dict[str, Any]], podman: str, told: str) -> list[Finding]:
    """Say which pasta is taken: by what Podman says, or by its settings."""
    path = _ask(machine, podman) or find_helper(machine, settings, "pasta")
    if path is None:
        return [Finding(WARNING, SUBJECT, f"Podman{told} finds no pasta in its directories nor in PATH")]
    version = (machine.run([path, "--version"]) or "").partition("\n")[0]
    found = [Finding(OK, SUBJECT, f"Podman{told} takes {path}{f', {version}' if version else ''}")]
    forwarder = _text(settings, "network", "rootless_port_forwarder")
    if forwarder == "pasta" and find_helper(machine, settings, "pesto") is None:
        found.append(Finding(WARNING, SUBJECT, "rootless_port_forwarder is pasta, and Podman finds no pesto"
                             " beside it"))
    return found


def _ask(machine: Machine, podman: str) -> str | None:
    """Return the pasta that `podman info` names; None if it was not asked, or names none."""
    runtime = machine.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{machine.uid}"
    used = "/var/lib/containers/storage" if machine.is_root else f"{runtime}/libpod/tmp/pause.pid"
    if not machine.exists(used):
        return None
    told = machine.run([podman, "info", "--format", "json"]) or ""
    try:
        path = json.loads(told)["host"]["pasta"]["executable"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return path if isinstance(path, str) and path.startswith("/") else None
