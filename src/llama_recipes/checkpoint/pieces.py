"""Tensors in files of which each holds some rows: as many processes write them as there are, and
any number reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama_recipes.errors import CheckpointError
from llama_recipes.model.safetensors_folder import save_tensors

_PIECES = "pieces"
"""In a file's metadata: the first row of each of its tensors and the shape of the whole."""


@dataclass(frozen=True, slots=True)
class Piece:
    """rows: of a tensor of `shape`, from row `first` on; a scalar is its only row."""

    rows: Tensor
    first: int
    shape: tuple[int, ...]

    @staticmethod
    def whole(tensor: Tensor) -> Piece:
        return Piece(tensor, 0, tuple(tensor.shape))


Pieces = Mapping[str, Piece]


def save_pieces(pieces: Pieces, path: Path) -> None:
    """Write one process's pieces by their keys. Raises OSError."""
    places = {key: [piece.first, list(piece.shape)] for key, piece in pieces.items()}
    tensors = {key: piece.rows for key, piece in pieces.items()}
    save_tensors(tensors, path, {_PIECES: json.dumps(places, sort_keys=True)})


@dataclass(frozen=True, slots=True)
class _Place:
    file: Path
    first: int


class Shards:
    """The tensors of some files of `save_pieces`, each by rows; nothing is read before it is asked
    for. A `TensorSource`. Raises CheckpointError for files that are something else."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, list[_Place]] = {}
        for path in files:
            try:
                with safe_open(path, framework="pt") as file:
                    places = json.loads(file.metadata()[_PIECES])
            except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
                raise CheckpointError(
                    f"{path} is not what a checkpoint's file is ({error}). Give another checkpoint."
                ) from error
            for key, (first, shape) in places.items():
                self.shapes[key] = tuple(shape)
                self._places.setdefault(key, []).append(_Place(path, first))

    def rows(self, key: str, first: int, count: int) -> Tensor:
        """`count` rows from `first` on; of a scalar itself. Raises CheckpointError."""
        if not self.shapes[key]:
            return self._read(self._places[key][0], key, 0, 1)
        parts, at = [], first
        for place in sorted(self._places[key], key=lambda place: place.first):
            part = self._read(place, key, at - place.first, first + count - place.first)
            if place.first <= at and len(part):
                parts.append(part)
                at += len(part)
        if at != first + count:
            raise CheckpointError(f"The checkpoint lacks rows {at} to {first + count} of {key}.")
        return torch.cat(parts) if parts else self._read(self._places[key][0], key, 0, 0)

    def whole(self, key: str) -> Tensor:
        return self.rows(key, 0, self.shapes[key][0] if self.shapes[key] else 1)

    def dtype(self, key: str) -> torch.dtype:
        return self._read(self._places[key][0], key, 0, 0).dtype

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` of a tensor that has some. Raises CheckpointError."""
        rows = self.shapes[key][0]
        stop = rows if stop is None else min(stop, rows)
        return self.rows(key, start, max(0, stop - start))

    def _read(self, place: _Place, key: str, start: int, stop: int) -> Tensor:
        with safe_open(place.file, framework="pt") as file:
            if not self.shapes[key]:
                scalar: Tensor = file.get_tensor(key)
                return scalar
            part = file.get_slice(key)
            held = part.get_shape()[0]
            low = min(max(start, 0), held)
            rows: Tensor = part[low : max(low, min(stop, held))]
            return rows
