"""Podman's settings: files and their order, versions, which pasta is taken, and that Podman is not woken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from passt.passtctl.doctor.finding import NOTE, OK, WARNING, Finding
from passt.passtctl.doctor.podman import check, find_helper, read_settings
from tests.support.made_machine import make, says, write

if TYPE_CHECKING:
    from pathlib import Path

PASTA = says("pasta 0.1.0\nLicensed")
HOME = {"HOME": "/home/me", "XDG_RUNTIME_DIR": "/run/user/1000"}
OF_USER = "/home/me/.config/containers/containers.conf"


def look(
    tmp_path: Path,
    version: str = "5.4.2",
    files: dict[str, str] | None = None,
    environ: dict[str, str] | None = None,
) -> list[Finding]:
    machine = make(
        tmp_path,
        files,
        programs={"/a/podman": says(f"podman version {version}"), "/b/pasta": PASTA},
        environ={**HOME, **(environ or {})},
    )
    return check(machine)


def test_machine_without_podman(tmp_path: Path) -> None:
    assert [finding.level for finding in check(make(tmp_path))] == [OK]


def test_pasta_of_the_path_is_taken(tmp_path: Path) -> None:
    [found] = look(tmp_path)
    assert (found.level, found.text) == (OK, f"Podman 5.4.2 takes {tmp_path}/b/pasta, pasta 0.1.0")


@pytest.mark.parametrize(
    ("version", "levels"), [("4.3.1", [WARNING]), ("4.9.3", [NOTE, OK]), ("5.0.0", [OK]), ("odd", [OK])]
)
def test_versions(tmp_path: Path, version: str, levels: list[str]) -> None:
    assert [finding.level for finding in look(tmp_path, version)] == levels


def test_other_network_command(tmp_path: Path) -> None:
    text = '[network]\ndefault_rootless_network_cmd = "slirp4netns"\n'
    found = look(tmp_path, files={"/etc/containers/containers.conf": text})[0]
    assert (found.level, "slirp4netns" in found.text) == (NOTE, True)
    assert "default_rootless_network_cmd" in found.commands[0]


def test_later_files_count_more(tmp_path: Path) -> None:
    def network(word: str) -> str:
        return f'[network]\ndefault_rootless_network_cmd = "{word}"\n'

    files = ["/usr/share/containers/containers.conf", "/etc/containers/containers.conf",
             "/etc/containers/containers.conf.d/10.conf", "/etc/containers/containers.conf.d/20.conf",
             OF_USER, f"{OF_USER}.d/x.conf", "/only.conf", "/override.conf"]  # fmt: skip
    machine = make(tmp_path, environ=HOME)
    for number, name in enumerate(files[:6]):
        write(tmp_path, name, network(str(number)))
        assert read_settings(machine)[0]["network"] == {"default_rootless_network_cmd": str(number)}
    write(tmp_path, f"{OF_USER}.d/y.txt", network("no"))
    assert read_settings(machine)[0]["network"] == {"default_rootless_network_cmd": "5"}
    assert (
        read_settings(make(tmp_path, environ=HOME, uid=0))[0]["network"]["default_rootless_network_cmd"]
        == "3"
    )
    write(tmp_path, "/only.conf", network("6"))
    write(tmp_path, "/override.conf", network("7"))
    only = {"CONTAINERS_CONF": "/only.conf"}
    assert read_settings(make(tmp_path, environ=only))[0]["network"]["default_rootless_network_cmd"] == "6"
    last = HOME | {"CONTAINERS_CONF_OVERRIDE": "/override.conf"}
    assert read_settings(make(tmp_path, environ=last))[0]["network"]["default_rootless_network_cmd"] == "7"
    both = only | {"CONTAINERS_CONF_OVERRIDE": "/override.conf"}
    assert read_settings(make(tmp_path, environ=both))[0]["network"]["default_rootless_network_cmd"] == "7"


@pytest.mark.parametrize("text", ["[network", "\0", "a = 1\na = 2\n", "[" * 100_000])
def test_file_that_is_not_valid(tmp_path: Path, text: str) -> None:
    found = look(tmp_path, files={OF_USER: text})
    assert [finding.level for finding in found] == [WARNING, OK]
    assert OF_USER in found[0].text


@pytest.mark.parametrize(
    "text",
    [
        "network = 1\nengine = []\n",
        "[network]\ndefault_rootless_network_cmd = 5\n",
        "[engine]\nhelper_binaries_dir = 7\n",
        "[engine]\nhelper_binaries_dir = [1]\n",
    ],
)
def test_values_of_another_kind_count_for_nothing(tmp_path: Path, text: str) -> None:
    assert [finding.level for finding in look(tmp_path, files={OF_USER: text})] == [OK]


def test_places_of_helpers(tmp_path: Path) -> None:
    machine = make(tmp_path, programs={"/b/pasta": PASTA}, environ=HOME)

    def found() -> str | None:
        path = find_helper(machine, read_settings(machine)[0], "pasta")
        return path and path.removeprefix(str(tmp_path))

    assert found() == "/b/pasta"
    make(tmp_path, programs={"/usr/lib/podman/pasta": PASTA, "/own/pasta": PASTA, "/env/pasta": PASTA})
    assert found() == "/usr/lib/podman/pasta"
    write(tmp_path, "/usr/share/containers/containers.conf", '[engine]\nhelper_binaries_dir = ["/own"]\n')
    assert found() == "/own/pasta"
    write(tmp_path, OF_USER, '[engine]\nhelper_binaries_dir = ["/usr/lib/podman", {append=true}]\n')
    assert found() == "/own/pasta"
    write(tmp_path, OF_USER, '[engine]\nhelper_binaries_dir = ["/usr/lib/podman"]\n')
    assert found() == "/usr/lib/podman/pasta"
    machine.environ = {**HOME, "CONTAINERS_HELPER_BINARY_DIR": "/env"}
    assert found() == "/env/pasta"


def test_no_pasta_at_all(tmp_path: Path) -> None:
    machine = make(tmp_path, programs={"/a/podman": says("podman version 5.4.2")}, environ=HOME)
    assert [finding.level for finding in check(machine)] == [WARNING]


def test_forwarder_without_its_program(tmp_path: Path) -> None:
    text = '[network]\nrootless_port_forwarder = "pasta"\n'
    assert [finding.level for finding in look(tmp_path, "6.0.0", {OF_USER: text})] == [OK, WARNING]
    make(tmp_path, programs={"/b/pesto": PASTA})
    assert [finding.level for finding in look(tmp_path, "6.0.0")] == [OK]


def test_podman_is_asked_only_where_it_was_used(tmp_path: Path) -> None:
    info = json.dumps({"host": {"pasta": {"executable": "/told/pasta"}}})
    podman = (
        f"#!/bin/sh\nif [ \"$1\" = info ]; then echo asked >{tmp_path}/asked; echo '{info}'\n"
        "else echo podman version 5.4.2; fi\n"
    )
    programs = {"/a/podman": podman, "/b/pasta": PASTA}
    machine = make(tmp_path, programs=programs, environ=HOME)
    assert f"{tmp_path}/b/pasta" in check(machine)[0].text
    assert not (tmp_path / "asked").exists()
    write(tmp_path, "/run/user/1000/libpod/tmp/pause.pid", "1")
    assert "takes /told/pasta" in check(machine)[0].text
    for odd in (
        "",
        "[]",
        "{",
        '{"host": {"pasta": {"executable": 5}}}',
        '{"host": {"pasta": {"executable": "x"}}}',
    ):
        write(tmp_path, "/a/podman", podman.replace(info, odd)).chmod(0o755)
        assert f"{tmp_path}/b/pasta" in check(machine)[0].text
