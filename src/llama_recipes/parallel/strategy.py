"""How a model is cut among processes: PyTorch's FSDP2 under the names of its predecessor.

Zhao et al. 2023, https://arxiv.org/abs/2304.11277. Every decoder layer is gathered, used and let go
by itself; embedding, last norm and head are the root's. Gradients are added up, never averaged: the
loss is divided by the number of supervised tokens of all processes already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from llama_recipes.configs.fsdp import FsdpConfig, ShardingStrategy
from llama_recipes.errors import ConfigError
from llama_recipes.model.llama import Llama


@dataclass(frozen=True, slots=True)
class Groups:
    """copies of the model, and processes that share one of them; their product trains together."""

    copies: int
    sharing: int


def groups(config: FsdpConfig, *, processes: int, processes_of_host: int) -> Groups:
    """Who shares with whom. Raises ConfigError where the sizes that were given do not fit."""
    if config.sharding_strategy == ShardingStrategy.NO_SHARD:
        return Groups(processes, 1)
    if not (config.hsdp or config.sharding_strategy == ShardingStrategy.HYBRID_SHARD):
        return Groups(1, processes)
    copies, sharing = config.replica_group_size, config.sharding_group_size
    if not (copies or sharing):
        sharing = min(processes_of_host, processes)
    sharing = sharing or processes // copies
    copies = copies or processes // sharing
    if copies * sharing != processes:
        given = (
            ("--sharding_group_size", config.sharding_group_size),
            ("--replica_group_size", config.replica_group_size),
        )
        by = " and ".join(f"{flag} {size}" for flag, size in given if size)
        raise ConfigError(
            f"Groups by {by or f'host, of {sharing} here,'} do not make up all processes, of which"
            f" torchrun started {processes}: make --sharding_group_size times --replica_group_size"
            " that number, or give one of them, which divides it."
        )
    return Groups(copies, sharing)


def make_mesh(device_type: str, groups: Groups) -> DeviceMesh:
    if groups.copies == 1:
        return init_device_mesh(device_type, (groups.sharing,), mesh_dim_names=("shard",))
    shape = groups.copies, groups.sharing
    return init_device_mesh(device_type, shape, mesh_dim_names=("replica", "shard"))


def shard(
    model: Llama, mesh: DeviceMesh, config: FsdpConfig, *, param_dtype: torch.dtype | None
) -> None:
    """Rewrite a model on meta. param_dtype: what weights are gathered in; None: as they are kept.

    Gradients are always added up in float32.
    """
    on_gpu = mesh.device_type != "cpu"
    common: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=_reduced_in(model)),
        "offload_policy": (
            CPUOffloadPolicy() if config.fsdp_cpu_offload and on_gpu else OffloadPolicy()
        ),
    }
    lets_go = config.sharding_strategy in (
        ShardingStrategy.FULL_SHARD,
        ShardingStrategy.HYBRID_SHARD,
    )
    for layer in model.layers:
        fully_shard(layer, reshard_after_forward=lets_go, **common)
    # The head is used after the forward pass of the model, which is why the root is kept gathered.
    fully_shard(model, reshard_after_forward=False, **common)
    for module in model.modules():  # both are of one module alone
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _reduced_in(model: nn.Module) -> torch.dtype:
    widest = torch.float32
    for parameter in model.parameters():
        if parameter.requires_grad:
            widest = torch.promote_types(widest, parameter.dtype)
    return widest
