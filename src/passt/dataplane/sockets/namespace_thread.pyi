"""Typing of the compiled thread in the guest's namespace."""

class NamespaceThread:
    """Opens sockets in another network namespace; a `contracts.NamespaceSockets`.

    To be made by a process that will not fork again. The engine that it is given to owns it.
    """

    def __init__(self, namespace_fd: int, reserve: int = 64, program: bytes = b"",
                 loader: object = None) -> None:
        """Enter the namespace of *namespace_fd*, a /proc/PID/ns/net or (Linux 5.8) a pidfd. Raises OSError.

        It keeps *reserve* sockets of each kind ready, 1 to 64. *program* is its filter of system calls, an
        array of struct sock_filter; none if empty. *loader* puts it in place: `passt.host.seccomp.LOADER`.

        The caller needs CAP_SYS_ADMIN over that namespace and over its own user namespace (setns(2)). The
        descriptor is not used any more afterwards.
        """

    def n_ready(self) -> int:
        """Count the sockets in reserve."""

    def warm(self, proto: int, *, ip4: bool, ip6: bool) -> None:
        """Begin to keep sockets of *proto* (IPPROTO_TCP or _UDP) in reserve; else their first use does."""

    def open_socket(self, family: int, kind: int, protocol: int) -> int:
        """Open a socket there as by socket(2), non-blocking and close-on-exec. Raises OSError."""

    def open_listener(self, proto: int, port: int, *, ip4: bool, ip6: bool) -> list[int]:
        """Open what receives on *port* of the namespace's loopback, for the families wanted.

        One socket for all addresses, bound to the loopback device; where that is not permitted (before
        Linux 5.7), one each for 127.0.0.1 and ::1. Raises OSError; nothing stays open then.
        """

    def close(self) -> None:
        """Stop the thread and close the reserves; what was handed out stays open."""
