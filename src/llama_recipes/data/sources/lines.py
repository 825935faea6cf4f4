"""The lines of a text file, one at a time, whatever is wrong with some of them."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import BinaryIO

from llama_recipes.data.sources.rows import MAX_ROW_BYTES, UnusableError
from llama_recipes.errors import DataError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SKIP_BYTES = 2**20


class Lines:
    """Iterator over the decoded lines of a file, line end included, a byte order mark removed.

    Raises UnusableError for a line that is too long, not UTF-8, or holds a NUL; asked again it
    goes on with the line after it, which a generator could not do. `number` is the line last read,
    from 1.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self.number = 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        raw = self._handle.readline(MAX_ROW_BYTES + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        if self.number == 1 and raw.startswith(_UTF16):
            name = Path(self._handle.name).name
            raise DataError(f"{name} is written in UTF-16; save it as UTF-8.")
        if len(raw) > MAX_ROW_BYTES:
            raise UnusableError(self._too_long(raw))
        # Files joined end to end carry byte order marks in their middle.
        raw = raw.removeprefix(codecs.BOM_UTF8)
        if b"\0" in raw:
            raise UnusableError("the line holds a NUL character")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise UnusableError(
                f"not valid UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1})"
            ) from None

    def _too_long(self, start: bytes) -> str:
        size = len(start)
        piece = start
        while piece and not piece.endswith(b"\n"):
            piece = self._handle.readline(_SKIP_BYTES)
            size += len(piece)
        limit = MAX_ROW_BYTES / 2**20
        return f"the line is {size / 2**20:.1f} MiB long, the limit is {limit:g} MiB"
