"""The instances of this user: their sockets, and one conversation with each.

An instance of `--control auto` has a socket in $XDG_RUNTIME_DIR/passt; others are named by path. It talks
with a hostile guest: nothing that it answers takes us more than MAX_ANSWER bytes, or never ends.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import socket
import stat
import time

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
WHOLE = 6                # times that may pass until an answer is whole
MAX_FLOWS = 65536        # of an instance, and so is its last cursor
MAX_ANSWER = 256 << 20   # bytes; 65,536 flows in one page take 45 MB
MAX_LINE = 1 << 20       # bytes of one event


# What values raise that are of another kind than our programs tell.
NOT_UNDERSTOOD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


class GoneError(HostError):
    """Nobody listens at the socket, or there is none."""


class _LimitedSocket(socket.socket):
    """A connection that gives what comes within `end_s`, by the monotonic clock; None is for ever.

    The limit of a single call would be none for who sends a byte now and then.
    """

    end_s: float | None = None

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Read as all do who read from us by makefile(). Raises TimeoutError."""
        if self.end_s is not None:
            left_s = self.end_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            self.settimeout(min(left_s, self.gettimeout() or left_s))
        return super().recv_into(buffer, nbytes, flags)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a UNIX socket, with *limit_s* for each step and WHOLE times that for an answer."""

    def __init__(self, path: str, limit_s: float) -> None:
        super().__init__("passt", timeout=limit_s)
        self._path = path
        self._limit_s = limit_s
        self.limited: _LimitedSocket | None = None

    def connect(self) -> None:
        """Connect to the path."""
        sock = unix_socket.connect(self._path, LIMIT_S)
        # The connection forgets its own where an answer ends with the connection.
        self.sock = self.limited = _LimitedSocket(fileno=sock.detach())
        self.sock.settimeout(self._limit_s)
        self.limited.end_s = time.monotonic() + WHOLE * self._limit_s

    def wait_for_ever(self) -> None:
        """Read an answer that never ends, now that it has begun."""
        assert self.limited is not None  # noqa: S101 - it was connected
        self.limited.end_s = None
        self.limited.settimeout(None)


def _refuse(text: str) -> None:
    """Refuse a number that is none, which JSON does not have and Python reads. Raises ValueError."""
    raise ValueError(text)


class RefusedError(HostError):
    """The instance does not do what it was asked; *errors* has a line for each reason."""

    def __init__(self, text: str, errors: tuple[str, ...]) -> None:
        super().__init__(text)
        self.errors = errors


class Instance:
    """One running program, behind the socket *path*.

    All methods raise HostError: after *limit_s* without a part of an answer too, or WHOLE times that without
    all of it.
    """

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
            response = self._request(connection, target, "GET", None)
            connection.wait_for_ever()
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
            response = self._request(connection, target, method, body)
            connection.wait_for_ever()
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
        n_flows = 0
        while cursor is not None:
            page = self.ask(f"/v1/flows?cursor={cursor}{'&' if query else ''}{query}")
            try:
                flows, following = page["flows"], page["next"]
                n_flows += len(flows)
                is_next = following is None or (type(following) is int and cursor < following <= MAX_FLOWS)
                if not is_next or n_flows > MAX_FLOWS:
                    raise ValueError  # noqa: TRY301 - as wrong as what has no order
                yield from flows
            except (KeyError, TypeError, ValueError):
                raise HostError(f"{self.path}: what it answers is no page of flows") from None
            cursor = following


def _directory() -> str | None:
    """Return the directory of this user's sockets, None if there is none that no other user may change.

    `control.door` makes none either where XDG_RUNTIME_DIR is not a path from the root. Root looks into those
    of others. Raises ConfigError.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        raise ConfigError("XDG_RUNTIME_DIR, the directory of this user's sockets, is not set, so that no"
                          " instance with --control auto can be found; set it, or name a socket with -s")
    directory = os.path.join(runtime, "passt")
    try:
        found = os.lstat(directory)
    except (OSError, ValueError):
        return None
    is_ours = stat.S_ISDIR(found.st_mode) and os.geteuid() in {found.st_uid, 0}
    return directory if is_ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


def find_all() -> list[Instance]:
    """Return the instances with a socket of their own name, those that have ended too. Raises ConfigError."""
    directory = _directory()
    if directory is None:
        return []
    try:
        files = sorted(os.listdir(directory), key=lambda file: (len(file), file))
    except OSError:
        return []
    return [Instance(os.path.join(directory, file)) for file in files if file.endswith(SUFFIX)]


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
    directory = _directory()
    if directory is not None:
        named = Instance(os.path.join(directory, f"{pid}{SUFFIX}"))
        # The file is named after the process as its starter saw it, which may be another one.
        with contextlib.suppress(GoneError):
            if _introduce(named)["pid"] == pid:
                return named
    for instance, info in reachable():
        if info["pid"] == pid:
            return instance
    raise ConfigError(f"no instance of this user has the PID {pid} and --control auto")
