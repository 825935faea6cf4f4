"""The weights of a Hugging Face folder: one safetensors file, or several with an index."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama_recipes.errors import CheckpointError

INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write one file: of the same tensors and metadata, the same bytes.

    Raises OSError where the disk fails, which safetensors calls otherwise.
    """
    try:
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error
    if metadata and len(metadata) > 1:
        _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """safetensors writes metadata in another order each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(
            json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        )


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says of itself; nothing where there is no such file, or a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


class SafetensorsFolder:
    """Every tensor's shape, from the headers of the files; contents are read on demand.

    Raises CheckpointError for an index or a file that is damaged, with every problem found.
    """

    def __init__(self, folder: Path) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        self._dtypes: dict[str, str] = {}
        problems: list[str] = []
        index = _read_index(folder)
        for name in weight_files(folder):
            problems += self._add(folder / name)
        problems += [
            f"{INDEX} says that {key} is in {name}, but it is not. Fetch the model again."
            for key, name in index.items()
            if not problems and self._files.get(key) != folder / name
        ]
        if problems:
            raise CheckpointError(*problems)

    def dtype(self, key: str) -> torch.dtype:
        return _DTYPES[self._dtypes[key]]

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` of a tensor as stored: a view of the mapped file."""
        # Opened anew each time: pages of a mapping that stays open would add up to the whole file.
        with safe_open(self._files[key], framework="pt") as file:
            rows: Tensor = file.get_slice(key)[start:stop]
            return rows

    def _add(self, path: Path) -> list[str]:
        """Take in one file's header; returns what is wrong with it."""
        try:
            with safe_open(path, framework="pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                dtypes = {key: part.get_dtype() for key, part in slices.items()}
                shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
        except (SafetensorError, OSError) as error:
            return [f"{path} cannot be read as safetensors ({error}). Fetch it again."]
        unknown = sorted(set(dtypes.values()) - set(_DTYPES))
        twice = sorted(set(shapes) & set(self.shapes))
        self.shapes |= shapes
        self._dtypes |= dtypes
        self._files |= dict.fromkeys(shapes, path)
        problems = []
        if unknown:
            problems.append(
                f"{path} holds weights of the type {', '.join(unknown)}; known types:"
                f" {', '.join(_DTYPES)}. Give the model in one of these."
            )
        if twice:
            problems.append(
                f"{path} repeats {twice[0]}{' and others' if twice[1:] else ''}, already in another"
                " file of the folder. Remove the files that do not belong to the model."
            )
        return problems


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the model, in order; empty where there is none.

    Raises CheckpointError where the index names a file that is missing or outside of the folder.
    """
    index = _read_index(folder)
    if not index:
        single = "model.safetensors"
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        return [single] if single in names else [n for n in names if not n.startswith("adapter_")]
    names = sorted(set(index.values()))
    outside = [name for name in names if Path(name).name != name or name in ("", ".", "..")]
    if outside:
        raise CheckpointError(
            f"{folder / INDEX} names files outside of its folder: {', '.join(outside)}."
            " They are not opened; give a folder that is complete in itself."
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder / INDEX} names files that are missing: {', '.join(missing)}."
            " Fetch the model again."
        )
    return names


def _read_index(folder: Path) -> dict[str, str]:
    """Key → file name; empty where there is no index."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a valid index ({error}). Fetch it again.") from error
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise CheckpointError(f"{path} is not a valid index (weight_map). Fetch it again.")
    return index
