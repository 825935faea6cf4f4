"""Where a run's checkpoints stand, by its settings: for who writes them and for who reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKPOINTS = "checkpoints"
"""The folder of them in that of a run."""

Lookup = Callable[[str], Any]
"""The value of a setting named as `train_config.lr`."""


def saves_apart(setting: Lookup) -> bool:
    """Whether checkpoints stand outside --output_dir: those of a sharded full fine-tune do."""
    return bool(setting("train_config.enable_fsdp")) and not setting("train_config.use_peft")


def checkpoints_place(setting: Lookup, folder: Path | None) -> Path | None:
    """None where none are saved. folder: the run's --output_dir."""
    if not setting("train_config.save_model"):
        return None
    if not saves_apart(setting):
        return folder / CHECKPOINTS if folder else None
    # As in the original; `llama-recipes export` makes a model of what stands there.
    begin = setting("train_config.dist_checkpoint_folder")
    name = f"{begin}-{Path(setting('train_config.model_name')).name}"
    return Path(setting("train_config.dist_checkpoint_root_folder")).expanduser() / name
