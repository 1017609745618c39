"""Capabilities, and who may look into this process."""

from __future__ import annotations

import os

import pytest

from passt.host import syscalls
from passt.process import privileges
from tests.support.isolated import isolated


def status() -> dict[str, str]:
    with open("/proc/self/status", encoding="ascii") as file:
        lines = (line.partition(":") for line in file)
        return {name: value.strip() for name, _, value in lines if name.startswith(("Cap", "NoNew"))}


@pytest.mark.parametrize("flags", [syscalls.CLONE_NEWUSER, 0])
def test_no_capability_is_left_in_any_set(flags: int) -> None:
    def drop() -> dict[str, str]:
        privileges.drop_privileges()
        return status()

    found = isolated(drop, flags=flags)
    assert found.pop("NoNewPrivs") == "1"
    if not flags and os.geteuid():
        del found["CapBnd"]  # a plain user has no right to change it
    assert len(found) >= 4
    assert {int(value, 16) for value in found.values()} == {0}


def test_privileges_can_be_dropped_twice() -> None:
    def drop() -> str:
        privileges.drop_privileges()
        privileges.drop_privileges()
        return status()["CapEff"]

    assert int(isolated(drop), 16) == 0
