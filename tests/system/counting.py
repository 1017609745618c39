"""`counting.py LIBRARY SOCKET ARGUMENT...`: pasta that answers datagrams to SOCKET by its counters."""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.dataplane.engine import Engine
    from passt.run.diagnostics import Diagnostics


def main() -> int:
    """Run pasta with its loop made to answer."""
    library, path = sys.argv[1:3]
    sys.argv[:] = ["pasta", *sys.argv[3:]]
    sys.path.insert(0, library)
    from passt import cli
    from passt.run import network

    run_loop = network.run_loop

    def loop(engine: Engine, diagnostics: Diagnostics,
             control_counters: Callable[[], dict[str, int]]) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(path)

        def answer() -> None:
            _, peer = sock.recvfrom(100)
            sock.sendto(json.dumps(engine.counters()).encode(), peer)

        engine.add_reader(sock.fileno(), answer)
        run_loop(engine, diagnostics, control_counters)

    network.run_loop = loop
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
