"""epoll and the sleep until the next deadline, by epoll_pwait2 and by the older call."""

import ctypes
import errno
import os
import select
import struct
import time
from collections.abc import Iterator

import pytest

from passt.host.syscalls import PR_SET_NO_NEW_PRIVS, prctl
from tests.dataplane.probes.hostside import Loop, tag
from tests.support.isolated import in_child

MS = 10**6
SYS_EPOLL_PWAIT2 = 441  # asm-generic/unistd.h; the same on every architecture since
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ADD, DEL, MOD = 1, 2, 3  # sys/epoll.h


@pytest.fixture(params=[True, False], ids=["pwait2", "wait"])
def loop(request: pytest.FixtureRequest) -> Loop:
    made = Loop()
    assert made.has_pwait2
    made.has_pwait2 = request.param
    return made


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_tag_has_its_three_parts_and_cuts_the_generation() -> None:
    assert tag(2, 0x00ABCDEF, 0x12345678) == 0x02ABCDEF_12345678
    assert tag(0xFF, 0xFF000001, 0xFFFFFFFF) == 0xFF000001_FFFFFFFF


def test_event_carries_the_tag_it_was_watched_with(loop: Loop, pipe: tuple[int, int]) -> None:
    assert loop.watch(pipe[0], ADD, select.EPOLLIN, 2**64 - 1) == 0
    os.write(pipe[1], b"x")
    assert loop.wait(loop.clock()) == [(select.EPOLLIN, 2**64 - 1)]
    assert loop.watch(pipe[0], MOD, select.EPOLLIN, 5) == 0
    assert loop.wait(loop.clock()) == [(select.EPOLLIN, 5)]
    assert loop.watch(pipe[0], DEL, 0, 0) == 0
    assert loop.wait(loop.clock(), busy=True) == []


def test_failures_are_negative_errnos(loop: Loop, pipe: tuple[int, int]) -> None:
    assert loop.watch(pipe[0], MOD, select.EPOLLIN, 0) == -errno.ENOENT
    assert loop.watch(-1, ADD, select.EPOLLIN, 0) == -errno.EBADF
    assert loop.watch(pipe[0], ADD, select.EPOLLIN, 0) == 0
    assert loop.watch(pipe[0], ADD, select.EPOLLIN, 0) == -errno.EEXIST


def test_busy_loop_does_not_sleep(loop: Loop) -> None:
    loop.arm(0, loop.clock() + 10**12)
    started = time.monotonic_ns()
    assert loop.wait(loop.clock(), busy=True) == []
    assert time.monotonic_ns() - started < 100_000 * MS


def test_deadline_in_the_past_does_not_sleep(loop: Loop) -> None:
    loop.arm(0, 1)
    started = time.monotonic_ns()
    assert loop.wait(loop.clock()) == []
    assert time.monotonic_ns() - started < 100_000 * MS


def test_sleep_ends_at_the_deadline_and_not_before(loop: Loop) -> None:
    now = loop.clock()
    loop.arm(0, now + 3 * MS)
    loop.arm(1, now + 10**12)
    assert loop.wait(now) == []
    assert loop.clock() >= now + 3 * MS
    assert loop.clock() < now + 100_000 * MS


def test_deadline_of_less_than_a_millisecond_does_not_spin(loop: Loop) -> None:
    now = loop.clock()
    loop.arm(0, now + MS // 10)
    assert loop.wait(now) == []
    assert loop.clock() >= now + MS // 10


def test_event_ends_a_sleep_without_deadline(loop: Loop, pipe: tuple[int, int]) -> None:
    assert loop.watch(pipe[0], ADD, select.EPOLLIN, 1) == 0
    os.write(pipe[1], b"x")
    assert loop.wait(loop.clock()) == [(select.EPOLLIN, 1)]


def test_poll_in_vain_is_not_repeated_while_sleeps_are_long(loop: Loop) -> None:
    assert loop.skip == 0
    for _ in range(5):
        now = loop.clock()
        loop.arm(0, now + 2 * MS)
        assert loop.wait(now) == []
        assert loop.slept
    assert loop.skip == 1


def test_event_that_is_there_already_is_taken_without_polling(loop: Loop, pipe: tuple[int, int]) -> None:
    assert loop.watch(pipe[0], ADD, select.EPOLLIN, 1) == 0
    os.write(pipe[1], b"x")
    assert loop.wait(loop.clock()) == [(select.EPOLLIN, 1)]
    assert not loop.slept
    assert loop.skip == 0


def test_busy_loop_does_not_poll(loop: Loop) -> None:
    assert loop.wait(loop.clock(), busy=True) == []
    assert loop.skip == 0


def test_short_sleeps_make_the_loop_poll_again(loop: Loop) -> None:
    """A timerfd fires while the loop sleeps; how soon it wakes depends on the machine, so several tries."""
    fd = ctypes.CDLL(None, use_errno=True).timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    assert fd >= 0
    try:
        assert loop.watch(fd, ADD, select.EPOLLIN | select.EPOLLET, 1) == 0
        loop.skip = 3
        soon = ctypes.create_string_buffer(struct.pack("qqqq", 0, 0, 0, 8000))
        end = time.monotonic() + 60
        while loop.skip and time.monotonic() < end:
            ctypes.CDLL(None).timerfd_settime(fd, 0, soon, None)
            loop.wait(loop.clock())
        assert loop.skip == 0
    finally:
        os.close(fd)


def test_clock_is_the_monotonic_one(loop: Loop) -> None:
    before = time.monotonic_ns()
    now = loop.clock()
    assert before <= now <= time.monotonic_ns()


def forbid(number: int, error: int) -> None:
    """Have the system call *number* fail with *error* in this process from now on (seccomp(2))."""
    load, jump_equal, ret = 0x20, 0x15, 0x06
    allow, fail = 0x7FFF0000, 0x00050000 | error
    steps = [(load, 0, 0, 0), (jump_equal, 0, 1, number), (ret, 0, 0, fail), (ret, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("H6xQ", len(steps), ctypes.addressof(code)))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
@in_child
def test_kernel_without_pwait2_is_found_out_once(error: int) -> None:
    forbid(SYS_EPOLL_PWAIT2, error)
    loop = Loop()
    reader, writer = os.pipe()
    assert loop.watch(reader, ADD, select.EPOLLIN, 7) == 0
    os.write(writer, b"x")
    assert loop.wait(loop.clock()) == [(select.EPOLLIN, 7)]
    assert not loop.has_pwait2


@in_child
def test_other_failure_of_the_wait_is_reported() -> None:
    forbid(SYS_EPOLL_PWAIT2, errno.EBADF)
    assert Loop().wait(0) == -errno.EBADF
