"""From argv to an exit status: pick the program, read the command line, hand the settings to `run.start`.

This module and those that it imports at the top need Python 3.7 only, so that an old Python reaches
`check_system`, which refuses it. All other modules are imported where they are needed, which keeps
`pasta --version` fast.
"""

from __future__ import annotations

import gc
import os
import sys

from passt import __commit__, __version__, log
from passt.config.getopt import RUN, UsageError, scan
from passt.errors import ConfigError, HostError, PasstError, explain_refusal

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

    from passt.facts.settings import Settings

# The longer name first, of two that begin alike.
PROGRAMS = ("pasta", "passtctl", "passt", "qrap", "pesto")
MIN_PYTHON = (3, 11)
MIN_KERNEL = (5, 4)
EXIT_FAILURE = 1
LICENCE = """Licensed under the Apache License, Version 2.0
<https://www.apache.org/licenses/LICENSE-2.0>.
There is no warranty, to the extent permitted by law.
"""

# As in the schema of QEMU's "Backend program conventions"; there are no features for this type.
CAPABILITIES = '{\n  "type": "net"\n}\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program that *argv* (default: sys.argv) names and return its exit status."""
    gc.disable()  # the start allocates objects that live as long as the process
    argv = sys.argv if argv is None else argv
    program = "passt"
    try:
        check_system(sys.platform, os.uname().release, sys.version_info[:2])
        program, arguments = pick_program(argv)
        return run_program(program, arguments)
    except KeyboardInterrupt:
        return _end_by_interrupt()
    except Exception as error:  # noqa: BLE001 - standard error may be closed: log every error
        _log_failure(program, error)
        return EXIT_FAILURE


def _log_failure(program: str, error: Exception) -> None:
    """Log in one line why *program* ends; for a bug of ours, in as many lines as it takes to find it."""
    if isinstance(error, PasstError):
        log.err(f"{program}: {error}")
        if isinstance(error, UsageError):
            log.err(f"Try '{program} --help' for more information.")
    elif isinstance(error, OSError):
        log.err(f"{program}: {explain_refusal(error)}")
        for line in log.describe_failure(error) if log.is_debug() else ():
            log.debug(line)
    elif isinstance(error, ImportError):
        # Our files are unreadable for this user or gone, or no descriptor is left to read them.
        log.err(f"{program}: cannot load a part of the program: {error}")
    elif isinstance(error, MemoryError):
        log.err(f"{program}: there is not enough memory, or a limit of it is reached (ulimit -v)")
    else:
        log.failure(program, error)


def _end_by_interrupt() -> int:
    """End by SIGINT, so that a calling shell sees an interrupted program."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
    return 128 + signal.SIGINT


def check_system(platform: str, release: str, python: tuple[int, ...]) -> None:
    """Refuse systems that are not supported. Raises HostError.

    *release* is that of the kernel, as `uname -r` prints it; *python* starts with major and minor version.
    """
    if platform != "linux":
        raise HostError(f"this program needs Linux, and this system is {platform}")
    if python < MIN_PYTHON:
        raise HostError(f"Python {_dotted(MIN_PYTHON)} or newer is needed, and this is {_dotted(python[:2])}")
    numbers = release.split("-", 1)[0].split(".")
    kernel = tuple(int(number) for number in numbers[:2] if number.isdecimal())
    if len(kernel) == 2 and kernel < MIN_KERNEL:
        raise HostError(f"Linux {_dotted(MIN_KERNEL)} or newer is needed, and this is {release}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)


def pick_program(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Pick the program by the last path component of argv[0]; return its name and arguments.

    A name that contains "pasta" is pasta, whatever else it contains. Under `python -m passt` the first
    argument is the name. Raises ConfigError.
    """
    called, arguments = (argv[0] if argv else ""), list(argv[1:])
    name = os.path.basename(called)
    if name == "__main__.py":
        if not arguments or arguments[0] not in PROGRAMS:
            raise ConfigError(f"say which program to run: python -m passt {'|'.join(PROGRAMS)} [ARG]...")
        return arguments[0], arguments[1:]
    for program in PROGRAMS:
        if program in name:
            return program, arguments
    raise ConfigError(f"started as '{name}'; the name has to contain one of: {', '.join(PROGRAMS)}")


def run_program(program: str, arguments: Sequence[str]) -> int:
    """Run *program* and return its exit status. Raises PasstError."""
    restore_locale()
    if program == "qrap":
        return _run_qrap(arguments)
    if program == "pesto":
        return _run_pesto(arguments)
    if program == "passtctl":
        return _run_passtctl(arguments)
    request = scan(program, arguments)
    if request.action != RUN:
        return print_text(program, request.action)
    from passt.config.settings import build_settings

    settings, warnings = build_settings(program, request)
    log.configure(debug=settings.log.debug, quiet=settings.log.quiet)
    check_files(settings)
    if settings.log.log_file is not None:
        log.open_file(settings.log.log_file, settings.log.log_size, program)
    elif not settings.process.foreground and not settings.log.debug:
        log.open_syslog(program)
    for warning in warnings:
        log.warning(warning)
    from passt.run import start

    return start.run(settings)


def check_files(settings: Settings) -> None:
    """Refuse one file for two of those that we write, as its contents would be neither's.

    Raises ConfigError.
    """
    wanted = (("--log-file", settings.log.log_file), ("--pid", settings.process.pid_file),
              ("--pcap", settings.diagnostics.pcap), ("--ports-file", settings.forwarding.ports_file))
    named = [(option, path) for option, path in wanted if path is not None]
    if len(named) < 2:
        return
    from passt.log.output_file import find_shared

    found = find_shared([path for _, path in named])
    if found is not None:
        (one, path), (other, name) = (named[i] for i in found)
        raise ConfigError(f"options '{one}' {path} and '{other}' {name} name the same file: give each one"
                          " of its own")


def restore_locale() -> None:
    """Give the environment the LC_CTYPE of the caller, which is that of what we execute too.

    In the C locale Python puts another one there: PEP 538, which -I does not switch off.
    """
    if "LC_CTYPE" not in os.environ:
        return
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return
    values = [entry[len(b"LC_CTYPE="):] for entry in entries if entry.startswith(b"LC_CTYPE=")]
    if values:
        os.environb[b"LC_CTYPE"] = values[0]
    else:
        del os.environ["LC_CTYPE"]


def _run_qrap(arguments: Sequence[str]) -> int:
    """Run qrap. All behind its own two arguments belongs to QEMU, so only the first argument is checked."""
    first = arguments[0] if arguments else ""
    action = {"-h": "help", "--help": "help", "--version": "version"}.get(first)
    if action is None:
        from passt.qrap import launch

        launch.run(arguments)
    return print_text("qrap", action)


def _run_passtctl(arguments: Sequence[str]) -> int:
    """Run passtctl."""
    from passt.passtctl import command
    from passt.passtctl import main as passtctl

    asked = command.parse(arguments)
    if asked.name == "version":
        return print_text("passtctl", asked.name)
    if asked.name == "help":
        from passt.passtctl.help import command_help

        text = command_help(asked.words[0]) if asked.words else command.help_text()
        return _write_out(text.encode())
    return passtctl.run(asked)


def _run_pesto(arguments: Sequence[str]) -> int:
    """Run pesto."""
    from passt.pesto import command

    asked = command.parse(arguments)
    if asked.action != RUN:
        return print_text("pesto", asked.action)
    from passt.pesto import main as pesto

    return pesto.run(asked)


def version_text(program: str) -> str:
    """Say what *program* is; its name and version stand alone on the first line, where callers read them."""
    python = f"Python {sys.version.split(maxsplit=1)[0]}"
    commit = f", commit {__commit__}" if __commit__ else ""
    return f"{program} {__version__}\n{python}{commit}\n{LICENCE}"


def print_text(program: str, action: str) -> int:
    """Print what *action* asks for; raises HostError if standard output cannot be written."""
    if action == "version":
        data = version_text(program).encode()
    elif action == "print-capabilities":
        data = CAPABILITIES.encode()
    else:
        from passt.config.help import help_text

        data = help_text(program).encode()
    return _write_out(data)


def _write_out(data: bytes) -> int:
    """Write to standard output; return the exit status. Raises HostError."""
    try:
        while data:
            data = data[os.write(1, data):]
    except OSError as error:
        raise HostError(f"cannot write to standard output: {error.strerror}") from None
    return 0
