"""Runs `app.run` with small fakes for the parts beside process life: no data plane, no host inspection.

    life_driver.py [--pid PID] [--ifname NAME] [--tcp PORT] [--no-foreground yes]
                   [--pid-file PATH] [--hook STAGE] -- [COMMAND...]

The fake engine watches descriptors by poll(2) and nothing else. With --hook it says STAGE on standard error
and waits for ever at that stage: "configure" (in the child), "build" or "loop" (in the main process).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import defaultdict
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.dataplane.sockets.namespace_thread import NamespaceThread

SIOCGIFHWADDR = 0x8927
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
_hook = ""


def reach(stage: str) -> None:
    if stage == _hook:
        os.write(2, f"at {stage}\n".encode())
        while True:
            time.sleep(0.01)  # short: a signal just before it has its handler run after it only


class FakeEngine:
    def __init__(self, *_: object, **__: object) -> None:
        reach("build")
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._running = True
        self._tap = -1
        self.n_wakeups = 0

    def attach_namespace(self, inside: NamespaceThread) -> None:
        self._inside = inside

    def add_listener(self, fd: int, proto: int, rule: object, *, namespace: bool = False) -> None:
        assert not namespace
        assert fd > 2
        assert proto
        assert rule

    def switch(self, **switches: bool) -> None:
        assert switches.keys() == {"ip4", "ip6", "tcp", "udp", "icmp"}

    def attach_tap(self, fd: int, guest_mac: bytes, offloads: int) -> None:
        assert len(guest_mac) == 6
        assert offloads & 1
        self._tap = fd

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self._callbacks[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def remove_reader(self, fd: int) -> None:
        del self._callbacks[fd]
        self._poll.unregister(fd)

    def stop(self) -> None:
        self._running = False

    def counters(self) -> dict[str, int]:
        return defaultdict(int)

    def run(self) -> None:
        reach("loop")
        while self._running:
            self.n_wakeups += 1
            for fd, _ in self._poll.poll():
                if fd in self._callbacks:
                    self._callbacks[fd]()
        if os.environ.get("LIFE_WAKEUPS"):
            os.write(2, f"wakeups {self.n_wakeups}\n".encode())

    def close(self) -> None:
        os.close(self._tap)


class FakeObserved:
    def on_guest_mac(self, mac: bytes) -> None:
        assert len(mac) == 6

    def on_guest_silent(self) -> None:
        """Take no note of it."""

    def on_guest_address(self, address: bytes) -> None:
        assert len(address) == 16

    def inbound_destination(self, source: bytes) -> None:
        assert source

    def is_guest(self, address: bytes) -> bool:
        raise NotImplementedError(address)


class FakePolicy:
    def __init__(self, *_: object, **__: object) -> None:
        self.observed = FakeObserved()

    def outbound(self) -> None:
        """Name what the policy around this one looks for."""

    judge_opening = guest_visible_source = respond = leads_to = explain_outbound = outbound
    egress = ingress = learning = None

    def counters(self) -> dict[str, int]:
        """Count nothing."""
        return {}


class FakeFacts(NamedTuple):
    mac: bytes
    link_local: None = None
    warnings: tuple[str, ...] = ()


def bring_lo_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))


def configure(ifname: str, _guest: object, _config_net: object, *, lifetimes: object) -> FakeFacts:  # noqa: ARG001
    reach("configure")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, SIOCGIFHWADDR, struct.pack("16s24x", ifname.encode()))
    return FakeFacts(answer[18:24])


def install(ifname: str) -> None:
    from passt.facts.guest import GuestNet
    from passt.facts.host import HostFacts

    def module(name: str, **names: object) -> None:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(names)

    module("passt.dataplane.engine", Engine=FakeEngine)
    module("passt.forward.policy", Policy=FakePolicy, NOT_A_CLIENT="")
    module("passt.responders.dispatch", Dispatcher=lambda *_, **__: FakePolicy())
    module("passt.host.host_facts", read_host=lambda **_: HostFacts(None, None))
    module("passt.namespace.interface", bring_lo_up=bring_lo_up, configure=configure)
    module("passt.config.resolve", resolve=lambda _settings, _facts, **_: GuestNet(None, None, ifname))


def main(arguments: list[str]) -> int:
    global _hook  # noqa: PLW0603 - a script's own state
    from passt import log
    from passt.errors import PasstError
    from passt.facts.port_rule import PortRule
    from passt.facts.settings import (
        ForwardingSettings,
        LogSettings,
        NamespaceSettings,
        ProcessSettings,
        Settings,
    )
    from passt.run import start

    log.configure(quiet=True)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = dict(zip(arguments[:split:2], arguments[1:split:2], strict=True))
    _hook = options.get("--hook", "")
    install(options.get("--ifname", "tap0"))
    port = int(options.get("--tcp", "0"))
    rules = (PortRule(socket.IPPROTO_TCP, port, port, port),) if port else ()
    pid = int(options["--pid"]) if "--pid" in options else None
    settings = Settings("pasta", ProcessSettings("--no-foreground" not in options, options.get("--pid-file")),
                        LogSettings(quiet=True), forwarding=ForwardingSettings(rules),
                        namespace=NamespaceSettings(tuple(arguments[split + 1:]), pid))
    try:
        return start.run(settings)
    except PasstError as error:
        log.err(f"pasta: {error}")
        return 1


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
