"""What a GGUF file says about itself: its metadata and where its tensors lie.

It stands beside `errors` because both sides read it: `model` for the shape and the weights, `data`
for the tokenizer. GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType

from llama_recipes.errors import CheckpointError


def is_gguf(path: Path) -> bool:
    """Whether a name is that of a GGUF file, which `model.GGUF` is too; whoever writes or reads one
    asks here, so that what is written under a name can be read under it."""
    return path.suffix.lower() == ".gguf"


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor's place in the file.

    type: ggml's name of the encoding, such as "Q4_1".
    shape: elements, outermost first as in torch (ggml counts the other way round).
    offset, size: bytes, from the start of the file.
    """

    type: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Everything but the tensors' contents. Raises CheckpointError for a file that is damaged."""
    try:
        reader = _QuickReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise CheckpointError(
            f"{path} is not a readable GGUF file ({_first_line(error)})."
            " It may be damaged or cut short; fetch it again."
        ) from error
    if reader.byte_order != "I":
        raise CheckpointError(
            f"{path} was written for machines of the other byte order. Give one for this machine."
        )
    tensors = {
        tensor.name: GgufTensor(
            type=tensor.tensor_type.name,
            shape=tuple(int(size) for size in reversed(tensor.shape)),
            offset=int(tensor.data_offset),
            size=int(tensor.n_bytes),
        )
        for tensor in reader.tensors
    }
    return GgufHeader(path=path, metadata=metadata, tensors=tensors)


class _QuickReader(GGUFReader):
    """gguf's reader, thirty times faster on a vocabulary.

    The library walks an array one element at a time through a `memmap`, whose every slice is a
    costly object: seconds for the hundred thousand strings of a tokenizer.
    """

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return super()._get_field_parts(orig_offs, raw_type)
        item_type = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        start = orig_offs + 12
        if count > len(self.data) - start:
            raise ValueError(f"an array of {count} elements runs past the end of the file")
        if item_type == GGUFValueType.STRING:
            items, end = self._strings(start, count)
        elif (scalar := self.gguf_scalar_to_np.get(item_type)) is not None:
            values = self._get(start, scalar, count)
            items, end = list(values.reshape(-1, 1)), start + values.nbytes
        else:
            return super()._get_field_parts(orig_offs, raw_type)
        types = [GGUFValueType.ARRAY, *([item_type] if count else [])]
        return end - orig_offs, items, list(range(len(items))), types

    def _strings(self, start: int, count: int) -> tuple[list[Any], int]:
        """`count` strings of a 64-bit length and its bytes, and the offset after the last one."""
        raw = self.data.data
        items = []
        for _ in range(count):
            end = start + 8 + int.from_bytes(raw[start : start + 8], sys.byteorder)
            if end > len(raw):
                raise ValueError("a string runs past the end of the file")
            items.append(self.data[start + 8 : end])
            start = end
        return items, start


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
