"""Two stations behind one pasta: what one of them sends moves nothing of the other's.

The second one is a program with a packet socket on the tap. So anybody may send who is root in the namespace,
and so do the stations of a bridge or a macvlan in there look from outside.
"""

from __future__ import annotations

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, Lab

pytestmark = pytest.mark.needs_root

# Transfers of the guest's, while another station speaks as the guest, as nobody, and as itself.
STATIONS = """
import os, socket, struct, sys, threading
REMOTE, GUEST, OWN = sys.argv[1:]
SIX = ":" in REMOTE
B, US = bytes.fromhex("020000000002"), bytes.fromhex("9a559a559a55")
TYPE = bytes.fromhex("86dd" if SIX else "0800")
remote, guest, own = (socket.inet_pton(socket.AF_INET6 if SIX else socket.AF_INET, a) for a in sys.argv[1:])

def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def frame(source, protocol, message, at):
    n = len(message)
    sum = checksum(source + remote + struct.pack("!II", n, protocol) + message)
    message = message[:at] + struct.pack("!H", sum) + message[at + 2:]
    if SIX:
        start = struct.pack("!IHBB", 0x60000000, n, protocol, 64) + source + remote
    else:
        start = struct.pack("!BBHHHBBH", 0x45, 0, 20 + n, 1, 0, 64, protocol, 0) + source + remote
        start = start[:10] + struct.pack("!H", checksum(start)) + start[12:]
    return US + B + TYPE + start + message

def datagram(source, port, payload):
    return frame(source, 17, struct.pack("!HHHH", port, 8007, 8 + len(payload), 0) + payload, 6)

def segment(port):
    return frame(guest, 6, struct.pack("!HHIIBBHHH", port, 8007, 12345, 54321, 0x50, 16, 1000, 0, 0), 16)

taps = [name for _, name in socket.if_nameindex() if name != "lo"]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind((taps[0], 0))
raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
stop, heard, stray = threading.Event(), set(), []
arp = b"".join([b"\\xff" * 6, B, bytes.fromhex("08060001080006040001"), B, guest[:4], bytes(6), guest[:4]])
tcp = socket.create_connection((REMOTE, 8007), 20)

def speak():
    n = 0
    while not stop.wait(0.0005):
        n += 1
        for spoofed in (arp, datagram(guest, 7777, b"spoofed"), US + B + TYPE + b"nonsense" * 8,
                        segment(tcp.getsockname()[1]), segment(9)):
            raw.send(spoofed)
        raw.send(datagram(own, 5555, b"own %d" % n))

def listen():
    at = 54 if SIX else 34
    raw.settimeout(0.2)
    while not stop.is_set():
        try:
            data = raw.recv(70000)
        except TimeoutError:
            continue
        if data[:6] != B or data[6:12] != US:
            continue
        protocol = data[20] if SIX else data[23]
        ports = struct.unpack("!HH", data[at:at + 4])
        if protocol == 17 and ports[1] == 5555:
            heard.add(data[at + 8:].rstrip(b"\\0"))
        elif protocol == 6 and ports[1] == tcp.getsockname()[1]:
            stray.append(data)

threads = [threading.Thread(target=speak), threading.Thread(target=listen)]
for thread in threads:
    thread.start()
try:
    for _ in range(30):
        block = os.urandom(100000)
        sender = threading.Thread(target=tcp.sendall, args=(block,))
        sender.start()
        got = b""
        while len(got) < len(block):
            got += tcp.recv(1 << 20)
        sender.join()
        assert got == block
    with socket.socket(socket.AF_INET6 if SIX else socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(2)
        udp.connect((REMOTE, 8007))
        for n in range(200):
            for trial in range(10):  # the server may be too busy with the other's to take ours
                udp.send(b"%d" % n)
                try:
                    while (number := int(udp.recv(100))) != n:
                        assert number < n
                    break
                except TimeoutError:
                    continue
            else:
                sys.exit("no answer")
finally:
    stop.set()
    for thread in threads:
        thread.join()
print(len(heard) > 20, len(stray))
"""


@pytest.mark.parametrize(("remote", "guest", "own"), [
    (FAR4, HOST4, "203.0.113.77"), (FAR6, HOST6, "2001:db8:1::77"),
], ids=["IPv4", "IPv6"])
def test_another_station_takes_nothing_and_is_answered(
        lab: Lab, user: bool, remote: str, guest: str, own: str) -> None:
    done = lab.run(["-q", "--config-net"], ["/usr/bin/python3", "-I", "-c", STATIONS, remote, guest, own],
                   user=user, timeout=200)
    assert (done.stdout, done.stderr, done.returncode) == (b"True 0\n", b"", 0)
