"""The command line of passtctl: options, a command, its words."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlencode

from passt.errors import ConfigError
from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

# Commands with their words and what they do.
COMMANDS = {
    "list": ("", "Show the instances of this user that were started with --control auto."),
    "flows": ("[--watch] [FILTER]...", "Show flows: TCP connections, UDP and ping flows."),
    "stats": ("", "Show the counters that are not 0, and how full each limit is."),
    "events": ("[KIND]...", "Print events as they come."),
    "metrics": ("[--listen ADDR:PORT]", "Print all counters for Prometheus, or serve them on a TCP port."),
    "log": ("[LEVEL]", "Show, or set, which messages are printed: debug, info or warning."),
    "close": ("FLOW", "End a flow; its ends see a reset."),
    "ports": ("", "Show the ports on which the instance listens."),
    "capture": ("-w FILE|- [FILTER]... | --ring SIZE [FILTER]... | list | get ID -w FILE|- | stop ID",
                "Capture packets as pcapng, of bypassed connections too: to a file or pipe, or to memory."),
}
_WORDS = {
    "tcp": ("protocol", "tcp"), "udp": ("protocol", "udp"), "icmp": ("protocol", "icmp"),
    "icmp6": ("protocol", "icmp6"), "link": ("path", "link"), "bypass": ("path", "bypass"),
    "inbound": ("direction", "inbound"), "outbound": ("direction", "outbound"),
}  # fmt: skip
# Options with a value, by the field of `Command` that it belongs to.
_VALUED = {"-p": "pid", "--pid": "pid", "-s": "path", "--socket": "path", "--listen": "listen",
           "-w": "write", "--write": "write", "--ring": "ring", "--snaplen": "snaplen"}
_KEYS = ("protocol", "path", "direction", "state", "address", "port", "rule")


class Command(NamedTuple):
    """What is asked for: *name* is one of COMMANDS, "help" or "version"; *words* are those behind it."""

    name: str
    pid: int | None = None
    path: str | None = None
    json: bool = False
    watch: bool = False
    listen: str | None = None
    write: str | None = None
    ring: str | None = None
    snaplen: str | None = None
    words: tuple[str, ...] = ()


def parse(arguments: Sequence[str]) -> Command:
    """Read the arguments; options may stand anywhere. Raises ConfigError."""
    given: dict[str, object] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in {"-h", "--help"}:
            return Command("help")
        if word == "--version":
            return Command("version")
        if word in {"--json", "--watch"}:
            given[word.lstrip("-")] = True
        elif name in _VALUED:
            if not equals:
                if not rest:
                    raise ConfigError(f"option '{name}' needs an argument")
                value = rest.pop(0)
            given[_VALUED[name]] = value
        elif word.startswith("-") and len(word) > 1:
            raise ConfigError(f"there is no option '{word}'; see passtctl --help")
        else:
            words.append(word)
    return _check(given, words)


def _check(given: dict[str, object], words: list[str]) -> Command:
    """Make a command of options and words. Raises ConfigError."""
    name = words.pop(0) if words else "list"
    if name not in COMMANDS:
        raise ConfigError(f"there is no command '{name}'; there are {', '.join(COMMANDS)}")
    if "pid" in given:
        text = str(given["pid"])
        if not (text.isascii() and text.isdecimal()):
            raise ConfigError(f"option '-p' {text} is not a PID")
        given["pid"] = int(text)
    for option, command in (("watch", "flows"), ("listen", "metrics"), ("write", "capture"),
                            ("ring", "capture"), ("snaplen", "capture")):
        if option in given and name != command:
            raise ConfigError(f"option '--{option}' belongs to '{command}', not to '{name}'")
    most = {"flows": 20, "events": 20, "log": 1, "close": 1, "capture": 50}.get(name, 0)
    if len(words) > most:
        raise ConfigError(f"'{words[most]}' is too much: passtctl {name} {COMMANDS[name][0]}".rstrip())
    if name == "close" and not words:
        raise ConfigError("passtctl close needs the id of a flow, as 'flows' shows it")
    return Command(name, words=tuple(words), **given)  # type: ignore[arg-type]


def parse_filters(words: Sequence[str]) -> str:
    """Turn filters into parameters of a request: words, KEY=VALUE, an address, :PORT. Raises ConfigError."""
    found: dict[str, str] = {}
    for word in words:
        key, value = _filter(word)
        if found.setdefault(key, value) != value:
            raise ConfigError(f"'{word}' and {key} {found[key]} exclude each other")
    return urlencode(found)


def _filter(word: str) -> tuple[str, str]:
    if word in _WORDS:
        return _WORDS[word]
    key, equals, value = word.partition("=")
    if equals and key in _KEYS:
        return key, value
    if word.startswith(":"):
        return "port", word[1:]
    try:
        return "address", str(ip_address(word.strip("[]")))
    except ValueError:
        raise ConfigError(f"'{word}' is no filter; give {', '.join(_WORDS)}, an address, :PORT or KEY=VALUE"
                          f" with {', '.join(_KEYS)}") from None


def help_text() -> str:
    """Return the overview."""
    lines = ["Usage: passtctl [OPTION]... [COMMAND]", "",
             "Look at running instances of pasta and passt, and steer them.", "", "Commands:"]
    for name, (words, text) in COMMANDS.items():
        lines += [f"  {name} {words}".rstrip(), f"      {text}"]
    return "\n".join([
        *lines, "", "Options:",
        "  -p, --pid PID      the instance with this PID; needed if there are several",
        "  -s, --socket PATH  the instance with this control socket",
        "  --json             print JSON",
        "  -w, --write FILE   capture: write packets there; - is standard output",
        "  --ring SIZE        capture: keep the newest packets in memory, 16M of them, say",
        "  --snaplen SIZE     capture: keep that many bytes of each packet",
        "  -h, --help         print this overview and exit",
        "  --version          print the version and exit", ""])
