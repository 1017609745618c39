"""Which descriptors are open, where the standard ones lead, how many there may be."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from passt.host import descriptors
from tests.support.isolated import isolated


def open_fds() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:
            continue
        found.add(int(name))
    return found


@pytest.mark.parametrize("use_close_range", [True, False])
def test_range_of_descriptors_is_closed(use_close_range: bool) -> None:
    def close() -> tuple[set[int], set[int]]:
        fds = [os.dup(0) for _ in range(6)]
        before = open_fds()
        descriptors.close_descriptors(fds[1], fds[3], use_close_range=use_close_range)
        return before - open_fds(), {fd for fd in before if fds[1] <= fd <= fds[3]}

    closed, expected = isolated(close, flags=0)
    assert closed == expected


def test_closed_standard_descriptors_become_null_and_others_go() -> None:
    """The test's own pipe is among the others, so it is kept; that is how `keep` is tested."""
    def tidy() -> tuple[list[str], bool, set[int]]:
        pipes = [fd for fd in open_fds() if fd > 2 and "pipe" in os.readlink(f"/proc/self/fd/{fd}")]
        for fd in (0, 2):
            os.close(fd)
        os.dup2(1, 77)
        descriptors.tidy_descriptors(pipes)
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 2)]
        return links, os.get_inheritable(0) and os.get_inheritable(2), open_fds() - {0, 1, 2, *pipes}

    links, inheritable, others = isolated(tidy, flags=0)
    assert links == ["/dev/null", "/dev/null"]
    assert inheritable
    assert not others


def test_input_and_output_are_left() -> None:
    def leave() -> list[str]:
        descriptors.leave_stdio(descriptors.open_null())
        return [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1)]

    assert isolated(leave, flags=0) == ["/dev/null", "/dev/null"]


def test_file_limit_is_raised_and_restored() -> None:
    def raise_it() -> tuple[object, ...]:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        before = descriptors.raise_file_limit()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        descriptors.restore_file_limit(before)
        return before == (100, hard), raised == (hard, hard), resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    assert isolated(raise_it, flags=0) == (True, True, 100)


def test_process_ends_with_the_last_writer_of_its_pipe_though_it_is_stopped() -> None:
    reader, writer = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writer)
            descriptors.end_with(reader)
            os.write(tell, b"!")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(reader)
    assert os.read(told, 1) == b"!"
    os.kill(pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    os.close(writer)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    for fd in (told, tell):
        os.close(fd)


def test_pipe_whose_writer_has_gone_is_told() -> None:
    reader, writer = os.pipe()
    os.close(writer)

    def end() -> str:
        with pytest.raises(OSError, match="the main process has ended") as caught:
            descriptors.end_with(reader)
        return str(caught.value)

    assert isolated(end, flags=0)
    os.close(reader)
