"""The network of an emulator without its machine: `emulator.py SOCKET IFNAME MAC`; needs the library only.

Makes a tap in the network namespace that it is started in, whose kernel is the guest, and relays its frames
to and from a stream socket, each with its length in front (QEMU, -netdev stream). It connects again as long
as it runs: SIGUSR1 makes it part with the socket in the middle of whatever goes on, and come back after
AWAY_S. Prints "connected" each time.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
AWAY_S = 0.5
LENGTH = struct.Struct("!I")
MAX_FRAME_LEN = 65535


def open_tap(ifname: str, mac: str) -> int:
    """Make the interface and set it up."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", ifname.encode(), IFF_TAP | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", ifname, "address", mac, "mtu", "65520", "up"], check=True)
    return fd


def connect(path: str) -> socket.socket:
    """Connect, as often as it takes."""
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            time.sleep(0.05)
        else:
            sys.stdout.write("connected\n")
            sys.stdout.flush()
            return sock


def relay(tap: int, sock: socket.socket, wake: int) -> None:
    """Relay until the socket ends or *wake* is readable; a frame that is not whole by then is lost."""
    buffer = bytearray()
    poll = select.poll()
    for fd in (tap, sock.fileno(), wake):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if wake in ready:
            os.read(wake, 64)
            return
        if tap in ready:
            frame = os.read(tap, MAX_FRAME_LEN)
            sock.sendall(LENGTH.pack(len(frame)) + frame)
        if sock.fileno() in ready:
            data = sock.recv(1 << 20)
            if not data:
                return
            buffer += data
            deliver(tap, buffer)


def deliver(tap: int, buffer: bytearray) -> None:
    """Write the whole frames of *buffer* to the tap, and take them out of it."""
    offset = 0
    while offset + LENGTH.size <= len(buffer):
        end = offset + LENGTH.size + LENGTH.unpack_from(buffer, offset)[0]
        if end > len(buffer):
            break
        os.write(tap, buffer[offset + LENGTH.size : end])
        offset = end
    del buffer[:offset]


def main() -> None:
    """Relay for ever."""
    path, ifname, mac = sys.argv[1:]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    tap = open_tap(ifname, mac)
    while True:
        with connect(path) as sock:
            try:
                relay(tap, sock, reader)
            except (BrokenPipeError, ConnectionResetError):
                pass
        time.sleep(AWAY_S)


if __name__ == "__main__":
    main()
