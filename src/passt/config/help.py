"""The text of --help, made from the option table."""

from __future__ import annotations

from textwrap import wrap

from passt.config.options import ACCUMULATES, GROUPS, OPTIONS, PASTA, PER_FAMILY, Option
from passt.config.pesto_options import PESTO, PESTO_OPTIONS

WIDTH = 80
TEXT_COLUMN = 30

QRAP = "qrap"

_SYNOPSES = {
    "pasta": ("pasta [OPTION]... [COMMAND [ARG]...]", "pasta [OPTION]... -f PID"),
    "passt": ("passt [OPTION]...",),
    "pesto": ("pesto [OPTION]... PATH",),
    "qrap": ("qrap FD PROGRAM [ARG]...", "qrap QEMU_ARG..."),
}
_ABOUT = {
    "pasta": "Runs COMMAND, or a login shell, in a network namespace of its own that is connected"
             " through the host without privileges; or connects the namespaces of process PID.",
    "passt": "Connects a virtual machine through the host without privileges: listens on a socket to which"
             " QEMU connects (-netdev stream, or qrap for QEMU before 7.2; -netdev vhost-user with"
             " --vhost-user).",
    "pesto": "Shows the forwarded ports of a running pasta or passt, or changes them: PATH is the socket that"
             " it was given with --conf-path. Options act in their order. All of a change is carried out, or"
             " nothing; then each port that cannot be had is told on a line, and the exit status is 1.",
    "qrap": "Connects to the first free passt on /tmp/passt_1.socket to /tmp/passt_99.socket and starts"
            " QEMU on that connection, for QEMU before 7.2, which cannot connect by itself. First form:"
            " PROGRAM is started with ARGs as they are, the connection on descriptor FD, 3 or more. Second"
            " form: this machine's QEMU is started with its network options replaced by one card on the"
            " connection.",
}
_REPEAT = {PER_FAMILY: "Once for IPv4, once for IPv6.", ACCUMULATES: "May be repeated."}


def help_text(program: str) -> str:
    """Make the text of --help: at most 80 columns, options of *program* only."""
    lines = [f"{'Usage:' if index == 0 else '      '} {synopsis}"
             for index, synopsis in enumerate(_SYNOPSES[program])]
    lines += ["", *wrap(_ABOUT[program], WIDTH)]
    if program == QRAP:
        lines += ["", *_entry("  -h, --help", "Print this overview and exit, if given first."),
                  *_entry("      --version", "Print the version and exit, if given first.")]
        return "\n".join(lines) + "\n"
    known = options_of(program)
    for group in GROUPS:
        members = [option for option in known if option.group == group and option.available]
        if members:
            lines += ["", f"{group}:"]
            lines += [line for option in members for line in _entry(heading(option), description(option))]
    later = [option for option in known if not option.available]
    if later:
        lines += ["", "Not available yet in this version (refused with a message):"]
        lines += [line for option in later for line in _entry(heading(option), description(option))]
    if program in {PASTA, PESTO}:
        lines += ["", *wrap("Long options may be shortened as long as they stay unique. Where nothing"
                            " else is said, the last of several uses counts.", WIDTH)]
    return "\n".join(lines) + "\n"


def options_of(program: str) -> list[Option]:
    """List the options that *program* knows, available or not."""
    if program == PESTO:
        return list(PESTO_OPTIONS)
    return [option for option in OPTIONS if program in option.modes]


def spelling(option: Option) -> str:
    """List all names of an option: `-m, --mtu`."""
    short = [f"-{option.short}"] if option.short else []
    return ", ".join(short + [f"--{name}" for name in option.names])


def heading(option: Option) -> str:
    """Make the first column: all names, and the argument."""
    indent = "  " if option.short else "      "
    argument = f"[={option.argument}]" if option.implied else f" {option.argument}" if option.argument else ""
    return f"{indent}{spelling(option)}{argument}"


def description(option: Option) -> str:
    """Make the help of an option: its text, what a second use means, and whether it is deprecated."""
    parts = [option.text, _REPEAT.get(option.repeat, ""), "Deprecated." if option.deprecated else "",
             f"Meanwhile: {option.meanwhile}." if option.meanwhile else ""]
    return " ".join(part for part in parts if part)


def _entry(head: str, text: str) -> list[str]:
    """Lay out one option; a long first column has a line of its own."""
    lines = wrap(text, WIDTH - TEXT_COLUMN, break_on_hyphens=False, break_long_words=False)
    if len(head) > TEXT_COLUMN - 2:
        return [head, *(" " * TEXT_COLUMN + line for line in lines)]
    return [head.ljust(TEXT_COLUMN) + lines[0], *(" " * TEXT_COLUMN + line for line in lines[1:])]
