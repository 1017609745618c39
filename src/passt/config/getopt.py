"""Command-line scanning with the behaviour of getopt_long(3), driven by the option table.

As with a leading "+" in getopt's option string, scanning ends at the first argument that is no option, so a
command's own options are left alone. An argument that may be left out is given by "=" or not at all. Messages
are worded as getopt's, because callers look for them: Podman searches for "unrecognized option '--NAME'".
`cli` puts the program's name in front.
"""

from __future__ import annotations

from passt.config.options import OPTIONS, Option
from passt.errors import ConfigError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RUN = "run"
ACTIONS = ("help", "version", "print-capabilities")


class UsageError(ConfigError):
    """The command line cannot be split into options; a hint at --help follows the message."""


class Occurrence:
    """One use of an option: *spelled* is its name as given, *value* its argument.

    That is empty if the option takes none, and the implied one if it was left out.
    """

    __slots__ = ("option", "spelled", "value")

    def __init__(self, option: Option, value: str, spelled: str) -> None:
        self.option = option
        self.value = value
        self.spelled = spelled

    @property
    def label(self) -> str:
        """The option as the user named it, for messages: `option '-m' (--mtu)`."""
        long = "" if self.spelled.startswith("--") else f" (--{self.option.name})"
        return f"option '{self.spelled}'{long}"


class Request:
    """A scanned command line; *action* is RUN or one of ACTIONS (then the rest is not scanned)."""

    __slots__ = ("action", "occurrences", "operands")

    def __init__(self, action: str, occurrences: list[Occurrence], operands: list[str]) -> None:
        self.action = action
        self.occurrences = occurrences
        self.operands = operands


class Scanner:
    """Splits *arguments* into uses of *options*; *operands* is what is left once iteration has ended.

    Iteration raises UsageError at the first mistake; what stands before it has been yielded by then.
    """

    def __init__(self, arguments: Sequence[str], options: Sequence[Option] = OPTIONS) -> None:
        self._options = options
        self.operands: list[str] = []
        self._left = list(reversed(arguments))

    def __iter__(self) -> Iterator[Occurrence]:
        left = self._left
        while left:
            argument = left.pop()
            if argument == "--":
                break
            if argument.startswith("--"):
                yield self._long(argument)
            elif argument.startswith("-") and argument != "-":
                yield from self._bundle(argument)
            else:
                left.append(argument)
                break
        self.operands = left[::-1]

    def _long(self, argument: str) -> Occurrence:
        name, equals, value = argument[2:].partition("=")
        option, full_name = _find_long(self._options, name, argument)
        spelled = f"--{full_name}"
        if not option.argument:
            if equals:
                raise UsageError(f"option '{spelled}' doesn't allow an argument")
            return Occurrence(option, "", spelled)
        if not equals and option.implied:
            value = option.implied
        elif not equals:
            if not self._left:
                raise UsageError(f"option '{spelled}' requires an argument")
            value = self._left.pop()
        return Occurrence(option, value, spelled)

    def _bundle(self, argument: str) -> Iterator[Occurrence]:
        """Yield the options of `-qfm1500`: flags, then at most one with an argument, attached or next."""
        for index, letter in enumerate(argument[1:], 2):
            option = next((option for option in self._options if option.short == letter), None)
            if option is None:
                raise UsageError(f"invalid option -- '{letter}'")
            if not option.argument:
                yield Occurrence(option, "", f"-{letter}")
                continue
            value = argument[index:]
            if not value:
                if not self._left:
                    raise UsageError(f"option requires an argument -- '{letter}'")
                value = self._left.pop()
            yield Occurrence(option, value, f"-{letter}")
            return


def _find_long(options: Sequence[Option], name: str, argument: str) -> tuple[Option, str]:
    """Find an option by its long name or a unique prefix of it; returns it with the name in full.

    Aliases of one option do not make a prefix ambiguous.
    """
    matches = []
    for option in options:
        for full_name in option.names:
            if full_name == name:
                return option, full_name
            if full_name.startswith(name):
                matches.append((option, full_name))
    if not matches:
        raise UsageError(f"unrecognized option '{argument}'")
    if any(option is not matches[0][0] for option, _ in matches):
        names = " ".join(f"'--{full_name}'" for _, full_name in matches)
        raise UsageError(f"option '{argument}' is ambiguous; possibilities: {names}")
    return matches[0]


def scan(mode: str, arguments: Sequence[str]) -> Request:
    """Scan *arguments* (without the program's name) for the program *mode*.

    Raises UsageError for what getopt refuses, ConfigError for an option of the other program or one that
    this version does not have yet. Values are not checked.
    """
    scanner = Scanner(arguments)
    occurrences = []
    for occurrence in scanner:
        option = occurrence.option
        if mode not in option.modes:
            raise ConfigError(f"{occurrence.label} is for {option.modes[0]} only")
        if option.name in ACTIONS:
            return Request(option.name, [], [])
        if not option.available:
            raise ConfigError(f"{occurrence.label} is not available yet in this version"
                              f"{'; ' if option.meanwhile else ''}{option.meanwhile}")
        occurrences.append(occurrence)
    return Request(RUN, occurrences, scanner.operands)
