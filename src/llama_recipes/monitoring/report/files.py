"""What a run left in its folder, read back: all that its report is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_recipes.configs.document import load
from llama_recipes.configs.places import CHECKPOINTS, checkpoints_place
from llama_recipes.configs.settings import SETTINGS
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.monitoring.results import LAST, RESULTS_FILE
from llama_recipes.monitoring.run_log import read_metrics

CONFIG_FILE = "config.yaml"
RUN_FILE = "run.json"
"""When and where a run ran, and on what data (see `monitoring.run_facts`)."""
SAMPLES_FILE = "samples.json"
"""Answers before and after the training (see `training.samples`)."""


@dataclass(frozen=True)
class RunFiles:
    """A run as its files tell it; what is not there is empty.

    folder: absolute. changed: the settings that differ from their default, by `section.name`.
    steps, evaluations: the lines of metrics.jsonl. cut_lines: lines at its end that a kill left
    unfinished, 0 or 1. adapter: adapter_config.json. saved: which of the result, `last` and
    `checkpoints` are there.
    """

    folder: Path
    changed: Mapping[str, object]
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    cut_lines: int
    results: Mapping[str, Any]
    facts: Mapping[str, Any]
    samples: Mapping[str, Any]
    adapter: Mapping[str, Any]
    saved: frozenset[str]

    def setting(self, key: str) -> Any:
        """The value of a setting named as `train_config.lr`."""
        return setting_in(self.changed, key)


def setting_in(changed: Mapping[str, object], key: str) -> Any:
    """The value of a setting where only those are known that differ from their default."""
    return changed.get(key, SETTINGS[key].default)


def read_run(folder: Path) -> RunFiles:
    """Read the files of a run. Raises ConfigError where there is none, CheckpointError for damage.

    Every file but config.yaml may be missing: a run that just began has few.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no folder. Name the one that a run wrote: its --output_dir."
        )
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"{folder} holds no {CONFIG_FILE}, so no run wrote it. Name the folder that was the"
            " --output_dir of a run."
        )
    try:
        changed = _settings(folder / CONFIG_FILE)
        lines, cut_lines = read_metrics(folder)
        return RunFiles(
            folder=folder.resolve(),
            changed=changed,
            steps=[line for line in lines if "loss" in line],
            evaluations=[line for line in lines if "eval_loss" in line],
            cut_lines=cut_lines,
            results=_json(folder / RESULTS_FILE),
            facts=_with_objects(folder / RUN_FILE, lists=("started",), mappings=("data",)),
            samples=_with_objects(folder / SAMPLES_FILE, lists=("figures", "examples")),
            adapter=_json(folder / "adapter_config.json"),
            saved=frozenset(_saved(folder, changed)),
        )
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}. Check its"
            " permissions."
        ) from error


def _saved(folder: Path, changed: Mapping[str, object]) -> list[str]:
    places = {
        "adapter": folder / "adapter_config.json",
        "model": folder / "config.json",
        LAST: folder / LAST,
        CHECKPOINTS: checkpoints_place(lambda key: setting_in(changed, key), folder),
    }
    return [name for name, place in places.items() if place is not None and place.exists()]


def _settings(path: Path) -> dict[str, object]:
    problems: list[str] = []
    found = load(path, problems)
    if problems or found is None:
        raise CheckpointError(
            f"{path} is damaged: {problems[0].removeprefix(str(path)).lstrip(':, ')} Mend it, or"
            " print it anew with the flags of the run and --print_config."
        )
    return found


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(_damaged(path, f"it is not valid JSON ({error})")) from error
    if not isinstance(content, dict):
        raise CheckpointError(_damaged(path, "it holds no JSON object"))
    return content


def _with_objects(
    path: Path, *, lists: Sequence[str] = (), mappings: Sequence[str] = ()
) -> dict[str, Any]:
    """A file in which these names, where they are there, hold objects in a list or by names."""
    content = _json(path)
    for names, kind in ((lists, list), (mappings, dict)):
        for name in names:
            held = content.get(name, kind())
            inner = held.values() if isinstance(held, dict) else held
            if not isinstance(held, kind) or not all(isinstance(each, dict) for each in inner):
                raise CheckpointError(_damaged(path, f"{name} is not what a run writes"))
    return content


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged: {why}. Remove it to have a report without what it says."
