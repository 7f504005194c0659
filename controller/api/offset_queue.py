"""Which of a user's records still wait in Kafka: rising offsets of one partition, one or two bytes each. Pure.

A UserBacklog holds up to 20,000 offsets a partition and a bridge may hold a thousand of them, so memory holds the same
code as the object: the first offset, then the difference from each offset to the next, as base-128 numbers (Protobuf's
varints, low digits first). The object holds that code in base64.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from itertools import islice

_MAX_OFFSET = (1 << 53) - 1
#: Code that has been consumed is thrown away in pieces of this many bytes.
_TRIM = 4096
#: One number, up to its last digit; more than nine digits are no offset.
_NUMBER = re.compile(rb"[\x80-\xff]{0,8}[\x00-\x7f]")


class OffsetQueue:
    """Appended at the end, taken from the front."""

    def __init__(self, offsets: Iterable[int] = ()) -> None:
        self._code = bytearray()
        #: Where in the code the second offset's difference begins.
        self._head = 0
        self._first = 0
        self._last = 0
        self._count = 0
        #: Taken while one before it was not.
        self._taken: set[int] = set()
        for offset in offsets:
            self.append(offset)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        """All offsets from the first to the last, those taken out of turn included."""
        if not self._count:
            return
        offset = self._first
        yield offset
        at = self._head
        for _ in range(self._count - 1):
            step, at = _number(self._code, at)
            offset += step
            yield offset

    @property
    def first(self) -> int:
        """The lowest offset; raises ValueError where there is none."""
        if not self._count:
            raise ValueError("the queue is empty")
        return self._first

    @property
    def last(self) -> int:
        """The highest offset; raises ValueError where there is none."""
        if not self._count:
            raise ValueError("the queue is empty")
        return self._last

    @property
    def size(self) -> int:
        """Bytes of code."""
        return len(self._code) - self._head + 10

    def append(self, offset: int) -> None:
        """Raises ValueError unless it is above the last one."""
        if not 0 <= offset <= _MAX_OFFSET:
            raise ValueError(f"{offset} is no offset")
        if self._count == 0:
            self._code.clear()
            self._head, self._first = 0, offset
        elif offset <= self._last:
            raise ValueError(f"{offset} does not come after {self._last}")
        else:
            self._code += _digits(offset - self._last)
        self._last = offset
        self._count += 1

    def between(self, start: int, limit: int) -> list[int]:
        """Up to `limit` offsets, without the first `start` ones."""
        return list(islice(self, start, start + limit))

    def take(self, offset: int) -> int:
        """It waits no longer. How many offsets the queue has lost from its front by that."""
        if not self._count or not self._first <= offset <= self._last:
            return 0
        self._taken.add(offset)
        lost = 0
        while self._count and self._first in self._taken:
            self._taken.discard(self._first)
            self._drop_first()
            lost += 1
        return lost

    def encode(self) -> str:
        """The text for a UserBacklog."""
        if not self._count:
            return ""
        return base64.b64encode(_digits(self._first) + self._code[self._head :]).decode()

    @classmethod
    def decode(cls, text: str) -> OffsetQueue:
        """Raises ValueError where the text is no such code.

        The code is kept as it is: a bridge that starts reads a thousand of these, and appending offset by offset takes
        ten times as long.
        """
        code = _code(text)
        steps = _numbers(code)
        queue = cls()
        if steps:
            queue._code = bytearray(code)
            queue._first, queue._head = _number(code, 0)
            queue._last, queue._count = sum(steps), len(steps)
        return queue

    def _drop_first(self) -> None:
        self._count -= 1
        if self._count:
            step, self._head = _number(self._code, self._head)
            self._first += step
        if self._head > _TRIM:
            del self._code[: self._head]
            self._head = 0


def differences(text: str) -> list[int]:
    """The numbers in a UserBacklog's text: the first offset, then the difference from each offset to the next.

    Raises ValueError where the text is no such code.
    """
    return _numbers(_code(text))


def _code(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error


def _numbers(code: bytes) -> list[int]:
    """The first offset and the differences, checked. Most of them are equal, so each different one is decoded once."""
    found = _NUMBER.findall(code)
    if sum(map(len, found)) != len(code):
        raise ValueError("the code has a torn number")
    known = {digits: _number(digits, 0)[0] for digits in set(found)}
    steps = [known[digits] for digits in found]
    if 0 in known.values() and 0 in steps[1:]:
        raise ValueError("an offset does not come after the one before it")
    if sum(steps) > _MAX_OFFSET:
        raise ValueError("the code goes beyond the highest offset")
    return steps


def _digits(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _number(code: bytes | bytearray, at: int) -> tuple[int, int]:
    """The number that begins there, and where the next one begins. Raises ValueError at a torn end."""
    number = shift = 0
    while at < len(code) and shift <= 56:
        digit = code[at]
        at += 1
        number |= (digit & 0x7F) << shift
        if digit < 0x80:
            return number, at
        shift += 7
    raise ValueError("the code ends within a number")
