"""The table of what can be asked: method, path, parameters. docs/control-api.json describes each row.

A path has parts in braces, which match one part of a request's path each.
"""

from __future__ import annotations

from passt.control.http import RefusalError
from passt.light.values import NamedTuple


class Route(NamedTuple):
    """One row: *name* is the method of `Api` that answers; *parameters* may stand in the query."""

    method: str
    path: str
    name: str
    parameters: tuple[str, ...] = ()


FLOW_FILTERS = ("protocol", "state", "path", "direction", "address", "port", "rule")

ROUTES = (
    Route("GET", "/v1/info", "info"),
    Route("GET", "/v1/flows", "flows", ("cursor", "limit", *FLOW_FILTERS)),
    Route("GET", "/v1/flows/{id}", "flow"),
    Route("DELETE", "/v1/flows/{id}", "close_flow"),
    Route("GET", "/v1/counters", "counters"),
    Route("GET", "/v1/ports", "ports"),
    Route("PATCH", "/v1/ports", "change_ports"),
    Route("PUT", "/v1/ports", "replace_ports"),
    Route("GET", "/v1/policy", "policy"),
    Route("PUT", "/v1/policy", "replace_policy"),
    Route("GET", "/v1/explain", "explain", ("protocol", "address", "port", "inbound", "source", "name")),
    Route("GET", "/v1/metrics", "metrics"),
    Route("GET", "/v1/events", "listen", ("kinds",)),
    Route("GET", "/v1/captures", "captures"),
    Route("POST", "/v1/captures", "start_capture"),
    Route("GET", "/v1/captures/{id}", "capture"),
    Route("DELETE", "/v1/captures/{id}", "stop_capture"),
    Route("GET", "/v1/captures/{id}/packets", "capture_packets"),
    Route("GET", "/v1/turns", "turns", ("seconds",)),
    Route("GET", "/v1/log", "log"),
    Route("PUT", "/v1/log", "set_log"),
)  # fmt: skip


def find(method: str, path: str, parameters: tuple[str, ...]) -> tuple[Route, tuple[str, ...]]:
    """Return the route of a request, and what its braces match. Raises RefusalError."""
    found = [(route, matched) for route in ROUTES if (matched := match(route.path, path)) is not None]
    if not found:
        known = ", ".join(sorted({route.path for route in ROUTES}))
        raise RefusalError(404, f"there is no {path[:80]}; there are {known}")
    asked = "GET" if method == "HEAD" else method
    for route, matched in found:
        if route.method == asked:
            for name in parameters:
                if name not in route.parameters:
                    known = ", ".join(route.parameters) or "none"
                    raise RefusalError(400, f"the parameter '{name}' is unknown; there are: {known}")
            return route, matched
    methods = ", ".join(sorted({route.method for route, _ in found} | {"HEAD"}))
    raise RefusalError(405, f"{path} takes {methods}", (("allow", methods),))


def match(pattern: str, path: str) -> tuple[str, ...] | None:
    """Return the parts of *path* that stand for braces in *pattern*; None if it does not match."""
    wanted, given = pattern.split("/"), path.split("/")
    if len(wanted) != len(given):
        return None
    matched = []
    for one, other in zip(wanted, given, strict=True):
        if one.startswith("{"):
            matched.append(other)
        elif one != other:
            return None
    return tuple(matched)
