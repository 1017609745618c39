"""The file of --ports-file: which ports of the host lead where, for callers that leave the choice to us.

It is opened with the caller's rights, and empty until the start is complete, as the pid file is: content
means that the ports are served. A line for each port that has to be open, of rules that may not fail:

    tcp 127.0.0.1 43021 80      protocol, address to connect to (* for any), port, where it leads
    udp * 40000 192.0.2.9/53    or with an address behind the guest
"""

from __future__ import annotations

import os
import stat
from socket import IPPROTO_TCP, IPPROTO_UDP

from passt.errors import ConfigError, HostError
from passt.log.output_file import open_output

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.facts.port_rule import PortRule
    from passt.process.background import Background


_NAMES = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp"}


class PortsFile:
    """The file *path*, open from now on; *background* removes it if the start fails. Raises ConfigError."""

    def __init__(self, path: str, background: Background) -> None:
        self._path = path
        background.expect_file()
        try:
            self._fd, made = open_output(path, os.O_WRONLY)
            if made is not None:
                background.has_made(made)
            if stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.ftruncate(self._fd, 0)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a path"
            raise ConfigError(f"option '--ports-file' {path}: cannot open the file for writing: {why}"
                              ) from None

    def write(self, ports: Iterable[tuple[PortRule, int]]) -> None:
        """Write rule and port of each listener, and close the file. Raises HostError."""
        data = "".join(describe(rule, port) for rule, port in ports).encode()
        try:
            while data:
                data = data[os.write(self._fd, data):]
        except OSError as error:
            raise HostError(f"option '--ports-file' {self._path}: cannot write the file: {error.strerror}"
                            ) from None
        os.close(self._fd)


def describe(rule: PortRule, port: int) -> str:
    """Write the line for *port* of *rule*."""
    target = str(rule.service_port(port))
    if rule.target_address is not None:
        target = f"{rule.target_address}/{target}"
    return f"{_NAMES[rule.proto]} {rule.address or '*'} {port} {target}\n"
