"""A run of `passtctl top`: the full screen, or text where there is no terminal that could have one."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import termios
import time

from passt.errors import HostError
from passt.passtctl.command import COMMANDS, parse_filters
from passt.passtctl.top import theme
from passt.passtctl.top.app import App
from passt.passtctl.top.keys import Keys
from passt.passtctl.top.painter import Painter
from passt.passtctl.top.rates import Model
from passt.passtctl.top.recorder import Recorder
from passt.passtctl.top.sample import Flows, Totals, take_flows, take_totals
from passt.passtctl.top.terminal import Terminal
from passt.passtctl.top.view import View
from passt.passtctl.top.worker import INTERVAL_S, Failed, Told, Worker

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from passt.passtctl.command import Command
    from passt.passtctl.instances import Instance
    from passt.passtctl.top.worker import Result

    Print = Callable[[Iterable[str]], None]

ESCAPE_S = 0.05        # after which ESC was a key, and not the beginning of one
WAITING_S = 2.0        # after which it is said that there is no answer
TEXT_WIDTH = 200       # of what goes to no terminal
_SIGNALS = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_ENDING = frozenset((signal.SIGTERM, signal.SIGHUP, signal.SIGINT))


def run(instance: Instance, command: Command, show: Print) -> int:
    """Show *instance* until the user or the instance ends it; return the exit status. Raises PasstError."""
    gc.enable()            # for the start alone was it switched off
    query = parse_filters(command.words)
    if command.json or not os.isatty(1):
        return _show_once(instance, query, show, is_json=command.json)
    if not os.isatty(0) or os.environ.get("TERM", "dumb") == "dumb":
        return _show_lines(instance, query, show)
    return _Screen(instance, query, " ".join(command.words)).run()


def _sample(instance: Instance, model: Model, query: str) -> None:
    model.add_totals(take_totals(instance, time.monotonic()))
    start_s = time.monotonic()
    lines = take_flows(instance, query)
    model.add_flows(Flows(start_s, time.monotonic() - start_s, query, lines))


def _show_once(instance: Instance, query: str, show: Print, *, is_json: bool) -> int:
    """Print one snapshot, with rates over a moment."""
    model = Model()
    _sample(instance, model, query)
    time.sleep(INTERVAL_S)
    _sample(instance, model, query)
    if is_json:
        show(json.dumps(_as_json(model), indent=2).splitlines())
    else:
        is_utf8 = theme.is_utf8(os.environ)
        show(View(model, is_utf8=is_utf8).plain(TEXT_WIDTH, len(model.rows)))
    return 0


def _as_json(model: Model) -> dict[str, object]:
    totals = model.totals
    assert totals is not None  # noqa: S101 - two were taken
    return {
        "bytes_from_guest_per_s": model.out[-1] if model.out else None,
        "bytes_to_guest_per_s": model.into[-1] if model.into else None,
        "drops_per_s": model.drops_per_s, "drops": totals.drops, "uptime_s": totals.uptime_s,
        "limits": {name: {"now": now, "most": most} for name, (now, most) in totals.limits.items()},
        "flows": [{"id": row.flow.name, "protocol": row.flow.protocol, "state": row.flow.state,
                   "guest": row.flow.guest, "remote": row.flow.remote, "sends_per_s": row.sends,
                   "receives_per_s": row.receives} for row in model.rows],
    }  # fmt: skip


def _show_lines(instance: Instance, query: str, show: Print) -> int:
    """Print snapshots one below the other, each as high as the terminal, until a signal comes."""
    model, terminal = Model(), Terminal()
    view = View(model, is_utf8=theme.is_utf8(os.environ))
    _sample(instance, model, query)
    while True:
        time.sleep(INTERVAL_S)
        _sample(instance, model, query)
        width, height = terminal.size()
        show([*view.plain(width - 1, max(height - 8, 1)), ""])


class _Screen:
    """The full screen; carries out what `app.App` asks for."""

    def __init__(self, instance: Instance, query: str, filter_text: str) -> None:
        self._path = instance.path
        self._wake_fd, self._wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._terminal = Terminal()
        self._model = Model()
        self._worker = Worker(instance, query, self._wake, time.monotonic)
        self._recorder = Recorder(instance.path)
        self._app = App(self._model, self, query, filter_text, has_capture="capture" in COMMANDS)
        self._view = View(self._model, is_utf8=theme.is_utf8(os.environ))
        self._painter = Painter(theme.choose(os.environ))
        self._keys = Keys()
        self._is_stale = True            # the terminal does not show what there is
        self._signal: int | None = None  # that ended us
        self._failure = ""               # the last that was told

    def _wake(self) -> None:
        try:
            os.write(self._wake_end, b"\0")
        except BlockingIOError:
            pass                         # it is woken already

    def choose(self, query: str) -> None:
        """See `app.Acts`."""
        self._worker.choose(query)

    def look(self) -> None:
        """See `app.Acts`."""
        self._worker.look()

    def close(self, name: str) -> None:
        """See `app.Acts`."""
        self._worker.close(name)

    def capture(self, path: str, words: list[str]) -> str | None:
        """See `app.Acts`."""
        return self._recorder.begin(path, words)

    def end_capture(self) -> None:
        """See `app.Acts`."""
        self._recorder.end()

    def run(self) -> int:
        """Show the view until it is over; return the exit status. Raises HostError."""
        for number in _SIGNALS:
            signal.signal(number, _do_nothing)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        said = None
        try:
            self._enter()
            self._worker.start()
            while not self._app.is_over:
                self._turn()
        except (OSError, termios.error):
            self._signal = self._signal or signal.SIGHUP    # the terminal is gone
        finally:
            signal.set_wakeup_fd(-1)
            self._terminal.leave()
            said = self._recorder.finish()
        if said is not None and self._signal is None:
            os.write(1, f"{said}\n".encode())
        if self._signal is not None:
            signal.signal(self._signal, signal.SIG_DFL)
            signal.raise_signal(self._signal)
        return 0

    def _enter(self) -> None:
        self._terminal.enter()
        self._painter.forget()
        self._app.resize(*self._terminal.size())
        self._is_stale = True

    def _turn(self) -> None:
        """Wait for a key, an answer, a signal or room on the line, and do what is to be done."""
        watch = select.poll()
        watch.register(self._terminal.in_fd, select.POLLIN)
        watch.register(self._wake_fd, select.POLLIN)
        if not self._terminal.has_room:
            watch.register(self._terminal.out_fd, select.POLLOUT)
        wait_s = ESCAPE_S if self._keys.is_pending else INTERVAL_S
        ready = {fd for fd, _ in watch.poll(wait_s * 1000)}
        if self._terminal.in_fd in ready:
            self._on_typed()
        elif self._keys.is_pending:
            self._press(self._keys.flush())
        if self._wake_fd in ready:
            self._on_woken()
        self._look_around()
        self._terminal.flush()
        if self._is_stale and self._terminal.has_room and not self._app.is_over:
            self._draw()

    def _on_typed(self) -> None:
        data = self._terminal.read()
        if not data:
            raise OSError               # the terminal has hung up
        self._press(self._keys.feed(data))

    def _press(self, keys: list[str]) -> None:
        for key in keys:
            self._app.on_key(key)
        self._is_stale = self._is_stale or bool(keys)

    def _on_woken(self) -> None:
        """Take signals, each a byte that is its number, and answers."""
        for number in os.read(self._wake_fd, 4096):
            self._on_signal(number)
        for result in self._worker.results():
            self._is_stale = True
            self._on_result(result)

    def _on_signal(self, number: int) -> None:
        if number in _ENDING:
            self._signal, self._app.is_over = number, True
        elif number == signal.SIGTSTP:
            self._terminal.leave()
            # SIGSTOP, which is what SIGTSTP does where nothing catches it.
            signal.raise_signal(signal.SIGSTOP)
        elif number == signal.SIGCONT:
            self._enter()                # whoever had the terminal meanwhile has left it in any state
        elif number == signal.SIGWINCH:
            self._app.resize(*self._terminal.size())
            self._is_stale = True

    def _on_result(self, result: Result) -> None:
        if isinstance(result, Totals):
            if self._app.message == self._failure:
                self._app.message = ""
            self._app.on_totals(result)
        elif isinstance(result, Flows):
            self._app.on_flows(result)
        elif isinstance(result, Exception):
            raise result                 # a mistake of ours
        elif isinstance(result, Told):
            self._app.message = result.text
        elif isinstance(result, Failed):
            if result.is_gone:
                raise HostError(f"{self._path}: the instance has ended")
            self._app.message = self._failure = result.text

    def _look_around(self) -> None:
        """Notice what tells nobody: an instance that is silent, a capture that has ended."""
        since_s = self._worker.busy_since_s
        is_waiting = since_s is not None and time.monotonic() - since_s > WAITING_S
        said = self._recorder.poll()
        if said is not None:
            self._app.is_capturing, self._app.message = False, said
        if is_waiting != self._app.is_waiting or said is not None:
            self._app.is_waiting, self._is_stale = is_waiting, True

    def _draw(self) -> None:
        if self._app.wants_redraw:
            self._app.wants_redraw = False
            self._painter.forget()
        width, height = self._terminal.size()
        self._is_stale = False
        self._terminal.write(self._painter.paint(self._view.draw(self._app.state(), width, height)))


def _do_nothing(_number: int, _frame: object) -> None:
    """Have the signal written to the pipe (`signal.set_wakeup_fd`), and do nothing else."""
