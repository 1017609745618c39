"""`counting.py LIBRARY SOCKET ARGUMENT...`: pasta that tells clients of SOCKET its counters."""

from __future__ import annotations

import json
import socket
import sys
from typing import Any


def main() -> int:
    """Run pasta with a network that answers."""
    library, path = sys.argv[1:3]
    sys.argv[:] = ["pasta", *sys.argv[3:]]
    sys.path.insert(0, library)
    from passt import cli
    from passt.run import network, pasta

    class Network(network.Network):
        """Opens the socket while there are paths."""

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            engine = self.engine
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(path)
            sock.listen()

            def answer() -> None:
                peer, _ = sock.accept()
                peer.sendall(json.dumps(engine.counters()).encode())
                peer.close()

            engine.add_reader(sock.fileno(), answer)

    vars(pasta)["Network"] = Network
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
