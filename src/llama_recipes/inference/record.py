"""What the run that made a folder left in writing: how prompts stood, and how its base was kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from llama_recipes.adapters.peft_config import is_adapter
from llama_recipes.adapters.peft_format import read_header
from llama_recipes.data.example import Format
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.monitoring.results import LAST, RESULTS_FILE
from llama_recipes.quantization.kept import Kept

_FORMATS: Final[Mapping[str, Format]] = {name: name for name in get_args(Format)}


def format_of(folder: Path) -> Format | None:
    """How a prompt stood before its answer; None where nothing tells. Raises CheckpointError."""
    return format_in(_results_of(folder))


def format_in(told: Mapping[str, Any]) -> Format | None:
    """The same, of what a run recorded."""
    name = told.get("prompt_format")
    return _FORMATS.get(name) if isinstance(name, str) else None


def kept_under(adapter: Path) -> Kept | None:
    """How the base was kept when the adapter was trained; None where nothing tells.

    The adapter's own file comes first, as it is what is copied. Adapters from before it told have
    the results.json of their run. Raises CheckpointError.
    """
    told = read_header(adapter).kept
    if told is not None:
        return told
    results = _results_of(adapter)
    return Kept.recorded(results["quantization"]) if "quantization" in results else None


def settled(adapter: Path, asked: Kept | None) -> Kept | None:
    """How the base under an adapter is to be kept: as it tells, else as `asked` for.

    None where neither says. Raises ConfigError where they differ.
    """
    told = kept_under(adapter)
    if told is not None:
        refuse_another(told, asked, adapter)
    return told or asked


def refuse_another(told: Kept, asked: Kept | None, adapter: Path) -> None:
    """Raises ConfigError where a base is `asked` for that the adapter was not trained on."""
    if asked is not None and asked != told:
        raise ConfigError(
            f"The flags ask for a base kept {asked.words}, but the adapter in {adapter} was trained"
            f" on one kept {told.words}: on another it is another model. Leave --quantization and"
            f" what belongs to it out, or give {told.flags}."
        )


def untold(adapter: Path) -> str:
    """The sentence about an adapter of which nothing tells how its base was kept."""
    return (
        f"Nothing says how the base was kept when the adapter in {adapter} was trained: it is taken"
        " as it is, not quantised. If it was in 8 or 4 bits, say so with --quantization."
    )


def _results_of(folder: Path) -> dict[str, Any]:
    """The results.json of the run that made this; empty where no run did."""
    path = (folder.parent if folder.name == LAST else folder) / RESULTS_FILE
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}). Put back the file that the run wrote, or remove"
            f" it. {_lost(folder)}"
        ) from error
    return results if isinstance(results, dict) else {}


def _lost(folder: Path) -> str:
    """What has to be given by hand where results.json is gone, in sentences."""
    lost = "Without it llama-recipes chat needs --prompt_format, to write prompts as in training"
    if is_adapter(folder) and read_header(folder).kept is None:
        lost += (
            ", and every command --quantization, to keep the base as in training: the adapter's own"
            " file does not tell"
        )
    return f"{lost}."
