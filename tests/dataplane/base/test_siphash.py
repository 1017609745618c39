"""SipHash-2-4 against the vectors of its authors and a second implementation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.probes import probe

MASK = 2**64 - 1
KEY = bytes(range(16))

# The authors' reference vectors: the hash of 00 01 02 ... under the key 00..0f, little-endian, by length.
VECTORS = {
    0: "310e0edd47db6f72",
    8: "6224939a79f5f593",
    16: "db9bc2577fcc2a3f",
    24: "94af49f6c650adb8",
    32: "ce7cf2722f512771",
    40: "d0a704536ba93e0e",
    48: "51a9cb9ecba312e6",
    56: "bd838d3aafbf8db7",
}


def rotl(x: int, b: int) -> int:
    return (x << b | x >> (64 - b)) & MASK


def sipround(v: list[int]) -> None:
    v[0] = (v[0] + v[1]) & MASK
    v[1] = rotl(v[1], 13) ^ v[0]
    v[0] = rotl(v[0], 32)
    v[2] = (v[2] + v[3]) & MASK
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] = (v[0] + v[3]) & MASK
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] = (v[2] + v[1]) & MASK
    v[1] = rotl(v[1], 17) ^ v[2]
    v[2] = rotl(v[2], 32)


def siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 of any bytes, written after the paper's section 2."""
    k0, k1 = (int.from_bytes(key[at : at + 8], "little") for at in (0, 8))
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    tail = data[len(data) // 8 * 8 :].ljust(7, b"\0") + bytes([len(data) & 0xFF])
    words = data[: len(data) // 8 * 8] + tail
    for at in range(0, len(words), 8):
        m = int.from_bytes(words[at : at + 8], "little")
        v[3] ^= m
        sipround(v)
        sipround(v)
        v[0] ^= m
    v[2] ^= 0xFF
    for _ in range(4):
        sipround(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_second_implementation_gives_the_example_of_the_paper() -> None:
    # Appendix A: 15 bytes 00..0e.
    assert siphash(KEY, bytes(range(15))) == 0xA129CA6149BE45E5


@pytest.mark.parametrize("length", VECTORS)
def test_vectors_of_the_authors(length: int) -> None:
    assert probe.hash_words(KEY, bytes(range(length))).to_bytes(8, "little").hex() == VECTORS[length]


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 12).flatmap(lambda words: st.binary(min_size=8 * words, max_size=8 * words)),
)
def test_any_words_as_the_second_implementation_says(key: bytes, data: bytes) -> None:
    assert probe.hash_words(key, data) == siphash(key, data)


def test_key_of_a_flow_is_hashed_whole() -> None:
    key = probe.Key(bytes(16), bytes(16), 1, 2, 6, 0)
    table = probe.Table(64, KEY)
    packed = bytes(32) + (1).to_bytes(2, "little") + (2).to_bytes(2, "little") + b"\x06\x10\0\0"
    assert table.hash(key) == siphash(KEY, packed)
    for field in (
        {"guest": b"\1" + bytes(15)},
        {"remote": bytes(15) + b"\1"},
        {"guest_port": 3},
        {"remote_port": 3},
        {"proto": 17},
        {"scope": 1},
    ):
        assert table.hash(key._replace(**field)) != table.hash(key)
