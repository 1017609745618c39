"""The command line of passtctl: options, a command, its words."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlencode

from passt.errors import ConfigError
from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# Commands with their words and what they do.
COMMANDS = {
    "list": ("[--names]", "Show the instances of this user that were started with --control auto."),
    "flows": ("[--watch] [FILTER]...", "Show flows: TCP connections, UDP and ping flows."),
    "top": ("[FILTER]...", "Watch flows, throughput, drops and limits on the full screen."),
    "stats": ("", "Show the counters that are not 0, and how full each limit is."),
    "events": ("[KIND]...", "Print events as they come."),
    "metrics": ("[--listen ADDR:PORT]", "Print all counters for Prometheus, or serve them on a TCP port."),
    "log": ("[LEVEL]", "Show, or set, which messages are printed: debug, info or warning."),
    "close": ("FLOW", "End a flow; its ends see a reset."),
    "ports": ("[list|add|del|set] [-t|-u|-T|-U SPEC]...",
              "Show the port rules and open ports, or add, delete or replace rules: all or none."),
    "policy": ("[show] | set FILE [--kill] | reload [--kill]",
               "Show the rules of egress, or have new flows judged by those of FILE or --policy's file."),
    "explain": ("[tcp|udp|icmp] ADDR[:PORT] | [tcp|udp] --inbound PORT | NAME",
                "Tell which rule, mapping and addresses a flow would get, or why it would be refused."),
    "doctor": ("[--port PORT[/tcp|/udp]]", "Say what is wrong, here or in an instance, and its remedy."),
    "capture": ("-w FILE|- [FILTER]... | --ring SIZE [FILTER]... | list | get ID -w FILE|- | stop ID",
                "Capture packets as pcapng, of bypassed connections too: to a file or pipe, or to memory."),
}
_WORDS = {
    "tcp": ("protocol", "tcp"), "udp": ("protocol", "udp"), "icmp": ("protocol", "icmp"),
    "icmp6": ("protocol", "icmp6"), "link": ("path", "link"), "bypass": ("path", "bypass"),
    "inbound": ("direction", "inbound"), "outbound": ("direction", "outbound"),
}  # fmt: skip
PORT_ACTIONS = ("list", "add", "del", "set")
POLICY_ACTIONS = {"show": 0, "set": 1, "reload": 0}    # and how many words follow
_SPECS = {"-t": "-t", "--tcp-ports": "-t", "-u": "-u", "--udp-ports": "-u", "-T": "-T", "--tcp-ns": "-T",
          "-U": "-U", "--udp-ns": "-U"}
_VALUED = {"-p": "pid", "--pid": "pid", "-s": "path", "--socket": "path", "--listen": "listen",
           "--inbound": "inbound", "--source": "source", "--port": "port",
           "-w": "write", "--write": "write", "--ring": "ring", "--snaplen": "snaplen"}
_PATHS = frozenset(("path", "write"))
MAX_DIGITS = 10        # of a PID: more than any has
# Options that belong to one command.
_OWNERS = {"watch": "flows", "names": "list", "listen": "metrics", "specs": "ports", "inbound": "explain",
           "kill": "policy", "source": "explain", "port": "doctor", "write": "capture", "ring": "capture",
           "snaplen": "capture"}
_KEYS = ("protocol", "path", "direction", "state", "address", "port", "rule")


class Command(NamedTuple):
    """What is asked for: *name* is one of COMMANDS, "help" or "version"; *words* are those behind it.

    *specs* are port specifications, each with its option in front; *instance* is the name of an instance.
    """

    name: str
    pid: int | None = None
    path: str | None = None
    json: bool = False
    watch: bool = False
    names: bool = False
    kill: bool = False
    listen: str | None = None
    port: str | None = None
    write: str | None = None
    ring: str | None = None
    snaplen: str | None = None
    words: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    inbound: str | None = None
    source: str | None = None
    instance: str | None = None


def parse(arguments: Sequence[str]) -> Command:
    """Read the arguments; options may stand anywhere. Raises ConfigError."""
    given: dict[str, Any] = {}
    words: list[str] = []
    rest = list(arguments)
    _check_text(rest)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in {"-h", "--help"}:
            # With the command that is asked about, if one is named.
            return Command("help", words=tuple([each for each in words if each in COMMANDS][:1]))
        if word == "--version":
            return Command("version")
        if word in {"--json", "--watch", "--names", "--kill"}:
            given[word.lstrip("-")] = True
        elif name in _VALUED or name in _SPECS:
            if not equals and rest:
                value = rest.pop(0)
            if not value:
                raise ConfigError(f"option '{name}' needs an argument")
            if name in _SPECS:
                given["specs"] = (*given.get("specs", ()), f"{_SPECS[name]} {value}")
            else:
                given[_VALUED[name]] = value
        elif word.startswith("-") and len(word) > 1:
            raise ConfigError(f"there is no option '{word}'; see passtctl --help")
        else:
            words.append(word)
    return _check(given, words)


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse what no request can have: it is UTF-8. Paths, and names of interfaces, are any bytes.

    Raises ConfigError.
    """
    option = ""
    for word in arguments:
        name = option or word.partition("=")[0]
        option = word if word in _VALUED or word in _SPECS else ""
        if name in _SPECS or _VALUED.get(name) in _PATHS:
            continue
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"'{word}' is not UTF-8") from None


def _check(given: dict[str, Any], words: list[str]) -> Command:
    """Make a command of options and words. Raises ConfigError."""
    _take_name(given, words)
    name = words.pop(0) if words else "list"
    if "pid" in given:
        text = str(given["pid"])
        if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
            raise ConfigError(f"option '-p': '{text}' is not a PID; 'passtctl list' shows them")
        given["pid"] = int(text)
    for option, command in _OWNERS.items():
        if option in given and name != command:
            what = f"option '--{option}' belongs" if option != "specs" else "options -t, -u, -T and -U belong"
            raise ConfigError(f"{what} to '{command}', not to '{name}'")
    if name == "metrics" and "json" in given:
        raise ConfigError("option '--json': metrics are for Prometheus; 'stats --json' has all counters")
    most = {"flows": 20, "top": 20, "events": 20, "log": 1, "close": 1, "ports": 1, "policy": 2, "explain": 2,
            "capture": 50}.get(name, 0)
    if len(words) > most:
        raise ConfigError(f"'{words[most]}' is too much: passtctl {name} {COMMANDS[name][0]}".rstrip())
    if name == "close" and not words:
        raise ConfigError("passtctl close needs the id of a flow, as 'flows' shows it")
    if name == "ports":
        _check_ports(words, given.get("specs", ()))
    if name == "policy":
        _check_policy(words, kills="kill" in given)
    return Command(name, words=tuple(words), **given)


def _take_name(given: dict[str, Any], words: list[str]) -> None:
    """Take the name of an instance, which stands before a command or alone. Raises ConfigError."""
    if words and words[0] not in COMMANDS:
        name = words.pop(0)
        if words and words[0] not in COMMANDS:
            raise ConfigError(f"'{name}' is no command, and '{words[0]}' none for an instance of that name;"
                              f" there are {', '.join(COMMANDS)}")
        if not name:
            raise ConfigError("the name of an instance is empty; 'passtctl list' shows what each one serves")
        given["instance"] = name
    if len(given.keys() & {"pid", "path", "instance"}) > 1:
        typed = f"; '{given['instance']}' is no command" if "instance" in given else ""
        raise ConfigError(f"say once which instance is meant: by -p PID, -s PATH or its name{typed}")


def _check_ports(words: list[str], specs: tuple[str, ...]) -> None:
    """Refuse what `ports` cannot do. Raises ConfigError."""
    action = words[0] if words else "list"
    if action not in PORT_ACTIONS:
        raise ConfigError(f"'{action}' is no action of ports; there are {', '.join(PORT_ACTIONS)}")
    if action == "list" and specs:
        raise ConfigError("say what to do with these ports: add, del or set")
    if action != "list" and not specs:
        raise ConfigError(f"passtctl ports {action} needs ports: -t SPEC, -u SPEC, -T SPEC or -U SPEC")


def _check_policy(words: list[str], *, kills: bool) -> None:
    """Refuse what `policy` cannot do. Raises ConfigError."""
    action = words[0] if words else "show"
    if action not in POLICY_ACTIONS:
        raise ConfigError(f"'{action}' is no action of policy; there are {', '.join(POLICY_ACTIONS)}")
    if len(words) > 1 + POLICY_ACTIONS[action]:
        raise ConfigError(f"'{words[-1]}' is too much: passtctl policy {action} takes no file")
    if action == "set" and len(words) == 1:
        raise ConfigError("passtctl policy set needs a file with rules, as --policy; - is standard input")
    if action == "show" and kills:
        raise ConfigError("option '--kill' belongs to 'policy set' and 'policy reload'")


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
    lines = ["Usage: passtctl [OPTION]... [NAME] [COMMAND]", "",
             "Look at running instances of pasta and passt, and steer them. NAME is that of one:",
             "what it serves, as 'list' shows, the last part of a path, or the beginning of these.", "",
             "Commands:"]
    for name, (words, text) in COMMANDS.items():
        lines += [f"  {name} {words}".rstrip(), f"      {text}"]
    return "\n".join([
        *lines, "", "Options:",
        "  -p, --pid PID      the instance with this PID; if there are several, this, -s or NAME is needed",
        "  -s, --socket PATH  the instance with this control socket",
        "  --json             print JSON",
        "  -t, -u SPEC        of ports: TCP or UDP ports of the host, as for pasta and passt",
        "  -T, -U SPEC        of ports: TCP or UDP ports of the namespace",
        "  --source ADDR      of explain: where the flow comes from",
        "  --kill             of policy: end flows that are refused now",
        "  -w, --write FILE   capture: write packets there; - is standard output",
        "  --ring SIZE        capture: keep the newest packets in memory, 16M of them, say",
        "  --snaplen SIZE     capture: keep that many bytes of each packet",
        "  -h, --help         print this overview and exit; with a command, what that takes",
        "  --version          print the version and exit", ""])
