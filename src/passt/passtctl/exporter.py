"""`passtctl metrics --listen`: metrics of one instance on a TCP port, for Prometheus to fetch.

Whoever reaches the port can connect: each client has a thread, of which there are a few, and a time in which
it is done or cut off.
"""

from __future__ import annotations

import contextlib
import gc
import http.server
import socket
import threading

from passt.errors import ConfigError, HostError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any

    from passt.passtctl.instances import Instance

CLIENT_S = 10.0      # that a client has for its request, and to take the answer
MAX_CLIENTS = 16     # more are closed at once


class Server(http.server.ThreadingHTTPServer):
    """Serves the metrics of *instance*. Raises OSError if the address cannot be had."""

    request_queue_size = 128   # of a crowd that comes at once none waits for a second SYN

    def __init__(self, host: str, port: int, instance: Instance) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.instance = instance
        self._slots = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__((host, port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client in a thread of its own, if there is one for it."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:        # a limit of processes is reached
            self._slots.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client to its end, or to that of its time."""
        limit = threading.Timer(CLIENT_S, cut_off, (request,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing when a client goes away."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Asks the instance for each request."""

    server: Server

    def do_GET(self) -> None:
        """Answer with the metrics."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without them."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, explain="the metrics are at /metrics")
            return
        try:
            body = self.server.instance.text("/v1/metrics")
        except HostError as error:
            self.send_error(503, explain=str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, _format: str, *_arguments: object) -> None:
        """Print nothing for each request."""


def cut_off(sock: socket.socket) -> None:
    """End a connection whatever its other end does."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def serve(instance: Instance, address: str) -> int:
    """Serve `/metrics` on *address*, ADDR:PORT, until a signal comes. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"option '--listen' {address}: give an address and a port, like 127.0.0.1:9100")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ConfigError(f"option '--listen' {address}: '{host}' is no name of a host") from None
    gc.enable()            # for the start alone was it switched off; a request leaves cycles behind
    try:
        with Server(host, int(port), instance) as server:
            server.serve_forever()
    except OSError as error:
        raise ConfigError(f"option '--listen' {address}: {error.strerror}") from None
    return 0
