"""Values: what they share with frozen data classes, and what they must not have from tuples."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from passt.light.values import IntEnum, Value, replace


class Point(Value):
    """A value with a default, a constant and a rule."""

    LIMIT: ClassVar[int] = 9

    x: int
    y: int = 2
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.x > self.LIMIT:
            raise ValueError(f"x {self.x}")

    @property
    def total(self) -> int:
        """Sum of both."""
        return self.x + self.y


class Named(Point):
    """A value with one more field."""

    name: str = "no"


class Other(Value):
    """A value with the fields of Point."""

    x: int
    y: int = 2
    tags: tuple[str, ...] = ()


class Nothing(Value):
    """A value without fields."""


@pytest.mark.parametrize(("value", "fields"), [
    (Point(1), (1, 2, ())),
    (Point(1, 3), (1, 3, ())),
    (Point(y=3, x=1), (1, 3, ())),
    (Point(1, 3, ("a",)), (1, 3, ("a",))),
    (Point(1, tags=("a",)), (1, 2, ("a",))),
    (Named(1, name="n"), (1, 2, (), "n")),
    (Named(1, 2, (), "n"), (1, 2, (), "n")),
    (Nothing(), ()),
])
def test_names_by_position_by_name_and_by_default(value: Value, fields: tuple[Any, ...]) -> None:
    assert tuple(getattr(value, field) for field in value.FIELDS) == fields


def test_members_that_are_no_names_stay() -> None:
    assert Point.FIELDS == ("x", "y", "tags")
    assert (Point.LIMIT, Named.LIMIT, Named(4, 3).total) == (9, 9, 7)


@pytest.mark.parametrize(("kind", "values", "named"), [
    (Point, (), {}),
    (Point, (), {"y": 1}),
    (Point, (1, 2, (), 4), {}),
    (Point, (1,), {"x": 2}),
    (Point, (1,), {"z": 2}),
    (Nothing, (1,), {}),
])
def test_wrong_arguments_are_a_type_error(
        kind: type[Value], values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"^(Point|Nothing) (has the fields|needs) "):
        kind(*values, **named)


def test_copy_with_an_unknown_field_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^Point has the fields "):
        replace(Point(1), z=2)


def test_signature_tells_fields_and_defaults() -> None:
    assert str(inspect.signature(Named)) == "(x, y=2, tags=(), name='no')"


def test_rule_holds_for_new_values_and_copies() -> None:
    for kind in (Point, Named):
        with pytest.raises(ValueError, match=r"^x 10$"):
            kind(10)
        with pytest.raises(ValueError, match=r"^x 10$"):
            replace(kind(1), x=10)


def test_values_cannot_change() -> None:
    value: Any = Point(1)
    with pytest.raises(AttributeError):
        value.x = 2
    with pytest.raises(AttributeError):
        value.z = 2
    with pytest.raises(AttributeError):
        del value.x
    assert not hasattr(value, "__dict__")


def test_equality_is_that_of_class_and_names() -> None:
    assert Point(1) == Point(1, 2)
    assert hash(Point(1)) == hash(Point(1, 2))
    assert Point(1) != Point(2)
    different: list[object] = [Other(1), Named(1), (1, 2, ()), None]
    for other in different:
        assert Point(1) != other
        assert not Point(1) == other  # noqa: SIM201  # the other operator
    assert len({Point(1), Point(1), Other(1)}) == 2


def test_value_without_names_is_true() -> None:
    assert Nothing()
    assert Nothing() == Nothing()


def test_copies_are_equal_and_of_the_same_class() -> None:
    value = Named(1, tags=("a",))
    assert replace(value) == value
    assert replace(value, y=5, name="n") == Named(1, 5, ("a",), "n")
    pickled = pickle.loads(pickle.dumps(value))  # noqa: S301  # our own
    for again in (pickled, copy.copy(value), copy.deepcopy(value)):
        assert (type(again), again) == (Named, value)


def test_text_form_names_the_names() -> None:
    assert repr(Point(1, tags=("a",))) == "Point(x=1, y=2, tags=('a',))"
    assert repr(Nothing()) == "Nothing()"


def test_patterns_match_values() -> None:
    match Named(1, 3):
        case Named(x, y=3):
            assert x == 1
        case _:
            pytest.fail("not matched")


def test_a_start_compiles_no_classes() -> None:
    """All that pasta loads goes without dataclasses, whose import and whose classes cost it a third more."""
    modules = ("passt.run.start passt.config.settings passt.config.resolve passt.host.host_facts"
               " passt.namespace.interface"
               " passt.forward.policy passt.responders.dispatch passt.dataplane.engine")
    code = f"import sys, {', '.join(modules.split())}; sys.exit('dataclasses' in sys.modules)"
    source = str(Path(__file__).parent.parent.parent / "src")
    code = f"import sys; sys.path.insert(0, {source!r}); {code}"
    found = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False, capture_output=True,
                           text=True)
    assert (found.returncode, found.stderr) == (0, "")


class Number(IntEnum):
    """Two numbers."""

    ONE = 1
    TWO = 2


def test_enumeration_is_its_numbers() -> None:
    assert (Number.ONE, Number.TWO) == (1, 2)
    assert [Number.ONE.name, Number.TWO.name] == ["ONE", "TWO"]
    assert [*Number] == [1, 2]
    assert len(Number) == 2
    assert {**Number.__members__} == {"ONE": 1, "TWO": 2}
    assert Number(2) is Number.TWO
    assert Number.TWO.value == 2
    assert type(Number.TWO.value) is int
    assert f"{Number.TWO}" == "2"
    assert repr(Number.ONE) == "<Number.ONE: 1>"
    assert Number.ONE in Number
    assert copy.deepcopy(Number.ONE) is pickle.loads(pickle.dumps(Number.ONE)) is Number.ONE  # noqa: S301


def test_what_the_interpreter_puts_into_a_class_is_no_member() -> None:
    """Python 3.13 adds `__firstlineno__`, an int, to the body of each class."""
    make: Any = type(IntEnum)
    kind = make("Kind", (IntEnum,), {"__firstlineno__": 7, "__module__": __name__, "ONE": 1})
    assert {**kind.__members__} == {"ONE": 1}
    assert [*kind] == [1]
    assert kind.__firstlineno__ == 7


def declared_enumerations() -> dict[str, dict[str, int]]:
    """Members of each enumeration of the package, as its source has them, by "module:class"."""
    found = {}
    for path in (Path(__file__).parent.parent.parent / "src").rglob("*.py"):
        module = ".".join(path.relative_to(Path(__file__).parent.parent.parent / "src").with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef) and "IntEnum" in [ast.unparse(base) for base in node.bases]:
                names = [(ast.unparse(line.targets[0]), ast.literal_eval(line.value))
                         for line in node.body if isinstance(line, ast.Assign)]
                found[f"{module}:{node.name}"] = dict(names)
    return found


@pytest.mark.parametrize(("name", "members"), declared_enumerations().items())
def test_members_are_what_the_class_declares(name: str, members: dict[str, int]) -> None:
    module, _, kind = name.partition(":")
    assert members
    assert {**getattr(importlib.import_module(module), kind).__members__} == members


@pytest.mark.parametrize("number", [0, 3, "ONE", None])
def test_number_that_is_no_member_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match=f"{number!r} is not a valid Number"):
        Number(number)
