"""Looks of styles: what a terminal can show, and the package rich if it is there."""

from __future__ import annotations

import sys

import pytest

from passt.passtctl.top.cells import BAD, HEADING, NORMAL, OUT, STYLES
from passt.passtctl.top.theme import PlainTheme, RichTheme, choose, is_utf8


def test_plain_looks_are_bold_and_reverse() -> None:
    theme = PlainTheme()
    assert theme.paint("x", NORMAL) == "x"
    assert theme.paint("x", HEADING) == "\x1b[7mx\x1b[0m"
    assert theme.paint("x", BAD) == "\x1b[1mx\x1b[0m"
    assert {theme.paint("x", style) for style in STYLES} == {"x", "\x1b[7mx\x1b[0m", "\x1b[1mx\x1b[0m"}


@pytest.mark.parametrize(("depth", "code"), [
    ("standard", "33"), ("256", "38;5;172"), ("truecolor", "38;2;215;135;0"),
])  # fmt: skip
def test_colours_are_as_many_as_the_terminal_has(depth: str, code: str) -> None:
    style = pytest.importorskip("rich.style", reason="pip install rich")
    style.Style.parse.cache_clear()          # a style remembers the first depth that it was drawn with
    theme = RichTheme(depth)
    assert theme.paint("x", OUT) == f"\x1b[{code}mx\x1b[0m"
    assert theme.paint("x", NORMAL) == "x"
    for style in STYLES:
        assert theme.paint("abc", style).count("abc") == 1


@pytest.mark.parametrize(("environment", "is_rich"), [
    ({"TERM": "xterm-256color"}, True), ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
    ({"TERM": "xterm", "NO_COLOR": ""}, True), ({"TERM": "dumb"}, False), ({}, True),
])  # fmt: skip
def test_colours_are_used_where_they_are_wanted(environment: dict[str, str], is_rich: bool) -> None:
    pytest.importorskip("rich", reason="pip install rich")
    assert isinstance(choose(environment), RichTheme) is is_rich


def test_without_rich_all_is_there_but_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert isinstance(choose({"TERM": "xterm-256color"}), PlainTheme)


@pytest.mark.parametrize(("environment", "answer"), [
    ({}, False), ({"LANG": "C"}, False), ({"LANG": "de_DE.UTF-8"}, True), ({"LANG": "C.utf8"}, True),
    ({"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, False), ({"LC_CTYPE": "C.UTF-8", "LANG": "C"}, True),
    ({"LC_ALL": "", "LANG": "ca_ES.utf8@valencia"}, True), ({"LANG": "de_DE@euro"}, False),
    ({"LANG": "de_DE.ISO-8859-1"}, False),
])  # fmt: skip
def test_locale_says_whether_there_is_utf8(environment: dict[str, str], answer: bool) -> None:
    assert is_utf8(environment) is answer
