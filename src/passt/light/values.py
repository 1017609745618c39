"""Immutable values with named fields: what `dataclass(frozen=True)` and `NamedTuple` do, at less cost.

A subclass of `Value` lists its fields as annotations, in order, with or without defaults. An annotation that
begins with ClassVar is no field, and a subclass adds its fields to those of its base. The module needs
`from __future__ import annotations`, as annotations are read as text. A method `__post_init__`, if there is
one, checks a new value and raises ValueError.

Why not the standard library: each start of a program makes some seventy such classes, and a container waits
for it. `dataclasses` compiles the methods of each class from source text. `NamedTuple` is for values that are
unpacked as tuples; it, `Protocol` and `cast` replace those of typing, and `IntEnum` that of enum. The start
of `pasta PID` would take so much longer without each, in ms of processor time, where loading takes 30 to 36
on the slow machine of the measurement (120 times each, with and without in turn):

    Python          3.11    3.13    3.14
    Value           32      34      35
    NamedTuple       7       4       7
    IntEnum          3.4     3.5     3.4    alone; 1.8, 2, 1.7 and more once signal has loaded enum

A stand-in that saves 2 ms or less is not worth its code: those for signal (1.5) and socket (1.8) were
removed.

A value is a tuple underneath: it cannot change, and is hashed, pickled and compared at the speed of a tuple;
but it equals only values of the same class, and is always true.
"""

from __future__ import annotations

from collections import namedtuple
from operator import itemgetter

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import IntEnum
    from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, cast, dataclass_transform

    __all__ = ("IntEnum", "NamedTuple", "Protocol", "Value", "cast", "replace")
    V = TypeVar("V", bound="Value")

    @dataclass_transform(frozen_default=True)
    class Value:
        """A type checker sees a frozen data class."""

        FIELDS: ClassVar[tuple[str, ...]]
        DEFAULTS: ClassVar[dict[str, Any]]

else:
    Protocol = object             # type checkers use protocols, nothing does at run time

    def cast(_kind: object, value: Any) -> Any:
        """Return *value*; *_kind* is for type checkers."""
        return value

    class _NamedTupleType(type):
        """Makes a named tuple of the standard library out of annotations."""

        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            fields = [*namespace.get("__annotations__", {})]
            defaults = [namespace.pop(field) for field in fields if field in namespace]
            made = namedtuple(name, fields, defaults=defaults, module=namespace["__module__"])  # noqa: PYI024
            for key, attribute in namespace.items():
                if key not in {"__module__", "__qualname__"}:
                    setattr(made, key, attribute)
            return made

    class NamedTuple(metaclass=_NamedTupleType):
        """As `typing.NamedTuple`."""

    class _IntEnumType(type):
        """Turns the numbers of a class into members."""

        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            made = super().__new__(cls, name, bases, namespace)
            # Names with two underscores at both ends are Python's; since 3.13 one of them is an int.
            numbers = {key: number for key, number in namespace.items()
                       if type(number) is int and not (key.startswith("__") and key.endswith("__"))}
            made.__members__ = {}
            made._by_number = {}
            for key, number in numbers.items():
                member = int.__new__(made, number)
                member.name = key
                # Two names for one number are one member, with the first name.
                made.__members__[key] = made._by_number.setdefault(number, member)
                setattr(made, key, made.__members__[key])
            return made

        def __call__(cls, number: int) -> Any:
            """Return the member with that *number*. Raises ValueError."""
            try:
                return cls._by_number[number]
            except KeyError:
                raise ValueError(f"{number!r} is not a valid {cls.__name__}") from None

        def __iter__(cls) -> Iterator[Any]:
            return iter(cls._by_number.values())

        def __contains__(cls, number: object) -> bool:
            return number in cls._by_number

        def __len__(cls) -> int:
            return len(cls._by_number)

    class IntEnum(int, metaclass=_IntEnumType):
        """As `enum.IntEnum`, with the parts in use: members, names, and the look-up by number."""

        @property
        def value(self) -> int:
            """The plain number."""
            return int(self)

        __str__ = int.__repr__

        def __repr__(self) -> str:
            return f"<{type(self).__name__}.{self.name}: {int(self)}>"

        def __reduce__(self) -> tuple[type, tuple[int]]:
            return type(self), (int(self),)

    class _ValueType(type):
        """Makes a class out of annotations: a property for each field."""

        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            fields = bases[0].FIELDS if bases[0] is not tuple else ()
            defaults = dict(bases[0].DEFAULTS) if fields else {}
            own = [field for field, text in namespace.get("__annotations__", {}).items()
                   if not text.startswith("ClassVar")]
            for index, field in enumerate(own, len(fields)):
                if field in namespace:
                    defaults[field] = namespace[field]
                namespace[field] = property(itemgetter(index))
            namespace |= {"__slots__": (), "FIELDS": (*fields, *own), "DEFAULTS": defaults}
            namespace["__match_args__"] = namespace["FIELDS"]
            return super().__new__(cls, name, bases, namespace)

        @property
        def __signature__(cls) -> Any:
            """Signature of the class, for help() and for tools of tests."""
            from inspect import Parameter, Signature

            return Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD,
                                        default=cls.DEFAULTS.get(name, Parameter.empty))
                              for name in cls.FIELDS])

    class Value(tuple, metaclass=_ValueType):
        """Base of all values."""

        __slots__ = ()

        def __new__(cls, *values: Any, **named: Any) -> Self:
            """Take the fields by position or by name."""
            if named or len(values) != len(cls.FIELDS):
                values = cls._bind(values, named)
            value = super().__new__(cls, values)
            value.__post_init__()
            return value

        @classmethod
        def _bind(cls, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
            """Put arguments into the order of the fields. Raises TypeError, as a function would."""
            fields = cls.FIELDS
            given = dict(zip(fields, values, strict=False))
            if len(values) > len(fields) or given.keys() & named.keys() or named.keys() - set(fields):
                raise TypeError(f"{cls.__name__} has the fields {fields}, not {len(values)} and {[*named]}")
            bound = cls.DEFAULTS | given | named
            if len(bound) != len(fields):
                raise TypeError(f"{cls.__name__} needs {[field for field in fields if field not in bound]}")
            return tuple([bound[field] for field in fields])

        def __post_init__(self) -> None:
            """Check nothing; a subclass may override this."""

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

        def __eq__(self, other: object) -> bool:
            return type(self) is type(other) and tuple.__eq__(self, other)

        def __ne__(self, other: object) -> bool:
            return not self == other

        def __hash__(self) -> int:
            return tuple.__hash__(self)

        def __bool__(self) -> bool:
            return True

        def __repr__(self) -> str:
            fields = zip(self.FIELDS, self, strict=True)
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields)})"


def replace(value: V, **changes: Any) -> V:
    """Copy *value* with some fields changed; the copy is checked anew."""
    return type(value)(**{field: getattr(value, field) for field in value.FIELDS} | changes)
