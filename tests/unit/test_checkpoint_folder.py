"""A checkpoint exists completely or not at all, and one that was changed later is passed over."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from llama_recipes.checkpoint import folder as checkpoints
from llama_recipes.checkpoint.folder import (
    newest_checkpoint,
    open_checkpoint,
    prune,
    write_checkpoint,
)
from llama_recipes.checkpoint.pieces import Piece, Shards, save_pieces
from llama_recipes.errors import CheckpointError

TENSORS = {"weights": {"a": torch.arange(6.0).reshape(2, 3)}, "random": {"cpu": torch.ones(3)}}
PIECES = {
    name: {key: Piece.whole(value) for key, value in tensors.items()}
    for name, tensors in TENSORS.items()
}


def write(root: Path, step: int, run_id: str = "mine") -> Path:
    return write_checkpoint(root, step, {"run_id": run_id, "note": [step, 0.1]}, PIECES)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_what_is_written_is_what_is_read(tmp_path):
    path = write(tmp_path / "new", 7)
    assert names(tmp_path / "new") == ["step-00000007"]
    found = open_checkpoint(path)
    assert (found.step, found.state) == (7, {"run_id": "mine", "note": [7, 0.1]})
    assert torch.equal(found.shards("weights").whole("a"), TENSORS["weights"]["a"])
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("file", ["weights.safetensors", "random.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "zeroed", "bit", "gone"])
def test_a_damaged_file_is_found_and_the_checkpoint_before_is_taken(tmp_path, file, damage):
    write(tmp_path, 1)
    path = write(tmp_path, 2) / file
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "zeroed":
        path.write_bytes(bytes(len(content)))
    elif damage == "bit":
        content[-3] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    said: list[str] = []
    assert newest_checkpoint(tmp_path, said.append).step == 1
    (line,) = said
    assert str(path.parent) in line
    assert "is no whole checkpoint" in line
    assert "The checkpoint before it is tried." in line


def test_a_manifest_that_is_damaged_or_from_elsewhere(tmp_path):
    path = write(tmp_path, 3)
    for content in ("", "[]", "{}", '{"blake2b": 3}', '{"blake2b": {}}', '{"blake2b": {"x": 1}}'):
        (path / "manifest.json").write_text(content)
        with pytest.raises(CheckpointError, match="is no whole checkpoint"):
            open_checkpoint(path)
    assert newest_checkpoint(tmp_path, lambda text: None) is None


def test_files_outside_of_the_folder_are_not_read(tmp_path):
    path = write(tmp_path / "root", 3)
    outside = tmp_path / "state.json"
    outside.write_text("{}")
    sums = json.loads((path / "manifest.json").read_text())["blake2b"]
    sums["../../state.json"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps({"blake2b": sums}))
    with pytest.raises(CheckpointError, match=r"\.\./\.\./state\.json is not what was written"):
        open_checkpoint(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("place", ["save_pieces", "sync", "_sum"])
def test_a_disk_that_fails_costs_the_new_one_alone(tmp_path, monkeypatch, code, place):
    write(tmp_path, 1)

    def failing(*arguments: object, **more: object) -> None:
        raise OSError(code, "the disk fails")

    monkeypatch.setattr(checkpoints, place, failing)
    with pytest.raises(CheckpointError, match="the disk fails") as caught:
        write(tmp_path, 2)
    assert "The ones before it are intact" in str(caught.value)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]
    assert newest_checkpoint(tmp_path, pytest.fail).step == 1


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".draft-step-00000002").mkdir()
    (tmp_path / ".draft-step-00000002" / "weights.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path, pytest.fail).step == 1
    write(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_step_that_is_made_again_is_replaced(tmp_path):
    write(tmp_path, 1, run_id="before")
    write(tmp_path, 1, run_id="after")
    assert newest_checkpoint(tmp_path, pytest.fail).state["run_id"] == "after"


def test_the_newest_the_best_and_those_of_others_stay(tmp_path):
    for step in (1, 2, 3, 4, 5):
        write(tmp_path, step)
    write(tmp_path, 9, run_id="another")
    prune(tmp_path, keep=2, never=2, run_id="mine")
    assert names(tmp_path) == [f"step-0000000{step}" for step in (2, 4, 5, 9)]
    prune(tmp_path, keep=1, never=None, run_id="mine")
    assert names(tmp_path) == ["step-00000005", "step-00000009"]


def test_one_that_is_half_deleted_looks_like_none(tmp_path, monkeypatch):
    for step in (1, 2):
        write(tmp_path, step)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda *a, **k: None)  # killed before it
    prune(tmp_path, keep=1, never=None, run_id="mine")
    monkeypatch.undo()
    assert newest_checkpoint(tmp_path, pytest.fail).step == 2
    write(tmp_path, 3)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_any_rows_of_pieces_in_several_files(tmp_path):
    whole = torch.arange(21.0).reshape(7, 3)
    for number, (first, stop) in enumerate([(0, 3), (3, 3), (3, 7)]):
        piece = Piece(whole[first:stop], first, (7, 3))
        scalar = {"step": Piece.whole(torch.tensor(4.0))} if number == 0 else {}
        save_pieces({"a": piece, **scalar}, tmp_path / f"{number}.safetensors")
    shards = Shards(sorted(tmp_path.iterdir()))
    for first in range(8):
        for count in range(8 - first):
            assert torch.equal(shards.rows("a", first, count), whole[first : first + count])
    assert shards.whole("step") == 4.0


def test_rows_that_no_file_has_are_named(tmp_path):
    save_pieces({"a": Piece(torch.ones(2, 3), 0, (5, 3))}, tmp_path / "0.safetensors")
    with pytest.raises(CheckpointError, match="lacks rows 2 to 4 of a"):
        Shards([tmp_path / "0.safetensors"]).rows("a", 1, 3)
