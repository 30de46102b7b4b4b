"""Seeded damage: what fuzzing does to a seed, without a fuzzer, so that every machine does the same."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

#: past this an input is all size and no structure; what is about size has tests of its own
LONGEST_BYTES = 8 << 10
#: numbers and bytes on which readers trip
TRICKY = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\r\n", b"\x1b[2J", b"\xc2\x9b", b'"', b"\\", b"\\u0000"),
    *(b"\\ud800", b"{}", b"[]", b"[" * 1200, b'{"a":' * 1200, b"null", b"true", b"NaN", b"Infinity", b"-0", b"1e999", b"1e-999"),
    *(
        b"-1",
        b"0",
        b"1",
        b"9" * 400,
        b"9" * 5000,
        b"18446744073709551616",
        b"-9223372036854775809",
        b"2147483648",
        b" ",
        b":",
        b",",
    ),
)


def mutations(seeds: Sequence[bytes], words: Sequence[bytes], seed: int, count: int) -> Iterator[bytes]:
    """`count` damaged versions of the seeds; the same for the same `seed`. `words`: what the reader looks for."""
    chance = random.Random(seed)
    dictionary = (*TRICKY, *words)
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 9))):
            _damage(data, chance, dictionary, seeds)
        yield bytes(data[:LONGEST_BYTES])


def _damage(data: bytearray, chance: random.Random, dictionary: Sequence[bytes], seeds: Sequence[bytes]) -> None:
    """One act of damage, in place."""
    at = chance.randint(0, len(data))
    end = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 200)))
    match chance.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        case 1 if at < len(data):
            data[at] = chance.randrange(256)
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * chance.choice((1, 1, 2, 50))
        case 4:
            data[at:end] = chance.choice(dictionary)
        case 5:
            data[at:at] = chance.choice(dictionary)
        case 6:
            other = chance.choice(seeds)
            data[at:] = other[chance.randint(0, len(other)) :]
        case _:
            digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
            if digits:
                place = chance.choice(digits)
                data[place : place + 1] = chance.choice((b"0", b"-1", b"9" * 30, b"1.5", b"1e400", b'"7"', b"null"))
