"""Which run a checkpoint is of, and whether the one that wants to go on from it is the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama_recipes.checkpoint.folder import (
    Checkpoint,
    newest_checkpoint,
    open_checkpoint,
)
from llama_recipes.configs.places import CHECKPOINTS
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import flag_of
from llama_recipes.data.store import TokenStore
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.parallel.world import World

_DECIDES = {
    "train_config": (
        *("batching_strategy", "context_length", "batch_size_training"),
        *("gradient_clipping", "gradient_clipping_threshold"),
        *("lr", "weight_decay", "gamma", "lr_scheduler", "warmup_steps", "seed", "use_fp16"),
        *("mixed_precision", "use_peft", "peft_method", "freeze_layers", "num_freeze_layers"),
        *("quantization", "truncation", "train_on_prompt", "dataset"),
    ),
    "fsdp_config": ("pure_bf16", "optimizer", "use_kahan_summation"),
}
"""Settings that a run goes on with as it began, beside all those of its adapter and quantisation.
How long it trains, what it evaluates and saves may change, and where inputs lie: of these what
counts is what is in them."""


def identity(
    config: RunConfig, *, model: str, tokenizer: str, data: TokenStore, processes: int
) -> dict[str, dict[str, Any]]:
    """What has to be the same. model, tokenizer: fingerprints.

    Of `processes` and the micro-batches that each accumulates only the product counts: half as many
    processes that accumulate twice as much make the same steps.
    """
    train = config.train_config
    whole = [f"{train.peft_method}_config"] if train.use_peft else []
    whole += ["quantization_config"] if train.quantization == "4bit" else []
    decides = _DECIDES | {name: tuple(type(config.section(name)).model_fields) for name in whole}
    settings = {
        f"{section}.{name}": getattr(config.section(section), name)
        for section, names in decides.items()
        for name in names
    }
    micro_batches = train.gradient_accumulation_steps * processes
    settings["train_config.gradient_accumulation_steps × processes"] = micro_batches
    inputs = {"model": model, "tokenizer": tokenizer, "training data": data.digest}
    return {"settings": settings, "inputs": inputs}


def checkpoint_to_resume(
    config: RunConfig, root: Path | None, warn: Callable[[str], None], world: World
) -> Checkpoint | None:
    """The one that `resume` asks for; None where it asks for none, or for the newest of none.

    root: the folder of this run's checkpoints. One process reads and checks the files for all.
    Raises ConfigError and CheckpointError.
    """
    found: list[Checkpoint | None] = []
    world.lead(lambda: found.append(_find(config, root, warn)))
    path = world.texts(str(found[0].path) if found and found[0] else "")[0]
    return open_checkpoint(Path(path), verify=False) if path else None


def _find(config: RunConfig, root: Path | None, warn: Callable[[str], None]) -> Checkpoint | None:
    asked = config.train_config.resume
    if not asked:
        return None
    if asked != "auto":
        path = Path(asked).expanduser()
        if not path.is_dir():
            raise ConfigError(
                f"--resume is {asked!r}, which is no folder. Name a checkpoint, such as"
                f" OUTPUT_DIR/{CHECKPOINTS}/step-00000040, or say --resume auto."
            )
        return open_checkpoint(path)
    if root is None:
        raise ConfigError(
            "--resume auto looks for checkpoints in --output_dir, which is not given. Name it."
        )
    found = newest_checkpoint(root, warn)
    if found is None and any(root.glob("step-*")):
        raise CheckpointError(
            f"None of the checkpoints in {root} is whole. Remove them to start anew."
        )
    return found


def refuse_drift(
    checkpoint: Checkpoint, present: Mapping[str, Mapping[str, Any]], *, allowed: bool
) -> list[str]:
    """What differs from the run that saved `checkpoint`, in sentences, where that is `allowed`.

    Raises ConfigError with them where it is not.
    """
    before = checkpoint.state["identity"]
    found = [
        f"{flag_of(key)} is {value}, and was {before['settings'].get(key)} in {checkpoint.path}."
        for key, value in present["settings"].items()
        if before["settings"].get(key) != value
    ]
    found += [
        f"The {what} is another one than that of {checkpoint.path}."
        for what, digest in present["inputs"].items()
        if before["inputs"].get(what) != digest
    ]
    if found and not allowed:
        raise ConfigError(
            *found,
            "Resuming would make a run that is neither: give what it began with, or say"
            " --resume_with_changes to go on all the same.",
        )
    return found
