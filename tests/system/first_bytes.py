"""Run on the outside: servers that note what they get. FIRST,ADDRESS,... and a file with certificate and key.

At each address: TLS on FIRST, HTTP on FIRST + 1, a server that greets on FIRST + 2, one that says nothing on
FIRST + 3. The last one prints "got N" for each connection that ends, with the number of bytes that came.
"""

import contextlib
import socket
import socketserver
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler

first, *addresses = sys.argv[1].split(",")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])


class Web(BaseHTTPRequestHandler):
    """Answers with the host that was asked for."""

    def do_GET(self) -> None:
        """Take what comes with the request, and answer."""
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = f"host {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - http.server calls it

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Tls(Web):
    """The same within TLS."""

    def setup(self) -> None:
        """Shake hands."""
        self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()


class Greeter(socketserver.BaseRequestHandler):
    """Speaks first."""

    def handle(self) -> None:
        """Greet, and read until the end."""
        self.request.sendall(b"220 hello\r\n")
        self.request.recv(100)


class Silent(socketserver.BaseRequestHandler):
    """Counts."""

    def handle(self) -> None:
        """Read until the end."""
        n = 0
        with contextlib.suppress(OSError):
            while data := self.request.recv(1 << 16):
                n += len(data)
        print("got", n, flush=True)  # noqa: T201


class Server(socketserver.ThreadingTCPServer):
    """One port of one address."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Forget clients that reset."""


for address in addresses:
    Server.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for at, handler in enumerate((Tls, Web, Greeter, Silent)):
        server = Server((address, int(first) + at), handler)
        threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)  # noqa: T201
