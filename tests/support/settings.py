"""Argument lists that make a run, and a value for any setting that is not its default."""

from __future__ import annotations

from pathlib import Path

from llama_recipes.configs.flags import parse
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.settings import Setting
from llama_recipes.errors import ConfigError

RUNNABLE = (
    "--model_name=a-model",
    "--output_dir=a-folder",
    "--dataset=stdlib_docstrings_dataset",
)
"""The least that a run needs to be accepted."""


def configured(*flags: str) -> RunConfig:
    """The run that these flags, beside RUNNABLE, describe."""
    return parse([*RUNNABLE, *flags], prog="train").config


def problems_of(*flags: str) -> tuple[str, ...]:
    """Everything that is wrong with these flags alone; nothing where they are accepted."""
    try:
        parse(flags, prog="train")
    except ConfigError as error:
        return error.problems
    return ()


def written(folder: Path, text: str) -> str:
    """The flag that reads `text` as a configuration file."""
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return f"--config={path}"


def another_value(setting: Setting) -> tuple[str, object]:
    """A valid value that is not the default, as text and as what it means.

    `lora_config.task_type` has one value only, which is then what comes back.
    """
    if setting.is_switch:
        return str(not setting.default), not setting.default
    words = [str(word) for kind in setting.kinds for word in kind.words]
    if words:
        word = next((word for word in words if word != setting.default), words[0])
        return word, word
    match setting.default:
        case int():
            return str(setting.default + 1), setting.default + 1
        case float():
            number = setting.default / 2 or 0.5
            return str(number), number
    if "list" in setting.metavar:
        return "[x, y]", ["x", "y"]
    return "another", "another"
