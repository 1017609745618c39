"""`passtctl metrics --listen`: metrics of one instance on a TCP port, for Prometheus to fetch."""

from __future__ import annotations

import gc
import http.server
import socket
import threading

from passt.errors import ConfigError, HostError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any

    from passt.passtctl.instances import Instance

CLIENT_S = 10.0    # that a client has for its request and our answer
MAX_CLIENTS = 16   # at once; more wait in the queue of the socket


class _Server(http.server.ThreadingHTTPServer):
    """Serves *address* by MAX_CLIENTS threads at most."""

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._places = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client when there is a place; each is free again after a time."""
        self._places.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Give the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Print nothing of clients that go."""


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass                   # it has ended


def serve(instance: Instance, address: str, limit_s: float = CLIENT_S) -> int:
    """Serve `/metrics` on *address*, ADDR:PORT, until a signal comes. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"option '--listen' {address}: give an address and a port, like 127.0.0.1:9100")

    class Handler(http.server.BaseHTTPRequestHandler):
        """Asks the instance for each request."""

        def setup(self) -> None:
            """Have the connection end when its time is over, however slowly it goes on."""
            super().setup()
            self._end = threading.Timer(limit_s, _end, (self.connection,))
            self._end.daemon = True
            self._end.start()

        def finish(self) -> None:
            """Take the time back."""
            self._end.cancel()
            super().finish()

        def do_GET(self) -> None:
            """Answer with the metrics."""
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404)
                return
            try:
                body = instance.text("/v1/metrics")
            except HostError as error:
                self.send_error(503, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, _format: str, *_arguments: object) -> None:
            """Print nothing for each request."""

    gc.enable()            # for the start alone was it switched off; a request leaves cycles behind
    try:
        with _Server((host, int(port)), Handler) as server:
            server.serve_forever()
    except OSError as error:
        raise ConfigError(f"option '--listen' {address}: {error.strerror}") from None
    return 0
