"""Rings and memory of vhost-user, set up by a front end in this process: what comes, goes, and may not be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt.facts.contracts import MemoryRegion
from tests.dataplane.link.vhost_bench import VhostBench
from tests.support.dirty_log import DirtyLog, pages
from tests.support.frames import ethernet
from tests.support.front_end import (
    NEEDS_CSUM,
    PLAIN,
    USUAL,
    Feature,
    FrontEnd,
    Header,
)
from tests.support.guest_memory import ABOVE_HOLE, MIB, Buffer
from tests.support.split_ring import INDIRECT, NEXT, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable

G4, R4 = "192.0.2.2", "198.51.100.7"
ARP = ethernet(bytes(28), kind=0x0806)
UDP_SEGMENT = 103  # linux/udp.h
MAX_FRAME = 14 + 40 + 65535
CSUM_OF_TCP = Header(NEEDS_CSUM, csum_start=34, csum_offset=16)


# Rings and memory that come and go


def test_nothing_is_touched_before_memory_and_rings_are_there() -> None:
    bench = VhostBench(FrontEnd())
    bench.responder.replies = [ARP]
    bench.turn()
    assert not bench.engine.send_frame(ARP)
    assert bench.drops() == {"drop_link_down": 1}
    bench.end()


def test_ring_that_is_not_enabled_throws_away_what_the_guest_transmits(bench: VhostBench) -> None:
    bench.device.enable_ring(1, False)
    bench.front.send(ARP)
    bench.turn()
    assert bench.responder.frames == []
    assert len(bench.front.sent()) == 1
    bench.device.enable_ring(1, True)
    bench.front.send(ARP)
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_ring_that_is_not_enabled_gets_no_frame(bench: VhostBench) -> None:
    bench.responder.replies = [ARP]
    bench.device.enable_ring(0, False)
    bench.front.offer(2048, 4)
    bench.front.send(ARP)
    bench.turn()
    assert bench.front.received() == []
    assert bench.drops() == {"drop_link_down": 1}


def test_ring_goes_on_where_it_was_stopped(bench: VhostBench) -> None:
    bench.front.send(ARP)
    bench.turn()
    assert bench.front.stop(bench.device) == [0, 1]
    bench.front.sent()
    bench.front.transmit_ring().publish(bench.front.send(ARP, post=False))
    bench.turn()
    assert len(bench.responder.frames) == 1
    for number in range(2):
        bench.front.start_ring(bench.device, number)
        bench.device.enable_ring(number, True)
    bench.turn()
    assert len(bench.responder.frames) == 2


def test_chains_that_nobody_gave_back_come_again(bench: VhostBench) -> None:
    # As if a passt before this one had taken three of them and given one back.
    ring = bench.front.transmit_ring()
    bench.front.stop(bench.device)
    chains = [bench.front.send(ARP, post=False) for _ in range(3)]
    ring.publish(*chains)
    bench.front.start_ring(bench.device, 1, base=3)
    bench.device.enable_ring(1, True)
    bench.turn()
    assert len(bench.responder.frames) == 3
    assert len(bench.front.sent()) == 3


def test_new_call_descriptor_is_signalled_at_once(bench: VhostBench) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    bench.device.set_call(0, os.dup(event))
    assert os.eventfd_read(event) == 1
    bench.device.set_call(0, -1)
    bench.front.offer(2048, 4)
    bench.turn()
    assert bench.engine.send_frame(ARP)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(event)
    os.close(event)
    assert len(bench.front.received()) == 1


def test_kick_of_an_old_descriptor_means_nothing(bench: VhostBench) -> None:
    ring = bench.front.transmit_ring()
    old = os.dup(ring.kick_fd)
    bench.device.set_kick(1, os.dup(ring.open_events()[0]))
    bench.turn()
    ring.publish(bench.front.send(ARP, post=False))
    os.eventfd_write(old, 1)
    bench.turn()
    assert bench.responder.frames == []
    os.close(old)
    ring.kick()
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_memory_is_replaced_under_running_rings(bench: VhostBench) -> None:
    bench.front.send(ARP)
    bench.device.set_memory(bench.front.memory.told())
    bench.turn()
    bench.device.set_memory(list(reversed(bench.front.memory.told())))
    bench.front.send(ARP, across=True)
    bench.turn()
    assert bench.responder.frames == [ARP] * 2


def test_region_comes_and_goes(bench: VhostBench) -> None:
    high = bench.front.memory.told()[2]
    bench.device.remove_region(high._replace(fd=-1))
    with pytest.raises(ValueError, match="there is no memory region"):
        bench.device.remove_region(high._replace(fd=-1))
    bench.device.add_region(high)
    ring = bench.front.transmit_ring()
    address = ABOVE_HOLE + 5000
    bench.front.memory.write(address, Header().build() + ARP)
    ring.post(ring.add([Buffer(address, 12 + len(ARP))]))
    bench.turn()
    assert bench.responder.frames == [ARP]


@pytest.mark.parametrize(("change", "text"), [
    ({"size": 0}, "is none"),
    ({"size": 1 << 63}, "is none"),
    ({"guest_address": (1 << 64) - 4096}, "is none"),
    ({"user_address": (1 << 64) - 4096}, "is none"),
    ({"guest_address": 4096}, "overlap"),
    ({"mmap_offset": 4096}, "to byte"),
    ({"mmap_offset": (1 << 64) - 4096}, "to byte"),
])
def test_region_that_cannot_be_is_refused(bench: VhostBench, change: dict[str, int], text: str) -> None:
    region = bench.front.memory.told()[2]._replace(guest_address=1 << 40, user_address=1 << 40)
    with pytest.raises(ValueError, match=text):
        bench.device.add_region(region._replace(**change))
    bench.device.add_region(region)


def test_memory_in_something_else_than_a_file_is_refused(bench: VhostBench) -> None:
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="no file"):
        bench.device.add_region(MemoryRegion(1 << 40, 4096, 1 << 40, 0, reader))
    os.close(reader)
    os.close(writer)


def test_more_regions_than_there_is_room_for_are_refused(bench: VhostBench) -> None:
    fd = os.memfd_create("small")
    os.ftruncate(fd, 4096)
    regions = [MemoryRegion((1 << 40) + i * 8192, 4096, (1 << 40) + i * 8192, 0, fd) for i in range(62)]
    for region in regions[:-1]:
        bench.device.add_region(region)
    with pytest.raises(ValueError, match="64 memory regions already"):
        bench.device.add_region(regions[-1])
    os.close(fd)


def test_written_pages_are_logged(bench: VhostBench) -> None:
    log = DirtyLog(2 * ABOVE_HOLE // 64)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    bench.device.set_log(log.fd, log.size, log.offset)
    bench.device.set_log_call(os.dup(event))
    ring = bench.front.receive_ring()
    bench.device.set_ring_addresses(0, *ring.user_addresses(), ring.used)
    log.take()
    chain = bench.front.offer(2048)[0]
    bench.turn()
    assert bench.engine.send_frame(ARP)
    assert log.take() == pages(chain.writable[0].address, 72) | pages(ring.used, 12)
    assert os.eventfd_read(event) == 1
    os.close(event)
    log.close()


def test_pages_of_regions_that_touch_in_our_mappings_only_are_logged(bench: VhostBench) -> None:
    log = DirtyLog(2 * ABOVE_HOLE)
    # The kernel puts a mapping right below the one before.
    low, high = bench.front.memory.regions[1:]
    end = ABOVE_HOLE + high.size
    bench.device.set_log(log.fd, log.size, log.offset)
    ring = bench.front.receive_ring()
    ring.post(ring.add((), [Buffer(end - 40, 40), Buffer(low.guest_address, 2008)]))
    bench.turn()
    assert bench.engine.send_frame(ARP)
    assert log.take() == pages(end - 40, 40) | pages(low.guest_address, 32)
    log.close()


# What a front end or a guest may not do


@pytest.mark.parametrize(("call", "text"), [
    (lambda d: d.set_features(1 << 63 | Feature.VERSION_1), "were not offered"),
    (lambda d: d.set_features(Feature.MRG_RXBUF), "VERSION_1 is missing"),
    (lambda d: d.set_ring_size(16, 256), "there is no ring 16"),
    (lambda d: d.set_ring_size(4, 0), "not possible"),
    (lambda d: d.set_ring_size(4, 3), "not possible"),
    (lambda d: d.set_ring_size(4, 65536), "not possible"),
    (lambda d: d.set_ring_size(1, 128), "while it runs"),
    (lambda d: d.set_ring_base(4, 65536), "cannot begin"),
    (lambda d: d.set_ring_base(1, 0), "while it runs"),
    (lambda d: d.set_ring_addresses(4, 8, 0, 0, None), "not aligned"),
    (lambda d: d.set_ring_addresses(4, 16, 2, 0, None), "not aligned"),
    (lambda d: d.set_ring_addresses(4, 16, 4, 1, None), "not aligned"),
    (lambda d: d.set_ring_addresses(1, 16, 4, 2, None), "does not lie"),
    (lambda d: d.set_kick(1, -1), "no kick"),
])
def test_request_that_is_not_possible_is_refused(bench: VhostBench, call: Callable[[object], None],
                                                 text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(bench.device)


def test_ring_outside_of_memory_does_not_start(bench: VhostBench) -> None:
    event = os.eventfd(0)
    bench.device.set_ring_size(4, 256)
    bench.device.set_ring_addresses(4, 1 << 60, 1 << 60, 1 << 60, None)
    with pytest.raises(ValueError, match="does not lie in shared memory"):
        bench.device.set_kick(4, event)


def chain_of(bench: VhostBench, rows: list[tuple[int, int, int, int]]) -> None:
    """Write descriptors as they are, and make the first one available."""
    ring = bench.front.transmit_ring()
    for index, row in enumerate(rows):
        ring.set_descriptor(index, *row)
    ring.publish(0)
    ring.kick()


@pytest.mark.parametrize(("rows", "text"), [
    ([(0x10000, 64, NEXT, 1), (0x10000, 64, NEXT, 0)], "has no end"),
    ([(0x10000, 64, NEXT, 0)], "has no end"),
    ([(0x10000, 64, NEXT, 256)], "outside of its table"),
    ([(0x10000, 64, NEXT, 65535)], "outside of its table"),
    ([(0x10000, 64, WRITE, 0)], "wrong direction"),
    ([(1 << 50, 64, 0, 0)], "outside of all memory"),
    ([(ABOVE_HOLE + 16 * MIB - 63, 64, 0, 0)], "outside of all memory"),
    ([((1 << 64) - 1, 64, 0, 0)], "outside of all memory"),
    ([(0, 0x7fffffff, NEXT, 1), (0, 0x7fffffff, 0, 0)], "outside of all memory"),
    ([(0x10000, 64, INDIRECT | NEXT, 1)], "indirect where none may be"),
    ([(0x10000, 15, INDIRECT, 0)], "indirect table"),
    ([(0x10000, 0, INDIRECT, 0)], "indirect table"),
    ([(1 << 50, 64, INDIRECT, 0)], "indirect table"),
    ([(0, 16 * 32769, INDIRECT, 0)], "indirect table"),
])
def test_damaged_chain_ends_the_session(bench: VhostBench, rows: list[tuple[int, int, int, int]],
                                        text: str) -> None:
    chain_of(bench, rows)
    reason = bench.await_end()
    assert reason.startswith("ring 1 is damaged: ")
    assert text in reason
    assert not bench.engine.send_frame(ARP)


def test_chain_of_4_gib_ends_the_session(bench: VhostBench) -> None:
    size = 15 * MIB
    chain_of(bench, [(0, size, NEXT, i + 1) for i in range(200)] + [(0, 64, 0, 0)])
    assert "longer than 2 GiB" in bench.await_end()


def test_indirect_table_in_an_indirect_table_ends_the_session(bench: VhostBench) -> None:
    bench.front.memory.put(0x20000, "QIHH", 0x20000, 64, INDIRECT, 0)
    chain_of(bench, [(0x20000, 64, INDIRECT, 0)])
    assert "indirect where none may be" in bench.await_end()


def test_indirect_table_without_the_feature_ends_the_session(make: Callable[..., VhostBench]) -> None:
    bench = make(features=PLAIN)
    bench.front.memory.put(0x20000, "QIHH", 0x30000, 64, 0, 0)
    chain_of(bench, [(0x20000, 16, INDIRECT, 0)])
    assert "indirect where none may be" in bench.await_end()


@pytest.mark.parametrize("ring", [0, 1])
def test_index_that_jumps_ends_the_session(bench: VhostBench, ring: int) -> None:
    bench.front.rings[ring].set_available_index(300)
    bench.front.rings[ring].kick()
    if ring == 0:
        bench.engine.send_frame(ARP)
    assert bench.await_end() == f"ring {ring} is damaged: the available index jumps"


@pytest.mark.parametrize("ring", [0, 1])
def test_head_outside_of_the_ring_ends_the_session(bench: VhostBench, ring: int) -> None:
    bench.front.rings[ring].publish(256)
    bench.front.rings[ring].kick()
    if ring == 0:
        bench.turn()
        bench.engine.send_frame(ARP)
    assert bench.await_end() == f"ring {ring} is damaged: a chain begins outside of the ring"


@pytest.mark.parametrize("length", [1, 11])
def test_buffer_without_room_for_a_header_ends_the_session(bench: VhostBench, length: int) -> None:
    bench.front.offer(length, 20)
    bench.turn()
    bench.engine.send_frame(ARP)
    assert "too small for a header" in bench.await_end()


def test_readable_buffer_to_receive_in_ends_the_session(bench: VhostBench) -> None:
    ring = bench.front.receive_ring()
    ring.post(ring.add([Buffer(0x10000, 2048)]))
    bench.turn()
    bench.engine.send_frame(ARP)
    assert "wrong direction" in bench.await_end()


@pytest.mark.parametrize("where", ["transmit", "receive", "rings"])
def test_memory_that_is_cut_off_ends_the_session_only(bench: VhostBench, where: str) -> None:
    memory = bench.front.memory
    if where == "rings":
        bench.front.transmit_ring().kick()
        memory.regions[0].map.resize  # noqa: B018 - the mapping here is not touched from now on
        memory.regions[0].truncate(0)
    else:
        address = ABOVE_HOLE + 8 * MIB
        ring = bench.front.transmit_ring() if where == "transmit" else bench.front.receive_ring()
        buffers = [Buffer(address, 2048)]
        ring.post(ring.add(buffers) if where == "transmit" else ring.add((), buffers))
        memory.regions[2].truncate(4096)
    if where == "receive":
        bench.turn()
        bench.engine.send_frame(ARP)
        bench.front.transmit_ring().kick()
    assert bench.await_end() == "it cut off memory that it shares"


def count_maps() -> int:
    """Count the mappings of guest memory, ours and those of the front ends."""
    return Path("/proc/self/maps").read_text(encoding="ascii").count("memfd:guest")


def test_session_that_ended_leaves_room_for_the_next(bench: VhostBench) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    n_maps = count_maps()
    for _ in range(10):
        bench.device.end("it went away")
        assert bench.await_end() == "it went away"
        bench.device = bench.engine.attach_vhost(bench.ends.append)
        bench.front.close()
        bench.front = FrontEnd()
        bench.start()
        bench.front.send(ARP)
        bench.turn()
    assert len(bench.responder.frames) == 10
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert count_maps() == n_maps


def test_device_in_a_cycle_is_let_go_with_its_rings() -> None:
    code = """
import gc
from tests.dataplane.link.vhost_bench import VhostBench
from tests.support.front_end import FrontEnd

bench = VhostBench(FrontEnd()).start()
cycle = [bench.device]
cycle.append(cycle)
bench.end()
del bench.device, cycle
gc.collect()
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=300, check=False)
    assert done.returncode == 0


def test_reset_stops_rings_and_keeps_memory(bench: VhostBench) -> None:
    bench.device.reset()
    bench.front.transmit_ring().publish(bench.front.send(ARP, post=False))
    bench.front.transmit_ring().kick()
    bench.turn()
    assert bench.responder.frames == []
    bench.device.set_features(USUAL)
    for number in range(2):
        bench.front.start_ring(bench.device, number)
        bench.device.enable_ring(number, True)
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_without_protocol_features_rings_are_enabled_at_once(make: Callable[..., VhostBench]) -> None:
    bench = make(features=Feature.VERSION_1)
    bench.front.send(ARP)
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_idle_guest_costs_no_wake_up(bench: VhostBench) -> None:
    bench.front.send(ARP)
    bench.turn()
    bench.turn()
    before = bench.engine.counters()["wakeups"]
    bench.engine.call_later(0.05, bench.engine.stop)
    bench.engine.run()
    assert bench.engine.counters()["wakeups"] - before <= 2
