"""Which trackers a run has: what `--use_wandb`, `--use_tensorboard`, `--save_metrics` ask for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from llama_recipes.configs.document import to_yaml
from llama_recipes.configs.run import RunConfig
from llama_recipes.monitoring.metrics_file import MetricsFile, metrics_path
from llama_recipes.monitoring.run_log import read_metrics
from llama_recipes.monitoring.screen import Screen
from llama_recipes.monitoring.to_tensorboard import FOLDER, TensorBoard
from llama_recipes.monitoring.to_wandb import check_login, start_wandb
from llama_recipes.monitoring.trackers import Publish, Tracker
from llama_recipes.packages import require


def check_trackers(config: RunConfig) -> None:
    """Raises ConfigError for what a tracker lacks, as long as nothing is loaded or written."""
    train = config.train_config
    if train.save_metrics:
        require("matplotlib", why="--save_metrics draws its plots with")
    if train.use_tensorboard:
        require("tensorboard", why="--use_tensorboard writes with")
    if train.use_wandb:
        require("wandb", why="--use_wandb tracks with")
        check_login(config.wandb_config)


def metrics_file(config: RunConfig, folder: Path | None) -> str | None:
    """Where --save_metrics writes; None without it."""
    if not config.train_config.save_metrics or folder is None:
        return None
    rank = 0 if config.train_config.enable_fsdp else None
    return str(metrics_path(folder, rank, datetime.now()))


def make_trackers(
    config: RunConfig,
    folder: Path | None,
    *,
    metrics_filename: str | None,
    facts: Mapping[str, Any],
    resumed: bool,
    publish: Publish,
    screen: Screen,
) -> list[Tracker]:
    """Those that the settings ask for, for the one process that writes. Raises ConfigError.

    folder: the run's; its metrics.jsonl holds what the run goes on behind. metrics_filename: of
    `metrics_file`. facts: about model and data, shown beside the settings. publish: replaces a
    file's content atomically.
    """
    train, earlier = config.train_config, read_metrics(folder).lines
    trackers: list[Tracker] = []
    if metrics_filename is not None:
        trackers.append(
            MetricsFile(Path(metrics_filename), earlier=earlier, publish=publish, warn=screen.warn)
        )
    if train.use_tensorboard and folder is not None:
        trackers.append(
            TensorBoard(
                folder / FOLDER,
                settings=to_yaml(config),
                hparams={**_asked(config), **_figures(facts)},
                earlier=earlier,
            )
        )
    if train.use_wandb:
        trackers.append(  # the last: what it waits for at the end is the network
            start_wandb(
                config.wandb_config,
                folder,
                described={**config.model_dump(mode="json"), **facts},
                earlier=earlier,
                resumed=resumed,
                publish=publish,
                say=screen.line,
                warn=screen.warn,
            )
        )
    return trackers


def _figures(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What has a single value, lists left out: `data.training.documents`."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": figure for inner, figure in _figures(value).items()}
        elif isinstance(value, bool | int | float | str):
            found[name] = value
    return found


def _asked(config: RunConfig) -> dict[str, Any]:
    """The settings that were given, by name, with those of the step that one compares."""
    compared = ("lr", "batch_size_training", "gradient_accumulation_steps", "num_epochs", "seed")
    names = dict.fromkeys((*(f"train_config.{name}" for name in compared), *config.given()))
    return {name: config.value(name) for name in names}
