"""Weights from a checkpoint into a model that was built on meta, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import reduce
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from llama_recipes.errors import CheckpointError

_CHUNK_ELEMENTS = 1 << 21
"""Read at once: 8 MiB as float32, so that loading needs little more than the weights."""

_ENCODED_ELEMENTS = 1 << 18
"""Encoded at once: it takes several copies in float32, which should not show beside the result."""

_LISTED = 20

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""The tensors that have a row for every token; a model that ties them has the first alone."""


class TensorSource(Protocol):
    """A checkpoint: what is in it, without reading it, and any rows of it."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of every tensor, by its Hugging Face key."""

    def dtype(self, key: str) -> torch.dtype:
        """What a tensor is stored in; float32 for one that is stored in fewer bits than 16."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` of a tensor on the CPU, in the precision it is stored in.

        It may be a view of the mapped file: copy it, do not change it.
        """


def widest_dtype(tensors: TensorSource) -> torch.dtype:
    """The smallest type that holds every matrix as it is stored."""
    stored = {tensors.dtype(key) for key, shape in tensors.shapes.items() if len(shape) > 1}
    return reduce(torch.promote_types, stored)


OwnRows = Callable[[Tensor], tuple[Tensor, int]]
"""A parameter → the rows of it that this process keeps, and the number of the first of them."""


def all_rows(parameter: Tensor) -> tuple[Tensor, int]:
    """What a process that shares the model with no other keeps."""
    return parameter.detach(), 0


@runtime_checkable
class EncodedLayer(Protocol):
    """A layer that keeps its weight in another form than checkpoints do.

    shapes: of the tensors in a checkpoint that it encodes, by the last part of their keys.
    parts: names of the parameters that it keeps them in. needs_all_rows: whether what one row
    becomes depends on the others.
    """

    shapes: Mapping[str, tuple[int, ...]]
    parts: tuple[str, ...]
    needs_all_rows: bool

    def encode(self, rows: Iterable[tuple[int, Tensor]], own: OwnRows) -> None:
        """Take rows of the checkpoint's weight in order, some at a time, each with its number."""


def load_weights(
    model: nn.Module,
    tensors: TensorSource,
    *,
    device: torch.device,
    skip: Collection[str] = (),
    own: OwnRows = all_rows,
    every_row: bool = False,
) -> None:
    """Give every parameter its values from `tensors`, in the parameter's own dtype, on `device`.

    skip: names of parameters that no checkpoint of the base model holds, those of adapters.
    own: what is kept here; no other row is read, but where `every_row`.
    Raises CheckpointError as `check_weights` does, before reading any.
    """
    check_weights(model, tensors, skip=skip)
    for key, (owner, leaf, shape) in _places(model, skip).items():
        encoder = owner if isinstance(owner, EncodedLayer) and leaf in owner.shapes else None
        for part in encoder.parts if encoder else (leaf,):
            materialised(owner, part, device)
        rows, first = own(getattr(owner, leaf))
        wanted = (first, first + len(rows))
        if every_row or (encoder and encoder.needs_all_rows):
            wanted = (0, shape[0])
        ranges = row_ranges(shape, *wanted)
        if encoder:
            few = max(1, _ENCODED_ELEMENTS // shape[1])
            encoder.encode(_pieces(tensors, key, ranges, few), own)
            continue
        for start, stop in ranges:
            # Not bound to a name: it would live until the next one is read.
            copy_rows(rows, first, tensors.read(key, start, stop), start)


def materialised(owner: nn.Module, leaf: str, device: torch.device) -> nn.Parameter:
    """A parameter of `owner`; one that was on meta has memory on `device` from then on."""
    blank: nn.Parameter = getattr(owner, leaf)
    if blank.is_meta:
        # For a tensor on meta `empty_like` reads PyTorch's symbolic shapes: 35 MiB, and time. It
        # alone cuts rows that several processes share as they are cut.
        if type(blank) is nn.Parameter:
            empty = blank.new_empty(blank.shape, device=device)
        else:
            empty = torch.empty_like(blank, device=device)
        setattr(owner, leaf, nn.Parameter(empty, requires_grad=blank.requires_grad))
    made: nn.Parameter = getattr(owner, leaf)
    return made


@torch.no_grad()
def set_values(
    owner: nn.Module, leaf: str, values: Tensor, *, device: torch.device, own: OwnRows
) -> None:
    """Give a parameter of `owner`, of which this process keeps some rows, its values."""
    copy_rows(*own(materialised(owner, leaf, device)), values, 0)


def copy_rows(target: Tensor, first: int, rows: Tensor, start: int) -> None:
    """Copy what of `rows`, numbered from `start`, belongs to `target`, numbered from `first`."""
    low, high = max(first, start), min(first + len(target), start + len(rows))
    if low < high:
        target[low - first : high - first].copy_(rows[low - start : high - start])


def _pieces(
    tensors: TensorSource, key: str, ranges: Iterable[tuple[int, int]], rows: int
) -> Iterator[tuple[int, Tensor]]:
    """Read `ranges`, and give at most `rows` at a time, each with the number of the first."""
    for start, stop in ranges:
        read = tensors.read(key, start, stop)
        yield from zip(range(start, stop, rows), torch.split(read, rows), strict=True)


def count_parameters(model: nn.Module) -> int:
    """Numbers in all weights, however many bits each takes."""
    return sum(math.prod(shape) for _, _, shape in _places(model, skip=()).values())


def check_weights(model: nn.Module, tensors: TensorSource, *, skip: Collection[str] = ()) -> None:
    """Raises CheckpointError with every missing key, extra key and wrong shape."""
    places = _places(model, skip)
    found = tensors.shapes
    missing = [key for key in places if key not in found]
    extra = [key for key in found if key not in places and not _is_no_weight(key)]
    if HEAD in extra and _is_copy_of_embedding(tensors):
        extra.remove(HEAD)
    wrong = [
        f"{key} is {_size(found[key])} and should be {_size(shape)}"
        for key, (_, _, shape) in places.items()
        if key in found and tuple(found[key]) != shape
    ]
    problems = []
    if missing:
        problems.append(
            f"The checkpoint lacks {_listed(missing)}. Give the complete checkpoint of the model"
            " that its configuration describes."
        )
    if extra:
        problems.append(
            f"The checkpoint holds what the model has no place for: {_listed(extra)}. Give a"
            " checkpoint of a plain Llama whose configuration describes it."
        )
    if wrong:
        problems.append(
            f"Shapes differ from what the configuration says: {_listed(wrong)}. Put the"
            " configuration and the weights of the same model together."
        )
    if problems:
        raise CheckpointError(*problems)


Place = tuple[nn.Module, str, tuple[int, ...]]
"""A layer, what it calls one of its tensors, and the shape of that in a checkpoint."""


def _places(model: nn.Module, skip: Collection[str]) -> dict[str, Place]:
    """Checkpoint key → where its tensor goes."""
    return {
        checkpoint_key(name): place
        for prefix, layer in model.named_modules()
        for name, place in _own_places(layer, f"{prefix}." if prefix else "")
        if name not in skip
    }


def _own_places(layer: nn.Module, prefix: str) -> Iterator[tuple[str, Place]]:
    encoded = layer.parts if isinstance(layer, EncodedLayer) else ()
    if isinstance(layer, EncodedLayer):
        for leaf, shape in layer.shapes.items():
            yield prefix + leaf, (layer, leaf, shape)
    for leaf, parameter in layer.named_parameters(recurse=False):
        if leaf not in encoded:
            yield prefix + leaf, (layer, leaf, tuple(parameter.shape))


def checkpoint_key(name: str) -> str:
    """A wrapper holds the wrapped layer as `base`, which checkpoints do not know of."""
    return ".".join(part for part in name.split(".") if part != "base")


def row_ranges(
    shape: tuple[int, ...], start: int = 0, stop: int | None = None
) -> list[tuple[int, int]]:
    """Ranges of rows that cover a tensor, or what is asked for of it: `_CHUNK_ELEMENTS` in each."""
    stop = shape[0] if stop is None else stop
    step = max(1, _CHUNK_ELEMENTS * shape[0] // max(1, torch.Size(shape).numel()))
    return [(low, min(low + step, stop)) for low in range(start, stop, step)]


def _is_no_weight(key: str) -> bool:
    """Old checkpoints carry the rotation's frequencies, which follow from the configuration."""
    return key.endswith(".rotary_emb.inv_freq")


def _is_copy_of_embedding(tensors: TensorSource) -> bool:
    """A model with tied embeddings has no lm_head, but some writers store the shared one twice.

    One that differs would be a model whose configuration is wrong, so it is compared.
    """
    shape = tensors.shapes[HEAD]
    return shape == tensors.shapes.get(EMBEDDING) and all(
        torch.equal(tensors.read(HEAD, *rows), tensors.read(EMBEDDING, *rows))
        for rows in row_ranges(shape)
    )


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _listed(items: list[str]) -> str:
    more = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f" and {more} more" if more > 0 else "")
