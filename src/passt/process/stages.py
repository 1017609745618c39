"""The stages of a start: what each opens or makes, and what it gives up.

Theory of operation. A start goes one way: from the caller's rights to none. Whatever takes a right, a path or
a namespace of the caller is done before the stage that gives this up, so the order of `STAGES` is what makes
the program safe. `run.pasta` and `run.passt` tell a `Progress` of each stage that they come to. It insists on
the order, so a step that is moved to the wrong place fails every test that starts the program, and with -d
it logs each stage. docs/security.md shows the table, which a test compares.

For whom debugs. OFF_VARIABLE names stages to leave out, separated by commas, of those with `may_be_off`:
gdb(1), perf(1) and strace(1) see more then. A variable of the environment must not open a program that was
started with more rights than its caller has (getauxval(3), AT_SECURE): it is ignored there.
"""

from __future__ import annotations

import os

from passt import log
from passt.errors import ConfigError
from passt.host import syscalls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Mapping

COMMAND, ATTACHED, PASST, VHOST = "command", "attached", "passt", "vhost-user"
FORMS = {COMMAND: "pasta with a command", ATTACHED: "pasta for a namespace that exists",
         PASST: "passt", VHOST: "passt with --vhost-user"}
OFF_VARIABLE = "PASST_WITHOUT"
_PASTA = (COMMAND, ATTACHED)
_MACHINE = (PASST, VHOST)
_ALL = (COMMAND, ATTACHED, PASST, VHOST)


class Stage:
    """One stage of the *forms* that have it; *opens* and *gives_up* are words for the table."""

    __slots__ = ("forms", "gives_up", "may_be_off", "name", "opens")

    def __init__(self, name: str, forms: tuple[str, ...], opens: str = "", gives_up: str = "", *,
                 may_be_off: bool = False) -> None:
        self.name = name
        self.forms = forms
        self.opens = opens
        self.gives_up = gives_up
        self.may_be_off = may_be_off


STAGES = (
    Stage("host", _ALL, "signalfd of SIGUSR1, packet capture, connection of --fd; the host is read;"
          " if it is followed, its network is watched from now on"),
    Stage("ports", _ALL, "listeners of the host's ports, opened or handed over; the file of --ports-file"),
    Stage("target", (ATTACHED,), "namespaces, watch for their end"),
    Stage("socket", _ALL, "listening sockets for a machine, --control and --conf-path, their files; with"
          " either of these two, or a low port of an interface that is followed, a helper for low ports; if"
          " the host is followed a process that reads resolv.conf; with --dns-forward the forwarder of names"
          " and its doors"),
    Stage("user", _ALL, "", "the user: root of the host becomes nobody, or the user of --runas"),
    Stage("user-namespace", _ALL, "capabilities inside", "capabilities over the host"),
    Stage("pid-namespace", (ATTACHED, *_MACHINE), "in the background: own PID namespace",
          "sight of the host's processes", may_be_off=True),
    Stage("child", _PASTA, "channel to the child, which makes the tap"),
    Stage("network", _ALL, "every module, engine, null device, terminal (command), sources of bound ports"),
    Stage("tap", _PASTA, "tap and network namespace, from the child; with --config-net, if the host is"
          " followed, a program that changes addresses and routes there", "the child (attached)"),
    Stage("inner-user", _ALL, "", "root of the host, kept until now for the child's work and files"),
    Stage("namespaces", _ALL, "own mount, IPC and UTS namespaces", may_be_off=True),
    Stage("root", _ALL, "empty root directory, read-only", "every path", may_be_off=True),
    Stage("landlock", _ALL, "", "every path; abstract sockets; signals to others (not with a command)",
          may_be_off=True),
    Stage("thread", _PASTA, "thread in the network namespace with a filter of its own, sockets there",
          "the network namespace"),
    Stage("inner-ports", _ALL, "listeners in the network namespace (pasta)"),
    Stage("signals", _ALL, "signalfd", "default actions of signals"),
    Stage("capabilities", _ALL, "",
          "all capabilities; more of them by execve(2) (no_new_privs); being dumpable"),
    Stage("filter", _ALL, "", "system calls outside the filter", may_be_off=True),
    Stage("ready", _ALL, "content of the pid file", "in the background: standard descriptors"),
    Stage("start-command", (COMMAND,), "", "standard input and output"),
    Stage("loop", _ALL),
)
_PLACES = {stage.name: place for place, stage in enumerate(STAGES)}


class Progress:
    """The stages of one start in *form*; *environment* may switch stages off. Raises ConfigError."""

    def __init__(self, form: str, environment: Mapping[str, str] | None = None, *,
                 is_privileged: bool | None = None) -> None:
        self.form = form
        self._place = -1
        self._off = _read_switch(os.environ if environment is None else environment,
                                 syscalls.is_privileged_start() if is_privileged is None else is_privileged)

    def is_off(self, name: str) -> bool:
        """Tell whether stage *name* is switched off."""
        return name in self._off

    def enter(self, name: str) -> bool:
        """Note that stage *name* begins; False if it is switched off and has to be left out."""
        place = _PLACES[name]
        if self.form not in STAGES[place].forms or place <= self._place:
            before = STAGES[self._place].name if self._place >= 0 else "none"
            raise AssertionError(f"stage {name} of {self.form} after {before}")
        left_out = [stage.name for stage in STAGES[self._place + 1:place] if self.form in stage.forms]
        if left_out:
            raise AssertionError(f"stage {name} of {self.form} without {', '.join(left_out)}")
        self._place = place
        if name in self._off:
            log.warning(f"{OFF_VARIABLE} is set: this process runs without the protection of stage '{name}'")
            return False
        log.debug(f"stage: {name}")
        return True


def _read_switch(environment: Mapping[str, str], is_privileged: bool) -> frozenset[str]:
    """Return the names of the stages to leave out. Raises ConfigError."""
    text = environment.get(OFF_VARIABLE, "")
    if not text:
        return frozenset()
    if is_privileged:
        log.warning(f"{OFF_VARIABLE} is ignored: the program has more rights than its caller")
        return frozenset()
    known = [stage.name for stage in STAGES if stage.may_be_off]
    names = frozenset(text.split(","))
    for name in sorted(names.difference(known)):
        raise ConfigError(f"{OFF_VARIABLE}={text}: there is no stage '{name}' to leave out; give some of"
                          f" {','.join(known)}")
    return names


def table() -> str:
    """Print STAGES as a table in Markdown: the stage, its forms, what it opens, what it gives up."""
    lines = ["| stage | forms | opened, made | given up |", "|---|---|---|---|"]
    for stage in STAGES:
        forms = "all" if stage.forms == _ALL else ", ".join(stage.forms)
        lines.append(f"| `{stage.name}` | {forms} | {stage.opens} | {stage.gives_up} |")
    return "\n".join(lines) + "\n"
