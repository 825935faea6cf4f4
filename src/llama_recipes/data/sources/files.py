"""The user's own rows: a local file or a data set of the hub, in any of the known forms."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llama_recipes.configs.section import is_given
from llama_recipes.data.example import Source, Split
from llama_recipes.data.sources import fingerprint
from llama_recipes.data.sources.origin import Origin, from_file, from_hub, is_hub_id
from llama_recipes.data.sources.recognise import parse_as, recognise
from llama_recipes.data.sources.rows import to_examples

if TYPE_CHECKING:
    from llama_recipes.configs.datasets import FileDataset


def open_files(section: FileDataset, split: Split) -> Source | None:
    """None for validation without a file of its own: a share of train_file is the caller's to cut.

    Reads the first rows to recognise their form. Raises DataError for a missing file or columns of
    no known form.
    """
    if split == "validation" and not is_given(section.validation_file):
        return None
    setting = "train_file" if split == "train" else "validation_file"
    flag = f"file_dataset.{setting}"
    origin = _origin(getattr(section, setting), split, flag)
    form = recognise(origin.rows(), section.format, origin.name)
    seen = "recognised as " if section.format == "auto" else ""
    return Source(
        name="file_dataset",
        format=form.format,
        rows=lambda: to_examples(origin.rows(), partial(parse_as, form)),
        fingerprint=fingerprint.combined("file", form.says, origin.digest),
        description=f"{origin.name}: {seen}{form.says}",
        on_bad_row=section.on_bad_row,
    )


def _origin(path: str, split: Split, flag: str) -> Origin:
    """A hub id may name its part, as `owner/name:test`; without it, the part is named `split`."""
    name, _, part = path.partition(":")
    if is_hub_id(name):
        return from_hub(name, part or split, flag)
    return from_file(path, flag)
