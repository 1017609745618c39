"""The thread in another namespace, with the kernel's own sockets."""

import errno
import os
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest

from passt.dataplane.sockets.namespace_thread import NamespaceThread
from passt.host.syscalls import CLONE_NEWNET, unshare
from tests.support.isolated import in_own_namespace, set_up
from tests.support.processes import wait_until

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
CAP_NET_BIND_SERVICE = 10


def enter_next() -> NamespaceThread:
    """Start a thread that stays in our namespace, and leave it for a new one ourselves."""
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    unshare(CLONE_NEWNET)
    set_up("lo")
    thread = NamespaceThread(namespace)
    os.close(namespace)
    return thread


def netns_cookie(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, 71, 8)  # SO_NETNS_COOKIE, Linux 5.14


def wait_for_its_end() -> None:
    """Wait until the kernel shows no other thread of ours: pthread_join(3) returns a bit before."""
    wait_until(lambda: len(os.listdir("/proc/self/task")) == 1, "the thread has ended")


@in_own_namespace
def test_sockets_belong_to_the_other_namespace() -> None:
    with socket.socket() as before:
        inside = netns_cookie(before)
    with closing(enter_next()) as thread, socket.socket() as own:
        for family, kind in (
            (socket.AF_INET, socket.SOCK_STREAM),
            (socket.AF_INET6, socket.SOCK_DGRAM),
            (socket.AF_NETLINK, socket.SOCK_RAW),
        ):
            with socket.socket(fileno=thread.open_socket(family, kind, 0)) as sock:
                assert netns_cookie(sock) == inside
                assert not os.get_blocking(sock.fileno())
                assert not os.get_inheritable(sock.fileno())
        assert netns_cookie(own) != inside


@in_own_namespace
def test_listener_hears_loopback_of_both_families() -> None:
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with closing(NamespaceThread(namespace)) as thread:
        (fd,) = thread.open_listener(TCP, 80, ip4=True, ip6=True)  # a low port: the thread may
        with socket.socket(fileno=fd) as listener:
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
            listener.settimeout(60)
            for address in ("127.0.0.1", "127.0.0.9", "::1"):
                with socket.create_connection((address, 80), timeout=60):
                    accepted, _ = listener.accept()
                    with accepted:
                        assert accepted.getsockopt(TCP, socket.TCP_NODELAY)
                        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
            with pytest.raises(OSError, match="in use"):
                thread.open_listener(TCP, 80, ip4=True, ip6=True)
        (fd,) = thread.open_listener(UDP, 53, ip4=True, ip6=False)
        with socket.socket(fileno=fd) as datagrams:
            assert datagrams.family == socket.AF_INET
            assert datagrams.getsockopt(socket.IPPROTO_IP, 8)  # IP_PKTINFO
        (fd,) = thread.open_listener(UDP, 53, ip4=False, ip6=True)
        with socket.socket(fileno=fd) as datagrams:
            assert datagrams.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            assert datagrams.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)
    os.close(namespace)


@in_own_namespace
def test_thread_keeps_one_capability_and_no_signal() -> None:
    with closing(enter_next()):
        (task,) = [path for path in Path("/proc/self/task").iterdir() if path.name != str(os.getpid())]
        text = (task / "status").read_text(encoding="ascii")
        fields = dict(line.split(":\t", 1) for line in text.splitlines())
        low_ports = f"{1 << CAP_NET_BIND_SERVICE:016x}"
        assert (fields["CapPrm"], fields["CapEff"], fields["CapBnd"]) == (low_ports,) * 3
        assert (int(fields["CapInh"], 16), int(fields["CapAmb"], 16)) == (0, 0)
        assert fields["NoNewPrivs"] == "1"
        # All but SIGKILL, SIGSTOP, the two that the C library keeps to itself, and SIGSYS of the filter.
        assert int(fields["SigBlk"], 16) | 1 << 8 | 1 << 18 | 3 << 31 == (1 << 64) - 1 - (1 << 30)
    # Our own are as they were.
    text = Path("/proc/self/status").read_text(encoding="ascii")
    assert f"CapEff:\t{low_ports}\n" not in text
    assert threading.active_count() == 1
    wait_for_its_end()


@in_own_namespace
def test_namespace_that_cannot_be_entered() -> None:
    with Path(os.devnull).open("rb") as file:
        number = file.fileno()
        with pytest.raises(OSError, match="Invalid argument") as caught:
            NamespaceThread(number)
    assert caught.value.errno == errno.EINVAL
    wait_for_its_end()


@in_own_namespace
def test_filter_that_nothing_could_load() -> None:
    with open("/proc/self/ns/net", "rb") as file, pytest.raises(ValueError, match="PyCapsule"):
        NamespaceThread(file.fileno(), 1, b"program")
    wait_for_its_end()


@in_own_namespace
def test_socket_that_cannot_be_had() -> None:
    with closing(enter_next()) as thread:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="not supported"):
            thread.open_socket(12345, socket.SOCK_STREAM, 0)
        with pytest.raises(OSError, match="Protocol not supported"):
            thread.open_socket(socket.AF_INET, socket.SOCK_STREAM, 250)
        assert len(os.listdir("/proc/self/fd")) == before


@in_own_namespace
def test_closed_thread_opens_nothing_and_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    thread = enter_next()
    thread.warm(TCP, ip4=True, ip6=True)
    thread.warm(UDP, ip4=True, ip6=False)
    thread.open_socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)
    # It is answered before the reserves are full.
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before + 3 * 64 + 1, "the reserves are full")
    thread.close()
    thread.close()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    with pytest.raises(ValueError, match="stopped"):
        thread.open_socket(socket.AF_INET, socket.SOCK_STREAM, 0)


@pytest.mark.parametrize("reserve", [1, 2, 4, 64])
@in_own_namespace
def test_reserve_is_as_large_as_asked_for(reserve: int) -> None:
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with closing(NamespaceThread(namespace, reserve)) as thread:
        thread.warm(TCP, ip4=True, ip6=True)
        for _ in range(2):        # each request has the reserves filled before it is answered
            os.close(thread.open_socket(socket.AF_INET, socket.SOCK_DGRAM, 0))
        assert thread.n_ready() == 2 * reserve
    for wrong in (0, 65, -1):
        with pytest.raises(ValueError, match="1 to 64"):
            NamespaceThread(namespace, wrong)
    os.close(namespace)
