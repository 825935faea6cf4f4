"""Where a command is to write: whether it can, asked before anything takes time."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from llama_recipes.errors import ConfigError


def refuse_unwritable(path: Path, flag: str, *, make_folders: bool = False) -> None:
    """Raises ConfigError where no file can be made beside `path`, which `flag` names.

    make_folders: those above it that are missing will be made.
    """
    folder = path.absolute().parent
    while make_folders and not folder.exists():
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{flag} {path} cannot be written: {error.strerror or error}. Name a place in a folder"
            f"{'' if make_folders else ' that is there and'} that you may write to."
        ) from error
