"""`passtctl metrics --listen`: metrics of one instance on a TCP port, for Prometheus to fetch."""

from __future__ import annotations

import gc
import http.server
import socket

from passt.errors import ConfigError, HostError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.passtctl.instances import Instance

CLIENT_S = 10.0  # that a client has for its request


def serve(instance: Instance, address: str) -> int:
    """Serve `/metrics` on *address*, ADDR:PORT, until a signal comes. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"option '--listen' {address}: give an address and a port, like 127.0.0.1:9100")

    class Handler(http.server.BaseHTTPRequestHandler):
        """Asks the instance for each request."""

        timeout = CLIENT_S

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

    class Server(http.server.ThreadingHTTPServer):
        """Of the family that the address has."""

        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    gc.enable()            # for the start alone was it switched off; a request leaves cycles behind
    try:
        with Server((host, int(port)), Handler) as server:
            server.serve_forever()
    except OSError as error:
        raise ConfigError(f"option '--listen' {address}: {error.strerror}") from None
    return 0
