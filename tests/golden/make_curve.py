"""Makes curve.json: the loss of each of 20 steps of a tiny model, LoRA and full, in fp32, with
PyTorch's own operations.

Remake it only for a change that is meant to change training, and say why in the commit:

    python tests/golden/make_curve.py
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from llama_recipes.configs.flags import parse
from llama_recipes.kernels import library
from llama_recipes.monitoring.screen import Screen
from llama_recipes.running.run import finetune
from support.tiny_folder import jsonl, sums, tiny_folder

CURVE = Path(__file__).with_name("curve.json")
RUNS = {
    "full": ["--lr=1e-3", "--lr_scheduler=cosine", "--warmup_steps=4"],
    "lora": ["--lr=1e-2", "--use_peft", "--target_modules=all-linear", "--gradient_clipping"],
}
COMMON = [
    *("--dataset=file_dataset", "--no_run_validation", "--no_mixed_precision"),
    *("--context_length=64", "--batch_size_training=2", "--gradient_accumulation_steps=2"),
    *("--num_epochs=10", "--max_train_step=20", "--no_save_model"),
    "--lora_config.lora_dropout=0",  # the kernels draw other masks than PyTorch
]


def curves(folder: Path, *, kernels: bool) -> dict[str, list[float]]:
    """The losses of both runs, in nats per token; `folder` is empty and for their use."""
    model = tiny_folder(folder / "model")
    data = jsonl(folder / "train.jsonl", sums(60))
    library.disable()
    with mock.patch.object(library, "enable", library.enable if kernels else lambda: "not wanted"):
        return {name: _losses(folder / name, model, data, flags) for name, flags in RUNS.items()}


def _losses(output: Path, model: Path, data: Path, flags: list[str]) -> list[float]:
    paths = [f"--model_name={model}", f"--train_file={data}", f"--output_dir={output}"]
    config = parse([*paths, *COMMON, *flags], prog="golden").config
    finetune(config, Screen(Console(file=io.StringIO())))
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary
        made = curves(Path(temporary), kernels=False)
    CURVE.write_text(json.dumps(made, indent=2) + "\n")
    print({name: (losses[0], losses[-1]) for name, losses in made.items()})
