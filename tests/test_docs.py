"""The pages for developers are true: what they name exists, and each counter is explained once.

The grammar. A text in backticks in one of the pages is looked at if it is

* `FILE: NAME`: a file, and a function, method (`Class.method`), class, table or constant that it defines;
* a path with a folder and an ending, or of a folder with "/" at its end: it exists.

A file lies below `src/passt`, or else below the root of the tree; one with NAME in its path is still to be
made. All else in backticks is free.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from passt.dataplane.engine import Engine
from passt.facts.guest import GuestNet
from passt.forward.policy import Policy
from passt.names.counts import NAMES
from passt.responders.dispatch import Dispatcher

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "passt"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
PLACE = re.compile(r"([\w./-]+\.(?:py|pyx|pxd|pyi|c)): ([\w.]+)")
FILE = re.compile(r"[\w-][\w.-]*(?:/[\w.-]+)+\.(?:py|pyx|pxd|pyi|c|h|md|toml|sh)")
FOLDER = re.compile(r"(?:[\w-]+/)+")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)")
ROW = re.compile(r"^\| `(\w+)` \| .* \|$", re.MULTILINE)
# What a line defines: a function or class of either language, or a name that is given a value.
DEFINITION = re.compile(
    r"^(?P<indent> *)(?:(?:async )?(?:def|class|cdef|cpdef|ctypedef)\b[^(:=[\n]*?\b(?!enum:)(?P<name>\w+)"
    r"[ ]*(?P<end>[(:=[])|(?P<value>\w+)(?:: [^=\n]+)? = )"
)
TYPE = re.compile(r"\b(?:class|struct|union|enum)\b")


def find(path: str) -> Path | None:
    """Give the file or folder that a page means by *path*; None if there is none."""
    return next((base / path for base in (PACKAGE, ROOT) if (base / path).exists()), None)


@cache
def definitions(path: Path) -> frozenset[str]:
    """Give the names that a source file defines; what is in a class has the name of the class before it."""
    return frozenset(defined(path.read_text(encoding="utf-8")))


def defined(text: str) -> set[str]:
    found: set[str] = set()
    outer: list[tuple[int, str, bool]] = []  # indentation, name, whether it is a type
    for line in text.splitlines():
        if line == "cdef enum:":                      # its members are the module's
            outer.clear()
        match = DEFINITION.match(line)
        if match is None:
            continue
        indent, name = len(match["indent"]), match["name"] or match["value"]
        while outer and outer[-1][0] >= indent:
            outer.pop()
        if all(is_type for _, _, is_type in outer):   # else it is a function's own
            found.add(".".join([*(each for _, each, _ in outer), name]))
        is_type = TYPE.search(line[: match.end("name")]) is not None if match["name"] else False
        if is_type or match["end"] == "(":
            outer.append((indent, name, is_type))
    return found


def errors(page: str) -> list[str]:
    """Give a line for each thing that the text of a page names and that there is not."""
    found = []
    for text in QUOTED.findall(FENCED.sub("", page)):
        if place := PLACE.fullmatch(text):
            path = find(place[1])
            if path is None:
                found.append(f"{text}: no such file")
            elif place[2] not in definitions(path):
                found.append(f"{text}: not defined there")
        elif (FILE.fullmatch(text) or FOLDER.fullmatch(text)) and "NAME" not in text and find(text) is None:
            found.append(f"{text}: does not exist")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_exists(page: Path) -> None:
    assert errors(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_page_can_be_reached(page: Path) -> None:
    others = [path for path in PAGES if path != page]
    targets = {(path.parent / link).resolve() for path in others
               for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link}
    assert page.name == "README.md" or page.resolve() in targets


def test_steps_of_the_walks_name_places() -> None:
    page = (ROOT / "docs" / "walks.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\d+\. .*\n(?: +.*\n)*", page, re.MULTILINE)
    assert len(steps) > 30
    assert [step for step in steps if not any(map(PLACE.fullmatch, QUOTED.findall(step)))] == []


@pytest.mark.parametrize(("text", "expected"), [
    ("`cli.py: main`", []),
    ("`dataplane/engine.pyx: Engine.turn` `dataplane/turn.pyx: as_turn`", []),
    ("`dataplane/flow/key.pxd: FlowKey` `config/options.py: OPTIONS` `tests/support/lab.py: Lab`", []),
    ("`wire/` `tests/README.md` `wire/NAME.py` `-t 80` `a/b`", []),
    ("`cli.py: gone`", ["cli.py: gone: not defined there"]),
    ("`dataplane/engine.pyx: Engine.gone`", ["dataplane/engine.pyx: Engine.gone: not defined there"]),
    ("`dataplane/engine.pyx: Gone.turn`", ["dataplane/engine.pyx: Gone.turn: not defined there"]),
    ("`gone.py: main`", ["gone.py: main: no such file"]),
    ("`wire/gone.py`", ["wire/gone.py: does not exist"]),
    ("`gone/`", ["gone/: does not exist"]),
])
def test_what_does_not_exist_is_found(text: str, expected: list[str]) -> None:
    assert errors(f"Words and {text}, and words.\n") == expected


def test_definitions_of_both_languages() -> None:
    text = ("TABLE: dict[str, int] = {}\n\n\ncdef struct Key:\n    int a\n\n\ncdef enum:\n    ONE = 1\n\n\n"
            "cdef Row ROWS[N_ROWS]\ncdef int64_t LIMIT_NS = 3\n\n\ncdef Flow *open_it(Core core,\n"
            "                   int n) noexcept nogil:\n    cdef int local = 1\n    other = 2\n\n\n"
            "cdef class Link(Base):\n    cdef bint send(self) noexcept:\n        return call(1)\n\n\n"
            "class Rule:\n    MOST = 3\n\n    @property\n    def text(self) -> str:\n        return ''\n")
    assert defined(text) == {"TABLE", "ONE", "Key", "ROWS", "LIMIT_NS", "open_it", "Link", "Link.send",
                             "Rule", "Rule.MOST", "Rule.text"}  # fmt: skip


def counters() -> list[str]:
    """Give the names of all counters that a run can show."""
    net = GuestNet(None, None, "eth0")
    policy = Policy(net)
    dispatcher = Dispatcher(net)
    engine = Engine(policy, dispatcher, policy.observed, our_mac=bytes(6), mtu=0)
    names = [*engine.counters(), *dispatcher.counters(), *NAMES]
    engine.close()
    return names


def test_each_counter_is_explained_once() -> None:
    explained = ROW.findall((ROOT / "docs" / "debugging.md").read_text(encoding="utf-8"))
    assert sorted(explained) == sorted(counters())
