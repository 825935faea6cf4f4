"""Tensors that several processes share: which rows are here, and how to have them all.

PyTorch's DTensor is cut along the rows in parts of equal size, of which the last are smaller or
empty where the rows do not suffice.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_shared(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this is one process's part of a tensor. Who shares nothing imports nothing for it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def own_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """The rows that this process keeps, in the memory they are kept in, and the first's number."""
    if not is_shared(tensor):
        return tensor.detach(), 0
    mesh, (dim,) = tensor.device_mesh, _cut_dims(tensor)
    each = -(-tensor.shape[0] // mesh.size(dim))
    return tensor.to_local().detach(), min(each * mesh.get_local_rank(dim), tensor.shape[0])


def whole(tensor: Tensor) -> Tensor:
    """All rows, on every process. All processes ask for the same tensors in the same order."""
    return (tensor.full_tensor() if is_shared(tensor) else tensor).detach()


def with_rows(like: Tensor, rows: Tensor) -> Tensor:
    """A tensor that is shared as `like` is, of which this process keeps `rows`."""
    if not is_shared(like):
        return rows
    return type(like).from_local(
        rows, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )


def is_first_copy(tensor: Tensor) -> bool:
    """Whether no process of a lower rank keeps the same rows."""
    if not is_shared(tensor):
        return False
    mesh, cut = tensor.device_mesh, _cut_dims(tensor)
    return all(mesh.get_local_rank(dim) == 0 for dim in range(mesh.ndim) if dim not in cut)


def _cut_dims(tensor: DTensor) -> list[int]:
    return [dim for dim, placement in enumerate(tensor.placements) if placement.is_shard()]
