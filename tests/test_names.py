"""Names in backticks in docstrings and comments exist: modules, files, functions, classes, their members.

The grammar. A text in backticks is a name if it is an identifier, or identifiers joined by dots; all else is
syntax, a command line or an option, and is not looked at. A name is

* a module of the standard library or what that holds, a builtin or a keyword: `ipaddress`, `enum.IntEnum`,
  `OSError`, `and`;
* a file, room or module of the package by the end of its path: `stats.pxd`, `host.listeners`, `contracts`;
* what a module defines, behind the module's name: `contracts.FlowPolicy`, `responders.dispatch.Dispatcher`;
* a class or C struct of the package, alone or with a member: `Engine.run`, `FlowKey`;
* a counter, the lower-case form of its name in `base.stats`: `drop_disabled`;
* alone: any word of the own module's code, its strings included, or what a module of the same room defines.
"""

from __future__ import annotations

import builtins
import importlib
import io
import keyword
import re
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "passt"
SUFFIXES = (".py", ".pyx", ".pxd", ".pyi")
FILES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in SUFFIXES)
QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\Z")
WORD = re.compile(r"[A-Za-z_]\w*")
# Where a word is defined: behind def or class, before a sign of assignment or annotation, as the last word of
# a C declaration. Reading in a function counts for nothing.
DEFINED = re.compile(
    r"^[ \t]*(?:def|class)[ \t]+(\w+)"
    r"|^[ \t]*(?:self\.)?(\w+)[ \t]*(?::[^=\n]+)?(?:=|:(?!=)|$)"
    r"|^[ \t]*(?:(?:cdef|cpdef|ctypedef|inline|public|readonly|const|unsigned|struct|enum|union|class|packed)"
    r"[ \t]+|\w[\w.]*(?:\[[^]\n]*\])?[ \t*&]+)+(\w+)[ \t]*(?=[([:,]|\"|=|$)",
    re.MULTILINE,
)
CLASS = re.compile(
    r"^[ \t]*(?:c(?:p|type)?def[ \t]+)?(?:packed[ \t]+)?(?:class|struct|enum|union)[ \t]+(\w+)", re.MULTILINE
)


@cache
def split(path: Path) -> tuple[str, str]:
    """Give the code of a file with its strings, and its docstrings and comments."""
    return split_text(path.read_text(encoding="utf-8"))


def split_text(text: str) -> tuple[str, str]:
    code = list(text)
    prose: list[str] = []
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    at_start = True               # of a statement: a string there is a docstring
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_docstring = token.type == tokenize.STRING and at_start
        if is_docstring or token.type == tokenize.COMMENT:
            prose.append(token.string)
            begin = starts[token.start[0] - 1] + token.start[1]
            end = starts[token.end[0] - 1] + token.end[1]
            code[begin:end] = [" " if letter != "\n" else "\n" for letter in code[begin:end]]
        if token.type in {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}:
            at_start = True
        elif token.type not in {tokenize.NL, tokenize.COMMENT}:
            at_start = False
    return "".join(code), "\n".join(prose)


def module_of(path: Path) -> str:
    """Dotted path of the module below the package; a room has the name of its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: dict[str, list[Path]] = {}
for _path in FILES:
    MODULES.setdefault(module_of(_path), []).append(_path)


def code_of(module: str) -> str:
    return "\n".join(split(path)[0] for path in MODULES.get(module, []))


@cache
def defined_in(module: str) -> frozenset[str]:
    """Words that *module* defines."""
    return frozenset(word for match in DEFINED.finditer(code_of(module)) for word in match.groups() if word)


@cache
def classes() -> dict[str, list[str]]:
    """Each class and struct, and the modules that define it."""
    found: dict[str, list[str]] = {}
    for module in MODULES:
        for match in CLASS.finditer(code_of(module)):
            found.setdefault(match[1], []).append(module)
    return found


def is_of_python(name: str) -> bool:
    module, _, member = name.partition(".")
    if hasattr(builtins, module) or keyword.iskeyword(name):
        return True
    if module not in sys.stdlib_module_names:
        return False
    return not member or hasattr(importlib.import_module(module), member)


def modules_named(name: str) -> list[str]:
    """Modules whose dotted path is *name* or ends with it."""
    name = name.removeprefix("passt.")
    return [module for module in MODULES if module == name or module.endswith(f".{name}")]


def exists(name: str, module: str) -> bool:
    """Whether *name* in the prose of *module* means something that there is."""
    if modules_named(name) or any(path.name == name for path in FILES) or is_of_python(name):
        return True
    head, _, last = name.rpartition(".")
    if not head:
        is_counter = name.upper() in defined_in("dataplane.base.stats")
        return is_counter or name in classes() or is_word_of(name, module)
    if any(last in defined_in(each) for each in modules_named(head)):
        return True
    return any(last in defined_in(each) for each in classes().get(head.rpartition(".")[2], []))


def is_word_of(name: str, module: str) -> bool:
    if name in WORD.findall(code_of(module)):
        return True
    # The docstring of a room speaks of what is in it.
    is_room = any(each.startswith(f"{module}.") for each in MODULES)
    room = module if is_room else module.rpartition(".")[0]
    return any(name in defined_in(each) for each in MODULES if each.rpartition(".")[0] == room)


def missing(prose: str, module: str) -> list[str]:
    return sorted({name for name in QUOTED.findall(prose) if NAME.match(name) and not exists(name, module)})


@pytest.mark.parametrize("module", sorted(MODULES))
def test_names_in_backticks_exist(module: str) -> None:
    prose = "\n".join(split(path)[1] for path in MODULES[module])
    assert missing(prose, module) == []


def test_prose_is_told_from_code() -> None:
    text = '"""Of `a`."""\n\nx = "`b`"  # of `c`\n\n\ndef f(y):\n    """Of `d`."""\n    return y + "`e`"\n'
    code, prose = split_text(text)
    assert QUOTED.findall(prose) == ["a", "c", "d"]
    assert QUOTED.findall(code) == ["b", "e"]


@pytest.mark.parametrize("name", [
    "host.guestside", "guestside", "contracts.Report", "Engine.cancel_timer", "tcp_conn", "stats.pyz",
    "udp_flow.open_answer", "host.listeners.OpenPorts", "enum.Nothing", "passt.model", "Policy.seen_source",
])
def test_name_that_is_gone_is_found(name: str) -> None:
    assert missing(f"See `{name}` for it.", "forward.policy") == [name]


@pytest.mark.parametrize("name", [
    "host.listeners", "contracts", "stats.pxd", "contracts.FlowPolicy", "Engine.run", "FlowKey",
    "enum.IntEnum", "OSError", "ipaddress", "Policy", "Bypass", "on_guest_mac", "passt.facts.address", "-t",
    "drop_disabled", "cpdef enum", "::",
    "host.rtnetlink.messages", "dataplane", "with gil", "Core.push_ip", "guest_visible_source",
])
def test_name_that_exists_is_none(name: str) -> None:
    assert missing(f"See `{name}` for it.", "forward.policy") == []
