"""Checkpoints: one folder each, complete or not there at all, of safetensors and JSON alone.

A folder is written beside its place, every file of it brought to the disk, and then renamed. What a
file held is written down as a checksum, so that one that was cut or changed later is found. Which
are kept is for `retention`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llama_recipes.checkpoint.pieces import Pieces, Shards, save_pieces
from llama_recipes.checkpoint.store import sync
from llama_recipes.errors import CheckpointError
from llama_recipes.parallel.world import CPU_ALONE, World

_MANIFEST, _STATE = "manifest.json", "state.json"
_NAME = re.compile(r"step-(\d{8})(?:\.replaced)?")
_REPLACED = ".replaced"
"""Ends the name of one whose place another of its step takes: a checkpoint until that is there."""
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
    name. Raises CheckpointError where one of them cannot, and on the one that failed for another
    reason than its disk that reason; what was there before is intact then.
    """
    path = root / f"step-{step:08}"
    draft = root / f".draft-{path.name}"
    try:
        world.lead(lambda: _in_words(step, root, lambda: _begin(root, draft)))
        sums = _written_by_all(tensors, draft, step, world)
        world.lead(
            lambda: _in_words(step, root, lambda: _complete(state, sums, draft=draft, path=path))
        )
    finally:
        if world.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)
    return path


def _begin(root: Path, draft: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    clear(root)
    draft.mkdir()


def clear(root: Path) -> None:
    """Delete what processes that were killed left below `root`: what is no checkpoint, and what
    another one of the same step has replaced."""
    for left in root.glob(".draft-*"):
        shutil.rmtree(left, ignore_errors=True)
    _settle(root)


def _written_by_all(files: Tensors, draft: Path, step: int, world: World) -> dict[str, str]:
    """Name of a file → its checksum, of the files of all processes."""
    failure: Exception | None = None
    mine: dict[str, Any]
    try:
        mine = {"sums": _write(files, draft)}
    except Exception as error:  # of any kind: the others wait for a word of this process
        failure, mine = error, {"failed": _reason(error)}
    told = [json.loads(text) for text in world.texts(json.dumps(mine))]
    if failure is not None and not isinstance(failure, OSError):
        raise failure
    if failed := [each["failed"] for each in told if "failed" in each]:
        raise _not_written(step, draft.parent, failed[0]) from failure
    return {name: digest for each in told for name, digest in each["sums"].items()}


def _write(files: Tensors, draft: Path) -> dict[str, str]:
    """Name of a file → its checksum."""
    sums = {}
    for name, pieces in files.items():
        file = draft / f"{name}.safetensors"
        save_pieces(pieces, file)
        sums[file.name] = _sum(file)
        sync(file)
    return sums


def _complete(
    state: Mapping[str, Any], sums: Mapping[str, str], *, draft: Path, path: Path
) -> None:
    (draft / _STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    sums = {**sums, _STATE: _sum(draft / _STATE)}
    (draft / _MANIFEST).write_text(json.dumps({"blake2b": sums}, indent=1), encoding="utf-8")
    for file in (draft / _STATE, draft / _MANIFEST, draft):
        sync(file)
    if path.exists():
        _make_way(path)
    draft.rename(path)
    sync(path.parent)
    _settle(path.parent)


def _make_way(path: Path) -> None:
    """No folder can be renamed over another: the old one stays a checkpoint by another name."""
    replaced = path.with_name(path.name + _REPLACED)
    if replaced.exists():  # left by a process that was killed after it published `path`
        delete(replaced)
    path.rename(replaced)


def _settle(root: Path) -> None:
    """Delete what was replaced. What a process was killed before it replaced has its name back."""
    with suppress(OSError):  # the new one is published: whatever is left is for the next one
        for replaced in root.glob(f"step-*{_REPLACED}"):
            path = replaced.with_suffix("")
            if path.exists():
                delete(replaced)
            else:
                replaced.rename(path)


def delete(path: Path) -> None:
    """Raises OSError where it stays as it was."""
    # Renamed first: one that is half deleted must not look like a checkpoint.
    doomed = path.rename(path.with_name(f".draft-{path.name}-old"))
    shutil.rmtree(doomed, ignore_errors=True)


def _in_words(step: int, root: Path, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        raise _not_written(step, root, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


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
    return Checkpoint(path, _step_of(path), state)


def _is_wanted(file: str, only: str | None) -> bool:
    of = re.fullmatch(r"(\w+)(-.*)?\.safetensors", file)
    return only is None or of is None or of[1] == only


def newest_checkpoint(
    root: Path, warn: Callable[[str], None], *, only: str | None = None
) -> Checkpoint | None:
    """The one saved last that is whole; says which it passes over. None: there is none.

    only: as for `open_checkpoint`.
    """
    for found in reversed(published(root)):
        try:
            return open_checkpoint(found.path, only=only, remedy="")
        except CheckpointError as error:
            warn(f"{error} The checkpoint before it is tried.")
    return None


def has_ended(root: Path) -> bool:
    """Whether the run that saved the newest checkpoint below `root` came to its end with it."""
    try:
        state = open_checkpoint(published(root)[-1].path, verify=False).state
        return bool(state["progress"]["stop_reason"])
    except (CheckpointError, IndexError, KeyError, TypeError):
        return False  # whoever goes on from there is told what is wrong


class Published(NamedTuple):
    """A checkpoint as its name and its state tell of it, unchecked; in the order of saving.

    A part of a run that goes on from an earlier step has lower steps than the part before it had,
    and is newer all the same. part, run_id: infinity and None where the state cannot be read: last,
    so that it is said and not passed over.
    """

    part: float
    step: int
    in_place: bool
    path: Path
    run_id: str | None


def published(root: Path) -> list[Published]:
    found = [path for path in root.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(_published(path) for path in found)


def _published(path: Path) -> Published:
    # Read once: a part of one reading and a run of another could make the newest the oldest.
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        part: float = int(state.get("part", 0))
        run_id = state.get("run_id")
    except (OSError, ValueError, AttributeError, TypeError):
        part, run_id = math.inf, None
    return Published(part, _step_of(path), not path.suffix, path, run_id)


def _step_of(path: Path) -> int:
    return int(path.name[len("step-") :].removesuffix(_REPLACED))


def _sum(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
