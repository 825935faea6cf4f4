"""Whether the documents that are measured were held out when the model was trained."""

from __future__ import annotations

from llama_recipes.cli.data_flags import run_file_of
from llama_recipes.configs.flags import read
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import flag_of, is_given
from llama_recipes.data.example import Split

_FRACTION = "file_dataset.validation_fraction"
_OF_SPLIT = ("file_dataset.train_file", _FRACTION, "train_config.seed")
"""What decides which documents of a file are for validation, where a share of them is."""
_OF_LENGTH = ("train_config.truncation", "train_config.context_length")
"""What decides it too where longer documents are dropped, so that there are others to draw from."""


def other_split(model: str, config: RunConfig, split: Split) -> str:
    """The warning about a model that was trained on some of what it is measured on; else empty.

    model: a folder, whose run says what it held out. config: what says it now.
    """
    run_file = run_file_of(model)
    if split != "validation" or not run_file or not _draws_a_share(config):
        return ""
    reading = read([f"--config={run_file}"], prog="")
    trained = reading.config
    if reading.problems or trained.train_config.dataset != "file_dataset":
        return ""
    changed = [key for key in _deciding(config, trained) if _differs(key, config, trained)]
    if not changed:
        return ""
    said = ", ".join(
        f"{flag_of(key)} is {config.value(key)} instead of {trained.value(key)}" for key in changed
    )
    return (
        f"Other documents are measured than those that the run in {run_file} held out, and {model}"
        f" may have been trained on some of them: {said}. Leave such flags out to measure on what"
        " was not trained."
    )


def _draws_a_share(config: RunConfig) -> bool:
    file = config.file_dataset
    is_active = config.train_config.dataset == "file_dataset"
    return is_active and not is_given(file.validation_file) and file.validation_fraction > 0


def _deciding(config: RunConfig, trained: RunConfig) -> tuple[str, ...]:
    drops = any(each.train_config.truncation == "drop" for each in (config, trained))
    return _OF_SPLIT + (_OF_LENGTH if drops else ())


def _differs(key: str, config: RunConfig, trained: RunConfig) -> bool:
    if key == _FRACTION and _draws_a_share(trained):
        # A smaller share is a part of the larger one: all of it was held out.
        return config.file_dataset.validation_fraction > trained.file_dataset.validation_fraction
    return config.value(key) != trained.value(key)
