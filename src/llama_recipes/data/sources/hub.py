"""Data sets of the Hugging Face hub, read by the `datasets` library; no code of theirs is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama_recipes.data.example import BadRow
from llama_recipes.data.sources import fingerprint
from llama_recipes.data.sources.rows import Row
from llama_recipes.errors import DataError


def load(name: str, split: str, flag: str) -> Any:
    """The part `split` of the data set `name`, downloaded once and then memory-mapped."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"--{flag}={name} is no local path, and reading a data set of the hub needs the "
            "package datasets: pip install 'llama-recipes[hub]'"
        ) from None
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # the library and those under it raise what they like
        reason = next(iter(str(error).splitlines()), "").rstrip(".")
        raise DataError(
            f"--{flag}={name} is no local path, and the part `{split}` of a data set of that name "
            f"could not be had from the hub ({type(error).__name__}: {reason}). Check the name, "
            "the part and the connection, or give a local path."
        ) from error


def rows(data: Any, name: str) -> Iterator[Row | BadRow]:
    for number, row in enumerate(data, start=1):
        yield Row(f"{name}, row {number}", row)


def digest(data: Any) -> str:
    """The library's own fingerprint: it changes with the files and with every operation on them."""
    return fingerprint.combined("hub", data._fingerprint)
