"""From a local file to its rows: JSON lines, a JSON list, CSV, Parquet, plain text.

Every reader streams, and names the place of each row. A row that cannot be read is a BadRow; a
DataError is raised only where the rest of the file is lost with it.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_recipes.data.example import BadRow
from llama_recipes.data.sources.json_list import json_list
from llama_recipes.data.sources.lines import Lines
from llama_recipes.data.sources.rows import MAX_ROW_BYTES, Row, UnusableError
from llama_recipes.errors import DataError

_HEAD_BYTES = 4096
_PARQUET_BATCH_ROWS = 256


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a file by its ending. Raises DataError for an ending that is not known."""
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f"{path.name}: files ending in `{path.suffix}` are not known; the endings that are: "
            f"{', '.join(READERS)}."
        )
    return read(path)


def _json_lines(path: Path) -> Iterator[Row | BadRow]:
    with path.open("rb") as handle:
        lines = Lines(handle)
        while True:
            try:
                line = next(lines, None)
                if line is None:
                    return
                if not line.strip():
                    continue
                value = _parse(line.rstrip())
            except UnusableError as problem:
                yield BadRow(f"{path.name}, line {lines.number}", str(problem))
            else:
                yield Row(f"{path.name}, line {lines.number}", value)


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UnusableError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise UnusableError("not usable JSON: nested too deeply") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise UnusableError(f"not usable JSON: {error}") from None


def _json(path: Path) -> Iterator[Row | BadRow]:
    """A list of rows; many .json files are JSON lines by another name, and are read as such."""
    with path.open("rb") as handle:
        start = handle.read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
        return json_list(path)
    if start.partition(b"\n")[0].strip() == b"{":
        raise DataError(
            f"{path.name} holds one object; a JSON list of rows `[...]`, or JSON lines with one "
            "object a line, is needed."
        )
    return _json_lines(path)


def _csv(path: Path) -> Iterator[Row | BadRow]:
    """Comma-separated values with a header; a quoted field may hold line ends."""
    csv.field_size_limit(MAX_ROW_BYTES)  # the module's own limit is 128 KiB
    with path.open("rb") as handle:
        lines = Lines(handle)
        table = csv.reader(lines, strict=True)
        try:
            header = [name.strip() for name in next(filter(None, table), [])]
        except (UnusableError, csv.Error) as error:
            raise DataError(f"{path.name}, line 1: the header cannot be read: {error}.") from None
        if len(set(header)) < len(header):
            raise DataError(f"{path.name}, line 1: two columns of the header have one name.")
        while True:
            start = lines.number + 1
            where = f"{path.name}, line {start}"
            try:
                cells = next(table, None)
            except (UnusableError, csv.Error) as error:
                if lines.number > start:
                    raise DataError(
                        f"{where}: a quoted field begins here and cannot be read to its end "
                        f"({error}). The rows after it cannot be told apart, so it cannot be "
                        "skipped: close or double the quote."
                    ) from None
                yield BadRow(where, _csv_reason(error))
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                yield BadRow(where, f"{len(cells)} fields, the header has {len(header)}")
            else:
                yield Row(where, dict(zip(header, cells, strict=True)))


def _csv_reason(error: Exception) -> str:
    return str(error) if isinstance(error, UnusableError) else f"not valid CSV: {error}"


def _parquet(path: Path) -> Iterator[Row | BadRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True) as table:
            number = 0
            for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                for value in _batch_values(batch):
                    number += 1
                    where = f"{path.name}, row {number}"
                    if isinstance(value, UnusableError):
                        yield BadRow(where, str(value))
                    else:
                        yield Row(where, value)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name} cannot be read as Parquet: {reason}.") from None


def _batch_values(batch: Any) -> list[object]:
    """The rows of a batch; one with a broken string is UnusableError and spares its neighbours."""
    try:
        values: list[object] = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [UnusableError("not valid UTF-8")]
        half = batch.num_rows // 2
        return _batch_values(batch.slice(0, half)) + _batch_values(batch.slice(half))
    return values


def _text(path: Path) -> Iterator[Row | BadRow]:
    """Documents separated by blank lines; line ends are part of a document, as plain newlines."""
    with path.open("rb") as handle:
        lines = Lines(handle)
        line: str | None = ""
        while line is not None:
            document: list[str] = []
            start, size, problem = 0, 0, ""
            while True:
                try:
                    line = next(lines, None)
                except UnusableError as error:
                    problem = problem or f"line {lines.number}: {error}"
                    start = start or lines.number
                    continue
                if line is None or not line.strip():
                    break
                start = start or lines.number
                size += len(line)
                if size > MAX_ROW_BYTES:
                    problem, document = problem or _LONG_DOCUMENT, []
                document.append(line.rstrip("\r\n"))
            where = f"{path.name}, line {start}"
            if problem:
                yield BadRow(where, problem)
            elif document:
                yield Row(where, {"text": "\n".join(document)})


_LONG_DOCUMENT = (
    f"a document of more than {MAX_ROW_BYTES / 2**20:g} MiB; separate documents by blank lines"
)

READERS: Mapping[str, Callable[[Path], Iterator[Row | BadRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _text,
}
