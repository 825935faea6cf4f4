"""A run asks nothing of a network, and writes no secret down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny_folder import jsonl, sums, tiny_folder

SECRET = "hunter2-0123456789abcdef"


def command(folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "llama_recipes.finetuning", "--dataset=file_dataset"),
        f"--model_name={tiny_folder(folder / 'model')}",
        f"--train_file={jsonl(folder / 'train.jsonl', sums(20))}",
        *(f"--output_dir={folder / 'result'}", "--context_length=64", "--use_peft"),
        *("--batch_size_training=1", "--num_epochs=1", "--no_run_validation", *more),
    ]


def test_a_run_without_a_network_is_a_run(tmp_path):
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("a process without a network needs root and the command unshare")
    variables = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    alone = ["unshare", "--net", *command(tmp_path)]
    done = subprocess.run(alone, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result" / "adapter_model.safetensors").exists()
    assert "retry" not in (done.stdout + done.stderr).lower()


def test_no_secret_of_the_environment_is_in_any_file_or_line(tmp_path):
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")
    variables = os.environ | dict.fromkeys(names, SECRET)
    variables |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        command(tmp_path, "--save_optimizer"),
        capture_output=True,
        check=False,
        env=variables,
    )
    assert done.returncode == 0, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 15
    for content in (done.stdout, done.stderr, *(path.read_bytes() for path in files)):
        assert SECRET.encode() not in content


def test_an_address_with_a_secret_is_refused_before_anything_is_written(tmp_path):
    address = f"https://user:{SECRET}@example.org/train.jsonl"
    words = [w for w in command(tmp_path) if "train_file" not in w]
    done = subprocess.run(
        [*words, f"--train_file={address}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--file_dataset.train_file holds an address with a password" in done.stderr
    assert SECRET not in done.stderr
    assert not (tmp_path / "result").exists()
