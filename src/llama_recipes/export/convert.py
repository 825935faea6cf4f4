"""Write a trained model in another form, compare it with the trained one, and only then publish."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch

from llama_recipes.checkpoint.store import publish, sync
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.export.compare import Comparison, figures
from llama_recipes.export.encodings import Encoding
from llama_recipes.export.gguf import write_gguf
from llama_recipes.export.hf import save_shape, save_tokenizer, save_weights
from llama_recipes.export.trained import DTYPES, Trained, plain_model
from llama_recipes.inference.load import find
from llama_recipes.monitoring.results import RESULTS_FILE

Say = Callable[[str], None]


def _is_gguf(target: Path) -> bool:
    return target.suffix.lower() == ".gguf"


def _refuse_taken(target: Path, flag: str) -> None:
    """Raises ConfigError where something stands at `target`: no model is written over."""
    if target.is_dir() and not _is_gguf(target) and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        what = "is not empty" if target.is_dir() else "is there already"
        raise ConfigError(
            f"{flag} {target} {what}, and nothing is written over. Name another place, or remove"
            " what is there."
        )


def write_trained(
    name: str,
    target: Path,
    *,
    flag: str,
    base: str | None,
    dtype: Literal["auto"] | Encoding,
    compared: bool,
    say: Say,
    only_adapters: bool = False,
) -> None:
    """Find what `name` and `base` say, and `convert` it; `flag` is how the target was given.

    only_adapters: refuse what needs no merging. Raises ConfigError and CheckpointError.
    """
    target = target.absolute()
    _refuse_taken(target, flag)
    found = find(name, base=base)
    if only_adapters and found.adapter is None:
        raise ConfigError(
            f"{name} is no adapter: there is nothing to merge. To write it in another format, use"
            " llama-recipes export."
        )
    trained = plain_model(found)
    encoding = trained.own_encoding() if dtype == "auto" else dtype
    if found.quantization is not None:
        say(
            f"The base was kept in {found.quantization.bits} bits in training; its weights become"
            f" {encoding} again, with the values that the adapter was trained on."
        )
    made_of = f"{found.source.name} and {found.adapter}" if found.adapter else found.source.name
    say(f"Writing {made_of} to {target}, weights in {encoding} …")
    convert(trained, target, encoding, name=name, base=base, compared=compared, say=say)


def convert(
    trained: Trained,
    target: Path,
    encoding: Encoding,
    *,
    name: str,
    base: str | None,
    compared: bool,
    say: Say,
) -> None:
    """A Hugging Face folder, or a GGUF file where `target` ends so; complete, or not there at all.

    name, base: what `trained` was found as. compared: load what was written in a fresh process and
    hold it against the trained model. Raises CheckpointError where it differs, and where it cannot
    be written.
    """
    draft = target.with_name(f".draft-{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        if _is_gguf(target):
            write_gguf(trained, draft, encoding, name=Path(name).name)
            sync(draft)
        else:
            _write_folder(trained, draft, DTYPES[encoding], name=name)
        if compared:
            _compare(name, base, draft, encoding, say)
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


def _write_folder(trained: Trained, folder: Path, dtype: torch.dtype, *, name: str) -> None:
    folder.mkdir()
    outline = {
        key: torch.empty(shape, dtype=dtype, device="meta") for key, shape in trained.shapes.items()
    }
    save_weights(outline, lambda key: trained.rounded(key, dtype), folder)
    save_tokenizer(trained.found.tokenizer, folder)
    facts = {"prompt_format": trained.found.prompt_format, "made_from": name}
    publish(folder / RESULTS_FILE, (json.dumps(facts, indent=2) + "\n").encode())
    # Last: a folder without it is no model yet.
    save_shape(trained.config, dtype, folder, trained.generation_config)


def _compare(name: str, base: str | None, result: Path, encoding: Encoding, say: Say) -> None:
    arguments = {"name": name, "base": base, "result": str(result), "encoding": encoding}
    # -P: nothing is imported from the folder that the user happens to be in.
    command = [sys.executable, "-P", "-m", "llama_recipes.export.compare", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckpointError(
            "What was written could not be compared with the trained model, so it was removed:"
            f" {done.stderr.strip().removeprefix('Error: ') or f'exit {done.returncode}'}"
        )
    report = Comparison(**json.loads(done.stdout.splitlines()[-1]))
    for line in figures(report, encoding):
        say(line)
    if report.problems:
        raise CheckpointError(
            *report.problems,
            "What was written is not the trained model, and was removed.",
        )


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
