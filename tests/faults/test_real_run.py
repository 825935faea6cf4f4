"""The real model on real text, on two processes of which either is killed once."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from support.real import MODEL, needs_gsm8k, needs_model, write_gsm8k_chat
from support.torchrun import content, launched, ranks_of, steps, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.real_model, needs_model, needs_gsm8k]

STEPS = 8


def test_killed_twice_the_adapter_is_that_of_the_run_that_was_left_alone(tmp_path, record_property):
    rows = write_gsm8k_chat(tmp_path / "train.jsonl", "train", slice(400))

    def words(folder) -> list[str]:
        return [
            *("--max_restarts=3", "-m", "llama_recipes.finetuning", "--enable_fsdp", "--use_peft"),
            *("--sharding_strategy=FULL_SHARD", f"--model_name={MODEL}"),
            *("--dataset=file_dataset", f"--train_file={rows}", "--no_run_validation"),
            *("--batching_strategy=padding", "--batch_size_training=1", "--context_length=512"),
            *("--lr=1e-3", f"--max_train_step={STEPS}", "--checkpoint_every=1"),
            *(f"--output_dir={folder}", "--resume=auto"),
        ]

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for folder, kills in ((alone, ()), (killed, ((1, 3), (0, 6)))):
        with launched(*words(folder)) as process:
            for rank, step in kills:
                wait_until(lambda folder=folder, step=step: steps(folder) >= step, 300)
                os.kill(ranks_of(process.pid)[rank], signal.SIGKILL)
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, said[-3000:]
        assert said.count("Going on after step") == len(kills)
        record_property("kills", len(kills))
    expected, weights = content(alone)
    found, resumed = content(killed)
    assert found == expected
    assert len(found) == STEPS
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)
