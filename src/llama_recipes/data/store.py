"""Tokenised documents on disk: memory-mapped, so that memory does not grow with the data set.

A store is a folder of flat little-endian arrays and one JSON file, published by a rename: it is
there completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_recipes.data.tokenize import IGNORE, Document

_REPORT = "report.json"
_DIGEST_BYTES = 16


class DamagedStoreError(Exception):
    """The files of a store do not belong together; it has to be written anew."""


class TokenStore:
    """Read-only documents of one split.

    lengths, supervised: tokens and trained tokens of each document, [documents] int64.
    rows, cut: the row that each was made of, from 1, and the tokens taken off its end; 0 for none.
    report: what preparing the data counted. folder: what `open_store` opens. digest: changes with
    any token or label, and with the order of the documents.
    """

    def __init__(
        self,
        ids: NDArray[np.int32],
        labels: NDArray[np.int32],
        offsets: NDArray[np.int64],
        supervised: NDArray[np.int64],
        report: Mapping[str, Any],
        rows: NDArray[np.int64] | None = None,
        cut: NDArray[np.int64] | None = None,
    ) -> None:
        self._ids, self._labels = ids, labels
        self._starts, self.lengths = offsets[:-1], np.diff(offsets)
        self.supervised = supervised
        self.rows = np.zeros_like(self.lengths) if rows is None else rows
        self.cut = np.zeros_like(self.lengths) if cut is None else cut
        self.report = report
        self.folder: Path | None = None
        self.digest: str = report["digest"]

    def __len__(self) -> int:
        return len(self.lengths)

    def document(self, index: int) -> Document:
        start = self._starts[index]
        part = slice(start, start + self.lengths[index])
        return Document(
            self._ids[part], self._labels[part], int(self.rows[index]), int(self.cut[index])
        )

    def together(
        self, first: int, last: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
        """input_ids and labels of the documents `first` to `last`, one after the other, and where
        each begins, with the end behind them. In memory."""
        lengths = self.lengths[first:last]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self._starts[first:last] - offsets[:-1], lengths)
        places += np.arange(offsets[-1])
        return self._ids[places], self._labels[places], offsets

    def subset(
        self, indices: NDArray[np.int64], report: Mapping[str, Any] | None = None
    ) -> TokenStore:
        """The same documents seen through `indices`; nothing is copied but their borders.

        report: in place of this store's own.
        """
        view = TokenStore.__new__(TokenStore)
        view._ids, view._labels = self._ids, self._labels
        view._starts, view.lengths = self._starts[indices], self.lengths[indices]
        view.supervised = self.supervised[indices]
        view.rows, view.cut = self.rows[indices], self.cut[indices]
        view.folder = None
        view.report = self.report if report is None else report
        chosen = hashlib.blake2b(self.digest.encode(), digest_size=_DIGEST_BYTES)
        chosen.update(indices.astype("<i8").tobytes())
        view.digest = chosen.hexdigest()
        return view

    @property
    def highest_id(self) -> int:
        return int(self.report["highest_id"])


def open_store(folder: Path) -> TokenStore:
    """Map the arrays of a folder that `write_store` published.

    Raises DamagedStoreError where a file is missing, cut or of another length than the others.
    """
    try:
        report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
        ids = _map(folder / "input_ids.bin", np.dtype("<i4"))
        labels = _map(folder / "labels.bin", np.dtype("<i4"))
        offsets = _map(folder / "offsets.bin", np.dtype("<i8"))
        supervised, rows, cut = (
            _map(folder / f"{name}.bin", np.dtype("<i8")) for name in ("supervised", "rows", "cut")
        )
    except (FileNotFoundError, ValueError) as error:
        raise DamagedStoreError(str(error)) from error
    whole = (
        isinstance(report, dict)
        and isinstance(report.get("highest_id"), int)
        and isinstance(report.get("digest"), str)
        and len(offsets) - 1 == len(supervised) == len(rows) == len(cut)
        and offsets[0] == 0
        and offsets[-1] == len(ids) == len(labels)
        and bool((np.diff(offsets) > 0).all())
    )
    if not whole:
        raise DamagedStoreError(f"the files in {folder} do not belong together")
    store = TokenStore(ids, labels, offsets, supervised, report, rows, cut)
    store.folder = folder
    return store


def write_store(
    folder: Path, documents: Iterable[Document], report: Mapping[str, Any]
) -> TokenStore:
    """Stream documents into a new store at `folder`.

    `report` is read after the last document, so that the producer can count while it yields.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        found = _write_arrays(draft, documents)
        (draft / _REPORT).write_text(json.dumps({**report, **found}, indent=2), encoding="utf-8")
        for file in draft.iterdir():
            _sync(file)  # or a power cut after the rename leaves a store with empty files
        try:
            draft.rename(folder)
        except OSError:
            # Another process published the same store first; the contents are equal by their key.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_store(folder)


def _write_arrays(folder: Path, documents: Iterable[Document]) -> dict[str, Any]:
    """Write the six arrays; return their digest and the highest token id, −1 without any."""
    highest, end = -1, 0
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with (
        (folder / "input_ids.bin").open("wb") as ids,
        (folder / "labels.bin").open("wb") as labels,
        (folder / "offsets.bin").open("wb") as offsets,
        (folder / "supervised.bin").open("wb") as supervised,
        (folder / "rows.bin").open("wb") as rows,
        (folder / "cut.bin").open("wb") as cut,
    ):
        offsets.write(np.int64(0).tobytes())
        for document in documents:
            parts = [part.astype("<i4").tobytes() for part in (document.input_ids, document.labels)]
            ids.write(parts[0])
            labels.write(parts[1])
            end += len(document.input_ids)
            border = np.int64(end).tobytes()
            offsets.write(border)
            digest.update(b"".join([*parts, border]))
            supervised.write(np.int64(document.supervised).tobytes())
            rows.write(np.int64(document.row).tobytes())
            cut.write(np.int64(document.cut).tobytes())
            trained = document.labels[document.labels != IGNORE]
            highest = max(highest, int(document.input_ids.max()), int(trained.max(initial=-1)))
    return {"highest_id": highest, "digest": digest.hexdigest()}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")
