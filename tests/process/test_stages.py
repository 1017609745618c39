"""The stages of a start: their order, the switch that leaves some out, and the page that shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from passt.errors import ConfigError
from passt.process.stages import ATTACHED, COMMAND, FORMS, OFF_VARIABLE, PASST, STAGES, Progress, table

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "security.md"


def names(form: str) -> list[str]:
    return [stage.name for stage in STAGES if form in stage.forms]


@pytest.mark.parametrize("form", FORMS)
def test_start_goes_through_all_stages_of_its_form(form: str) -> None:
    progress = Progress(form, {})
    assert all(progress.enter(name) for name in names(form))


@pytest.mark.parametrize("form", FORMS)
def test_stage_cannot_be_left_out_or_entered_again(form: str) -> None:
    every = names(form)
    for place, name in enumerate(every[1:], 1):
        progress = Progress(form, {})
        for before in every[:place - 1]:
            progress.enter(before)
        with pytest.raises(AssertionError, match=f"without {every[place - 1]}"):
            progress.enter(name)
        progress.enter(every[place - 1])
        progress.enter(name)
        for again in every[:place + 1]:
            with pytest.raises(AssertionError, match=again):
                progress.enter(again)


def test_stage_of_another_form_is_refused() -> None:
    assert "target" not in names(COMMAND)
    progress = Progress(COMMAND, {})
    with pytest.raises(AssertionError, match="target of command after none"):
        progress.enter("target")
    progress.enter("host")
    progress.enter("ports")
    with pytest.raises(AssertionError, match="target"):
        progress.enter("target")


def test_rights_go_before_the_caller_is_told() -> None:
    for form in FORMS:
        every = names(form)
        for name in ("root", "landlock", "capabilities", "filter"):
            assert every.index(name) < every.index("ready")
        # A thread keeps the paths of the moment in which it starts, unless it shares them.
        if "thread" in every:
            assert every.index("namespaces") < every.index("root") < every.index("thread")
            assert every.index("landlock") < every.index("thread")


def test_stages_that_may_be_off_are_left_out_with_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress(PASST, {OFF_VARIABLE: "root,filter"}, is_privileged=False)
    answers = {name: progress.enter(name) for name in names(PASST)}
    assert {name for name, entered in answers.items() if not entered} == {"root", "filter"}
    lines = capfd.readouterr().err.splitlines()
    assert [line.split("'")[1] for line in lines] == ["root", "filter"]
    assert all(OFF_VARIABLE in line for line in lines)


@pytest.mark.parametrize("text", ["user", "capabilities", "root,,filter", " root", "all", "ready"])
def test_stage_that_may_not_be_off_is_a_mistake(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"{OFF_VARIABLE}=.*give some of .*root.*filter"):
        Progress(ATTACHED, {OFF_VARIABLE: text}, is_privileged=False)


def test_switch_is_ignored_in_a_privileged_start(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress(PASST, {OFF_VARIABLE: "root"}, is_privileged=True)
    assert all(progress.enter(name) for name in names(PASST))
    assert "is ignored" in capfd.readouterr().err


def test_page_shows_the_table() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), f"put this into {PAGE.name}:\n{table()}"
