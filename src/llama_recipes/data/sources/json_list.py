"""A JSON list read element by element, so that a file of any size takes the memory of one row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from llama_recipes.data.sources.rows import MAX_ROW_BYTES, Row
from llama_recipes.errors import DataError

_CHUNK = 2**18
_WHITE_SPACE = re.compile(r"[ \t\r\n]*")
# No token but a string is cut by the end of the buffer further than this from it.
_TOKEN = 64
# A number is decoded short where the buffer ends in its middle: "1" of "1.", "1e" or "1e-".
_NUMBER_TAIL = 3


def json_list(path: Path) -> Iterator[Row]:
    """The elements of the list in `path`, as "train.json, row 7".

    Raises DataError where the text stops being JSON: unlike a line, the end of a broken element
    cannot be found, so that skipping it would lose all rows after it.
    """
    with path.open(encoding="utf-8-sig", errors="strict") as handle:
        text = _Window(handle)
        row = 0
        try:
            text.take("[")
            separator = "," if text.peek() != "]" else text.take("]")
            while separator == ",":
                row += 1
                yield Row(f"{path.name}, row {row}", text.value())
                separator = text.take(",]")
            if text.peek():
                raise _BrokenError("more text after the end of the list", text.line)
        except _BrokenError as broken:
            where = f"{path.name}, row {row}, line {broken.line}"
            raise DataError(
                f"{where}: not valid JSON: {broken}. The rows after it cannot be told apart, so "
                "it cannot be skipped: mend the file, or write it as JSON lines (.jsonl)."
            ) from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path.name}, after row {row}: not valid UTF-8 (byte "
                f"0x{error.object[error.start]:02x}). Save the file as UTF-8."
            ) from None


class _BrokenError(Exception):
    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.line = line


class _Window:
    """The part of the file that the next value needs; it slides, and grows for a long value."""

    def __init__(self, handle: TextIO) -> None:
        self._handle = handle
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._ended = False
        self._lines_before = 0

    @property
    def line(self) -> int:
        return self._line_at(self._at)

    def _line_at(self, position: int) -> int:
        return 1 + self._lines_before + self._text.count("\n", 0, position)

    def _read(self, size: int) -> None:
        self._lines_before += self._text.count("\n", 0, self._at)
        piece = self._handle.read(size)
        self._ended = not piece
        self._text = self._text[self._at :] + piece
        self._at = 0

    def peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            space = _WHITE_SPACE.match(self._text, self._at)
            assert space is not None  # the pattern matches the empty string
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read(_CHUNK)

    def take(self, allowed: str) -> str:
        """The next character, which must be one of `allowed`."""
        found = self.peek()
        if not found or found not in allowed:
            what = f"`{found}`" if found else "the end of the file"
            wanted = " or ".join(f"`{character}`" for character in allowed)
            raise _BrokenError(f"{wanted} expected, {what} found", self.line)
        self._at += 1
        return found

    def value(self) -> object:
        self.peek()
        size = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.pos > len(self._text) - _TOKEN or error.msg.startswith("Unterminated")
                if self._ended or not cut:
                    raise _BrokenError(error.msg, self._line_at(error.pos)) from None
            except (ValueError, RecursionError) as error:
                raise _BrokenError(str(error), self.line) from None
            else:
                if end + _NUMBER_TAIL <= len(self._text) or self._ended:
                    self._at = end
                    return value
            if len(self._text) - self._at > MAX_ROW_BYTES:
                limit = MAX_ROW_BYTES / 2**20
                raise _BrokenError(f"a row that does not end within {limit:g} MiB", self.line)
            self._read(size)
            size *= 2
