"""SAMSum: messenger dialogues and their summaries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llama_recipes.data.example import PromptAnswer, Source, Split
from llama_recipes.data.sources import fingerprint
from llama_recipes.data.sources.origin import (
    Origin,
    from_file,
    from_hub,
    is_hub_id,
    missing,
)
from llama_recipes.data.sources.rows import answer_field, filled_field, to_examples
from llama_recipes.errors import DataError

if TYPE_CHECKING:
    from llama_recipes.configs.datasets import SamsumDataset

_FLAG = "samsum_dataset.data_path"
_ENDINGS = (".jsonl", ".json", ".csv")


def prompt(dialogue: str) -> str:
    return f"Summarize this dialog:\n{dialogue}\n---\nSummary:\n"


def open_samsum(section: SamsumDataset, split: Split) -> Source:
    part = section.train_split if split == "train" else section.test_split
    origin = _origin(section.data_path, part)
    return Source(
        name="samsum_dataset",
        format="samsum",
        rows=lambda: to_examples(origin.rows(), _example),
        fingerprint=fingerprint.combined("samsum", origin.digest),
        description=f"{origin.name}: dialogues and summaries",
        on_bad_row=section.on_bad_row,
    )


def _example(row: Mapping[str, object]) -> PromptAnswer:
    return PromptAnswer(prompt(filled_field(row, "dialogue")), answer_field(row, "summary"))


def _origin(path: str, part: str) -> Origin:
    folder = Path(path).expanduser()
    if not folder.exists():
        if is_hub_id(path):
            return from_hub(path, part, _FLAG)
        raise DataError(missing(folder, _FLAG))
    if not folder.is_dir():
        raise DataError(
            f"--{_FLAG}={path} is a file; the folder that holds {_choices(part)} is needed."
        )
    found = [file for file in map(partial(_file, folder, part), _ENDINGS) if file.exists()]
    if len(found) != 1:
        what = f"holds {' and '.join(file.name for file in found)}" if found else "holds none"
        raise DataError(f"--{_FLAG}={path}: the folder {what}; one of {_choices(part)} is needed.")
    return from_file(str(found[0]), _FLAG)


def _file(folder: Path, part: str, ending: str) -> Path:
    return folder / f"{part}{ending}"


def _choices(part: str) -> str:
    return ", ".join(f"{part}{ending}" for ending in _ENDINGS)
