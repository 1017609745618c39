"""--control: its socket is made at the start, its server when the engine is there.

The socket `auto` is named after the process that serves it, $XDG_RUNTIME_DIR/passt/PID.sock, so that tools
find all instances. Where the program goes to the background, the PID is known only after the fork, to the
parent first, which then renames the file (`Background.on_fork`).

The package h11 is looked for here, with the caller's rights: it may lie where only a start without -S looks.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Sequence
from types import ModuleType

from passt import log
from passt.errors import ConfigError, HostError
from passt.host import unix_socket
from passt.host.ping_permission import read_range

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import NoReturn

    from passt.control.api import Observed
    from passt.control.source import Source
    from passt.facts.contracts import FlowExplainer
    from passt.facts.guest import GuestNet
    from passt.facts.settings import Settings
    from passt.forward.live_egress import LiveEgress
    from passt.host.unix_socket import ListeningSocket
    from passt.process.background import Background
    from passt.steer.draft import Cut
    from passt.steer.tables import ClientTables

AUTO = "auto"
DIRECTORY = "passt"   # below XDG_RUNTIME_DIR
_SUFFIX = ".sock"


class Control:
    """The control socket of one start, opened with the caller's rights. Raises PasstError."""

    def __init__(self, path: str, background: Background) -> None:
        _load()
        self._started_s = time.time()
        self._started_at_s = time.monotonic()
        self._ping_range = read_range()    # in the caller's user namespace, which knows most groups
        self._is_auto = path == AUTO
        if self._is_auto:
            directory = runtime_directory()
            _make_directory(directory)
            remove_stale(directory)
            path = os.path.join(directory, f"{os.getpid()}{_SUFFIX}")
        background.expect_file()
        self._socket: ListeningSocket = unix_socket.listen_alone(path, "--control")
        background.has_made(path)
        if self._is_auto:
            background.on_fork = self._take_name

    def _take_name(self, pid: int) -> str:
        """Name the file after *pid*, the process that serves it; return its name."""
        old, new = self._socket.path, self._name_of(pid)
        try:
            # Unlike rename(2) it takes no name from who has it: another PID namespace has the same numbers.
            os.link(old, new, follow_symlinks=False)
            os.unlink(old)
        except OSError as error:
            # The user who starts may not be the one who serves. Who asks is told the PID, too.
            log.debug(f"{old} keeps its name: {error.strerror}")
            return old
        return new

    def _name_of(self, pid: int) -> str:
        return os.path.join(os.path.dirname(self._socket.path), f"{pid}{_SUFFIX}")

    def serve(self, settings: Settings, guest: GuestNet, engine: Source, observed: Observed,
              policy: FlowExplainer, control_counters: Callable[[], dict[str, int]],
              foretell_ping: Callable[[str], str]) -> None:
        """Build all that answers; call before paths are closed.

        *policy* is what decides on flows; *foretell_ping* is `host.ping_permission.PingRefusal.forecast`.
        """
        from passt.control.api import Api, Known
        from passt.control.server import Server

        named = self._name_of(log.own_pid())
        if self._is_auto and not os.path.exists(self._socket.path):  # our starter has renamed it
            self._socket.path = named
        begin_s = self._started_at_s
        known = Known(settings, guest, observed, sys.argv[1:], self._started_s,
                      lambda: time.monotonic() - begin_s)
        self._api = Api(engine, known, control_counters)
        self._server = Server(engine, self._socket.detach(), self._api.serve)
        self._api.count_clients = self._server.count
        self.on_host_changed = self._api.on_host_changed
        self._facts = (policy, observed, guest, engine, foretell_ping(self._ping_range))

    def govern(self, live_egress: LiveEgress) -> None:
        """Have clients see and change rules of egress, and events name them; call before paths are closed."""
        import passt.config.policy_file  # noqa: F401 - no file can be read later

        self._api.live_egress = live_egress
        self._api.events.why_refused = live_egress.egress.why
        live_egress.egress.watch_name = self._api.events.on_name_refused

    def steer(self, tables: ClientTables, cut: Cut, is_ours: Callable[[socket.socket], bool | None]) -> None:
        """Take the port *tables* for `PortRules`, and for `Server` who is a client; call before `start`."""
        from passt.control.explain import Explainer
        from passt.control.ports import PortRules

        policy, observed, guest, engine, ping = self._facts
        self._api.texts.tables = tables.live
        self._api.port_rules = PortRules(tables, cut)
        self._api.explainer = Explainer(policy, observed, guest, engine.listeners_at, tables, ping)
        self._server.is_ours = is_ours

    def start(self) -> None:
        """Take clients from now on."""
        self._server.start()

    @property
    def path(self) -> str:
        """The path of the socket."""
        return self._socket.path


def runtime_directory() -> str:
    """Return the directory of the sockets that are named after their process. Raises ConfigError."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        raise ConfigError("option '--control' auto: XDG_RUNTIME_DIR, the directory of this user's sockets, is"
                          " not set; set it, or give a path")
    return os.path.join(runtime, DIRECTORY)


def _make_directory(directory: str) -> None:
    """Make *directory*, or see that it is ours: who else may write there could put a socket in our place."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        _check_directory(directory)
    except OSError as error:
        raise ConfigError(f"option '--control' auto: cannot make {directory}: {error.strerror}") from None


def _check_directory(directory: str) -> None:
    """Refuse a directory in which others may write. Raises ConfigError."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"option '--control' auto: {directory} is no directory")
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"option '--control' auto: others than user {os.geteuid()} may change {directory};"
                          " give a path, or set XDG_RUNTIME_DIR to a directory of this user")


def remove_stale(directory: str) -> None:
    """Remove sockets of programs that have ended from *directory*. Raises ConfigError."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise ConfigError(f"option '--control' auto: cannot read {directory}: {error.strerror}") from None
    for name in names:
        if name.endswith(_SUFFIX):
            unix_socket.remove_if_stale(os.path.join(directory, name))


def _load() -> None:
    """Load the server and the package that it takes. Raises HostError."""
    try:
        _load_h11()
    except ModuleNotFoundError:
        from passt.process.interpreter import find_packages

        # The launcher starts Python without its places for packages, as all else needs none.
        find_packages()
        try:
            _load_h11()
        except ModuleNotFoundError:
            raise HostError("option '--control' needs the Python package h11, which is not installed:"
                            " python3-h11 of the distribution, or pip install h11") from None
    import passt.control.api
    import passt.control.explain
    import passt.control.ports
    import passt.control.server  # noqa: F401 - no file can be read later


def _load_h11() -> None:
    """Load h11 without `dataclasses` and `typing`; raises ModuleNotFoundError if it is not there.

    Its events are data classes with an __init__ of their own. What `dataclasses` would add, comparison and
    text, nobody needs here, and it looks into classes by `inspect`, which takes the tools of the compiler
    along. Of `typing` nothing is needed at run time. Both would take 1.5 MB, and half of the time that all of
    this takes. An h11 for which the stand-ins are not enough is loaded as it is meant to be, and so is one
    that takes others along, who would keep them.
    """
    import re  # noqa: F401 - the one module that it does take along

    before = set(sys.modules)
    stand_ins = {name: made for name, made in (("dataclasses", _data_classes()), ("typing", _types()))
                 if name not in before}  # fmt: skip
    sys.modules |= stand_ins
    try:
        import h11
        is_enough = all(name.partition(".")[0] == "h11"
                        for name in sys.modules.keys() - before - stand_ins.keys())
    except Exception:  # noqa: BLE001 - what is really wrong is raised again below
        is_enough = False
    finally:
        for name in stand_ins:
            del sys.modules[name]
    if not is_enough:
        for name in sys.modules.keys() - before:
            del sys.modules[name]
    import h11  # noqa: F401 - is it there?


def _data_classes() -> ModuleType:
    """Make a `dataclasses` that leaves classes as they are written."""
    made = ModuleType("dataclasses")
    vars(made).update(dataclass=_leave, field=_refuse)
    return made


def _leave(*, init: bool = True, **_options: object) -> Callable[[type], type]:
    """Return what leaves a class as it is; raises TypeError for one that needs an __init__ made for it."""

    def check(cls: type) -> type:
        if init and any(getattr(each, "__annotations__", None) for each in cls.__mro__):
            _refuse()
        return cls

    return check


def _refuse(**_options: object) -> NoReturn:
    raise TypeError("this h11 needs the real dataclasses")


def _types() -> ModuleType:
    """Make a `typing` that has a base class for sequences, and means nothing by all else."""
    made, nothing = ModuleType("typing"), _Meaningless()
    vars(made).update(TYPE_CHECKING=False, Sequence=Sequence, __getattr__=lambda _name: nothing)
    return made


class _Meaningless:
    """A type, what it is made with and what that is given to: cast and decorators return their argument."""

    def __getitem__(self, _parameters: object) -> _Meaningless:
        return self

    def __call__(self, *values: object, **_options: object) -> object:
        return values[-1]
