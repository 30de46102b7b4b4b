from __future__ import annotations

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.gunzip import PIECE_BYTES, DamagedGzip, gunzip


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.integers(1, 40), st.integers(0, 5))
def test_what_was_packed_comes_out(members: list[bytes], size: int, padding: int) -> None:
    """Any number of members, wherever the pieces are cut; zeros between members and at the end are padding."""
    packed = b"".join(gzip.compress(member) + bytes(padding) for member in members)
    assert b"".join(gunzip(in_pieces(packed, size))) == b"".join(members)


def test_a_bomb_comes_in_small_pieces() -> None:
    """Content a thousand times as large as its gzip is never in memory at once."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(PIECE_BYTES)
    packed = b"".join(packer.compress(block) for _ in range(64)) + packer.flush()
    assert len(packed) < 100_000
    sizes = [len(piece) for piece in gunzip([packed])]
    assert sum(sizes) == 64 * PIECE_BYTES
    assert max(sizes) <= PIECE_BYTES


def test_a_cut_at_any_byte_is_found() -> None:
    """Of a file that was cut short nothing passes for whole, save where the cut falls between members."""
    first, second = gzip.compress(b"one line\n" * 9), gzip.compress(b"another\n")
    packed = first + second
    for end in range(1, len(packed)):
        if end == len(first):
            continue
        with pytest.raises(DamagedGzip, match="it ends in the middle") as caught:
            list(gunzip(in_pieces(packed[:end], 7)))
        assert caught.value.offset == end


def test_damage_is_found_with_its_offset() -> None:
    """A flipped byte shows no later than at the member's checksum; the offset is at most a piece before it."""
    content = random.Random(1).randbytes(2_000)
    packed = bytearray(gzip.compress(content))
    packed[1_000] ^= 0xFF
    with pytest.raises(DamagedGzip) as caught:
        list(gunzip(in_pieces(bytes(packed), 10)))
    assert caught.value.offset >= 990
    assert caught.value.what


@pytest.mark.parametrize("tail", [b"xy", b"\0\0junk", b"\x1f\x8c"])
def test_what_follows_and_is_no_member_is_damage(tail: bytes) -> None:
    """Lines that somebody appended to a packed file are not silently left out."""
    packed = gzip.compress(b"a\n")
    with pytest.raises(DamagedGzip) as caught:
        list(gunzip([packed + tail]))
    assert caught.value.offset >= len(packed)
    assert caught.value.what == "incorrect header check"
