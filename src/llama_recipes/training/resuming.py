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
from llama_recipes.configs.settings import SETTINGS
from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenizer import Tokenizer
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
    config: RunConfig,
    *,
    model: str,
    tokenizer: Tokenizer,
    tokenizer_path: Path,
    data: TokenStore,
    processes: int,
) -> dict[str, dict[str, Any]]:
    """What has to be the same. model: a fingerprint.

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
    inputs = {
        "model": {"id": model, "from": train.model_name},
        "tokenizer": {
            "id": tokenizer.text_fingerprint,
            "from": str(tokenizer_path),
            "with template": tokenizer.fingerprint,
        },
        "chat template": {"id": tokenizer.template_fingerprint, "from": str(tokenizer_path)},
        "training data": {"id": data.digest, "from": f"{len(data)} documents of {_place(config)}"},
    }
    return {"settings": settings, "inputs": inputs}


def _place(config: RunConfig) -> str:
    """Where the training data comes from, in the words of its section."""
    section = config.dataset
    named = (getattr(section, name, "") for name in ("train_file", "file", "data_path"))
    return next((str(place) for place in named if place), config.train_config.dataset)


def checkpoint_to_resume(
    config: RunConfig, root: Path | None, warn: Callable[[str], None], world: World
) -> Checkpoint | None:
    """The one that `resume` asks for; None where it asks for none, or for the newest of none.

    root: the folder of this run's checkpoints. One process reads and checks the files for all.
    Raises ConfigError and CheckpointError.
    """

    def find() -> str:
        found = _find(config, root, warn)
        return str(found.path) if found else ""

    path = world.once(find)  # which reads all of it
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
    # A setting that is newer than the checkpoint had no other value than its default.
    settings = {key: one.default for key, one in SETTINGS.items()} | before["settings"]
    found = [
        f"{flag_of(key)} is {value}, and was {settings.get(key)} in {checkpoint.path}."
        for key, value in present["settings"].items()
        if settings.get(key) != value
    ]
    found += [
        f"The {what} is {_shown(now)}, and was {_shown(then)} in {checkpoint.path}."
        for what, now in present["inputs"].items()
        if (then := before["inputs"].get(what, now)) and not _is_same(now, then)
    ]
    if found and not allowed:
        raise ConfigError(
            *found,
            "Resuming would make a run that is neither: give what it began with, or say"
            " --resume_with_changes to go on all the same.",
        )
    return found


def _is_same(now: Mapping[str, str], then: Mapping[str, str] | str) -> bool:
    """then: what the checkpoint holds; of one of an older version the fingerprint alone, of a
    tokenizer that with its template."""
    if isinstance(then, str):
        return then == now.get("with template", now["id"])
    return then["id"] == now["id"]


def _shown(one: Mapping[str, str] | str) -> str:
    """What a reader can tell inputs apart by: how their fingerprint begins, and their place."""
    if isinstance(one, str):
        return one[:8]
    return f"{one['id'][:8]} ({one['from']})"
