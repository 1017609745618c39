"""A moment of fuzzing that is the same each time: the corpus, cut and bent; no atheris needed."""

from __future__ import annotations

import time

import pytest

from passt.errors import WireError
from passt.wire.arp import ArpPacket
from tests.fuzz import harness
from tests.fuzz.harness import CORPUS, HARNESSES, seeds
from tests.fuzz.mutate import MAX_LEN, Mutator, truncations

N_MUTATIONS = 3000
NAMES = sorted(HARNESSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_corpus_and_its_mutations_are_survived(name: str) -> None:
    corpus = seeds(name)
    for data in corpus:
        HARNESSES[name](data)
        for part in truncations(data):
            HARNESSES[name](part)
    for data in Mutator(corpus, seed=20250405).inputs(N_MUTATIONS):
        HARNESSES[name](data)


@pytest.mark.parametrize("name", NAMES)
def test_long_inputs_take_no_long_time(name: str) -> None:
    # What a quadratic reader would need minutes for.
    started = time.process_time()
    for data in (bytes(0xFFFF), b"\xff" * 0xFFFF, b"\x01a" * 0x7FFF, b"\xc0\x00" * 0x7FFF):
        HARNESSES[name](data)
    for data in seeds(name)[:2]:
        HARNESSES[name](data + data[-8:] * 4000)
    assert time.process_time() - started < 5


def test_every_harness_has_a_corpus_and_every_corpus_a_harness() -> None:
    assert sorted(path.name for path in CORPUS.iterdir()) == NAMES
    assert all(seeds(name) for name in NAMES)
    assert all(len(data) <= MAX_LEN for name in NAMES for data in seeds(name))


def test_mutations_are_the_same_each_time_and_differ() -> None:
    corpus = seeds("dhcpv6")
    first, second = (list(Mutator(corpus, 5).inputs(50)) for _ in range(2))
    assert first == second
    assert len(set(first)) > 40
    assert list(Mutator(corpus, 6).inputs(50)) != first


def test_a_parser_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise WireError if len(data) < 3 else IndexError

    monkeypatch.setattr(harness, "parse_ndp_options", broken)
    harness.fuzz_ndp_options(b"ab")
    with pytest.raises(IndexError):
        harness.fuzz_ndp_options(b"abc")


def test_a_value_that_is_not_read_again_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArpPacket, "build", lambda self: bytes(len(self.sender_mac)))
    (good,) = seeds("arp")[:1]
    with pytest.raises((AssertionError, WireError)):
        harness.fuzz_arp(good)
