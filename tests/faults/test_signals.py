"""Signals at moments when there is no step to save: while loading, and a second time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from support.tiny_folder import tiny_folder
from support.torchrun import wait_until

SLEEPS = """
import time
from pathlib import Path


def get_custom_dataset(config, tokenizer, split):
    Path(config.data_path).touch()
    time.sleep(60)
"""

LISTENS = """
import sys, time
from llama_recipes.training.interruption import Interruption
interruption = Interruption()
interruption.at_once = False
with interruption.listening():
    print("listening", flush=True)
    for _ in range(600):
        time.sleep(0.1)
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


def test_a_second_signal_ends_the_process_at_once():
    run = subprocess.Popen([sys.executable, "-c", LISTENS], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    assert run.stdout.readline() == "listening\n"
    run.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert run.poll() is None
    run.send_signal(signal.SIGTERM)
    assert run.wait(5) == -signal.SIGTERM
    run.stdout.close()
