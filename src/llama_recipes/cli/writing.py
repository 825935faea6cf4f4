"""What merge and export share: find a trained model, say what will be written, and write it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from llama_recipes.cli.places import refuse_unwritable
from llama_recipes.errors import ConfigError
from llama_recipes.export.convert import convert
from llama_recipes.export.encodings import Encoding
from llama_recipes.export.trained import plain_model
from llama_recipes.gguf_metadata import is_gguf
from llama_recipes.inference.load import find
from llama_recipes.quantization.kept import Kept


def write_trained(
    name: str,
    target: Path,
    *,
    flag: str,
    base: str | None,
    kept: Kept | None,
    dtype: Literal["auto"] | Encoding,
    compared: bool,
    only_adapters: bool = False,
) -> None:
    """Find what `name`, `base` and `kept` say, and `convert` it.

    flag: how the target was given.
    only_adapters: refuse what needs no merging. Raises ConfigError and CheckpointError.
    """
    target = target.absolute()
    _refuse_taken(target, flag)
    found = find(name, base=base, kept=kept, say=_say)
    if only_adapters and found.adapter is None:
        raise ConfigError(
            f"{name} is no adapter: there is nothing to merge. To write it in another format, use"
            " llama-recipes export."
        )
    if found.adapter is None and kept is not None:
        raise ConfigError(
            f"--quantization says how the base under an adapter was kept, but {name} is no adapter."
            " Leave it out."
        )
    if found.warning:
        _say(found.warning)
    trained = plain_model(found)
    encoding = trained.own_encoding() if dtype == "auto" else dtype
    if found.quantization is not None:
        _say(
            f"The base was kept in {found.quantization.bits} bits in training; its weights become"
            f" {encoding} again, with the values that the adapter was trained on."
        )
    made_of = f"{found.source.name} and {found.adapter}" if found.adapter else found.source.name
    # Of several checkpoints the one that was taken: another may have come by the time of comparing.
    taken = found.name
    _say(f"Writing {made_of} to {target}, weights in {encoding} …")
    with _ended_by_sigterm():
        convert(
            trained,
            target,
            encoding,
            name=taken,
            base=base,
            kept=kept,
            compared=compared,
            say=_say,
        )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """As by Ctrl-C: what is half written is removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    print(text, flush=True)


def _refuse_taken(target: Path, flag: str) -> None:
    """Raises ConfigError where something stands at `target`, for no model is written over, and
    where nothing can."""
    empty = target.is_dir() and not is_gguf(target) and not any(target.iterdir())
    replaceable = empty and not target.is_symlink() and not target.is_mount()
    if (target.exists() or target.is_symlink()) and not replaceable:
        raise ConfigError(
            f"{flag} {target} {_what_stands_there(target)}, and nothing is written over. Name"
            " another place, or remove what is there."
        )
    refuse_unwritable(target, flag, make_folders=True)


def _what_stands_there(target: Path) -> str:
    if target.is_symlink():
        return "is a link"
    if target.is_mount():
        return "is a mount point"
    return "is not empty" if target.is_dir() else "is there already"
