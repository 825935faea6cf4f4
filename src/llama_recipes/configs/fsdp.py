"""Training on several processes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from llama_recipes.configs.section import OPEN_DEFAULT, Section


class ShardingStrategy(StrEnum):
    """What each process keeps a part of only; PyTorch's names."""

    FULL_SHARD = "FULL_SHARD"
    SHARD_GRAD_OP = "SHARD_GRAD_OP"
    NO_SHARD = "NO_SHARD"
    HYBRID_SHARD = "HYBRID_SHARD"


class StateDictType(StrEnum):
    """How a checkpoint is laid out; PyTorch's names."""

    SHARDED_STATE_DICT = "SHARDED_STATE_DICT"
    FULL_STATE_DICT = "FULL_STATE_DICT"


class FsdpConfig(Section):
    """Sharding, with --enable_fsdp; what stands below checkpoint_type counts on one device too,
    but for fsdp_cpu_offload and timeout_seconds."""

    mixed_precision: bool = Field(default=True, description="Compute and communicate in bf16")
    use_fp16: bool = Field(default=False, description="Compute and communicate in fp16 instead")
    sharding_strategy: Annotated[ShardingStrategy, Field(strict=False)] = Field(
        default=ShardingStrategy.FULL_SHARD,
        description="What is sharded: weights, gradients and optimizer state (FULL_SHARD), all but "
        "the weights (SHARD_GRAD_OP), nothing (NO_SHARD), everything within a group of processes "
        "(HYBRID_SHARD)",
    )
    hsdp: bool = Field(
        default=False, description="Shard within groups of processes and replicate between"
    )
    sharding_group_size: int = Field(
        default=0,
        ge=0,
        description="Processes that share one copy of the model, with hsdp; 0: not given",
    )
    replica_group_size: int = Field(
        default=0, ge=0, description="Copies of the model, with hsdp; 0: not given"
    )
    checkpoint_type: Annotated[StateDictType, Field(strict=False)] = Field(
        default=StateDictType.SHARDED_STATE_DICT,
        description="Checkpoints in one part a process, or gathered into one",
    )
    fsdp_activation_checkpointing: Annotated[bool, OPEN_DEFAULT] = Field(
        default=True,
        description="Recompute activations in the backward pass to save memory; without "
        "enable_fsdp only where it is given",
    )
    fsdp_cpu_offload: bool = Field(
        default=False, description="Keep weights and optimizer state in the host's memory"
    )
    timeout_seconds: Annotated[int, Field(gt=0)] = Field(
        default=600,
        description="How long a process waits for another that does not answer; preparing data may "
        "take longer",
    )
    pure_bf16: bool = Field(
        default=False, description="Keep trained weights and their state in bf16 too"
    )
    optimizer: Literal["AdamW", "anyprecision"] = Field(
        default="AdamW",
        description="AdamW, or AdamW with its moments in bf16 (anyprecision), which with "
        "pure_bf16 follows fp32 no better than AdamW unless use_kahan_summation is given",
    )
    use_kahan_summation: bool = Field(
        default=False,
        description="Keep what rounding takes from each step of a bf16 weight and add it to the "
        "next, with optimizer anyprecision and pure_bf16",
    )
