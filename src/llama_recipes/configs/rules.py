"""What a run cannot do without, and what cannot stand together: two tables, one thought a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from llama_recipes.configs.fsdp import ShardingStrategy
from llama_recipes.configs.needs import has_validation_part
from llama_recipes.configs.places import saves_apart
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import flag_of, is_given


@dataclass(frozen=True, slots=True)
class Required:
    """A path that must be given `when` it is needed; `fix` ends the sentence."""

    setting: str
    when: Callable[[RunConfig], bool]
    fix: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """`settings` cannot stand so `when`; `problem` may name values, as {c.train_config.lr}."""

    settings: tuple[str, ...]
    when: Callable[[RunConfig], bool]
    problem: str


def _saves_in_output_dir(config: RunConfig) -> bool:
    """All but a sharded full fine-tune, which has a folder of its own."""
    return config.train_config.save_model and not saves_apart(config.value)


def _makes_up(config: RunConfig) -> bool:
    """Whether a LoRA that this run starts makes up for quantisation."""
    train = config.train_config
    lora = train.use_peft and train.peft_method == "lora" and train.quantization is not False
    return lora and config.lora_config.init_lora_weights == "qera"


REQUIRED = (
    Required(
        "train_config.model_name",
        lambda c: True,
        "name the model to fine-tune: a folder, a .gguf file, a hub id or smollm2-135m-instruct",
    ),
    Required(
        "train_config.output_dir",
        _saves_in_output_dir,
        "name a folder for the result, or switch saving off with --no_save_model",
    ),
    Required(
        "train_config.output_dir",
        lambda c: (
            (c.train_config.use_tensorboard or c.train_config.save_metrics)
            and not _saves_in_output_dir(c)
        ),
        "name a folder for the files of --use_tensorboard and --save_metrics",
    ),
    Required(
        "train_config.dist_checkpoint_root_folder",
        lambda c: c.train_config.save_model and saves_apart(c.value),
        "name a folder for the sharded checkpoints",
    ),
    Required(
        "train_config.profiler_dir",
        lambda c: c.train_config.use_profiler,
        "name a folder for the trace",
    ),
    Required(
        "samsum_dataset.data_path",
        lambda c: c.train_config.dataset == "samsum_dataset",
        "samsum has left its old place on the hub, so name a folder that holds train.jsonl, .json "
        "or .csv with the columns dialogue and summary, or a hub id; or choose another --dataset",
    ),
    Required(
        "grammar_dataset.train_split",
        lambda c: c.train_config.dataset == "grammar_dataset",
        "name a CSV file with the columns input and target",
    ),
    Required(
        "grammar_dataset.test_split",
        lambda c: c.train_config.dataset == "grammar_dataset" and c.train_config.run_validation,
        "name a CSV file with the columns input and target, or leave validation out with "
        "--no_run_validation",
    ),
    Required(
        "alpaca_dataset.data_path",
        lambda c: c.train_config.dataset == "alpaca_dataset",
        "name a JSON file with a list of objects that have instruction, input and output",
    ),
    Required(
        "custom_dataset.file",
        lambda c: c.train_config.dataset == "custom_dataset",
        "name the Python file that defines get_custom_dataset",
    ),
    Required(
        "file_dataset.train_file",
        lambda c: c.train_config.dataset == "file_dataset",
        "name a JSONL, JSON, CSV, Parquet or text file, or a hub id",
    ),
)

CONFLICTS = (
    Conflict(
        ("train_config.enable_fsdp", "train_config.one_gpu"),
        lambda c: c.train_config.enable_fsdp and c.train_config.one_gpu,
        "--enable_fsdp and --one_gpu exclude each other: one shards over several devices, the "
        "other uses one; leave one of them out.",
    ),
    Conflict(
        ("fsdp_config.hsdp", "fsdp_config.sharding_strategy"),
        lambda c: (
            c.train_config.enable_fsdp
            and c.fsdp_config.hsdp
            and c.fsdp_config.sharding_strategy == ShardingStrategy.NO_SHARD
        ),
        "--hsdp and --sharding_strategy NO_SHARD exclude each other: the first shards within "
        "groups, the second nowhere; leave one of them out.",
    ),
    Conflict(
        ("fsdp_config.use_fp16", "train_config.use_fp16"),
        lambda c: (
            c.train_config.enable_fsdp and c.fsdp_config.use_fp16 and not c.train_config.use_fp16
        ),
        "--fsdp_config.use_fp16 needs --train_config.use_fp16: what is sent in fp16 is computed in "
        "it. Write --use_fp16, which sets both.",
    ),
    Conflict(
        ("train_config.flop_counter", "train_config.use_profiler"),
        lambda c: c.train_config.flop_counter and c.train_config.use_profiler,
        "--flop_counter and --use_profiler exclude each other: each would distort the other's "
        "measurement; leave one of them out.",
    ),
    Conflict(
        ("train_config.use_profiler", "train_config.max_train_step"),
        lambda c: c.train_config.use_profiler and 0 < c.train_config.max_train_step <= 6,
        "--max_train_step is {c.train_config.max_train_step}, but --use_profiler records steps 4 "
        "to 6 after a warm-up: make it 0 or above 6.",
    ),
    Conflict(
        (
            "train_config.flop_counter",
            "train_config.flop_counter_start",
            "train_config.max_train_step",
        ),
        lambda c: (
            c.train_config.flop_counter
            and 0 < c.train_config.max_train_step <= c.train_config.flop_counter_start
        ),
        "--max_train_step is {c.train_config.max_train_step}, but --flop_counter counts the step "
        "after the first {c.train_config.flop_counter_start}: make it 0 or larger, or lower "
        "--flop_counter_start.",
    ),
    Conflict(
        ("train_config.use_fp16", "train_config.mixed_precision"),
        lambda c: c.train_config.use_fp16 and not c.train_config.mixed_precision,
        "--use_fp16 and --no_mixed_precision exclude each other: the second keeps everything in "
        "fp32; leave one of them out.",
    ),
    Conflict(
        ("fsdp_config.pure_bf16", "train_config.mixed_precision"),
        lambda c: c.fsdp_config.pure_bf16 and not c.train_config.mixed_precision,
        "--fsdp_config.pure_bf16 and --no_mixed_precision exclude each other: the second keeps "
        "everything in fp32; leave one of them out.",
    ),
    Conflict(
        ("fsdp_config.pure_bf16", "train_config.use_fp16"),
        lambda c: c.fsdp_config.pure_bf16 and c.train_config.use_fp16,
        "--fsdp_config.pure_bf16 and --use_fp16 exclude each other: leave one of them out.",
    ),
    Conflict(
        ("train_config.quantization", "train_config.use_peft"),
        lambda c: c.train_config.quantization is not False and not c.train_config.use_peft,
        "--quantization needs --use_peft: quantised weights cannot be trained, an adapter on them "
        "can.",
    ),
    Conflict(
        ("lora_config.init_lora_weights", "train_config.from_peft_checkpoint"),
        lambda c: _makes_up(c) and is_given(c.train_config.from_peft_checkpoint),
        "--lora_config.init_lora_weights qera starts an adapter, and --from_peft_checkpoint names "
        "one to go on with: leave one of them out.",
    ),
    Conflict(
        ("lora_config.init_lora_weights", "lora_config.r"),
        lambda c: _makes_up(c) and c.lora_config.r < 2,
        "--lora_config.r is {c.lora_config.r}, of which --lora_config.init_lora_weights qera holds "
        "one half and trains the other: make it 2 or larger.",
    ),
    Conflict(
        ("lora_config.init_lora_weights", "train_config.weight_decay"),
        lambda c: _makes_up(c) and c.train_config.weight_decay > 0,
        "--weight_decay would take away what --lora_config.init_lora_weights qera holds: leave one "
        "of them out.",
    ),
    Conflict(
        ("lora_config.init_lora_weights", "train_config.enable_fsdp"),
        lambda c: _makes_up(c) and c.train_config.enable_fsdp,
        "--lora_config.init_lora_weights qera is computed on whole layers, which --enable_fsdp "
        "shares out: train one step on one process with it, and go on from that adapter with "
        "--from_peft_checkpoint.",
    ),
    Conflict(
        ("train_config.from_peft_checkpoint", "train_config.use_peft"),
        lambda c: is_given(c.train_config.from_peft_checkpoint) and not c.train_config.use_peft,
        "--from_peft_checkpoint needs --use_peft: it names an adapter to go on training.",
    ),
    Conflict(
        ("train_config.from_peft_checkpoint",),
        lambda c: (
            is_given(c.train_config.from_peft_checkpoint)
            and not Path(c.train_config.from_peft_checkpoint).expanduser().is_dir()
        ),
        "--from_peft_checkpoint is {c.train_config.from_peft_checkpoint!r}, which is no folder: "
        "name the one that holds adapter_config.json and adapter_model.safetensors.",
    ),
    Conflict(
        ("train_config.early_stopping_patience", "train_config.run_validation"),
        lambda c: c.train_config.early_stopping_patience > 0 and not c.train_config.run_validation,
        "--early_stopping_patience needs --run_validation: it watches the evaluation's loss.",
    ),
    Conflict(
        (
            "train_config.early_stopping_patience",
            "train_config.dataset",
            "file_dataset.validation_file",
            "file_dataset.validation_fraction",
        ),
        lambda c: c.train_config.early_stopping_patience > 0 and not has_validation_part(c),
        "--early_stopping_patience needs validation data: give --file_dataset.validation_file or "
        "--file_dataset.validation_fraction.",
    ),
    Conflict(
        ("file_dataset.validation_file", "file_dataset.validation_fraction"),
        lambda c: (
            is_given(c.file_dataset.validation_file) and c.file_dataset.validation_fraction > 0
        ),
        "--file_dataset.validation_file and --file_dataset.validation_fraction exclude each other: "
        "leave one of them out.",
    ),
)


_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def contradictions(config: RunConfig, *, refused: Collection[str] = ()) -> list[str]:
    """What cannot stand together; silent about settings `refused` already."""
    found = [
        conflict.problem.format(c=config)
        for conflict in CONFLICTS
        if not set(conflict.settings) & set(refused) and conflict.when(config)
    ]
    return found + _passwords(config)


def _passwords(config: RunConfig) -> list[str]:
    """Addresses with a password: all settings are written down."""
    return [
        f"{flag_of(key)} holds an address with a password, which would be written to config.yaml."
        " Fetch what is there, and name the place where it lies then."
        for key in config.given()
        if _PASSWORD.search(str(config.value(key)))
    ]


def missing(config: RunConfig, *, refused: Collection[str] = ()) -> list[str]:
    """What the run needs and was not given; silent about settings `refused` already."""
    return [
        f"{flag_of(required.setting)} is not given: {required.fix}."
        for required in REQUIRED
        if required.setting not in refused
        and required.when(config)
        and not is_given(str(config.value(required.setting)))
    ]
