"""Weights from a checkpoint into a model that was built on meta, a few rows at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from llama_recipes.errors import CheckpointError

_CHUNK_ELEMENTS = 1 << 21
"""Read at once: 8 MiB as float32, so that loading needs little more than the weights."""

_LISTED = 20


class TensorSource(Protocol):
    """A checkpoint: what is in it, without reading it, and any rows of it."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of every tensor, by its Hugging Face key."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` of a tensor on the CPU, in the precision it is stored in.

        It may be a view of the mapped file: copy it, do not change it.
        """


def load_weights(
    model: nn.Module,
    tensors: TensorSource,
    *,
    device: torch.device,
    skip: Collection[str] = (),
) -> None:
    """Give every parameter its values from `tensors`, in the parameter's own dtype, on `device`.

    skip: names of parameters that no checkpoint of the base model holds, those of adapters.
    Raises CheckpointError as `check_weights` does, before reading any.
    """
    check_weights(model, tensors, skip=skip)
    for key, name in _names(model, skip).items():
        owner_name, _, leaf = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        blank = getattr(owner, leaf)
        filled = torch.empty(blank.shape, dtype=blank.dtype, device=device)
        for start, stop in _chunks(blank.shape):
            filled[start:stop].copy_(tensors.read(key, start, stop))
        setattr(owner, leaf, nn.Parameter(filled, requires_grad=blank.requires_grad))


def check_weights(model: nn.Module, tensors: TensorSource, *, skip: Collection[str] = ()) -> None:
    """Raises CheckpointError with every missing key, extra key and wrong shape."""
    names = _names(model, skip)
    found = tensors.shapes
    missing = [key for key in names if key not in found]
    extra = [key for key in found if key not in names and not _is_no_weight(key)]
    if "lm_head.weight" in extra and _is_copy_of_embedding(tensors):
        extra.remove("lm_head.weight")
    wrong = [
        f"{key} is {_size(found[key])} and should be {_size(parameter.shape)}"
        for key, parameter in ((key, model.get_parameter(name)) for key, name in names.items())
        if key in found and tuple(found[key]) != tuple(parameter.shape)
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


def _names(model: nn.Module, skip: Collection[str]) -> dict[str, str]:
    """Checkpoint key → name of the parameter."""
    return {checkpoint_key(name): name for name, _ in model.named_parameters() if name not in skip}


def checkpoint_key(name: str) -> str:
    """A wrapper holds the wrapped layer as `base`, which checkpoints do not know of."""
    return ".".join(part for part in name.split(".") if part != "base")


def _chunks(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Ranges of rows that cover a tensor, each of about `_CHUNK_ELEMENTS`."""
    rows = shape[0]
    step = max(1, _CHUNK_ELEMENTS * rows // max(1, torch.Size(shape).numel()))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def _is_no_weight(key: str) -> bool:
    """Old checkpoints carry the rotation's frequencies, which follow from the configuration."""
    return key.endswith(".rotary_emb.inv_freq")


def _is_copy_of_embedding(tensors: TensorSource) -> bool:
    """A model with tied embeddings has no lm_head, but some writers store the shared one twice.

    One that differs would be a model whose configuration is wrong, so it is compared.
    """
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    shape = tensors.shapes[head]
    return shape == tensors.shapes.get(embedding) and all(
        torch.equal(tensors.read(head, *rows), tensors.read(embedding, *rows))
        for rows in _chunks(shape)
    )


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _listed(items: list[str]) -> str:
    more = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f" and {more} more" if more > 0 else "")
