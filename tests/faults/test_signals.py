"""Signals at moments when there is no step to save, or one is being saved; and a second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from llama_recipes.checkpoint import folder as checkpoints
from llama_recipes.finetuning import main
from llama_recipes.training import loop
from support.tiny_folder import jsonl, sums, tiny_folder
from support.torchrun import content, flags_for, launched, make_inputs, ranks_of, wait_until

SLEEPS = """
import time
from pathlib import Path


def get_custom_dataset(config, tokenizer, split):
    Path(config.data_path).touch()
    time.sleep(60)
"""

LISTENS = """
import sys, time
from datetime import timedelta
from torch.distributed import TCPStore
from llama_recipes.training.interruption import Interruption
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
interruption = Interruption()
interruption.at_once = False
with interruption.listening():
    print("listening", flush=True)
    for _ in range(600):
        if sys.argv[1] == "Python":
            time.sleep(0.1)
        else:
            store.wait(["what nobody sets"], timedelta(seconds=60))
"""


def test_while_loading_it_ends_at_once_and_nothing_is_lost(tmp_path):
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    begun = tmp_path / "begun"
    command = [
        *(sys.executable, "-m", "llama_recipes.finetuning", "--dataset=custom_dataset"),
        f"--model_name={tiny_folder(tmp_path / 'model')}",
        f"--output_dir={tmp_path / 'result'}",
        f"--custom_dataset.file={tmp_path / 'sleeps.py'}",
        f"--custom_dataset.data_path={begun}",
    ]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(begun.exists)
    run.send_signal(signal.SIGUSR1)
    started = time.monotonic()
    _, said = run.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert run.returncode == 75
    assert "Stopped by SIGUSR1 before the first step: nothing is lost." in said
    assert not list((tmp_path / "result").rglob("*.safetensors"))


COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo one of a test; exit; fi
touch "$0.begun"
sleep 60 &
echo $! > "$0.begun"
wait
"""


def test_while_the_kernels_are_compiled_it_ends_at_once_and_leaves_no_half(tmp_path):
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    command = [
        *(sys.executable, "-m", "llama_recipes.finetuning", "--dataset=stdlib_docstrings_dataset"),
        *(f"--model_name={tiny_folder(tmp_path / 'model')}", f"--output_dir={tmp_path / 'result'}"),
    ]
    variables = {
        "PATH": f"{compiler.parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | variables)
    begun = tmp_path / "bin" / "g++.begun"
    wait_until(lambda: begun.exists() and begun.read_text())
    run.send_signal(signal.SIGTERM)
    started = time.monotonic()
    _, said = run.communicate(timeout=30)
    os.kill(int(begun.read_text()), signal.SIGKILL)
    assert time.monotonic() - started < 20
    assert run.returncode == 75
    assert "Stopped by SIGTERM before the first step: nothing is lost." in said
    assert list((tmp_path / "cache" / "llama_recipes" / "kernels").iterdir()) == []


@pytest.fixture
def flags(tmp_path):
    return [
        *(f"--model_name={tiny_folder(tmp_path / 'model')}", "--use_peft", "--context_length=64"),
        *("--dataset=file_dataset", f"--train_file={jsonl(tmp_path / 'train.jsonl', sums(8))}"),
        f"--validation_file={jsonl(tmp_path / 'validation.jsonl', sums(3))}",
        *("--batch_size_training=1", "--num_epochs=1", "--batching_strategy=padding"),
        *("--checkpoint_every=3", "--eval_every=4", "--report_samples=0"),
    ]


def signal_in(module: object, name: str, call: int, monkeypatch) -> None:
    """SIGTERM in the middle of that call of a function."""
    made, act = [], getattr(module, name)

    def disturbed(*arguments: object, **more: object) -> object:
        made.append(name)
        if len(made) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return act(*arguments, **more)

    monkeypatch.setattr(module, name, disturbed)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [(checkpoints, "save_pieces", 1), (checkpoints, "_complete", 1), (loop, "evaluate", 1)],
    ids=["while the first checkpoint is written", "and published", "while evaluating"],
)
def test_what_a_signal_meets_is_finished_and_the_run_goes_on_equal(
    module, name, call, flags, tmp_path, monkeypatch, capsys
):
    assert main([*flags, f"--output_dir={tmp_path / 'whole'}"]) == 0
    stopped = [*flags, f"--output_dir={tmp_path / 'stopped'}", "--resume=auto"]
    with monkeypatch.context() as patch:
        signal_in(module, name, call, patch)
        assert main(stopped) == 75
    said = capsys.readouterr().err
    assert "Stopped by SIGTERM after step" in said
    for path in (tmp_path / "stopped" / "checkpoints").iterdir():
        checkpoints.open_checkpoint(path)
    assert main(stopped) == 0
    metrics, weights = content(tmp_path / "whole")
    again, resumed = content(tmp_path / "stopped")
    assert again == metrics
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


@pytest.mark.parametrize("where", ["Python", "C++"])
def test_a_second_signal_ends_the_process_at_once(where):
    run = subprocess.Popen(
        [sys.executable, "-c", LISTENS, where], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout
    assert run.stdout.readline() == "listening\n"
    time.sleep(0.5)
    run.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(5) == 128 + signal.SIGINT
    run.stdout.close()


def test_a_process_that_waits_for_prepared_data_heeds_a_signal(tmp_path):
    inputs, begun = make_inputs(tmp_path), tmp_path / "begun"
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    flags = [
        flag.replace("file_dataset", "custom_dataset")
        for flag in flags_for(inputs, tmp_path / "result")
        if "train_file" not in flag
    ]
    flags += [f"--custom_dataset.file={tmp_path / 'sleeps.py'}", f"--data_path={begun}"]
    with launched("-m", "llama_recipes.finetuning", *flags) as process:
        wait_until(begun.exists)
        time.sleep(1)
        os.kill(ranks_of(process.pid)[1], signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
    assert "Stopped by SIGTERM before the first step: nothing is lost." in said
    assert "exitcode  : 75" in said  # torchrun's table
