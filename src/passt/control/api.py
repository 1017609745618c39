"""Answers to what the table of routes names: the program as it is now."""

from __future__ import annotations

import resource
import time

from passt import __version__, log
from passt.control import metrics, routes
from passt.control.captures import Captures
from passt.control.events import EventHub, port_of
from passt.control.flows import FlowFilter, FlowTexts, address_text, number, parse_name
from passt.control.http import (
    JSON,
    JSON_LINES,
    RefusalError,
    Response,
    answer,
    encode,
    parse_json,
)
from passt.control.server import Pace
from passt.errors import ConfigError
from passt.facts.address import format_mac

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Protocol

    from passt.control.client import Client
    from passt.control.explain import Explainer
    from passt.control.http import Request
    from passt.control.ports import PortRules
    from passt.control.source import Source
    from passt.facts.contracts import FlowDetail
    from passt.facts.guest import GuestFamily, GuestNet
    from passt.facts.host import HostChange
    from passt.facts.settings import Settings
    from passt.forward.live_egress import LiveEgress

    class Observed(Protocol):
        """The guest's addresses; `forward.guest_addresses.Observed`."""

        mac: bytes | None
        on_learnt: Callable[[bytes], None] | None

        def addresses(self) -> list[bytes]:
            """Return those that it was seen to use."""

        def inbound_destination(self, source: bytes) -> bytes | None:
            """Return the one that a flow with that source goes to; None if it is not known yet."""

MAX_PAGE = 65536       # flows in one response
DEFAULT_PAGE = 1000
RECORDS_AT_ONCE = 4    # of the flow table, until the clock is looked at: a tenth of a millisecond
LISTENERS_AT_ONCE = 8  # the same of the open ports
MAX_SECONDS = 60       # for which turns are measured
LEVELS = {"debug": log.DEBUG, "info": log.INFO, "warning": log.WARNING}


class Known:
    """What the program tells of itself; *observed* has the guest's addresses.

    *arguments* are those of its command line, *started_s* is in seconds since 1970; *uptime_s* tells for how
    long it has run, whatever becomes of the time of day.
    """

    def __init__(self, settings: Settings, guest: GuestNet, observed: Observed, arguments: list[str],
                 started_s: float, uptime_s: Callable[[], float]) -> None:
        self.settings = settings
        self.guest = guest
        self.observed = observed
        self.arguments = arguments
        self.started_s = started_s
        self.uptime_s = uptime_s


class Api:
    """Answers requests about *engine*; *control_counters* are those of the others."""

    def __init__(self, engine: Source, known: Known, control_counters: Callable[[], dict[str, int]],
                 clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._known = known
        self._control_counters = control_counters
        self.texts = FlowTexts(known.guest)
        self.events = EventHub(engine, self.texts, clock=clock)
        self._pace = Pace()
        self._captures = Captures(engine, known.guest.ifname, clock)
        self._is_measuring = False
        self.count_clients: Callable[[], int] = int
        # Set before the first client comes, when the tables are there.
        self.port_rules: PortRules | None = None
        self.explainer: Explainer | None = None
        self.live_egress: LiveEgress | None = None     # with rules of egress
        known.observed.on_learnt = self.events.on_guest_learnt

    def on_host_changed(self, guest: GuestNet, changes: Iterable[HostChange]) -> None:
        """Take it that *guest* is the guest's network now, and tell of the *changes*."""
        self._known.guest = guest
        self.texts.renew(guest)
        if self.explainer is not None:
            self.explainer.renew(guest)
        self.events.on_host_changed(changes)

    def serve(self, request: Request, client: Client) -> Response:
        """Answer one request. Raises RefusalError."""
        route, matched = routes.find(request.method, request.path, tuple(request.query))
        handler: Callable[..., Response] = getattr(self, route.name)
        return handler(request, client, *matched)

    def info(self, _request: Request, _client: Client) -> Response:
        """Tell what this program is, and how full its limits are."""
        known, settings = self._known, self._known.settings
        usage = self._engine.usage()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return answer({
            "version": __version__,
            "mode": settings.mode,
            "pid": log.own_pid(),
            "started": round(known.started_s, 3),
            "uptime_s": round(known.uptime_s(), 3),
            "options": known.arguments,
            "command": list(settings.namespace.command) or None,
            "namespace": settings.namespace.netns or settings.namespace.pid,
            "socket": settings.socket.socket_path if settings.mode == "passt" else None,
            "guest": self._guest(),
            "memory": {"peak_bytes": peak, "flows_limit_bytes": self._engine.memory_ceiling()},
            "descriptors_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "limits": {name: {"now": now, "most": most} for name, (now, most) in usage.items()},
            "clients": self.count_clients(),
            "listeners_of_events": self.events.count(),
            "captures": self._captures.count(),
        })  # fmt: skip

    def _guest(self) -> dict[str, Any]:
        guest, observed = self._known.guest, self._known.observed
        seen = [address_text(address) for address in observed.addresses()]
        return {"mac": format_mac(observed.mac) if observed.mac else None, "mtu": guest.mtu,
                "interface": guest.ifname, "addresses_in_use": seen, "ip4": _family(guest.ip4),
                "ip6": _family(guest.ip6)}

    def flows(self, request: Request, _client: Client) -> Response:
        """List flows from a cursor on."""
        chosen = FlowFilter(request.query)
        start = number(request.query, "cursor", 0, 0xFFFF_FFFF) or 0
        limit = number(request.query, "limit", 1, MAX_PAGE) or DEFAULT_PAGE
        return Response(200, JSON, self._pace.share(self._list(chosen, start, limit)), is_whole=False)

    def _list(self, chosen: FlowFilter, start: int, limit: int) -> Iterator[bytes]:
        """Write flows, as many at once as there is time for; the loop runs between two pieces."""
        place: int | None = start
        left, before = limit, b'{"flows":['
        while place is not None and left:
            texts: list[bytes] = []
            while place is not None and len(texts) < left:
                found, place = self._engine.detail_page(place, min(RECORDS_AT_ONCE, left - len(texts)))
                texts += [encode(self.texts.write(flow)) for flow in found if chosen.takes(flow, self.texts)]
                if not self._pace.has_time():
                    break
            left -= len(texts)
            if texts:
                yield before + b",".join(texts)
                before = b","
            else:
                yield b""
        end = b"" if before == b"," else before
        yield end + b'],"next":' + (b"null" if place is None else str(place).encode()) + b"}\n"

    def flow(self, _request: Request, _client: Client, name: str) -> Response:
        """Tell of one flow."""
        return answer(self.texts.write(self._find(name)))

    def _find(self, name: str) -> FlowDetail:
        """Return the flow with that id. Raises RefusalError."""
        index, generation = parse_name(name)
        for flow in self._engine.detail_page(index, 1)[0]:
            if (flow.number, flow.generation) == (index, generation):
                return flow
        raise RefusalError(404, f"flow {name} is not there any more")

    def close_flow(self, _request: Request, _client: Client, name: str) -> Response:
        """End a flow, and tell what it was."""
        flow = self._find(name)
        text = self.texts.write(flow)
        if not self._engine.close_flow(flow.number, flow.generation):
            raise RefusalError(404, f"flow {name} is not there any more")
        return answer(text)

    def counters(self, _request: Request, _client: Client) -> Response:
        """Tell all counters."""
        return answer(self._all_counters())

    def _all_counters(self) -> dict[str, int]:
        return self._engine.counters() | self._control_counters()

    def ports(self, _request: Request, _client: Client) -> Response:
        """List the rules of all tables, and the open ports."""
        return Response(200, JSON, self._pace.share(self._list_ports(self._port_rules())), is_whole=False)

    def _list_ports(self, rules: PortRules) -> Iterator[bytes]:
        yield b'{"rules":['
        yield from self._pace.join(map(encode, rules.show()))
        yield b'],"ports":['
        yield from self._pace.join(self._ports())
        yield b"]}\n"

    def _port_rules(self) -> PortRules:
        """Return what changes port rules. Raises RefusalError."""
        if self.port_rules is None:
            raise RefusalError(503, "the program is still starting")
        return self.port_rules

    def change_ports(self, request: Request, _client: Client) -> Response:
        """Delete and add port rules, all or none."""
        return answer(self._port_rules().change(request.body))

    def replace_ports(self, request: Request, _client: Client) -> Response:
        """Give tables other port rules, all or none."""
        return answer(self._port_rules().replace(request.body))

    def policy(self, _request: Request, _client: Client) -> Response:
        """List the rules of egress, and how many flows and names each has refused."""
        live = self.live_egress
        if live is None:
            return answer({"rules": [], "default": "allow", "refused_by_default": 0,
                           "names_refused_by_default": 0, "file": None, "verify_names": False})
        rules, flows, names = live.egress.rules, live.egress.refused, live.egress.names_refused
        return answer({
            "rules": [{"rule": rule.text, "refused": flows[place], "names_refused": names[place]}
                      for place, rule in enumerate(rules.rules)],
            "default": "allow" if rules.allows_rest else "deny",
            "refused_by_default": flows[-1],
            "names_refused_by_default": names[-1],
            "file": live.path,
            "verify_names": rules.verifies,
        })

    def replace_policy(self, request: Request, client: Client) -> Response:
        """Judge new flows by other rules, and end those that they refuse if that is asked for."""
        if self.live_egress is None:
            raise RefusalError(409, "the program was started without rules of egress, and has none to change;"
                               " start it with --deny, --allow or --policy")
        # Loaded by `Control.govern`: without rules it is not, and no file can be read any more.
        from passt.config.policy_file import parse_policy

        asked = parse_json(request.body, {"toml": (str,), "kill": (bool,), "with_options": (bool,)},
                           needed=("toml",))
        try:
            rules = parse_policy(asked["toml"].encode(errors="surrogatepass"))    # which are no UTF-8
        except ConfigError as error:
            raise RefusalError(400, f"nothing was changed: {error}") from None
        try:
            if asked.get("with_options", False):
                rules = self.live_egress.compose(rules)
            self.live_egress.replace(rules, kill=asked.get("kill", False))
        except ConfigError as error:
            raise RefusalError(409, f"nothing was changed: {error}") from None
        return self.policy(request, client)

    def explain(self, request: Request, _client: Client) -> Response:
        """Tell what would become of a flow, or of a question for a name, and why."""
        if self.explainer is None:
            raise RefusalError(503, "the program is still starting")
        egress = self.live_egress.egress if self.live_egress is not None else None
        return answer(self.explainer.explain(request.query, egress))

    def turns(self, request: Request, client: Client) -> Response:
        """Measure how long turns of the loop take, and tell it after as many seconds as are asked for."""
        seconds = number(request.query, "seconds", 1, MAX_SECONDS) or 1
        if request.method == "HEAD":
            return Response(200, JSON, (), is_whole=False)
        if self._is_measuring:
            raise RefusalError(409, "somebody else has turns measured; try again later")
        self._is_measuring = True
        client.when_closed = self._end_measuring
        self._engine.measure_turns(True)
        self._engine.call_later(seconds, client.wake)
        return Response(200, JSON, self._measure(client), is_whole=False)

    def _measure(self, client: Client) -> Iterator[bytes | None]:
        yield None
        found = self._engine.measure_turns(False)
        self._is_measuring, client.when_closed = False, None
        yield encode({"turns": found.n, "longest_us": found.longest_ns // 1000,
                      "cpu_in_longest_us": found.cpu_in_longest_ns // 1000,
                      "most_cpu_us": found.most_cpu_ns // 1000}) + b"\n"  # fmt: skip

    def _end_measuring(self) -> None:
        """Stop, as who asked has gone."""
        self._is_measuring = False
        self._engine.measure_turns(False)

    def _ports(self) -> Iterator[bytes]:
        start: int | None = 0
        while start is not None:
            found, start = self._engine.listener_page(start, LISTENERS_AT_ONCE)
            yield b",".join([encode(port_of(each)) for each in found])

    def metrics(self, request: Request, _client: Client) -> Response:
        """Tell everything that is counted, for Prometheus."""
        found = metrics.families(
            self._all_counters(), self._engine.usage(), version=__version__,
            mode=self._known.settings.mode, started_s=self._known.started_s, n_clients=self.count_clients(),
            refusals=self.live_egress.egress.refusals() if self.live_egress is not None else None)
        is_open = "application/openmetrics-text" in request.accept
        kind = metrics.OPEN_METRICS if is_open else metrics.TEXT
        return Response(200, kind, (metrics.render(found, is_open=is_open),))

    def listen(self, request: Request, client: Client) -> Response:
        """Send events as they come, until the client goes."""
        if request.method == "HEAD":
            return Response(200, JSON_LINES, (), is_whole=False)   # it is done before anything happens
        return self.events.subscribe(client, request.query.get("kinds"))

    def captures(self, _request: Request, _client: Client) -> Response:
        """List captures."""
        return self._captures.list_all()

    def start_capture(self, request: Request, client: Client) -> Response:
        """Start a capture, to a pipe that came along, to this client, or to memory."""
        return self._captures.start(request, client)

    def capture(self, _request: Request, _client: Client, name: str) -> Response:
        """Describe one capture."""
        return self._captures.show(name)

    def stop_capture(self, _request: Request, _client: Client, name: str) -> Response:
        """End a capture."""
        return self._captures.stop(name)

    def capture_packets(self, _request: Request, _client: Client, name: str) -> Response:
        """Tell what a capture to memory has kept."""
        return self._captures.packets(name)

    def log(self, _request: Request, _client: Client) -> Response:
        """Tell which messages are printed."""
        return answer({"level": _level_name()})

    def set_log(self, request: Request, _client: Client) -> Response:
        """Print more messages, or fewer, from now on."""
        level = parse_json(request.body, {"level": (str,)}, ("level",))["level"]
        if level not in LEVELS:
            raise RefusalError(400, f"level '{level[:40]}' is none of {', '.join(LEVELS)}")
        log.configure(debug=level == "debug", quiet=level == "warning")
        self._engine.trace_flows(log.debug if level == "debug" else None)
        return answer({"level": level})


def _level_name() -> str:
    return next(name for name, level in LEVELS.items() if level == log.level())


def _family(family: GuestFamily | None) -> dict[str, Any] | None:
    if family is None:
        return None
    return {"address": family.address and str(family.address), "prefix_length": family.prefix_len,
            "gateway": family.gateway and str(family.gateway),
            "interface_of_host": family.template_ifname,
            "map_host_loopback": family.map_host_loopback and str(family.map_host_loopback),
            "map_guest_addr": family.map_guest and str(family.map_guest),
            "dns_forward": family.dns_match and str(family.dns_match)}
