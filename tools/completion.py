# ruff: noqa: INP001 - part of a script, in no package
"""Completion for bash, zsh and fish, made from the option table.

What can stand behind an option is told by `VALUES`; an option that is not available is not offered.
"""

from __future__ import annotations

from passt.config.help import options_of
from passt.config.options import PASTA, Option
from passt.config.pesto_options import PESTO
from passt.control.events import KINDS
from passt.passtctl.command import COMMANDS, POLICY_ACTIONS, PORT_ACTIONS

NOTHING = ""
FILES = "files"
DIRECTORIES = "directories"
INTERFACES = "interfaces"
USERS = "users"
NAMESPACES = "namespaces"
# What the argument of each option can be: one of the above, or words to choose from.
VALUES: dict[str, str] = {
    "log-file": FILES, "pcap": FILES, "pid": FILES, "socket": FILES, "userns": FILES, "netns": NAMESPACES,
    "repair-path": FILES, "ports-file": FILES, "conf-path": FILES, "control": FILES,
    "interface": INTERFACES, "outbound-if4": INTERFACES, "outbound-if6": INTERFACES, "runas": USERS,
    "tcp-ports": "none all auto", "udp-ports": "none all auto", "tcp-ns": "none all auto",
    "udp-ns": "none all auto", "dns": "none", "search": "none", "map-host-loopback": "none",
    "map-guest-addr": "none",
    "log-size": NOTHING, "stats": NOTHING, "address": NOTHING, "netmask": NOTHING, "gateway": NOTHING,
    "wait-online": "10 30 60",
    "mtu": "1280 1500 9000 65520", "mac-addr": NOTHING, "hostname": NOTHING, "fqdn": NOTHING,
    "outbound": NOTHING, "dns-forward": NOTHING, "dns-host": NOTHING, "dns-cache": "100 1000",
    "dns-route": NOTHING, "dns-hosts": NOTHING, "ns-ifname": NOTHING,
    "policy": FILES,
    "learn": FILES,
    "allow": "host private link-local metadata multicast dns",
    "deny": "host private link-local metadata multicast dns", "allow-from": NOTHING,
    "nat64-prefix": NOTHING,
    "dns-refuse": "refused nxdomain",
    "ns-mac-addr": NOTHING, "fd": NOTHING, "clear": "HOST SPLICE",
}
_LONGEST = 68
_HEAD = "written by tools/gen_man.py, do not edit"
_LIST_INTERFACES = "command ls /sys/class/net 2>/dev/null"
_LIST_NAMESPACES = "command ls /run/netns 2>/dev/null"


def known(program: str) -> list[Option]:
    """List the options that *program* carries out."""
    return [option for option in options_of(program) if option.available]


def spellings(option: Option) -> list[str]:
    """List all names with their dashes."""
    return ([f"-{option.short}"] if option.short else []) + [f"--{name}" for name in option.names]


def summary(option: Option) -> str:
    """Give the first sentence of an option's text, at most some words, without its full stop."""
    text = option.text.split(". ")[0].split("; ")[0].split(": ")[0].rstrip(".")
    while len(text) > _LONGEST:
        text = text.rpartition(" ")[0]
    return text.rstrip(",;:")


def bash(program: str) -> str:
    """Make the file for bash; it needs nothing of the bash-completion package."""
    options = known(program)
    valued = [option for option in options if option.argument and not option.implied]
    either = [option for option in options if option.implied]
    cases = []
    for value in dict.fromkeys(VALUES[option.name] for option in valued + either):
        names = [name for option in valued if VALUES[option.name] == value for name in spellings(option)]
        names += [f"{name}=" for option in either if VALUES[option.name] == value
                  for name in spellings(option)]
        cases += [f"    {' | '.join(names)})", f"        {_bash_reply(value)}", "        return ;;"]
    flags = " ".join(name for option in options for name in spellings(option))
    with_value = " | ".join(name for option in valued for name in spellings(option))
    operand = {PASTA: _BASH_COMMAND, PESTO: _BASH_FILE}.get(program, "            return\n")
    labels = " | ".join(name for option in either for name in spellings(option))
    return _BASH.format(head=_HEAD, program=program, cases="\n".join(cases), flags=flags,
                        with_value=with_value, operand=operand,
                        skip=_BASH_SKIP.format(labels=labels) if either else "",
                        mark=_BASH_MARK.format(labels=labels) if either else "")


_BASH = """# bash completion for {program}(1): {head}

_passt_{program}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} word i given=
    COMPREPLY=()
    # An option's operand begins with the first word that is neither an option nor an option's argument.
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case $word in
        --)
            ((i++))
            break ;;
        {with_value})
            [ "${{COMP_WORDS[i + 1]}}" = = ] && ((i++))
            ((i++)) ;;
{skip}        -*) ;;
        *)
            break ;;
        esac
    done
    if ((i < COMP_CWORD)) || [[ $i = "$COMP_CWORD" && ($cur != -* || $prev = --) ]]; then
{operand}    fi
    if [ "$cur" = = ]; then
        cur=
        given==
    elif [ "$prev" = = ]; then
        prev=${{COMP_WORDS[COMP_CWORD - 2]}}
        given==
    fi
{mark}    case $prev in
{cases}
    esac
    mapfile -t COMPREPLY < <(compgen -W '{flags}' -- "$cur")
}}
complete -F _passt_{program} {program}
"""
# Options whose argument may be left out: only behind "=" there is one.
_BASH_SKIP = """        {labels})
            [ "${{COMP_WORDS[i + 1]}}" = = ] && ((i += 2)) ;;
"""
_BASH_MARK = """    case $prev in
    {labels})
        prev+=$given ;;
    esac
"""
_BASH_COMMAND = """        if ((i < COMP_CWORD)); then
            compopt -o default 2>/dev/null
            declare -F _command_offset >/dev/null && _command_offset "$i"
        else
            mapfile -t COMPREPLY < <(compgen -A command -- "$cur")
        fi
        return
"""
_BASH_FILE = """        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -A file -- "$cur")
        return
"""


def _bash_reply(value: str) -> str:
    made = {FILES: "compgen -A file", USERS: "compgen -A user", NOTHING: ""}.get(value)
    if value == INTERFACES:
        made = f'compgen -W "$({_LIST_INTERFACES})"'
    elif value == NAMESPACES:
        made = f'compgen -A file -W "$({_LIST_NAMESPACES})"'
    elif made is None:
        made = f"compgen -W '{value}'"
    names = "compopt -o filenames 2>/dev/null; " if value in {FILES, NAMESPACES} else ""
    return f'{names}mapfile -t COMPREPLY < <({made} -- "$cur")' if made else ":"


def zsh(program: str) -> str:
    """Make the function for zsh's completion system."""
    lines = [f"#compdef {program}", f"# {_HEAD}", "", "_arguments -s -S -A '-*' \\"]
    for option in known(program):
        names = spellings(option)
        repeats = option.repeat != "last wins"
        head = "" if repeats else f"({' '.join(names)})"
        text = summary(option).replace("[", "(").replace("]", ")").replace(":", " ").replace("'", "'\\''")
        for name in names:
            takes = "" if not option.argument else "=" if name.startswith("--") else "+"
            colon = ":" if not option.implied else "::"
            takes += "-" if option.implied else ""
            action = f"{colon}{option.argument.translate(_ZSH_PLAIN)}:{_zsh_action(option)}" if takes else ""
            lines.append(f"    '{'*' if repeats else ''}{head}{name}{takes}[{text}]{action}' \\")
    if program == PASTA:
        lines += ["    '(-):command or PID: _command_names -e' \\", "    '*:: :_normal'"]
    elif program == PESTO:
        lines.append("    '1:socket of --conf-path: _files'")
    else:
        lines[-1] = lines[-1].removesuffix(" \\")
    return "\n".join(lines) + "\n"


_ZSH_PLAIN = str.maketrans({"[": "", "]": "", ":": "/", "|": "/"})


def _zsh_action(option: Option) -> str:
    value = VALUES[option.name]
    plain = {FILES: "_files", USERS: "_users", INTERFACES: "_net_interfaces", NOTHING: " "}.get(value)
    if value == NAMESPACES:
        return f"{{compadd -- $({_LIST_NAMESPACES}); _files}}"
    return plain or f"({value})"


def fish(program: str) -> str:
    """Make the file for fish."""
    lines = [f"# fish completion for {program}(1): {_HEAD}", "", f"complete -c {program} -f"]
    if program == PASTA:
        lines.append(f"complete -c {program} -x -a '(__fish_complete_subcommand)'")
    if program == PESTO:
        lines.append(f"complete -c {program} -F")
    for option in known(program):
        short = f" -s {option.short}" if option.short else ""
        long = "".join(f" -l {name}" for name in option.names)
        text = summary(option).replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"complete -c {program}{short}{long}{_fish_value(option)} -d '{text}'")
    return "\n".join(lines) + "\n"


def _fish_value(option: Option) -> str:
    if not option.argument:
        return ""
    value = VALUES[option.name]
    if value == FILES:
        return " -r -F"
    if value == NAMESPACES:
        return f" -r -F -a '({_LIST_NAMESPACES})'"
    if option.implied:
        return f" -f -a '{value}'"
    made = {USERS: "(__fish_complete_users)", INTERFACES: f"({_LIST_INTERFACES})"}.get(value, value)
    return f" -x -a '{made}'" if made else " -x"


QRAP = {
    "bash": f"""# bash completion for qrap(1): {_HEAD}

_passt_qrap() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}}
    COMPREPLY=()
    case $COMP_CWORD in
    1)
        mapfile -t COMPREPLY < <(compgen -W '-h --help --version' -- "$cur") ;;
    2)
        mapfile -t COMPREPLY < <(compgen -A command -- "$cur") ;;
    *)
        compopt -o default 2>/dev/null
        declare -F _command_offset >/dev/null && _command_offset 2 ;;
    esac
}}
complete -F _passt_qrap qrap
""",
    "zsh": f"""#compdef qrap
# {_HEAD}

_arguments -A '-*' \\
    '(- *)'{{-h,--help}}'[Print an overview and exit]' \\
    '(- *)--version[Print the version and exit]' \\
    '1:descriptor: ' \\
    '2:QEMU command: _command_names -e' \\
    '*:: :_normal'
""",
    "fish": f"""# fish completion for qrap(1): {_HEAD}

complete -c qrap -f
complete -c qrap -n '__fish_is_nth_token 1' -s h -l help -d 'Print an overview and exit'
complete -c qrap -n '__fish_is_nth_token 1' -l version -d 'Print the version and exit'
complete -c qrap -n '__fish_is_nth_token 2' -x -a '(__fish_complete_command)'
complete -c qrap -n 'not __fish_is_nth_token 1; and not __fish_is_nth_token 2' -F
""",
}


_COMMANDS = " ".join(COMMANDS)
_LIST_INSTANCES = "command passtctl list --names 2>/dev/null"
_FILTERS = "tcp udp icmp icmp6 link bypass inbound outbound"
_LEVELS = "debug info warning"
_ACTIONS = " ".join(PORT_ACTIONS)
_POLICY = " ".join(POLICY_ACTIONS)
_KINDS = " ".join(KINDS)
_FLOW_WORDS = "tcp udp icmp"
_CTL_FLAGS = ("-p --pid -s --socket --json --names --watch --listen --inbound --source --port"
              " -w --write --ring --snaplen --kill -h --help --version")
_FISH_SPECS = "\n".join(
    "complete -c passtctl -n '__fish_seen_subcommand_from ports'"
    f" -s {letter} -x -a 'none all auto' -d '{text}'"
    for letter, text in (("t", "TCP ports of the host"), ("u", "UDP ports of the host"),
                         ("T", "TCP ports of the namespace"), ("U", "UDP ports of the namespace")))
_CAPTURE = "tcp udp icmp icmp6 link bypass arp ip4 ip6 host net port list get stop"
PASSTCTL = {
    "bash": f"""# bash completion for passtctl(1): {_HEAD}

_passt_passtctl() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} word flags=
    local words='{_COMMANDS}' named=yes
    COMPREPLY=()
    case $prev in
    -s | --socket)
        mapfile -t COMPREPLY < <(compgen -A file -- "$cur")
        return ;;
    -t | -u | -T | -U)
        mapfile -t COMPREPLY < <(compgen -W 'none all auto' -- "$cur")
        return ;;
    -w | --write)
        mapfile -t COMPREPLY < <(compgen -A file -- "$cur")
        return ;;
    set)
        if [[ " ${{COMP_WORDS[*]}} " = *" policy "* ]]; then
            mapfile -t COMPREPLY < <(compgen -A file -- "$cur")
            return
        fi ;;
    -p | --pid | --listen | --inbound | --source | --port | --ring | --snaplen)
        return ;;
    esac
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in
        {_COMMANDS.replace(" ", " | ")})
            named= ;;
        esac
        case $word in
        flows | top) words='{_FILTERS}' ;;
        log) words='{_LEVELS}' ;;
        capture) words='{_CAPTURE}' ;;
        ports) words='{_ACTIONS}' flags='-t -u -T -U' ;;
        policy) words='{_POLICY}' ;;
        explain) words='{_FLOW_WORDS}' ;;
        events) words='{_KINDS}' ;;
        list | stats | metrics | close | doctor) words='' ;;
        esac
    done
    mapfile -t COMPREPLY < <(compgen -W "$words $flags {_CTL_FLAGS}" -- "$cur")
    if [ -n "$named" ]; then
        while read -r word; do
            [[ $word = "$cur"* ]] && COMPREPLY+=("$(printf %q "$word")")
        done < <({_LIST_INSTANCES})
    fi
}}
complete -F _passt_passtctl passtctl
""",
    "zsh": f"""#compdef passtctl
# zsh completion for passtctl(1): {_HEAD}

local word
local -a found=({_COMMANDS})
for word in ${{words[2,CURRENT-1]}}; do
    case $word in
    flows | top) found=({_FILTERS}) ;;
    log) found=({_LEVELS}) ;;
    capture) found=({_CAPTURE}) ;;
    ports) found=({_ACTIONS}) ;;
    policy) found=({_POLICY}) ;;
    explain) found=({_FLOW_WORDS}) ;;
    events) found=({_KINDS}) ;;
    list | stats | metrics | close | doctor) found=() ;;
    esac
done
_arguments \\
    '(-p --pid)'{{-p,--pid}}'[PID of the instance]:PID:' \\
    '(-s --socket)'{{-s,--socket}}'[control socket of the instance]:socket:_files' \\
    '--json[print JSON]' \\
    '--watch[show flows again and again]' \\
    '--listen[serve metrics]:address and port:' \\
    '*-t[TCP ports of the host]:ports:(none all auto)' \\
    '*-u[UDP ports of the host]:ports:(none all auto)' \\
    '*-T[TCP ports of the namespace]:ports:(none all auto)' \\
    '*-U[UDP ports of the namespace]:ports:(none all auto)' \\
    '--inbound[port of the host to explain]:port:' \\
    '--source[where the flow to explain comes from]:address:' \\
    '--port[look who has a port]:port:' \\
    '(-w --write)'{{-w,--write}}'[where captured packets go]:file:_files' \\
    '--ring[keep captured packets in memory]:size:' \\
    '--snaplen[bytes of each packet]:size:' \\
    '(- *)'{{-h,--help}}'[print an overview and exit]' \\
    '(- *)--version[print the version and exit]' \\
    '--names[list names of instances alone]' \\
    '--kill[end flows that are refused now]' \\
    '1:command or instance:{{compadd -- {_COMMANDS} ${{(f)"$({_LIST_INSTANCES})"}}}}' \\
    '*:word:{{[[ $words[CURRENT-1] = set ]] && _files || compadd -a found}}'
""",
    "fish": f"""# fish completion for passtctl(1): {_HEAD}

complete -c passtctl -f
complete -c passtctl -n 'not __fish_seen_subcommand_from {_COMMANDS}' -a '{_COMMANDS} ({_LIST_INSTANCES})'
complete -c passtctl -n '__fish_seen_subcommand_from list' -l names -d 'List names of instances alone'
complete -c passtctl -n '__fish_seen_subcommand_from flows top' -a '{_FILTERS}'
complete -c passtctl -n '__fish_seen_subcommand_from log' -a '{_LEVELS}'
complete -c passtctl -n '__fish_seen_subcommand_from events' -a '{_KINDS}'
complete -c passtctl -n '__fish_seen_subcommand_from ports' -a '{_ACTIONS}'
{_FISH_SPECS}
complete -c passtctl -n '__fish_seen_subcommand_from policy' -a '{_POLICY}'
complete -c passtctl -n '__fish_seen_subcommand_from policy; and __fish_seen_subcommand_from set' -F
complete -c passtctl -n '__fish_seen_subcommand_from policy' -l kill -d 'End flows that are refused now'
complete -c passtctl -n '__fish_seen_subcommand_from explain' -a '{_FLOW_WORDS}'
complete -c passtctl -n '__fish_seen_subcommand_from explain' -l inbound -x -d 'Port of the host'
complete -c passtctl -n '__fish_seen_subcommand_from explain' -l source -x -d 'Where the flow comes from'
complete -c passtctl -n '__fish_seen_subcommand_from capture' -a '{_CAPTURE}'
complete -c passtctl -s w -l write -r -F -d 'Where captured packets go'
complete -c passtctl -l ring -x -d 'Keep captured packets in memory'
complete -c passtctl -l snaplen -x -d 'Bytes of each packet'
complete -c passtctl -s p -l pid -x -d 'PID of the instance'
complete -c passtctl -s s -l socket -r -F -d 'Control socket of the instance'
complete -c passtctl -l json -d 'Print JSON'
complete -c passtctl -l watch -d 'Show flows again and again'
complete -c passtctl -l listen -x -d 'Serve metrics on ADDR:PORT'
complete -c passtctl -l port -x -d 'Look who has a port'
complete -c passtctl -s h -l help -d 'Print an overview and exit'
complete -c passtctl -l version -d 'Print the version and exit'
""",
}


def files() -> dict[str, str]:
    """Make all files: path below share/ -> content."""
    made = {}
    for program in ("pasta", "passt", "qrap", "pesto", "passtctl"):
        texts = {"qrap": QRAP, "passtctl": PASSTCTL}.get(program) or {
            "bash": bash(program), "zsh": zsh(program), "fish": fish(program)}
        made[f"bash-completion/completions/{program}"] = texts["bash"]
        made[f"zsh/site-functions/_{program}"] = texts["zsh"]
        made[f"fish/vendor_completions.d/{program}.fish"] = texts["fish"]
    return made
