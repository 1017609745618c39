"""A name server on port 53 of an address, which behaves in one way: `name_server.py ADDRESS WAY ANSWER`.

It needs the standard library alone. Ways: good; dead: takes queries and says nothing; lies: answers another
question, another ID, and cuts answers off; garbage: random bytes; servfail; udp-only: no TCP; oversized:
6 KiB by UDP, whatever was offered; alias: by way of another name; floods: a thousand answers with other IDs;
counts: answers 192.0.2.N to the N-th query; tells: prints each name that it is asked for; both: answers with
the address of the family that is asked for, of two with a comma between.

ANSWER may be of either family, whatever was asked; of type SRV there is nothing.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import sys

RESPONSE, SERVFAIL = 0x8180, 2
A_IN, AAAA_IN, SRV_IN = (struct.pack("!HH", kind, 1) for kind in (1, 28, 33))
RECORD = struct.Struct("!HHHIH")
BIG = 384                          # records of an oversized answer, 16 bytes each
N_FLOOD = 1000


def question(query: bytes) -> bytes:
    at = 12
    while query[at]:
        at += 1 + query[at]
    return query[12:at + 5]


def record(address: str) -> bytes:
    """Write the record with which the name asked for has *address*."""
    if ":" in address:
        return RECORD.pack(0xC00C, 28, 1, 60, 16) + socket.inet_pton(socket.AF_INET6, address)
    return RECORD.pack(0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)


def name_of(query: bytes) -> str:
    """Return the name asked for."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode(errors="replace"))
        at += 1 + query[at]
    return ".".join(labels)


def reply(query: bytes, *addresses: str, code: int = 0) -> bytes:
    records = b"".join(record(one) for one in addresses)
    return (query[:2] + struct.pack("!HHHHH", RESPONSE | code, 1, len(addresses), 0, 0) + question(query)
            + records)


def other_id(query: bytes) -> bytes:
    """Return a random ID that is not the query's: by chance a forger would guess it now and then."""
    number = random.randrange(1, 1 << 16)  # noqa: S311
    return bytes(one ^ two for one, two in zip(query[:2], number.to_bytes(2, "big"), strict=True))


def alias(query: bytes, address: str) -> bytes:
    """Answer that the name asked for is another one, which has *address*."""
    target = b"\3cdn\4test\0"
    rest = record(address)[2:]
    return (query[:2] + struct.pack("!HHHHH", RESPONSE, 1, 2, 0, 0) + question(query)
            + RECORD.pack(0xC00C, 5, 1, 60, len(target)) + target + target + rest)


class Server:
    """Answers by *way*."""

    def __init__(self, way: str, answer: str) -> None:
        self.way = way
        self.answer = answer
        self.n_asked = 0

    def answers(self, query: bytes) -> list[bytes]:
        """Return what is sent for *query*."""
        self.n_asked += 1
        if self.way == "tells":
            os.write(1, f"{name_of(query)}\n".encode())
        if question(query).endswith(SRV_IN):
            return [reply(query)]
        if self.way == "both":
            return [reply(query, *(each for each in self.answer.split(",")
                                   if question(query).endswith(AAAA_IN if ":" in each else A_IN)))]
        good = reply(query, self.answer)
        other = bytes((query[0] ^ 0x55, query[1]))
        ways = {
            "dead": [],
            "lies": [other + good[2:], good[:-1], good.replace(b"\3www", b"\3wwx"), query],
            "garbage": [os.urandom(length) for length in (1, 12, 40, 900)],
            "servfail": [reply(query, code=SERVFAIL)],
            "oversized": [reply(query, *(f"192.0.{i // 250}.{i % 250}" for i in range(BIG)))],
            "floods": [other_id(query) + good[2:] for _ in range(N_FLOOD)] if self.way == "floods" else [],
            "counts": [reply(query, f"192.0.2.{self.n_asked}")],
            "alias": [alias(query, self.answer)],
        }
        return ways.get(self.way, [good])


def serve(address: str, server: Server) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
    udp.bind((address, 53))
    watched = [udp]
    if server.way != "udp-only":
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((address, 53))
        tcp.listen()
        watched.append(tcp)
    os.write(1, b"ready\n")
    while True:
        ready, _, _ = select.select(watched, [], [])
        if udp in ready:
            query, client = udp.recvfrom(65535)
            for answer in server.answers(query):
                udp.sendto(answer, client)
        if tcp in ready:
            connection = tcp.accept()[0]
            with connection:
                length = int.from_bytes(connection.recv(2, socket.MSG_WAITALL), "big")
                query = connection.recv(length, socket.MSG_WAITALL)
                # Who has changed his mind hangs up without a word.
                for answer in server.answers(query) if query else ():
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)


if __name__ == "__main__":
    serve(sys.argv[1], Server(sys.argv[2], sys.argv[3]))
