"""Signals at moments when there is no step to save: while loading, and a second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from support.tiny_folder import tiny_folder
from support.torchrun import flags_for, launched, make_inputs, ranks_of, wait_until

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
