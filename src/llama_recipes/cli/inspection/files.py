"""The files that an inspection writes, and may write over once more."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

MADE_BY = "llama-recipes inspect"
"""Stands at the beginning of every such file."""
_BEGINNING = 400
"""Bytes."""


def unwritable(flag: str, path: str) -> list[str]:
    """Why nothing can be written there; only what this command wrote itself is written over."""
    file = Path(path).expanduser()
    if not path:
        return []
    if file.is_dir() or not file.parent.is_dir():
        return [f"--{flag} {path} is no file in a folder that is there. Name one."]
    try:
        if file.exists() and not _is_ours(file):
            return [
                f"--{flag} {path} is there already, and was not written by {MADE_BY}. Name another."
            ]
        with TemporaryFile(dir=file.parent):
            return []
    except OSError as error:
        return [f"--{flag} {path} cannot be written: {error.strerror or error}. Name another."]


def _is_ours(file: Path) -> bool:
    if not file.is_file():
        return False  # a pipe would be waited for
    with file.open("rb") as handle:
        return MADE_BY.encode() in handle.read(_BEGINNING)
