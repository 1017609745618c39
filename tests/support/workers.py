"""`--workers N`: the tests of one session shared among N processes, with one report and one summary.

Theory of operation. When all tests are collected the session forks N workers. A worker asks for a test
module, runs it, and asks for the next one; fixtures of the session (the lab) live on in between. Its reports
go through a pipe to the session, which hands them to pytest's own reporter as if it had run the tests: -x,
--durations, -ra and the summary line mean what they always mean. Reports are told when their module is
whole, so that the lines of two modules do not mix.

Tests marked `alone` measure time, or need the machine's processors for themselves: the session runs
them itself, one after the other, when the workers have ended.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from multiprocessing.connection import Connection, Pipe, wait
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

Groups = dict[str, list[pytest.Item]]  # tests by the path of their module
Location = tuple[str, int | None, str]
Message = tuple[str, Any]  # "start", "report", "finish" or "warning", and what goes to the hook of that
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What one test takes by its marker, the first that it has, and by none.
USUAL_S = {"slow": 20.0, "needs_root": 0.6, "needs_userns": 0.6}
UNIT_S = 0.03


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --workers."""
    parser.addoption("--workers", type=int, default=1, metavar="N",
                     help="processes that share the tests; those marked `alone` run after them")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests of the session by workers, if more than one is wanted and of use."""
    alone: list[pytest.Item] = []
    groups: Groups = {}
    for item in session.items:
        is_alone = item.get_closest_marker("alone")
        (alone if is_alone else groups.setdefault(module_of(item.nodeid), [])).append(item)
    n_workers = min(session.config.option.workers, len(groups))
    if n_workers < 2 or session.testsfailed or session.config.option.collectonly:
        return None
    Crew(session, groups).run(n_workers)
    for item, nextitem in with_next(iter(alone)):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        stop_if_wanted(session)
    return True


def module_of(nodeid: str) -> str:
    """Path of the module that a test is in."""
    return nodeid.partition("::")[0]


def estimate(items: list[pytest.Item]) -> float:
    """Guess how many seconds *items* take, by what they say of themselves."""
    return sum(next((seconds for name, seconds in USUAL_S.items() if item.get_closest_marker(name)), UNIT_S)
               for item in items)


def with_next(items: Iterator[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """Pair each of *items* with the one after it, None after the last."""
    item = next(items, None)
    while item is not None:
        following = next(items, None)
        yield item, following
        item = following


def stop_if_wanted(session: pytest.Session) -> None:
    """Leave the loop where pytest's own would."""
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)


class Worker:
    """The session's view of one worker."""

    def __init__(self, pid: int, pipe: Connection) -> None:
        self.pid, self.pipe = pid, pipe
        self.said: list[Message] = []  # of a module that is not whole yet
        self.running: tuple[str, Location] | None = None  # a test between its start and its finish
        self.has_ended = False  # in order: it said so


class Crew:
    """The workers of a session, and the modules that are not given out yet."""

    def __init__(self, session: pytest.Session, groups: Groups) -> None:
        self.session, self.config, self.groups = session, session.config, groups
        self.n_left = {module: len(items) for module, items in groups.items()}  # tests that have not finished
        # Long modules first: one of them at the end would keep one worker busy and the others waiting.
        self.names = iter(sorted(groups, key=lambda module: estimate(groups[module]), reverse=True))
        self.workers: list[Worker] = []

    def run(self, n_workers: int) -> None:
        """Fork, listen until all workers have ended, and leave none behind however this ends."""
        # Made here, so that the workers share it.
        self.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        try:
            for _ in range(n_workers):
                self._fork()
            while self.workers:
                for pipe in wait([worker.pipe for worker in self.workers]):
                    self._listen(next(worker for worker in self.workers if worker.pipe is pipe))
                stop_if_wanted(self.session)
        finally:
            for worker in self.workers:
                self._tell(worker)
                os.kill(worker.pid, signal.SIGTERM)
            for worker in self.workers:
                worker.pipe.close()
                os.waitpid(worker.pid, 0)

    def _fork(self) -> None:
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            ours.close()
            for worker in self.workers:
                worker.pipe.close()
            work(self.session, self.groups, theirs)
        theirs.close()
        self.workers.append(Worker(pid, ours))

    def _listen(self, worker: Worker) -> None:
        """Take one message, or the end of the worker."""
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._bury(worker)
            return
        if kind == "ask":
            worker.pipe.send(next(self.names, None))
            return
        if kind == "end":
            worker.has_ended = True
            return
        worker.said.append((kind, value))
        if kind == "start":
            worker.running = value
        elif kind == "finish":
            worker.running = None
            module = module_of(value[0])
            self.n_left[module] -= 1
            if not self.n_left[module]:
                self._tell(worker)

    def _tell(self, worker: Worker) -> None:
        """Have pytest's reporter hear what the worker has said."""
        hook = self.config.hook
        for kind, value in worker.said:
            if kind == "start":
                hook.pytest_runtest_logstart(nodeid=value[0], location=value[1])
            elif kind == "finish":
                hook.pytest_runtest_logfinish(nodeid=value[0], location=value[1])
            elif kind == "warning":
                hook.pytest_warning_recorded.call_historic(kwargs=value)
            else:
                report = hook.pytest_report_from_serializable(config=self.config, data=value)
                hook.pytest_runtest_logreport(report=report)
        worker.said.clear()

    def _bury(self, worker: Worker) -> None:
        """Take the end of a worker; one that dies has failed the test that it ran, and the session."""
        self.workers.remove(worker)
        worker.pipe.close()
        _, status = os.waitpid(worker.pid, 0)
        self._tell(worker)
        if not worker.has_ended:
            code = os.waitstatus_to_exitcode(status)
            death = f"its worker {f'was ended by signal {-code}' if code < 0 else f'exited with {code}'}"
            if worker.running:
                nodeid, location = worker.running
                report = pytest.TestReport(nodeid, location, {}, "failed", death, "call")
                self.config.hook.pytest_runtest_logreport(report=report)
            self.session.shouldfail = death


def work(session: pytest.Session, groups: Groups, pipe: Connection) -> NoReturn:
    """Be a worker: run modules until there are none, and end this process."""
    status = 1
    try:
        plugins = session.config.pluginmanager
        plugins.unregister(name="terminalreporter")
        # Its file of output would be shared with the session and the other workers.
        capture = plugins.getplugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        capture.suspend_global_capture()
        plugins.register(Sender(session.config, pipe))
        try:
            run_modules(session, groups, pipe)
        finally:
            for signum in ENDINGS:
                signal.signal(signum, signal.SIG_IGN)
            session._setupstate.teardown_exact(None)
        pipe.send(("end", None))
        status = 0
    except (KeyboardInterrupt, pytest.exit.Exception, BrokenPipeError):
        pass  # the session knows: it ended us
    except BaseException:  # noqa: BLE001 - nothing above us may go on in two processes
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def run_modules(session: pytest.Session, groups: Groups, pipe: Connection) -> None:
    """Run the tests of the modules that the session names."""
    while True:
        pipe.send(("ask", None))
        module = pipe.recv()
        if module is None:
            return
        for item, nextitem in with_next(iter(groups[module])):
            # What ends after the last test of a module is all but the fixtures of the session.
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem or session)
            if session.shouldfail or session.shouldstop:
                return


class Sender:
    """The reporter of a worker: hands all on to the session."""

    def __init__(self, config: pytest.Config, pipe: Connection) -> None:
        self.config, self.pipe = config, pipe

    def pytest_runtest_logstart(self, nodeid: str, location: Location) -> None:
        self.pipe.send(("start", (nodeid, location)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.pipe.send(("report", data))

    def pytest_runtest_logfinish(self, nodeid: str, location: Location) -> None:
        self.pipe.send(("finish", (nodeid, location)))

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str,
                                location: tuple[str, int, str] | None) -> None:
        # Of the warning itself the reporter wants the text alone.
        text = warnings.WarningMessage(str(warning_message.message), UserWarning, warning_message.filename,
                                       warning_message.lineno)
        self.pipe.send(("warning", {"warning_message": text, "when": when, "nodeid": nodeid,
                                    "location": location}))
