"""The flags of a run that decide what its documents are, for a command that measures on them.

They may stand in argv, or in a run's own file, whose other settings are left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from llama_recipes.cli.flags import no_flag
from llama_recipes.configs.datasets import DatasetName
from llama_recipes.configs.flags import read
from llama_recipes.configs.needs import has_validation_part, without_effect
from llama_recipes.configs.parser import SETTINGS_OF
from llama_recipes.configs.rules import CONFLICTS, REQUIRED
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import flag_of, is_given
from llama_recipes.configs.settings import SETTINGS, Setting
from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.example import Split

_OF_TRAIN_CONFIG = (
    "dataset",
    "context_length",
    "truncation",
    "train_on_prompt",
    "batching_strategy",
    "val_batch_size",
    "seed",
)
ABOUT_DATA = frozenset(
    key
    for key, setting in SETTINGS.items()
    if setting.section in get_args(DatasetName)
    or (setting.section == "train_config" and setting.name in _OF_TRAIN_CONFIG)
)
"""The settings that are read, as `train_config.seed`."""

_WITH_SPLITS = ("samsum_dataset", "grammar_dataset", "custom_dataset")
_FOR_TRAINING = {f"{name}.train_split" for name in _WITH_SPLITS}
_FOR_VALIDATION = {f"{name}.test_split" for name in _WITH_SPLITS} | {"file_dataset.validation_file"}

_FIX = {required.setting: required.fix for required in REQUIRED}


@dataclass(frozen=True, slots=True)
class Data:
    """What to measure on.

    config: the settings about data; all others have their defaults.
    run_file: the file of the model's own run that they come from; empty where it was not needed.
    warnings: about flags without effect.
    """

    config: RunConfig
    run_file: str
    warnings: list[str]


def flags_taken() -> str:
    """The flags of a run that are read, in words for --help."""
    return ", ".join([*(f"--{name}" for name in _OF_TRAIN_CONFIG), "--config"])


def about_data(
    words: Iterable[str], *, own: Collection[str], prog: str, problems: list[str]
) -> list[str]:
    """Those of `words`, each a flag with its value, that are read here; the rest is a problem.

    own: the flags that `prog` has beside them.
    """
    known = [name for name, settings in SETTINGS_OF.items() if _listens(settings)]
    kept = []
    for word in words:
        name = _name(word)
        settings = _settings(name)
        if name == "config" or _listens(settings):
            kept.append(word)
        elif settings:
            problems.append(
                f"--{name} has no effect in {prog}, which takes from a run what decides its"
                " documents. Leave it out."
            )
        else:
            problems.append(no_flag(name, [*own, "config", *known], prog=prog))
    return kept


def read_data(
    words: Sequence[str], *, split: Split, model_name: str, prog: str, problems: list[str]
) -> Data:
    """What `words`, as `about_data` leaves them, say about the documents of `split`.

    Where they name neither a data set nor a file, those of the run that wrote `model_name` are
    taken. What is wrong is added to `problems`; what is returned then is of no use.
    """
    names = [_name(word).removeprefix("train_config.") for word in words]
    run_file = "" if {"config", "dataset"} & set(names) else run_file_of(model_name)
    reading = read([*words, *([f"--config={run_file}"] if run_file else [])], prog=prog)
    config = reading.config
    problems += reading.problems
    if run_file and config.train_config.dataset == "custom_dataset":
        problems.append(
            f"{run_file} names code of a data set, {config.custom_dataset.file}, which is not run"
            f" unasked. If you trust it, give --config {run_file}."
        )
    if reading.is_whole:
        nowhere = not run_file and "config" not in names and not _is_named(config)
        problems += [_no_data(model_name)] if nowhere else _missing(config, split, reading.refused)
    problems += [
        conflict.problem.format(c=config)
        for conflict in CONFLICTS
        if ABOUT_DATA.issuperset(conflict.settings)
        and not reading.refused.intersection(conflict.settings)
        and conflict.when(config)
    ]
    warnings = [warning for word in words if (warning := _idle(word, config, split))]
    return Data(_data_alone(config), run_file, warnings)


def _listens(settings: Iterable[Setting]) -> bool:
    return any(setting.key in ABOUT_DATA for setting in settings)


def _name(word: str) -> str:
    """`use_peft` of --use-peft=False."""
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def _settings(name: str) -> list[Setting]:
    """What a flag of a run sets; nothing where a run has no such flag."""
    if name in SETTINGS_OF or not name.startswith("no_"):
        return SETTINGS_OF.get(name, [])
    negated = SETTINGS_OF.get(name.removeprefix("no_"), [])
    return [setting for setting in negated if setting.is_switch]


def run_file_of(model_name: str) -> str:
    """The settings that a run left beside its result or, seen from there, above `last/`."""
    from llama_recipes.monitoring.results import LAST

    folder = Path(model_name).expanduser()
    path = (folder.parent if folder.name == LAST else folder) / "config.yaml"
    return str(path) if model_name and path.is_file() else ""


def _is_named(config: RunConfig) -> bool:
    """Whether anything says what the data is; the first data set is a default, not a wish."""
    return config.was_set("train_config.dataset") or is_given(config.samsum_dataset.data_path)


def _no_data(model_name: str) -> str:
    where = f" {model_name} holds no config.yaml of a run that would tell." if model_name else ""
    return (
        f"No data set is named.{where} Give one, as with --dataset file_dataset --validation_file"
        " FILE, or the settings of a run with --config."
    )


def _missing(config: RunConfig, split: Split, refused: Collection[str]) -> list[str]:
    """What the part cannot be opened without; silent about settings `refused` already."""
    if split == "validation" and not has_validation_part(config):
        return [
            "There is no validation part. Give rows that were not trained on with"
            " --validation_file, or measure on the training part with --split train."
        ]
    if split == "validation" and _was_trained_on(config):
        return [
            "The run was made with --no_run_validation, and trained on all of its train_file: no"
            " fraction of it was held out. Give another --validation_file and"
            " --validation_fraction 0, or measure on the training part with --split train."
        ]
    key = _path_of(config, split)
    if not key or key in refused or is_given(str(config.value(key))):
        return []
    fix = _FIX[key].replace("--no_run_validation", "--split train")
    return [f"{flag_of(key)} is not given: {fix}."]


def _path_of(config: RunConfig, split: Split) -> str:
    """The setting that says where the documents are; empty where the machine has them itself."""
    dataset = config.train_config.dataset
    if dataset == "grammar_dataset":
        return f"{dataset}.{'train' if split == 'train' else 'test'}_split"
    if dataset == "file_dataset":
        has_its_own = split == "validation" and is_given(config.file_dataset.validation_file)
        return f"{dataset}.{'validation' if has_its_own else 'train'}_file"
    if dataset == "custom_dataset":
        return f"{dataset}.file"
    return "" if dataset == "stdlib_docstrings_dataset" else f"{dataset}.data_path"


def _was_trained_on(config: RunConfig) -> bool:
    """Whether a share that is for validation was not kept apart: a run may leave validation out."""
    return (
        not config.train_config.run_validation
        and config.train_config.dataset == "file_dataset"
        and config.file_dataset.validation_fraction > 0
    )


def _idle(word: str, config: RunConfig, split: Split) -> str:
    """The warning about a flag that none of its settings makes use of; empty where one does."""
    reasons = [
        _without_effect(setting.key, config, split)
        for setting in _settings(_name(word))
        if setting.key in ABOUT_DATA
    ]
    return f"--{_name(word)} has no effect {reasons[0]}." if reasons and all(reasons) else ""


def _without_effect(key: str, config: RunConfig, split: Split) -> str:
    section = key.split(".")[0]
    if section in get_args(DatasetName) and section != config.train_config.dataset:
        return f"without --dataset {section}"
    if key == "train_config.train_on_prompt":
        return without_effect(config, key)
    of_the_other = _FOR_VALIDATION if split == "train" else _FOR_TRAINING
    needless = key == "file_dataset.train_file" and _path_of(config, split) != key
    return f"with --split {split}" if needless or key in of_the_other else ""


def _data_alone(config: RunConfig) -> RunConfig:
    train = config.train_config
    given = {
        name: getattr(train, name) for name in _OF_TRAIN_CONFIG if name in train.model_fields_set
    }
    sections: dict[str, Any] = {name: config.section(name) for name in get_args(DatasetName)}
    if _was_trained_on(config):
        whole = config.file_dataset.model_copy(update={"validation_fraction": 0.0})
        sections["file_dataset"] = whole
    return RunConfig(train_config=TrainConfig(**given), **sections)
