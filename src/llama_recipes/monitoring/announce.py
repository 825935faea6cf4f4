"""What a run says of itself before and after training, in the original's words where it has any."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.store import TokenStore
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import count_parameters
from llama_recipes.monitoring.memory import GIB
from llama_recipes.monitoring.profiler import ACTIVE, STEPS
from llama_recipes.monitoring.screen import Screen
from llama_recipes.quantization.kept import Kept
from llama_recipes.quantization.select import Quantization, frozen_bytes

FEW_STEPS = 50
"""Below this a run rarely learns much; packing makes few steps of a small data set."""
_BAD_ROWS_NAMED = 5
"""Of those that were skipped, on the screen."""


def documents(part: str, store: TokenStore, screen: Screen) -> None:
    """How many documents a part has, and what preparing it left out or cut."""
    screen.line(f"--> {part} Set Length = {len(store)}{_losses(store)}")
    named = store.report.get("bad_rows_shown", [])[:_BAD_ROWS_NAMED]
    for row in named:
        screen.line(f"    {row}")
    more = store.report["counts"].get("bad_rows", 0) - len(named)
    if more:
        screen.line(f"    and {more} more")


def _losses(store: TokenStore) -> str:
    """What preparing the data left out or cut, in words; empty where nothing was."""
    counts = store.report["counts"]
    kinds = {
        "bad_rows": "bad rows skipped",
        "too_long": "dropped as too long",
        "no_supervised_token": "dropped without a supervised token",
        "truncated": "cut to context_length",
        "without_stop_token": "without a stop token, so that stopping is not learnt",
    }
    said = [f"{counts[kind]} {words}" for kind, words in kinds.items() if counts.get(kind)]
    return f" ({', '.join(said)})" if said else ""


def base(model: Llama, how: Quantization | None, screen: Screen) -> None:
    """How the base is kept, where that is in few bits. model: whole, before it is sharded."""
    if how is not None:
        kept, plain = (size / GIB for size in frozen_bytes(model))
        screen.line(
            f"Base: {Kept(how).words.removeprefix('in ')}; its frozen weights take {kept:.2f} GiB"
            f" instead of {plain:.2f}."
        )


def model(model: Llama, name: str, screen: Screen) -> None:
    total = count_parameters(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    screen.line(f"--> {name} has {total / 1e6:.6f} Million params")
    screen.line(
        f"trainable params: {trained:,} || all params: {total:,}"
        f" || trainable%: {100 * trained / total:.4f}"
    )


def steps(total: int, train: TrainConfig, screen: Screen) -> None:
    screen.line(f"--> Num of optimizer steps = {total}")
    if total < FEW_STEPS and not train.max_train_step:
        screen.line(
            "    These are few: for more, lower --batch_size_training or --context_length, or raise"
            " --num_epochs."
        )
    if train.warmup_steps >= total:
        screen.warn(
            f"--warmup_steps is {train.warmup_steps}, so the learning rate never reaches --lr"
            f" in these {total} steps."
        )


def too_few_to_count(steps: int, train: TrainConfig, screen: Screen) -> None:
    """steps: that this process makes, if nothing stops it early."""
    if steps <= train.flop_counter_start:
        screen.warn(
            f"--flop_counter counts the step after the first {train.flop_counter_start}, and"
            f" {steps} are made: nothing will be counted. Lower --flop_counter_start."
        )


def too_few_to_profile(steps: int, screen: Screen) -> None:
    """steps: that this process makes, if nothing stops it early."""
    if steps < STEPS:
        screen.warn(
            f"--use_profiler records the steps {STEPS - ACTIVE + 1} to {STEPS}, and {steps} are"
            " made: the trace will be shorter, or there will be none. Raise --num_epochs or lower"
            " --batch_size_training."
        )


def only_checkpoints(root: Path, screen: Screen) -> None:
    """Before a run whose weights are nowhere else: it has no --output_dir."""
    screen.line(
        f"--output_dir is not given: the weights are in checkpoints in {root}, and no model is"
        " written."
    )


def to_model(root: Path, best_step: int | None, screen: Screen) -> None:
    """After such a run: how its best checkpoint, or else the newest, becomes a model."""
    best = root / f"step-{best_step or 0:08}"
    name = best if best.is_dir() else root
    command = shlex.join(["llama-recipes", "export", str(name), "--output", "my-model"])
    screen.line(f"The weights are in {name}. To make a model of them: {command}")


def end(results: dict[str, Any], saved_in: Path | None, screen: Screen) -> None:
    screen.line(f"Training is over: {results['stop_reason']}.")
    if results["best_eval_loss"] is not None:
        screen.line(
            f"best eval loss on step {results['best_step']} is {results['best_eval_loss']:.4f}"
        )
    if saved_in is not None:
        screen.line(f"The result is saved in {saved_in}")
    for key, value in results.items():
        if value is not None and not isinstance(value, dict):
            screen.line(f"Key: {key}, Value: {value}")
