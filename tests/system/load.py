"""Many connections: `load.py serve PORT...`, `hold N HOST PORT...` or `churn RATE SECONDS HOST PORT...`.

The server keeps each connection until its peer ends it. `hold` opens N connections, says "open", and
closes them when its standard input ends. `churn` opens RATE connections each second, and closes each
when a byte has been echoed. HOST may be several, separated by commas; targets take turns.
"""

from __future__ import annotations

import itertools
import resource
import select
import socket
import sys
import time

LIMIT_S = 120.0


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def serve(ports: list[int]) -> None:
    """Echo what comes; a peer's end ends a connection."""
    poll = select.epoll()
    listeners = {}
    connections: dict[int, socket.socket] = {}
    for port in ports:
        listener = socket.create_server(
            ("::", port), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True
        )
        listener.setblocking(False)
        listeners[listener.fileno()] = listener
        poll.register(listener.fileno(), select.EPOLLIN)
    say("ready")
    while True:
        for fd, _ in poll.poll():
            if fd in listeners:
                accept_all(listeners[fd], connections, poll)
                continue
            try:
                data = connections[fd].recv(4096)
            except OSError:
                data = b""
            if data:
                connections[fd].send(data)
            else:
                connections.pop(fd).close()


def accept_all(listener: socket.socket, connections: dict[int, socket.socket], poll: select.epoll) -> None:
    """Take all connections that wait."""
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        connections[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)


def echo(sock: socket.socket) -> None:
    """Send one byte and get it back."""
    sock.sendall(b"x")
    if sock.recv(1) != b"x":
        raise SystemExit("the connection ended early")


def hold(number: int, targets: itertools.cycle[tuple[str, int]]) -> None:
    """Open *number* connections that all work, and keep them until told."""
    sockets = [socket.create_connection(next(targets), timeout=LIMIT_S) for _ in range(number)]
    for sock in sockets:
        echo(sock)
    say("open")
    sys.stdin.read()
    for sock in sockets:
        sock.close()


def churn(rate: int, seconds: int, targets: itertools.cycle[tuple[str, int]]) -> None:
    """Open, use and close connections at *rate* per second; lateness is made up for."""
    begin = time.monotonic()
    for number in range(rate * seconds):
        delay = begin + number / rate - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        with socket.create_connection(next(targets), timeout=LIMIT_S) as sock:
            echo(sock)
    say(f"{rate * seconds / (time.monotonic() - begin):.0f}")


def main() -> None:
    """Do what the arguments say."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    role, *rest = sys.argv[1:]
    if role == "serve":
        serve([int(port) for port in rest])
        return
    numbers, hosts, ports = (rest[:1], rest[1], rest[2:]) if role == "hold" else (rest[:2], rest[2], rest[3:])
    targets = itertools.cycle(itertools.product(hosts.split(","), map(int, ports)))
    if role == "hold":
        hold(int(numbers[0]), targets)
    else:
        churn(int(numbers[0]), int(numbers[1]), targets)


if __name__ == "__main__":
    main()
