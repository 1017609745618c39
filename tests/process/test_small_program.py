"""The small C programs, with sanitizers: golden requests, orders cut off and spoiled, a hostile other end."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from pathlib import Path
from struct import pack, unpack_from
from typing import TYPE_CHECKING

import pytest

from passt.host.rtnetlink import messages, routes
from passt.host.rtnetlink.messages import AF_INET, AF_INET6, MessageFlag, MessageType
from passt.host.rtnetlink.socket import Request
from passt.namespace.configurer import MAX_MESSAGE, build_orders
from passt.namespace.renumbering import Deletion
from tests.support.isolated import isolated
from tests.support.processes import LIMIT_S, is_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

pytestmark = pytest.mark.slow     # compiles, and starts some hundred processes

HELPERS = Path(__file__).parents[2] / "src" / "helpers"
SANITIZERS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# The runtime's own exit status; to look for leaks it would have to trace us.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0:exitcode=99", "UBSAN_OPTIONS": "exitcode=99"}
INDEX = 7
HEADER_LEN = 16                    # of struct nlmsghdr
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK = 1, 4
GATEWAY = bytes([192, 0, 2, 9])
ADDRESS = messages.build_address(INDEX, bytes([192, 0, 2, 1]), 24)
ROUTE = routes.build_route(INDEX, family=AF_INET, gateway=GATEWAY)
MULTIPATH = routes.build_route(INDEX, family=AF_INET)[:12] + messages.build_attribute(  # RTA_MULTIPATH
    9, 2 * (pack("=HBBi", 16, 0, 0, INDEX) + messages.build_attribute(5, GATEWAY)))
ORDERS = [Request(MessageType.NEWADDR, MessageFlag.CREATE | MessageFlag.REPLACE, ADDRESS),
          Request(MessageType.NEWROUTE, MessageFlag.CREATE | MessageFlag.APPEND, ROUTE),
          Request(MessageType.NEWROUTE, MessageFlag.CREATE, MULTIPATH),
          Request(MessageType.NEWROUTE, MessageFlag.CREATE, routes.build_route(
              INDEX, family=AF_INET6, gateway=bytes(15) + b"\1")),
          Request(Deletion.ROUTE, 0, ROUTE), Request(Deletion.ADDRESS, 0, ADDRESS)]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Compile the programs, and one with an error that has to be found; give their paths."""
    directory = tmp_path_factory.mktemp("helpers")
    compiler = shutil.which("cc")
    assert compiler, "needs a C compiler"
    (directory / "faulty.c").write_text(
        "int main(int argc, char **argv) { volatile char t[4] = { 0 }; (void)argv; return t[argc + 3]; }\n",
        encoding="ascii")
    sources = {"faulty": [directory / "faulty.c"], "reader": [], "configurer": []}
    for name, more in sources.items():
        files = more or [HELPERS / f"{name}.c", HELPERS / "confine.c"]
        subprocess.run([compiler, "-D_GNU_SOURCE", "-std=gnu11", "-Wall", "-Wextra", "-Werror", *SANITIZERS,
                        "-o", directory / name, *files], check=True)
    return {name: str(directory / name) for name in sources}


def test_error_made_on_purpose_is_reported(programs: Mapping[str, str]) -> None:
    done = subprocess.run([programs["faulty"]], check=False, capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 99


class Program:
    """A program with its channel, the pipe of its life, and a socket that stands for the kernel."""

    def __init__(self, path: str, *arguments: str, has_kernel: bool = False) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel, netlink = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        life, self.life = os.pipe()
        passed = [theirs.fileno(), life, *([netlink.fileno()] if has_kernel else [])]
        for fd in passed:
            os.set_inheritable(fd, True)
        self.pid = os.posix_spawn(path, [path, *arguments, *map(str, passed)], ENVIRONMENT)
        for each in (theirs, netlink):
            each.close()
        os.close(life)
        # No filter: the sanitizers' runtime has calls of its own.
        self.channel.send(b"")

    def receive(self) -> bytes:
        """Receive from the channel; empty when the program has ended."""
        assert is_readable(self.channel, LIMIT_S)
        try:
            return self.channel.recv(MAX_MESSAGE * 8)
        except ConnectionResetError:
            return b""

    def requests(self) -> bytes:
        """Receive what it asks of the kernel."""
        assert is_readable(self.kernel, LIMIT_S)
        return self.kernel.recv(MAX_MESSAGE * 8)

    def status(self) -> int:
        """Wait for its end."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        for each in (self.channel, self.kernel):
            each.close()
        os.close(self.life)
        return status


def configurer(programs: Mapping[str, str]) -> Program:
    return Program(programs["configurer"], str(INDEX), has_kernel=True)


def built(orders: Sequence[Request]) -> bytes:
    (message,) = build_orders(orders)
    return message


def answer(sequence: int, error: int = 0, kind: int = NLMSG_ERROR) -> bytes:
    return pack("=IHHIIi", HEADER_LEN + 4, kind, 0, sequence, 0, -error)


def in_child(test: Callable[[Mapping[str, str]], None]) -> Callable[[Mapping[str, str]], None]:
    """Run a test in a process of its own: what it starts are no children of pytest's."""
    def wrapper(programs: Mapping[str, str]) -> None:
        isolated(lambda: test(programs), flags=0)

    wrapper.__name__, wrapper.__doc__ = test.__name__, test.__doc__
    return wrapper


@in_child
def test_orders_become_requests_byte_by_byte(programs: Mapping[str, str]) -> None:
    program = configurer(programs)
    program.channel.send(built(ORDERS))
    found, at = program.requests(), 0
    for number, order in enumerate(ORDERS, 1):
        flags = order.flags | REQUEST | (ACK if number == len(ORDERS) else 0)
        length = HEADER_LEN + len(order.payload)
        wanted = pack("=IHHII", length, order.type, flags, number, 0) + order.payload
        wanted += bytes(-len(wanted) % 4)
        assert found[at:at + len(wanted)] == wanted, number
        at += len(wanted)
    assert len(found) == at
    program.kernel.send(answer(2, 22) + answer(3, 17) + answer(len(ORDERS)))
    # EINVAL is told; that a route is there already (EEXIST) is as it was wanted.
    assert [program.receive(), program.receive()] == [b"e" + pack("=i", 22), b"d"]
    program.channel.shutdown(socket.SHUT_WR)
    assert program.status() == 0


@in_child
def test_many_orders_are_asked_for_in_pieces_that_are_waited_for(programs: Mapping[str, str]) -> None:
    program = configurer(programs)
    orders = [Request(Deletion.ADDRESS, 0, ADDRESS[:8])] * (MAX_MESSAGE // 16)
    program.channel.send(built(orders))
    n_asked = 0
    while n_asked < len(orders):
        found = program.requests()
        assert len(found) % (HEADER_LEN + 8) == 0
        n_asked += len(found) // (HEADER_LEN + 8)
        assert not is_readable(program.kernel), "it waits for the answer"
        program.kernel.send(answer(n_asked))
    assert n_asked == len(orders)
    assert program.receive() == b"d"
    os.close(program.life)
    program.life = os.open("/dev/null", os.O_RDONLY)
    assert program.status() == -9


@in_child
def test_message_that_is_cut_off_anywhere_ends_the_program_unasked(programs: Mapping[str, str]) -> None:
    whole = built([ORDERS[2], ORDERS[0]])
    whole_orders = {len(built([ORDERS[2]])), len(whole)}
    for length in set(range(1, len(whole))) - whole_orders:
        program = configurer(programs)
        program.channel.send(whole[:length])
        assert (program.receive(), program.status()) == (b"", 1), length


@in_child
def test_message_that_is_too_long_ends_the_program(programs: Mapping[str, str]) -> None:
    program = configurer(programs)
    order = built([ORDERS[1]])
    program.channel.send(order * (MAX_MESSAGE // len(order) + 1))
    assert (program.receive(), program.status()) == (b"", 1)


def is_ours(kind: int, payload: bytes) -> bool:
    """Tell by the parsers of Python whether a request is about the interface."""
    if kind in {MessageType.NEWADDR, Deletion.ADDRESS}:
        return bool(unpack_from("=I", payload, 4)[0] == INDEX)
    assert kind in {MessageType.NEWROUTE, Deletion.ROUTE}
    found = messages.parse_attributes(payload, 12)
    assert {4, 9}.intersection(found), "it says where it leads"
    hops = []
    if 4 in found:
        hops.append(unpack_from("=i", found[4])[0])
    data = found.get(9, b"")
    while data:
        length, _, _, ifindex = unpack_from("=HBBi", data)
        hops.append(ifindex)
        data = data[length + -length % 4:]
    return set(hops) == {INDEX} and 30 not in found   # RTA_NH_ID


@in_child
def test_what_a_spoiled_message_has_asked_is_about_the_interface(programs: Mapping[str, str]) -> None:
    """Whatever byte is another one: the program ends, or the kernel is asked nothing else."""
    choose = random.Random(18)  # noqa: S311 - the same each time
    n_ended = 0
    program = None
    for number in range(400):
        program = program or configurer(programs)
        message = bytearray(built(choose.sample(ORDERS, 2)))
        for _ in range(1 + number % 3):
            at = choose.randrange(len(message))
            message[at] = choose.choice([0, 1, 3, 4, 8, 255, message[at] ^ 1 << choose.randrange(8)])
        program.channel.send(message)
        while not is_readable(program.channel):
            if not is_readable(program.kernel, 0.01):
                continue
            asked, at, sequence = program.kernel.recv(MAX_MESSAGE * 2), 0, 0
            while at < len(asked):
                length, kind, flags, sequence, _ = unpack_from("=IHHII", asked, at)
                assert flags & ~0xD05 == 0, "create, replace, append, besides what it adds itself"
                assert is_ours(kind, asked[at + HEADER_LEN:at + length])
                at += length + -length % 4
            program.kernel.send(answer(sequence))
        if program.receive() != b"d":
            assert program.status() == 1
            n_ended += 1
            program = None
    assert 100 < n_ended < 400


@in_child
def test_answers_that_make_no_sense_neither_end_nor_harm_it(programs: Mapping[str, str]) -> None:
    program = configurer(programs)
    program.channel.send(built(ORDERS[:1]))
    program.requests()
    good = answer(1)
    for nonsense in (b"\0", good[:15], good[:19], pack("=I", 0) + good[4:], pack("=I", 4000) + good[4:],
                     pack("=I", 0xFFFFFFF0) + good[4:], answer(9), answer(1, kind=NLMSG_DONE), bytes(60_000)):
        program.kernel.send(nonsense)
    program.kernel.send(answer(0, 1) + good)
    assert [program.receive(), program.receive()] == [b"e" + pack("=i", 1), b"d"]
    program.channel.close()
    assert program.status() == 0


@pytest.mark.parametrize("length", [4, 8 * 4096 + 8, 12])
def test_filter_that_is_none_ends_the_program(programs: Mapping[str, str], length: int) -> None:
    def run() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life = os.pipe()
        for fd in (theirs.fileno(), life[0]):
            os.set_inheritable(fd, True)
        ours.send(bytes(length))
        path = programs["reader"]
        pid = os.posix_spawn(path, [path, "watch", "/etc/resolv.conf", "-1", "-1", str(theirs.fileno()),
                                    str(life[0])], ENVIRONMENT)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1

    isolated(run, flags=0)


@pytest.mark.parametrize("arguments", [
    (), ("x",), ("watch", "relative", "-1", "-1"), ("ask", "/" + 5000 * "x", "-1", "-1")])
def test_wrong_arguments_end_the_reader(programs: Mapping[str, str], arguments: tuple[str, ...]) -> None:
    def run() -> int:
        path = programs["reader"]
        more = ["3", "4"] if len(arguments) == 4 else []
        pid = os.posix_spawn(path, [path, *arguments, *more], ENVIRONMENT)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert isolated(run, flags=0) == 1


def lead(directory: Path, n_links: int) -> Path:
    """Make a chain of symbolic links to a file; return its begin."""
    (directory / "0").write_bytes(b"nameserver 192.0.2.1\n")
    for number in range(1, n_links + 1):
        (directory / str(number)).symlink_to(str(number - 1) if number % 2 else directory / str(number - 1))
    return directory / str(n_links)


def test_reader_bears_every_way_to_a_file(programs: Mapping[str, str], tmp_path: Path) -> None:
    """Many links, a circle, names as long as they may be, a name in the place of a directory."""
    far = tmp_path / "far"
    far.mkdir()
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    long = tmp_path / "long"
    long.symlink_to("x/" * 2000 + "y")
    many = tmp_path / "many"
    many.symlink_to("/".join(["y" * 255] * 15))
    (tmp_path / "file").write_bytes(b"")
    paths = {lead(far, 39): b"cnameserver 192.0.2.1\n", loop: b"c", long: b"c", many: b"c",
             tmp_path / "file" / "below": b"c", tmp_path: b"c"}

    def run() -> None:
        for path, wanted in paths.items():
            program = Program(programs["reader"], "watch", str(path), "-1", "-1")
            assert program.receive() == wanted, path
            (tmp_path / "event").write_bytes(b"")
            (tmp_path / "event").unlink()
            program.channel.close()
            assert program.status() == 0, path

    isolated(run, flags=0)


def test_reader_sends_whole_lines_of_a_file_that_is_too_long(programs: Mapping[str, str], tmp_path: Path
                                                             ) -> None:
    path = tmp_path / "resolv.conf"

    def run() -> None:
        for content, wanted in ((b"x" * 70_000, b""), (b"x" * 65_535 + b"\n" + b"y", b"x" * 65_535 + b"\n"),
                                (b"x\n" + b"y" * 70_000, b"x\n"), (b"\0\xff" * 10, b"\0\xff" * 10)):
            path.write_bytes(content)
            program = Program(programs["reader"], "watch", str(path), "-1", "-1")
            assert program.receive() == b"c" + wanted
            program.channel.close()
            assert program.status() == 0

    isolated(run, flags=0)
