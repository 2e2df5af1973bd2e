"""Changes to a file that a reader is tried with: a function of a generator, so that a seed gives them again."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63, 2**64 - 1)
_WORDS = (
    *(b"-1", b"0", b"1e999", b"-1e-999", b"NaN", b"Infinity", b"null", b"true", b'""', b"[]", b"{}", b"9" * 400),
    *(b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b'"\x00"', b"../../x", b"/etc/passwd", b"2147483648", b"0.5"),
)
_TOKEN = re.compile(rb'"[^"]*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|null|true|false')


def mutated(data: bytes, others: Sequence[bytes], source: random.Random) -> bytes:
    """`data` with one to eight changes; `others` are files to take parts of."""
    changed = bytearray(data)
    for _ in range(1 << source.randrange(4)):
        if not changed:
            break
        source.choice(_CHANGES)(changed, others, source)
    return bytes(changed)


Change = Callable[[bytearray, Sequence[bytes], random.Random], None]


def _flip_a_bit(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _set_a_number(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    size = source.choice((1, 2, 4, 8))
    number = source.choice(_NUMBERS) % (1 << 8 * size)
    place = source.randrange(len(data))
    data[place : place + size] = number.to_bytes(size, source.choice(("big", "little")))


def _move_a_number(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    """A little more or less: lengths and counts that are wrong by a few."""
    place, size, order = source.randrange(len(data)), source.choice((1, 2, 4)), source.choice(("big", "little"))
    number = int.from_bytes(data[place : place + size], order) + source.randint(-16, 16)
    data[place : place + size] = (number % (1 << 8 * size)).to_bytes(size, order)


def _cut(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    del data[source.randrange(len(data)) :]


def _leave_out(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    place = source.randrange(len(data))
    del data[place : place + _length(data, source)]


def _say_twice(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    place = source.randrange(len(data))
    part = data[place : place + _length(data, source)]
    data[place:place] = part * source.choice((1, 1, 1, 50))


def _put_noise(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    place, length = source.randrange(len(data)), _length(data, source)
    data[place : place + length] = source.randbytes(min(length, 4096))


def _take_of_another(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    other = source.choice(others)
    if other:
        begin, place = source.randrange(len(other)), source.randrange(len(data))
        data[place : place + _length(data, source)] = other[begin : begin + _length(other, source)]


def _put_a_word(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    """In place of a number or a text, where the file is one of words."""
    words = [match.span() for match in _TOKEN.finditer(data[:200_000])]
    if words:
        begin, end = source.choice(words)
        data[begin:end] = source.choice(_WORDS)


def _length(data: bytes | bytearray, source: random.Random) -> int:
    return 1 + source.randrange(max(1, len(data) >> source.randrange(12)))


_CHANGES: tuple[Change, ...] = (
    *(_flip_a_bit, _set_a_number, _move_a_number, _cut, _leave_out, _say_twice, _put_noise, _take_of_another),
    *(_put_a_word, _put_a_word),
)
