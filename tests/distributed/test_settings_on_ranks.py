"""Invariant 10 on several processes: what each setting of sharding changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llama_recipes.configs.fsdp import FsdpConfig
from llama_recipes.errors import ConfigError
from llama_recipes.monitoring.run_log import read_metrics
from llama_recipes.monitoring.trackers import named
from llama_recipes.parallel.strategy import Groups, groups
from llama_recipes.running import preflight
from support.ranks import facts, run_jobs
from support.settings import configured
from support.tiny import tiny_llama
from support.tiny_folder import VOCABULARY, jsonl, sums, tiny_folder
from support.wandb_file import written_runs

FULL, LORA = (), ("--use_peft", "--lora_config.lora_dropout=0")
TRACKED = ("--use_wandb", "--wandb_config.mode=offline", "--use_tensorboard", "--save_metrics")
JOBS = {
    "FULL_SHARD": FULL,
    "SHARD_GRAD_OP": ("--sharding_strategy=SHARD_GRAD_OP",),
    "NO_SHARD": ("--sharding_strategy=NO_SHARD",),
    "low_cpu": ("--low_cpu_fsdp",),
    "lora": (*LORA, *TRACKED),
    "whole checkpoints": ("--checkpoint_type=FULL_STATE_DICT",),
    "another folder": ("--dist_checkpoint_folder=here",),
    "fp16": ("--mixed_precision", "--use_fp16"),
    "fp16, sent in fp32": ("--mixed_precision", "--train_config.use_fp16=True"),
    "offloaded": ("--fsdp_cpu_offload",),
}
STEPS = 2


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    tiny_folder(folder / "model")
    jsonl(folder / "train.jsonl", sums(37))
    jobs = [
        [
            *(f"--model_name={folder / 'model'}", "--dataset=file_dataset", "--no_run_validation"),
            *(f"--train_file={folder / 'train.jsonl'}", "--context_length=64", "--enable_fsdp"),
            *("--batch_size_training=1", "--lr=1e-2", f"--max_train_step={STEPS}"),
            *(f"--output_dir={folder / name}", f"--dist_checkpoint_root_folder={folder / name}-d"),
            "--no_fsdp_activation_checkpointing",
            *flags,
            *(() if "--mixed_precision" in flags else ("--no_mixed_precision",)),
        ]
        for name, flags in JOBS.items()
    ]
    run_jobs(folder / "logs", jobs, size=2)
    return folder


def received(ran: Path, name: str, collective: str) -> int:
    found = facts(ran / "logs", list(JOBS).index(name), 2)
    bytes_of_ranks = {each["received"].get(collective, 0) for each in found}
    assert len(bytes_of_ranks) == 1
    return bytes_of_ranks.pop()


def weight_bytes() -> tuple[int, int]:
    """Of the decoder layers in fp32, and of the rest; each tensor cut in equal parts, so that odd
    numbers of rows are filled up."""
    model = tiny_llama(vocab_size=VOCABULARY)
    layers = rest = 0
    for name, parameter in model.named_parameters():
        padded = parameter.numel() // len(parameter) * (len(parameter) + len(parameter) % 2) * 4
        layers, rest = (layers + padded, rest) if ".layers." in name else (layers, rest + padded)
    return layers, rest


def test_full_shard_gathers_layers_twice_a_step_and_the_root_once(ran):
    layers, rest = weight_bytes()
    passes = received(ran, "FULL_SHARD", "reduce_scatter_single") * 2 // (layers + rest)
    assert passes == STEPS
    assert received(ran, "FULL_SHARD", "all_gather_single") == STEPS * (2 * layers + rest) // 2


def test_shard_grad_op_gathers_everything_once(ran):
    layers, rest = weight_bytes()
    found = received(ran, "SHARD_GRAD_OP", "all_gather_single")
    assert found == STEPS * (layers + rest) // 2


def test_no_shard_gathers_nothing_and_adds_up_gradients(ran):
    layers, rest = weight_bytes()
    assert received(ran, "NO_SHARD", "all_gather_single") == 0
    assert received(ran, "NO_SHARD", "all_reduce") >= STEPS * (layers + rest) * 0.95


def test_of_an_adapter_only_its_own_gradients_travel(ran):
    layers, rest = weight_bytes()
    assert 0 < received(ran, "lora", "reduce_scatter_single") < STEPS * (layers + rest) / 20


def test_what_is_sent_in_fp16_is_half_as_much(ran):
    halves, wholes = (
        received(ran, name, "all_gather_single") for name in ("fp16", "fp16, sent in fp32")
    )
    assert 2 * halves == wholes > 0


def test_each_process_reads_its_own_rows_alone(ran):
    each = [found["read"] for found in facts(ran / "logs", list(JOBS).index("FULL_SHARD"), 2)]
    whole = sum(p.numel() * 4 for p in tiny_llama(vocab_size=VOCABULARY).parameters())
    assert sum(each) == whole
    assert max(each) <= 0.52 * whole


def test_with_low_cpu_fsdp_one_process_reads_for_all(ran):
    found = facts(ran / "logs", list(JOBS).index("low_cpu"), 2)
    whole = sum(p.numel() * 4 for p in tiny_llama(vocab_size=VOCABULARY).parameters())
    assert [each["read"] for each in found] == [whole, 0]


def test_checkpoints_stand_where_and_as_was_asked(ran):
    names = {
        name: sorted(p.name for p in (ran / f"{name}-d/fine-tuned-model").glob("step-*/w*"))
        for name in ("FULL_SHARD", "whole checkpoints")
    }
    assert names["FULL_SHARD"] == [f"weights-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert names["whole checkpoints"] == ["weights.safetensors"]
    assert any((ran / "another folder-d" / "here-model").glob("step-*"))
    assert any((ran / "lora" / "checkpoints").glob("step-*"))


def test_one_process_tracks_for_all(ran):
    folder = ran / "lora"
    (run,) = written_runs(folder)
    lines = read_metrics(folder).lines
    assert [line["step"] for line in lines] == [1, 2]
    assert run.rows == {
        row: {"train/step": line["step"], **named(line)} for row, line in enumerate(lines)
    }
    assert (run.config["processes"], run.exit_code) == (2, 0)
    assert len(list(folder.glob("tensorboard/events.*"))) == 1
    (file,) = folder.glob("metrics_data_0-*.json")
    assert json.loads(file.read_text())["train_step_loss"] == [line["loss"] for line in lines]
    assert len(list(folder.glob("*.png"))) == 4


def test_offloading_is_said_to_be_nothing_on_a_processor(ran):
    log = ran / "logs" / f"{list(JOBS).index('offloaded')}-0.log"
    assert "Warning: --fsdp_cpu_offload has no effect in this run" in log.read_text()
    on_gpu = configured("--enable_fsdp", "--use_peft", "--fsdp_cpu_offload")
    assert preflight.kept_on(on_gpu, torch.device("cuda", 1)) == torch.device("cpu")
    plain = configured("--enable_fsdp", "--use_peft")
    assert preflight.kept_on(plain, torch.device("cuda", 1)) == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("flags", "dtype", "sent"),
    [
        ((), torch.bfloat16, torch.bfloat16),
        ((), torch.float32, None),
        (("--fsdp_config.mixed_precision=False",), torch.bfloat16, None),
        (("--quantization=4bit",), torch.bfloat16, None),
        (("--use_fp16",), torch.float16, torch.float16),
        (("--train_config.use_fp16=True",), torch.float16, None),
    ],
)
def test_what_weights_are_sent_in(flags, dtype, sent):
    config = configured("--enable_fsdp", "--use_peft", *flags)
    assert preflight.gathered_in(config, dtype) == sent


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Groups(1, 8)),
        ({"sharding_strategy": "NO_SHARD"}, Groups(8, 1)),
        ({"sharding_strategy": "HYBRID_SHARD"}, Groups(2, 4)),
        ({"hsdp": True}, Groups(2, 4)),
        ({"hsdp": True, "sharding_group_size": 2}, Groups(4, 2)),
        ({"hsdp": True, "replica_group_size": 2}, Groups(2, 4)),
        ({"hsdp": True, "replica_group_size": 8, "sharding_group_size": 1}, Groups(8, 1)),
    ],
)
def test_who_shares_with_whom(settings, expected):
    assert groups(FsdpConfig(**settings), processes=8, processes_of_host=4) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"hsdp": True, "sharding_group_size": 3},
        {"hsdp": True, "replica_group_size": 16},
        {"hsdp": True, "replica_group_size": 2, "sharding_group_size": 2},
    ],
)
def test_sizes_that_do_not_fit_the_processes_are_refused(settings):
    with pytest.raises(ConfigError, match=r"torchrun started 8: make --sharding_group_size times"):
        groups(FsdpConfig(**settings), processes=8, processes_of_host=4)
