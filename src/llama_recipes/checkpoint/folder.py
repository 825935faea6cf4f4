"""Checkpoints: one folder each, complete or not there at all, of safetensors and JSON alone.

A folder is written beside its place, every file of it brought to the disk, and then renamed. What a
file held is written down as a checksum, so that one that was cut or changed later is found.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_recipes.checkpoint.pieces import Pieces, Shards, save_pieces
from llama_recipes.checkpoint.store import sync
from llama_recipes.errors import CheckpointError
from llama_recipes.parallel.world import CPU_ALONE, World

_MANIFEST, _STATE = "manifest.json", "state.json"
_NAME = re.compile(r"step-(\d{8})")
_BLOCK = 1 << 22

Tensors = Mapping[str, Pieces]
"""Name of a file without its ending → this process's part of what is in it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One whose files are those that were written. state: what was saved beside the tensors."""

    path: Path
    step: int
    state: dict[str, Any]

    def shards(self, name: str) -> Shards:
        """Of the file, or of the files of all processes, that `name` was written to."""
        files = [*self.path.glob(f"{name}.safetensors"), *self.path.glob(f"{name}-*.safetensors")]
        return Shards(sorted(files))


def write_checkpoint(
    root: Path,
    step: int,
    state: Mapping[str, Any],
    tensors: Tensors,
    *,
    world: World = CPU_ALONE,
) -> Path:
    """Publish the checkpoint of `step` below `root`; one of the same step is replaced.

    Every process writes its own files into one folder, which all have to see; no two of the same
    name. Raises CheckpointError where one of them cannot; what was there before is intact then.
    """
    path = root / f"step-{step:08}"
    draft = root / f".draft-{path.name}"
    try:
        world.lead(lambda: _in_words(step, root, lambda: _begin(root, draft)))
        told = [json.loads(text) for text in world.texts(json.dumps(_write(tensors, draft)))]
        if failed := [each for each in told if "failed" in each]:
            raise _not_written(step, root, failed[0]["failed"])
        sums = {name: digest for each in told for name, digest in each["sums"].items()}
        world.lead(
            lambda: _in_words(step, root, lambda: _complete(state, sums, draft=draft, path=path))
        )
    finally:
        if world.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)
    return path


def _begin(root: Path, draft: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    _remove_drafts(root)
    draft.mkdir()


def _write(files: Tensors, draft: Path) -> dict[str, Any]:
    """Their checksums as "sums", or as "failed" why they are not written."""
    sums = {}
    try:
        for name, pieces in files.items():
            file = draft / f"{name}.safetensors"
            save_pieces(pieces, file)
            sums[file.name] = _sum(file)
            sync(file)
    except OSError as error:
        return {"failed": error.strerror or str(error)}
    return {"sums": sums}


def _complete(
    state: Mapping[str, Any], sums: Mapping[str, str], *, draft: Path, path: Path
) -> None:
    (draft / _STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    sums = {**sums, _STATE: _sum(draft / _STATE)}
    (draft / _MANIFEST).write_text(json.dumps({"blake2b": sums}, indent=1), encoding="utf-8")
    for file in (draft / _STATE, draft / _MANIFEST, draft):
        sync(file)
    if path.exists():  # of a run that goes on from an earlier step
        shutil.rmtree(path)
    draft.rename(path)
    sync(path.parent)


def _in_words(step: int, root: Path, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        raise _not_written(step, root, error.strerror or str(error)) from error


def _not_written(step: int, root: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint of step {step} could not be written to {root}: {reason}. The ones before"
        " it are intact: make room, and go on with --resume auto."
    )


def is_checkpoint(path: Path) -> bool:
    """Whether a folder has the name that a checkpoint's has."""
    return _NAME.fullmatch(path.name) is not None


def open_checkpoint(
    path: Path,
    *,
    verify: bool = True,
    only: str | None = None,
    remedy: str = "Give an earlier one, or --resume auto.",
) -> Checkpoint:
    """Raises CheckpointError for one that is missing, cut or changed; `remedy` says what to do.

    verify: read every file once; without it another process has done so. only: the tensors that are
    wanted of it; files of others may be gone.
    """
    name = _NAME.fullmatch(path.name)
    try:
        sums = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["blake2b"]
        read = [name for name in sums if verify and _is_wanted(name, only)]
        wrong = [name for name in read if _sum(path / name) != sums[name]]
        if name is None or _STATE not in sums or wrong:
            raise ValueError(f"{', '.join(wrong) or 'its name'} is not what was written")
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            " ".join(filter(None, [f"{path} is no whole checkpoint ({reason}).", remedy]))
        ) from error
    return Checkpoint(path, int(name[1]), state)


def _is_wanted(file: str, only: str | None) -> bool:
    of = re.fullmatch(r"(\w+)(-.*)?\.safetensors", file)
    return only is None or of is None or of[1] == only


def newest_checkpoint(
    root: Path, warn: Callable[[str], None], *, only: str | None = None
) -> Checkpoint | None:
    """The one of the highest step that is whole; says which it passes over. None: there is none.

    only: as for `open_checkpoint`.
    """
    for path in reversed(_published(root)):
        try:
            return open_checkpoint(path, only=only, remedy="")
        except CheckpointError as error:
            warn(f"{error} The checkpoint before it is tried.")
    return None


def prune(root: Path, *, keep: int, never: int | None, run_id: str) -> None:
    """Delete all but the `keep` newest of this run, and the one of step `never`."""
    own = [path for path in _published(root) if _run_id(path) == run_id]
    for path in own[:-keep]:
        if never is None or path.name != f"step-{never:08}":
            # Renamed first: one that is half deleted must not look like a checkpoint.
            doomed = path.rename(path.with_name(f".draft-{path.name}-old"))
            shutil.rmtree(doomed, ignore_errors=True)


def has_ended(root: Path) -> bool:
    """Whether the run that saved the newest checkpoint below `root` came to its end with it."""
    try:
        state = open_checkpoint(_published(root)[-1], verify=False).state
        return bool(state["progress"]["stop_reason"])
    except (CheckpointError, IndexError, KeyError, TypeError):
        return False  # whoever goes on from there is told what is wrong


def _published(root: Path) -> list[Path]:
    """By step."""
    return sorted(path for path in root.glob("step-*") if _NAME.fullmatch(path.name))


def _run_id(path: Path) -> str | None:
    try:
        found = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("run_id") if isinstance(found, dict) else None


def _remove_drafts(root: Path) -> None:
    """What processes that were killed left."""
    for draft in root.glob(".draft-*"):
        shutil.rmtree(draft, ignore_errors=True)


def _sum(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
