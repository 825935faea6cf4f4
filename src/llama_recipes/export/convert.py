"""Write a trained model in another form, compare it with the trained one, and only then publish."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from llama_recipes.checkpoint.store import publish, sync
from llama_recipes.errors import CheckpointError
from llama_recipes.export.compare import figures
from llama_recipes.export.encodings import Encoding
from llama_recipes.export.fresh_process import compare_afresh
from llama_recipes.export.gguf import write_gguf
from llama_recipes.export.hf import save_shape, save_tokenizer, save_weights
from llama_recipes.export.trained import DTYPES, Trained
from llama_recipes.gguf_metadata import is_gguf
from llama_recipes.monitoring.results import RESULTS_FILE
from llama_recipes.quantization.kept import Kept

Say = Callable[[str], None]


def convert(
    trained: Trained,
    target: Path,
    encoding: Encoding,
    *,
    name: str,
    base: str | None,
    kept: Kept | None = None,
    compared: bool,
    say: Say,
) -> None:
    """A Hugging Face folder, or a GGUF file where `target` ends so; complete, or not there at all.

    name, base, kept: what `trained` was found as. compared: load what was written in a fresh
    process and hold it against the trained model. Raises CheckpointError where it differs, and
    where it cannot be written.
    """
    draft = target.with_name(f".draft-{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        if is_gguf(target):
            write_gguf(trained, draft, encoding, name=Path(name).name)
            sync(draft)
        else:
            _write_folder(trained, draft, DTYPES[encoding])
        if compared:
            say("Comparing it with the trained model, in a fresh process …")
            report = compare_afresh(name, base, draft, encoding, kept=kept)
            for line in figures(report, encoding):
                say(line)
            if report.problems:
                raise CheckpointError(
                    *report.problems, "What was written is not the trained model, and was removed."
                )
        if target.is_file():  # it came meanwhile
            raise FileExistsError(errno.EEXIST, "a file of that name came in between")
        draft.replace(target)
        sync(target.parent)
    except OSError as error:
        raise CheckpointError(
            f"{target} could not be written: {error.strerror or error}. Nothing was left there."
            " Make room, or name another place."
        ) from error
    finally:
        _remove(draft)


def _write_folder(trained: Trained, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir()
    outline = {
        key: torch.empty(shape, dtype=dtype, device="meta") for key, shape in trained.shapes.items()
    }
    save_weights(outline, lambda key: trained.rounded(key, dtype), folder)
    save_tokenizer(trained.found.tokenizer, folder)
    facts = {"prompt_format": trained.found.prompt_format}
    publish(folder / RESULTS_FILE, (json.dumps(facts, indent=2) + "\n").encode())
    # Last: a folder without it is no model yet.
    save_shape(trained.config, dtype, folder, trained.generation_config)


def _remove_abandoned(target: Path) -> None:
    """Drafts of processes that were killed."""
    for draft in target.parent.glob(f".draft-*-{target.name}"):
        process = draft.name.removeprefix(".draft-").partition("-")[0]
        if process.isdecimal() and not Path(f"/proc/{process}").exists():
            _remove(draft)


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft)
    with suppress(OSError):  # it is gone, or its folder never was
        draft.unlink()
