"""`socket` and `signal` of the standard library without what they cost at a start.

Both wrap a module written in C in enumerations, with which `selectors`, `enum` and `array` come along: 9 ms
of a start of 70 ms, for which a container waits. Here they are those modules themselves, of which no more
is used than the documented names that the wrappers hand on, and that take and give plain numbers. A type
checker sees the wrappers.

What is missing then: a socket is no context manager and has neither `accept`, `dup` nor `makefile`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    import signal
    import socket
else:
    import _signal as signal
    import _socket as socket

__all__ = ("IPPROTO_ICMP", "IPPROTO_ICMPV6", "IPPROTO_TCP", "IPPROTO_UDP", "signal", "socket")

IPPROTO_ICMP = socket.IPPROTO_ICMP
IPPROTO_ICMPV6 = socket.IPPROTO_ICMPV6
IPPROTO_TCP = socket.IPPROTO_TCP
IPPROTO_UDP = socket.IPPROTO_UDP
