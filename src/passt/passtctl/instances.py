"""The instances of this user: their sockets, and one conversation with each.

An instance of `--control auto` has a socket in $XDG_RUNTIME_DIR/passt; others are named by path.
"""

from __future__ import annotations

import http.client
import json
import os
import socket

from passt.errors import ConfigError, HostError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SUFFIX = ".sock"
LIMIT_S = 10.0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("passt", timeout=LIMIT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Instance:
    """One running program, behind the socket *path*. All methods raise HostError."""

    def __init__(self, path: str) -> None:
        self.path = path

    def ask(self, target: str, method: str = "GET", body: object = None) -> Any:
        """Return the JSON of an answer."""
        return json.loads(self.text(target, method, body))

    def text(self, target: str, method: str = "GET", body: object = None) -> bytes:
        """Return the body of an answer."""
        connection = _UnixConnection(self.path)
        try:
            response = self._request(connection, target, method, body)
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.failure(error) from None
        finally:
            connection.close()

    def lines(self, target: str) -> Iterator[bytes]:
        """Give the lines of an answer that never ends, as they come."""
        connection = _UnixConnection(self.path)
        try:
            response = self._request(connection, target, "GET", None)
            connection.sock.settimeout(None)
            while line := response.readline():
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
                detail = json.loads(response.read())["detail"]
            except (ValueError, KeyError, TypeError):
                detail = f"status {response.status}"
            raise HostError(f"{self.path}: {detail}")
        return response

    def open(self, target: str, method: str, body: object) -> tuple[http.client.HTTPConnection,
                                                                    http.client.HTTPResponse]:
        """Return an answer whose body the caller reads; who closes the connection."""
        connection = _UnixConnection(self.path)
        try:
            response = self._request(connection, target, method, body)
            connection.sock.settimeout(None)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self.failure(error) from None
        except HostError:
            connection.close()
            raise
        return connection, response

    def failure(self, error: Exception) -> HostError:
        """Word what went wrong with a connection."""
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "no answer"
        return HostError(f"{self.path}: {why}")

    def flows(self, query: str) -> Iterator[dict[str, Any]]:
        """Give all flows that *query*, parameters joined by "&", chooses."""
        cursor: int | None = 0
        while cursor is not None:
            page = self.ask(f"/v1/flows?cursor={cursor}{'&' if query else ''}{query}")
            yield from page["flows"]
            cursor = page["next"]


def find_all() -> list[Instance]:
    """Return the instances with a socket of their own name, those that have ended too."""
    directory = os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), "passt")
    try:
        names = sorted(os.listdir(directory), key=lambda name: (len(name), name))
    except OSError:
        return []
    return [Instance(os.path.join(directory, name)) for name in names if name.endswith(SUFFIX)]


def reachable() -> list[tuple[Instance, dict[str, Any]]]:
    """Return the instances that answer, and what they tell of themselves."""
    found = []
    for instance in find_all():
        try:
            found.append((instance, instance.ask("/v1/info")))
        except HostError:
            continue              # it has ended
    return found


def choose(pid: int | None, path: str | None) -> Instance:
    """Return the instance that is meant; without *pid* and *path* the only one. Raises PasstError."""
    if path is not None:
        return Instance(path)
    found = reachable()
    if pid is not None:
        for instance, info in found:
            if info["pid"] == pid:
                return instance
        raise ConfigError(f"no instance of this user has the PID {pid} and --control auto")
    if len(found) == 1:
        return found[0][0]
    if not found:
        raise ConfigError("there is no instance with --control auto; start one with that option, or name a"
                          " socket with -s")
    pids = ", ".join(str(info["pid"]) for _, info in found)
    raise ConfigError(f"there are several instances: say which one with -p ({pids})")
