"""The sample downstream's journal on disk: a JSON line for each record, numbered without gaps.

A record is in the page cache before its call is answered, so a SIGKILL of the process loses none.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

_CHUNK = 1 << 18


class JournalFile:
    """Appends and reads records. `n` of a record is its number, `time` its wall time in nanoseconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        #: Byte offsets of the records, and the end.
        self._offsets = array("q", [0])
        self._first = 1

    @property
    def next(self) -> int:
        """The number of the next record."""
        return self._first + len(self._offsets) - 1

    def load(self) -> Iterator[dict[str, Any]]:
        """Read the records of earlier processes, once, before anything is appended.

        A last line that was cut off (by a full disk) is removed: its call was never answered.
        """
        with self._path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, self._offsets[-1])
                    break
                record = orjson.loads(line)
                if len(self._offsets) == 1:
                    self._first = record["n"]
                self._offsets.append(self._offsets[-1] + len(line))
                yield record

    def append(self, kind: str, fields: dict[str, Any]) -> int:
        """Write one record and return its number."""
        number = self.next
        line = orjson.dumps({"n": number, "kind": kind, "time": time.time_ns(), **fields}) + b"\n"
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(f"the journal {self._path} took {written} of {len(line)} bytes: is the disk full?")
        self._offsets.append(self._offsets[-1] + written)
        return number

    def read(self, after: int = 0) -> Iterator[bytes]:
        """The lines of all records with a number above `after` that are there now, in chunks of bytes."""
        index = min(max(after + 1 - self._first, 0), len(self._offsets) - 1)
        at, end = self._offsets[index], self._offsets[-1]
        while at < end:
            chunk = os.pread(self._file, min(_CHUNK, end - at), at)
            if not chunk:
                return
            at += len(chunk)
            yield chunk

    def clear(self) -> None:
        """Remove all records. The numbers go on, so that a reader's `after` stays valid."""
        self._first = self.next
        os.ftruncate(self._file, 0)
        self._offsets = array("q", [0])
        self.append("start", {})

    def close(self) -> None:
        os.close(self._file)
