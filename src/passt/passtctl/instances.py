"""The instances of this user: their sockets, and one conversation with each.

An instance of `--control auto` has a socket in $XDG_RUNTIME_DIR/passt; others are named by path. It talks
with a hostile guest: nothing that it answers takes us more than MAX_ANSWER bytes, or never ends.
"""

from __future__ import annotations

import http.client
import json
import os

from passt.errors import ConfigError, HostError
from passt.host import unix_socket
from passt.passtctl import names
from passt.passtctl.printable import escape_controls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SUFFIX = ".sock"
LIMIT_S = 10.0
LOOK_S = 2.0             # for each of all instances, one of which may be stopped
MAX_ANSWER = 256 << 20   # bytes; 65,536 flows in one page take 45 MB
MAX_LINE = 1 << 20       # bytes of one event


class GoneError(HostError):
    """Nobody listens at the socket, or there is none."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a UNIX socket."""

    def __init__(self, path: str, limit_s: float) -> None:
        super().__init__("passt", timeout=limit_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = unix_socket.connect(self._path, LIMIT_S)


def _refuse(text: str) -> None:
    """Refuse a number that is none, which JSON does not have and Python reads. Raises ValueError."""
    raise ValueError(text)


class RefusedError(HostError):
    """The instance does not do what it was asked; *errors* has a line for each reason."""

    def __init__(self, text: str, errors: tuple[str, ...]) -> None:
        super().__init__(text)
        self.errors = errors


class Instance:
    """One running program, behind the socket *path*. All methods raise HostError, after *limit_s* too."""

    def __init__(self, path: str, limit_s: float = LIMIT_S) -> None:
        self.path = path
        self.limit_s = limit_s

    def ask(self, target: str, method: str = "GET", body: object = None) -> Any:
        """Return the JSON of an answer."""
        try:
            return json.loads(self.text(target, method, body), parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise HostError(f"{self.path}: what it answers is no JSON") from None

    def text(self, target: str, method: str = "GET", body: object = None) -> bytes:
        """Return the body of an answer."""
        connection = _UnixConnection(self.path, self.limit_s)
        try:
            response = self._request(connection, target, method, body)
            text = response.read(MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self.failure(error) from None
        finally:
            connection.close()
        if len(text) > MAX_ANSWER:
            raise HostError(f"{self.path}: the answer has more than {MAX_ANSWER} bytes")
        return text

    def lines(self, target: str) -> Iterator[bytes]:
        """Give the lines of an answer that never ends, as they come."""
        connection = _UnixConnection(self.path, self.limit_s)
        try:
            connection.connect()
            sock = connection.sock       # `connection` forgets it where the answer ends with the connection
            response = self._request(connection, target, "GET", None)
            sock.settimeout(None)
            while line := response.readline(MAX_LINE):
                yield line
        except (OSError, http.client.HTTPException) as error:
            raise self.failure(error) from None
        finally:
            connection.close()

    def _request(self, connection: _UnixConnection, target: str, method: str,
                 body: object) -> http.client.HTTPResponse:
        connection.request(method, target, None if body is None else json.dumps(body))
        response = connection.getresponse()
        if response.status not in {http.client.OK, http.client.CREATED}:
            try:
                problem = json.loads(response.read(MAX_LINE))
                detail, errors = str(problem["detail"]), tuple(map(str, problem.get("errors", ())))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                detail, errors = f"status {response.status}", ()
            # Of a mistake of the user's it does not matter who found it.
            where = "" if response.status == http.client.BAD_REQUEST else f"{self.path}: "
            raise RefusedError(f"{where}{escape_controls(detail)}", errors)
        return response

    def open(self, target: str, method: str, body: object) -> tuple[http.client.HTTPConnection,
                                                                    http.client.HTTPResponse]:
        """Return an answer whose body the caller reads; who closes the connection."""
        connection = _UnixConnection(self.path, self.limit_s)
        try:
            connection.connect()
            sock = connection.sock       # `connection` forgets it where the answer ends with the connection
            response = self._request(connection, target, method, body)
            sock.settimeout(None)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self.failure(error) from None
        except HostError:
            connection.close()
            raise
        return connection, response

    def failure(self, error: Exception) -> HostError:
        """Word what went wrong with a connection."""
        if isinstance(error, TimeoutError):
            return HostError(f"{self.path}: no answer in {self.limit_s:g} s")
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
            return HostError(f"{self.path}: this is no socket of --control; that of --conf-path is for pesto")
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "no answer"
        why += unix_socket.explain_failure(self.path, error)
        is_gone = isinstance(error, ConnectionRefusedError | FileNotFoundError)
        return (GoneError if is_gone else HostError)(f"{self.path}: {why}")

    def flows(self, query: str) -> Iterator[dict[str, Any]]:
        """Give all flows that *query*, parameters joined by "&", chooses."""
        cursor: int | None = 0
        while cursor is not None:
            page = self.ask(f"/v1/flows?cursor={cursor}{'&' if query else ''}{query}")
            try:
                flows, following = page["flows"], page["next"]
                if following is not None and not following > cursor:
                    raise ValueError  # noqa: TRY301 - as wrong as what has no order
                yield from flows
            except (KeyError, TypeError, ValueError):
                raise HostError(f"{self.path}: what it answers is no page of flows") from None
            cursor = following


def _directory() -> str:
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), "passt")


def find_all() -> list[Instance]:
    """Return the instances with a socket of their own name, those that have ended too. Raises ConfigError."""
    directory = _directory()
    if not directory.startswith("/"):
        raise ConfigError("XDG_RUNTIME_DIR, the directory of this user's sockets, is not set, so that no"
                          " instance with --control auto can be found; set it, or name a socket with -s")
    try:
        names = sorted(os.listdir(directory), key=lambda name: (len(name), name))
    except OSError:
        return []
    return [Instance(os.path.join(directory, name)) for name in names if name.endswith(SUFFIX)]


def reachable(silent: list[HostError] | None = None) -> list[tuple[Instance, dict[str, Any]]]:
    """Return the instances that answer, and what they tell of themselves.

    What is wrong with those that are there and do not is put into *silent*. Raises ConfigError.
    """
    found = []
    for instance in find_all():
        try:
            found.append((instance, _introduce(Instance(instance.path, LOOK_S))))
        except GoneError:
            continue              # it has ended
        except HostError as error:
            if silent is not None:
                silent.append(error)
    return found


def _introduce(instance: Instance) -> dict[str, Any]:
    """Ask an instance who it is. Raises HostError."""
    info = instance.ask("/v1/info")
    if not isinstance(info, dict) or "pid" not in info:
        raise HostError(f"{instance.path}: what it answers does not tell who it is")
    return info


def choose(pid: int | None, path: str | None, name: str | None = None) -> Instance:
    """Return the instance that is meant, by one of *pid*, *path* and *name*, or the only one.

    Raises PasstError, for a name also where an instance that does not answer may have it.
    """
    if path is not None:
        return Instance(path)
    if pid is not None:
        return _find(pid)
    silent: list[HostError] = []
    found = reachable(silent)
    if silent:
        why = "; ".join(map(str, silent))
        raise ConfigError(f"say which instance with -p, as not all of them answer: {why}")
    if name is not None:
        return found[names.find(name, [info for _, info in found])][0]
    if len(found) == 1:
        return found[0][0]
    if not found:
        raise ConfigError("there is no instance with --control auto; start one with that option, or name a"
                          " socket with -s")
    there = names.list_all([info for _, info in found])
    raise ConfigError(f"there are several instances: say which one with -p or its name: {there}")


def _find(pid: int) -> Instance:
    """Return the instance with *pid*, by its file, or else whichever tells that PID. Raises PasstError."""
    named = Instance(os.path.join(_directory(), f"{pid}{SUFFIX}"))
    try:
        if _introduce(named)["pid"] == pid:
            return named
    except GoneError:
        pass                      # the file is named after the process as its starter saw it
    for instance, info in reachable():
        if info["pid"] == pid:
            return instance
    raise ConfigError(f"no instance of this user has the PID {pid} and --control auto")
