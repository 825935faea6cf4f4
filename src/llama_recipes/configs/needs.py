"""What a setting needs to have an effect. Given without it, it is named in a warning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from llama_recipes.configs.datasets import DatasetName
from llama_recipes.configs.fsdp import ShardingStrategy
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import flag_of, is_given


@dataclass(frozen=True, slots=True)
class Need:
    """`settings` are names as `train_config.gamma`, or `lora_config` for all of a section;
    `unless_met` ends the sentence "... has no effect in this run"."""

    settings: tuple[str, ...]
    met: Callable[[RunConfig], bool]
    unless_met: str


def has_validation_part(config: RunConfig) -> bool:
    """False only for a file_dataset of which neither a file nor a share is for validation."""
    file = config.file_dataset
    return (
        config.train_config.dataset != "file_dataset"
        or is_given(file.validation_file)
        or file.validation_fraction > 0
    )


def _adapts_with(method: str) -> Callable[[RunConfig], bool]:
    return lambda c: c.train_config.use_peft and c.train_config.peft_method == method


def _is_active(dataset: str) -> Callable[[RunConfig], bool]:
    return lambda c: c.train_config.dataset == dataset


NEEDS = (
    Need(("train_config.peft_method",), lambda c: c.train_config.use_peft, "without --use_peft"),
    *(
        Need(
            (section,),
            _adapts_with(method),
            f"without --use_peft and --peft_method {method}",
        )
        for section, method in (
            ("lora_config", "lora"),
            ("llama_adapter_config", "llama_adapter"),
            ("prefix_config", "prefix"),
        )
    ),
    *(
        Need((dataset,), _is_active(dataset), f"without --dataset {dataset}")
        for dataset in get_args(DatasetName)
    ),
    Need(
        (
            "train_config.val_batch_size",
            "train_config.max_eval_step",
            "train_config.eval_every",
            "samsum_dataset.test_split",
            "grammar_dataset.test_split",
            "custom_dataset.test_split",
            "file_dataset.validation_file",
            "file_dataset.validation_fraction",
        ),
        lambda c: c.train_config.run_validation,
        "without --run_validation",
    ),
    Need(
        (
            "train_config.run_validation",
            "train_config.val_batch_size",
            "train_config.max_eval_step",
            "train_config.eval_every",
        ),
        lambda c: not c.train_config.run_validation or has_validation_part(c),
        "without --file_dataset.validation_file or --file_dataset.validation_fraction",
    ),
    Need(
        ("train_config.train_on_prompt",),
        lambda c: c.train_config.dataset != "custom_dataset",
        "because a custom_dataset makes its own labels",
    ),
    Need(
        ("train_config.gamma",),
        lambda c: c.train_config.lr_scheduler == "gamma",
        "without --lr_scheduler gamma",
    ),
    Need(
        ("train_config.gamma",),
        lambda c: c.train_config.num_epochs > 1,
        "because there is no second epoch",
    ),
    Need(
        ("train_config.gradient_clipping_threshold",),
        lambda c: c.train_config.gradient_clipping,
        "without --gradient_clipping",
    ),
    Need(
        ("train_config.num_freeze_layers",),
        lambda c: c.train_config.freeze_layers,
        "without --freeze_layers",
    ),
    Need(
        ("train_config.flop_counter_start",),
        lambda c: c.train_config.flop_counter,
        "without --flop_counter",
    ),
    Need(
        ("train_config.profiler_dir",),
        lambda c: c.train_config.use_profiler,
        "without --use_profiler",
    ),
    Need(
        ("lora_config.init_lora_weights",),
        lambda c: c.train_config.quantization is not False,
        "without --quantization",
    ),
    Need(
        ("quantization_config",),
        lambda c: c.train_config.quantization == "4bit",
        "without --quantization 4bit",
    ),
    Need(
        ("fsdp_config.use_kahan_summation",),
        lambda c: c.fsdp_config.optimizer == "anyprecision" and c.fsdp_config.pure_bf16,
        "without --fsdp_config.optimizer anyprecision and --fsdp_config.pure_bf16",
    ),
    Need(
        (
            "train_config.checkpoint_every",
            "train_config.keep_checkpoints",
            "train_config.save_optimizer",
            "fsdp_config.checkpoint_type",
        ),
        lambda c: c.train_config.save_model,
        "without --save_model",
    ),
    Need(
        ("train_config.resume_with_changes",),
        lambda c: bool(c.train_config.resume),
        "without --resume",
    ),
    Need(("wandb_config",), lambda c: c.train_config.use_wandb, "without --use_wandb"),
    Need(
        (
            "train_config.low_cpu_fsdp",
            "train_config.dist_checkpoint_root_folder",
            "train_config.dist_checkpoint_folder",
            "fsdp_config.mixed_precision",
            "fsdp_config.use_fp16",
            "fsdp_config.sharding_strategy",
            "fsdp_config.hsdp",
            "fsdp_config.sharding_group_size",
            "fsdp_config.replica_group_size",
            "fsdp_config.checkpoint_type",
            "fsdp_config.fsdp_cpu_offload",
            "fsdp_config.timeout_seconds",
        ),
        lambda c: c.train_config.enable_fsdp,
        "without --enable_fsdp",
    ),
    Need(
        ("fsdp_config.sharding_group_size", "fsdp_config.replica_group_size"),
        lambda c: (
            c.fsdp_config.hsdp or c.fsdp_config.sharding_strategy == ShardingStrategy.HYBRID_SHARD
        ),
        "without --hsdp or --sharding_strategy HYBRID_SHARD",
    ),
    Need(
        ("train_config.dist_checkpoint_root_folder", "train_config.dist_checkpoint_folder"),
        lambda c: not c.train_config.use_peft,
        "because the checkpoints of an adapter stand in --output_dir",
    ),
)


def without_effect(config: RunConfig, key: str) -> str:
    """Why a setting has no effect in this run; empty where it has one."""
    section = key.split(".")[0]
    unmet = (
        need.unless_met
        for need in NEEDS
        if (key in need.settings or section in need.settings) and not need.met(config)
    )
    return next(unmet, "")


def warnings(config: RunConfig) -> list[str]:
    """One sentence for each reason, naming every given setting that it leaves without effect, and
    one for each caution."""
    idle = {key: reason for key in config.given() if (reason := without_effect(config, key))}
    # A bare flag sets every section that has the name: one that listens is enough.
    heard = {
        (key.split(".")[1], repr(config.value(key))) for key in config.given() if key not in idle
    }
    by_reason: dict[str, list[str]] = defaultdict(list)
    for key, reason in idle.items():
        if (key.split(".")[1], repr(config.value(key))) not in heard:
            by_reason[reason].append(flag_of(key))
    said = [
        f"{', '.join(flags)} {'has' if len(flags) == 1 else 'have'} no effect in this run {reason}."
        for reason, flags in by_reason.items()
    ]
    return said + _cautions(config)


def _cautions(config: RunConfig) -> list[str]:
    """Of settings that have an effect, but hardly the one that they are given for."""
    fsdp = config.fsdp_config
    bf16 = fsdp.optimizer == "anyprecision" and fsdp.pure_bf16
    if not bf16 or fsdp.use_kahan_summation:
        return []
    return [
        "--fsdp_config.optimizer anyprecision with --fsdp_config.pure_bf16 follows training in fp32"
        " no better than AdamW in bf16 does: what rounding takes from a step is lost. Give"
        " --fsdp_config.use_kahan_summation too, which keeps it."
    ]
