"""Who we become: the forms of --runas, and what a change of user keeps and takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError, HostError
from passt.host import syscalls
from passt.process import identity
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs_root
CAP_SYS_ADMIN = 1 << 21


@pytest.mark.parametrize(("text", "numbers"), [
    ("1234", (1234, 1234)), ("1234:99", (1234, 99)), ("daemon", (1, 1)), ("daemon:mail", (1, 8)),
    ("daemon:99", (1, 99)), ("1234:mail", (1234, 8)),
])
def test_user_and_group_are_found(text: str, numbers: tuple[int, int]) -> None:
    chosen = identity.choose(text)
    assert chosen is not None
    assert (chosen.uid, chosen.gid) == numbers


def test_zero_is_root_itself() -> None:
    assert identity.choose("0") is None  # nothing to change


@pytest.mark.parametrize(("text", "message"), [
    ("no-such-user", "there is no user 'no-such-user' here; give a login name or a number"),
    ("daemon:no-such-group", "there is no group 'no-such-group' here; give a group name or a number"),
    ("root", "'root' is root; say 0 if that is meant"),
])
def test_unknown_name_is_told(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        identity.choose(text)
    assert str(caught.value) == f"option '--runas' {text}: {message}"


@pytest.mark.parametrize(("content", "expected"), [
    ("         0          0 4294967295\n", True), ("0 1000 1\n", False),
    ("0 0 1\n65534 65534 1\n", False),
])
def test_root_is_that_of_the_machine(tmp_path: Path, content: str, *, expected: bool) -> None:
    path = tmp_path / "uid_map"
    path.write_text(content, encoding="ascii")
    assert identity.is_root(str(path)) is expected


def test_root_becomes_nobody() -> None:
    chosen = identity.choose(None)
    assert chosen is not None
    assert chosen.uid == identity.NOBODY_ID


def test_change_keeps_capabilities_and_our_own_proc() -> None:
    def attempt() -> str:
        identity.Identity(54321, 54322).assume()
        effective, permitted, inheritable = syscalls.capget()
        assert effective == permitted
        assert effective & CAP_SYS_ADMIN
        assert inheritable == 0
        os.close(os.open("/proc/self/uid_map", os.O_WRONLY))
        return f"{os.getresuid()} {os.getresgid()} {os.getgroups()}"

    assert isolated(attempt, flags=0) == f"{(54321,) * 3} {(54322,) * 3} []"


def test_change_without_rights_is_told() -> None:
    def attempt() -> str:
        syscalls.capset(0, 0, 0)
        try:
            identity.Identity(54321, 54322).assume()
        except HostError as error:
            return str(error)
        return ""

    text = "cannot change to user 54321 and group 54322: Operation not permitted"
    assert text in isolated(attempt, flags=0)
