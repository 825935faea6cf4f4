"""Where rows come from: a file of this machine, or a data set of the hub."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llama_recipes.data.example import BadRow
from llama_recipes.data.sources import fingerprint, hub
from llama_recipes.data.sources.readers import READERS, read_rows
from llama_recipes.data.sources.rows import Row
from llama_recipes.errors import DataError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Origin:
    """`rows` starts anew at each call; `digest` is a hash of their content."""

    name: str
    rows: Callable[[], Iterator[Row | BadRow]]
    digest: str


def is_hub_id(path: str) -> bool:
    """Whether this is `owner/name` and nothing here says that a local path is meant.

    A mistyped local path must not become a request to the hub: where the folder `owner` exists,
    or the name ends like a file's, it is a path.
    """
    return (
        _HUB_ID.fullmatch(path) is not None
        and not Path(path).suffix.removeprefix(".").isalpha()
        and not Path(path).parent.exists()
    )


def from_file(path: str, flag: str) -> Origin:
    """Rows of a local file. Raises DataError, with the nearest name, where there is none."""
    file = existing_file(path, flag)
    if file.suffix.lower() not in READERS:
        raise DataError(
            f"--{flag}={path}: the ending of the file is not known; those that are: "
            f"{', '.join(READERS)}."
        )
    return Origin(file.name, partial(read_rows, file), fingerprint.of_file(file))


def existing_file(path: str, flag: str) -> Path:
    file = Path(path).expanduser()
    if not file.exists():
        raise DataError(missing(file, flag))
    if not file.is_file():
        raise DataError(f"--{flag}={path} is a folder; a file is needed.")
    return file


def from_hub(name: str, split: str, flag: str) -> Origin:
    """One part of a data set of the hub. Raises DataError where it cannot be had."""
    data = hub.load(name, split, flag)
    return Origin(f"{name} ({split})", partial(hub.rows, data, name), hub.digest(data))


def missing(path: Path, flag: str) -> str:
    """The sentence for a path that does not exist."""
    problem = f"--{flag}={path}: no such file or folder"
    if not path.parent.is_dir():
        return f"{problem}; the folder {path.parent} does not exist either."
    nearest = difflib.get_close_matches(
        path.name, sorted(entry.name for entry in path.parent.iterdir()), n=1
    )
    if nearest:
        return f"{problem}; did you mean {path.parent / nearest[0]}?"
    return f"{problem}. Check the path; relative paths start from {Path.cwd()}."
