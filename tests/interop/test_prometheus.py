"""promtool, which judges what a program tells Prometheus: names, units, help, types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.control.test_dashboard import exposition

if TYPE_CHECKING:
    from tests.interop.tree import Tree

pytestmark = pytest.mark.needs_root


def check(tree: Tree, text: bytes) -> tuple[int, bytes]:
    """The status of `promtool check metrics`, and what it has to say."""
    done = tree.run(["promtool", "check", "metrics"], feed=text, check=False)
    return done.returncode, done.stdout + done.stderr


def test_promtool_finds_nothing_to_say(tree: Tree) -> None:
    assert check(tree, exposition()) == (0, b"")


def test_promtool_would_say_something(tree: Tree) -> None:
    status, said = check(tree, exposition() + b"# TYPE passt_Wrong counter\npasst_Wrong 1\n")
    assert status != 0
    assert b"passt_Wrong" in said
