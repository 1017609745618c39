"""Immutable values with named fields: what `dataclass(frozen=True)` and `NamedTuple` do, at less cost.

A class below `Value` lists its fields as annotations, in order, maybe with defaults; annotations that
begin with ClassVar are none, and a sub-class adds its fields to those of its base. The module has to
have `from __future__ import annotations`, as the annotations are only looked at as text. A method
`__post_init__`, if there is one, checks a new value, and raises ValueError.

Why not those of the standard library: every program start makes some sixty such classes, and a
container waits for it. `dataclasses` compiles the methods of each class as source text, which takes 50
times as long as what is done here (`NamedTuple`: 10 times), and its import costs 15 ms more.

A value is a tuple underneath, so it cannot change, and can be hashed, pickled and compared at the speed
of one; but it equals only values of the same class, and is always true.
"""

from __future__ import annotations

from operator import itemgetter

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

    V = TypeVar("V", bound="Value")

    @dataclass_transform(frozen_default=True)
    class Value:
        """A type checker sees a frozen data class."""

        FIELDS: ClassVar[tuple[str, ...]]
        DEFAULTS: ClassVar[dict[str, Any]]

else:

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
            missing = len(cls.FIELDS) - len(values)
            if missing or named:
                if not named and 0 < missing <= len(cls.DEFAULTS):
                    values += tuple(cls.DEFAULTS.values())[-missing:]
                else:
                    values = cls._bind(values, named)
            value = super().__new__(cls, values)
            value.__post_init__()
            return value

        @classmethod
        def _bind(cls, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
            """Put arguments into the order of the fields; raises TypeError as a function does."""
            fields = cls.FIELDS
            given = dict(zip(fields, values, strict=False))
            if len(values) > len(fields) or given.keys() & named.keys() or named.keys() - set(fields):
                raise TypeError(f"{cls.__name__} has the fields {fields}, not {len(values)} and {[*named]}")
            bound = cls.DEFAULTS | given | named
            if len(bound) != len(fields):
                raise TypeError(f"{cls.__name__} needs {[field for field in fields if field not in bound]}")
            return tuple([bound[field] for field in fields])

        def __post_init__(self) -> None:
            """Accept the value, as there are no rules."""

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
