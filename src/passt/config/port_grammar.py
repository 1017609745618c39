"""Port specifications: the arguments of -t, -u, -T and -U.

    spec   = "none" | "fd:" name ":" port | [ prefix ] item { "," item }
    prefix = [ address | "*" ] [ "%" interface ] "/"       -t and -u only
    item   = "all" [ ":" address ] | "auto" | "~" range
           | range [ ":" ( range | address [ "/" range ] ) ]
           | "0:" ( port | address "/" port )              -t and -u only
    range  = port [ "-" port ]

The first slash ends the prefix; every address may stand in brackets. A target address is one behind the
guest's interface, of the same family as the prefix, which has to name an address then. Exclusions (`~`) hold
for the whole specification, wherever they stand; a specification of exclusions only means all other ports, as
`all` does. `auto` makes the whole specification conditional: a port is forwarded while the port that it leads
to is bound at the service side. Numbers are decimal.

Two forms name no port of the host: 0 is a free one, which the kernel chooses; `fd:` has the sockets of a name
that a service manager hands over (sd_listen_fds(3)). The latter has no slash, so no address is taken for it.
"""

from __future__ import annotations

from passt.config import parsers
from passt.errors import ConfigError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterator

    from passt.facts.address import IPAddress

MAX_PORT = 65535
_MAPPING = ("a mapping is PORTS:TARGETS, PORTS:ADDRESS or PORTS:ADDRESS/TARGETS; an address to listen on ends"
            " in a slash")
_FD = "fd:"
MAX_NAME = 255                    # bytes, systemd.socket(5), FileDescriptorName=
_PORT_RANGE = f"a port is a number from 1 to {MAX_PORT}"


class PortSpec:
    """One specification: *ranges* are (first, last, first target), *excluded* (first, last), inclusive.

    *is_none* excludes everything else; *is_all* holds for exclusions alone too. *target_addresses* has the
    addresses that ranges lead to, by their first ports; that of `all` by 0. *chosen* are target and its
    address of ports that the kernel chooses; *inherited* is the name of sockets that are handed over, with
    their target.
    """

    __slots__ = ("address", "chosen", "excluded", "ifname", "inherited", "is_all", "is_auto", "is_none",
                 "ranges", "target_addresses", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.address: IPAddress | None = None
        self.ifname: str | None = None
        self.ranges: list[tuple[int, int, int]] = []
        self.excluded: list[tuple[int, int]] = []
        self.target_addresses: dict[int, IPAddress] = {}
        self.chosen: list[tuple[int, IPAddress | None]] = []
        self.inherited: tuple[str, int] | None = None
        self.is_none = self.is_all = self.is_auto = False


def parse_spec(text: str, *, prefix: bool = True, auto: bool = True, at_start: bool = True) -> PortSpec:
    """Read one specification.

    *prefix* allows an address or interface, *auto* the word `auto`, *at_start* with *prefix* the forms that
    name no port of the host. Raises ConfigError: a line with the specification, the place of the mistake, and
    what would be right.
    """
    spec = PortSpec(text)
    if text == "none":
        spec.is_none = True
        return spec
    names_none = prefix and at_start
    if names_none and text.startswith(_FD) and "/" not in text:
        spec.inherited = _parse_inherited(text)
        return spec
    head, slash, items = text.partition("/")
    if not slash:
        items = text
    elif prefix:
        _parse_prefix(spec, head)
    else:
        raise _wrong(text, 0, head + slash, "-T and -U listen on loopback; give ports alone")
    for offset, item in _split(items, len(text) - len(items), ","):
        if names_none and item.startswith("0:"):
            spec.chosen.append(_parse_chosen(spec, offset + len("0:"), item[len("0:"):]))
        else:
            _parse_item(spec, offset, item, auto=auto)
    if spec.chosen and spec.is_auto:
        raise ConfigError(f"'{text}': a free port is taken at the start, and 'auto' takes none then; give"
                          " each an option of its own")
    spec.is_all = spec.is_all or not (spec.ranges or spec.chosen or spec.is_auto)
    before = 0
    for first, last, _ in sorted(spec.ranges):
        if first <= before:
            raise ConfigError(f"'{text}': port {first} is given twice; once is enough")
        before = last
    return spec


def _wrong(text: str, offset: int, part: str, right: str) -> ConfigError:
    """Make the error for *part*, which begins *offset* characters into the specification *text*."""
    place = f"'{part}' (character {offset + 1})" if part else f"nothing at character {offset + 1}"
    return ConfigError(f"'{text}': {place}: {right}")


def _split(text: str, offset: int, separator: str) -> Iterator[tuple[int, str]]:
    for part in text.split(separator):
        yield offset, part
        offset += len(part) + 1


def _parse_prefix(spec: PortSpec, head: str) -> None:
    literal, percent, ifname = head.partition("%")
    if percent:
        try:
            spec.ifname = parsers.parse_ifname(ifname)
        except ConfigError as error:
            raise _wrong(spec.text, len(literal) + 1, ifname, str(error)) from None
    if literal in {"", "*"}:
        return
    try:
        spec.address = parsers.parse_bound_address(_unbracket(literal))
    except ConfigError as error:
        raise _wrong(spec.text, 0, head, f"{error}; before the slash stands an address to bind to,"
                     " '%' and an interface, or both") from None


def _unbracket(literal: str) -> str:
    """Take an address out of its brackets, if it is in brackets."""
    return literal[1:-1] if literal.startswith("[") and literal.endswith("]") else literal


def _parse_item(spec: PortSpec, offset: int, item: str, *, auto: bool) -> None:
    if item == "all" or item.startswith("all:"):
        spec.is_all = True
        if item != "all":
            spec.target_addresses[0] = _parse_target_address(spec, offset + len("all:"), item[len("all:"):])
    elif item == "auto":
        if not auto:
            raise _wrong(spec.text, offset, item, "only pasta sees which ports are bound inside;"
                         " give ports, 'all' or 'none'")
        spec.is_auto = True
    elif item == "none":
        raise _wrong(spec.text, offset, item, "'none' stands alone")
    elif item.startswith("~"):
        if ":" in item:
            raise _wrong(spec.text, offset, item, "what is excluded has no target; leave out the colon")
        spec.excluded.append(_parse_range(spec.text, offset + 1, item[1:]))
    else:
        spec.ranges.append(_parse_mapping(spec, offset, item))


def _parse_inherited(text: str) -> tuple[str, int]:
    """Read `fd:NAME:PORT`; return name and port."""
    name, colon, port = text[len(_FD):].partition(":")
    if not (name and colon and len(name) <= MAX_NAME and name.isascii() and name.isprintable()):
        raise _wrong(text, len(_FD), text[len(_FD):], "a socket that is handed over is fd:NAME:PORT, with"
                     " NAME as in FileDescriptorName= of its unit")
    return name, _parse_port(text, len(_FD) + len(name) + 1, port)


def _parse_chosen(spec: PortSpec, offset: int, target: str) -> tuple[int, IPAddress | None]:
    """Read where a free port leads: `PORT` or `ADDRESS/PORT`."""
    literal, slash, port = target.rpartition("/")
    address = _parse_target_address(spec, offset, literal) if slash else None
    return _parse_port(spec.text, offset + len(literal) + len(slash), port), address


def _parse_mapping(spec: PortSpec, offset: int, item: str) -> tuple[int, int, int]:
    text, begin = spec.text, offset
    ports, colon, targets = item.partition(":")
    if colon and not ports:
        raise _wrong(text, offset, item, _MAPPING)
    first, last = _parse_range(text, offset, ports)
    if not colon:
        return first, last, first
    offset += len(ports) + len(colon)
    if any(mark in targets for mark in ".:[/"):
        literal, slash, ports = targets.partition("/")
        spec.target_addresses[first] = _parse_target_address(spec, offset, literal)
        if not slash:
            return first, last, first
        offset, targets = offset + len(literal) + len(slash), ports
    target, last_target = _parse_range(text, offset, targets)
    if last - first != last_target - target:
        raise _wrong(text, begin, item, f"{last - first + 1} ports cannot go to"
                     f" {last_target - target + 1}; both ranges have to be of one size")
    return first, last, target


def _parse_target_address(spec: PortSpec, offset: int, literal: str) -> IPAddress:
    try:
        address = parsers.parse_host_address(_unbracket(literal))
    except ConfigError as error:
        raise _wrong(spec.text, offset, literal, f"{error}; {_MAPPING}") from None
    if spec.address is None or spec.address.version != address.version:
        raise _wrong(spec.text, offset, literal, f"a target address takes an IPv{address.version} address to"
                     f" listen on: {'0.0.0.0' if address.version == 4 else '::'}/PORTS:{literal}")
    return address


def _parse_range(text: str, offset: int, part: str) -> tuple[int, int]:
    ends = [_parse_port(text, *end) for end in _split(part, offset, "-")]
    if len(ends) > 2:
        raise _wrong(text, offset, part, "a range is FIRST-LAST")
    if ends[0] > ends[-1]:
        raise _wrong(text, offset, part, f"a range begins with the lower port: {ends[-1]}-{ends[0]}")
    return ends[0], ends[-1]


def _parse_port(text: str, offset: int, part: str) -> int:
    if not (part.isascii() and part.isdecimal()):
        raise _wrong(text, offset, part, f"{_PORT_RANGE}; write PORT, FIRST-LAST, PORTS:TARGETS, ~EXCLUDED,"
                     " 'all', 'auto', with commas between, or 'none'")
    digits = part.lstrip("0")
    if not digits or len(digits) > len(str(MAX_PORT)) or int(digits) > MAX_PORT:
        raise _wrong(text, offset, part, _PORT_RANGE)
    return int(digits)
