"""A bounded store of byte strings in a file without a name: what was put comes back whole, or not at all."""

from __future__ import annotations

import os
import tempfile
import weakref
import zlib
from array import array
from pathlib import Path

# an entry's place takes some 200 bytes of memory, so the whole index stays below 15 MB
MOST_ENTRIES = 1 << 16
_PREFIX = ".rows-"  # a dot: a run that starts in the folder removes what a crash could leave of a name


class RowStore:
    """Entries under keys, added until one doesn't fit.

    The file has no name from the start (or loses it at once, where the system can't make one without): it is
    gone with this object or with the process, however that ends. Pages of it are the system's cache, which it
    may drop, and not memory of this process. Nothing is ever replaced: the rows of a run recur equally often,
    so those that came first are as good as any others.

    Args:
        folder: where the file lies.
        most_bytes: most bytes of all entries together.

    Raises:
        OSError: the folder can't hold a file.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        # open for as long as the store is
        file = tempfile.TemporaryFile(dir=folder, prefix=_PREFIX, buffering=0)  # noqa: SIM115
        self._close = weakref.finalize(self, file.close)
        self._handle = file.fileno()
        self.most_bytes = most_bytes
        self.full = False  # an entry was refused
        self._index: dict[bytes, int] = {}
        self._starts, self._sums = array("Q", [0]), array("L")

    @property
    def used_bytes(self) -> int:
        """Bytes of all entries together."""
        return self._starts[-1]

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: bytes) -> bool:
        return key in self._index

    def put(self, key: bytes, payload: bytes) -> None:
        """Add an entry; one that is there already, or doesn't fit, changes nothing.

        Raises:
            OSError: the disk is full or fails; the entry isn't one then.
        """
        if key in self._index or self.full:
            return
        if self.used_bytes + len(payload) > self.most_bytes or len(self) >= MOST_ENTRIES:
            self.full = True
            return
        self._write(payload, self.used_bytes)
        self._index[key] = len(self._sums)
        self._sums.append(zlib.crc32(payload))
        self._starts.append(self.used_bytes + len(payload))

    def get(self, key: bytes) -> bytes:
        """Return the bytes that were put under a key.

        Raises:
            KeyError: nothing was.
            OSError: the disk fails, or holds other bytes than were written (a system may lose what it had
                promised to write).
        """
        place = self._index[key]
        payload = self._read(self._starts[place], self._starts[place + 1])
        if zlib.crc32(payload) != self._sums[place]:
            raise OSError("a row read back is not what was written")
        return payload

    def close(self) -> None:
        """Give the disk back; there are no entries any more, and none can be added."""
        self._close()
        self._handle, self.full = -1, True
        self._index.clear()

    def _write(self, payload: bytes, start: int) -> None:
        rest = memoryview(payload)
        while rest:
            written = os.pwrite(self._handle, rest, start)
            rest, start = rest[written:], start + written

    def _read(self, start: int, end: int) -> bytes:
        parts = []
        while start < end and (part := os.pread(self._handle, end - start, start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)
