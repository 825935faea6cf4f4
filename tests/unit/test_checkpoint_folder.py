"""A checkpoint exists completely or not at all, and one that was changed later is passed over."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pytest
import torch

from llama_recipes.checkpoint import folder as checkpoints
from llama_recipes.checkpoint.folder import (
    newest_checkpoint,
    open_checkpoint,
    write_checkpoint,
)
from llama_recipes.checkpoint.pieces import Piece, Shards, save_pieces
from llama_recipes.checkpoint.retention import next_part, prune, retire
from llama_recipes.errors import CheckpointError
from llama_recipes.parallel.world import OneProcess

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


FAILING = [
    *(("save_pieces", f"{name}.safetensors") for name in PIECES),
    *((place, f"{name}.safetensors") for place in ("sync", "_sum") for name in PIECES),
    *(("sync", name) for name in ("state.json", "manifest.json", ".draft-step-00000002")),
    ("_sum", "state.json"),
]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize(("place", "name"), FAILING)
def test_a_disk_that_fails_costs_the_new_one_alone(tmp_path, monkeypatch, code, place, name):
    """At each file in turn; at every system call of a save: tests/faults/test_save.py."""
    write(tmp_path, 1)
    works = getattr(checkpoints, place)

    def failing(*arguments):
        if arguments[-1].name == name:
            raise OSError(code, "the disk fails")
        return works(*arguments)

    monkeypatch.setattr(checkpoints, place, failing)
    with pytest.raises(CheckpointError, match="the disk fails") as caught:
        write(tmp_path, 2)
    assert "The ones before it are intact" in str(caught.value)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]
    assert newest_checkpoint(tmp_path, pytest.fail).step == 1


class OneOfTwo(OneProcess):
    """A process that exchanges texts with another thread, and waits for it no longer than 5 s."""

    size = 2

    def __init__(self, rank: int, meeting: threading.Barrier, told: list[str]) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self._meeting, self._told = rank, meeting, told

    def texts(self, text: str) -> list[str]:
        self._told[self.rank] = text
        self._meeting.wait(5)
        return list(self._told)

    def lead(self, action) -> None:
        if self.rank == 0:
            action()
        self._meeting.wait(5)


class NoMemory(dict):
    def items(self):
        raise MemoryError("no room for a copy")


def test_whatever_fails_on_one_process_is_told_to_the_other(tmp_path):
    write(tmp_path, 1)
    meeting, told, raised = threading.Barrier(2), ["", ""], [None, None]

    def save(rank: int) -> None:
        world, pieces = OneOfTwo(rank, meeting, told), [PIECES["weights"], NoMemory()][rank]
        try:
            write_checkpoint(tmp_path, 2, {}, {f"weights-{rank}": pieces}, world=world)
        except Exception as error:
            raised[rank] = error

    threads = [threading.Thread(target=save, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(raised[1], MemoryError)
    assert isinstance(raised[0], CheckpointError)
    assert "MemoryError: no room for a copy. The ones before it are intact" in str(raised[0])
    assert names(tmp_path) == ["step-00000001"]


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


def test_one_that_was_being_replaced_is_one_until_the_other_is_there(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2).rename(tmp_path / "step-00000002.replaced")  # and then it was killed
    found = newest_checkpoint(tmp_path, pytest.fail)
    assert (found.step, found.state["note"]) == (2, [2, 0.1])
    write(tmp_path, 3)
    assert names(tmp_path) == [f"step-0000000{step}" for step in (1, 2, 3)]


def test_of_two_of_one_step_the_newer_stays_where_a_third_cannot_be_published(
    tmp_path, monkeypatch
):
    replaced = write(tmp_path, 2, "before").rename(tmp_path / "aside")
    write(tmp_path, 2, "after")
    replaced.rename(tmp_path / "step-00000002.replaced")
    rename = Path.rename

    def full(self, target):
        if self.name == ".draft-step-00000002":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            write(tmp_path, 2, "again")
    assert newest_checkpoint(tmp_path, pytest.fail).state["run_id"] == "after"


@pytest.mark.parametrize("step", [2, 3])
def test_one_that_was_replaced_goes_with_the_next_save(step, tmp_path):
    write(tmp_path, 2, "before").rename(tmp_path / "step-00000002.replaced")
    replaced = tmp_path / "step-00000002.replaced"
    replaced.rename(tmp_path / "aside")
    write(tmp_path, 2, "after")
    (tmp_path / "aside").rename(replaced)  # it was killed before it deleted the old one
    assert newest_checkpoint(tmp_path, pytest.fail).state["run_id"] == "after"
    write(tmp_path, step)
    assert names(tmp_path) == sorted({"step-00000002", f"step-0000000{step}"})


def of_part(root: Path, step: int, part: int, run_id: str = "mine") -> None:
    write_checkpoint(root, step, {"run_id": run_id, "part": part}, PIECES)


def test_the_newest_is_of_the_last_part_whatever_its_step(tmp_path):
    assert next_part(tmp_path) == 1
    for step in (1, 2, 3, 6):
        of_part(tmp_path, step, part=1)
    assert next_part(tmp_path) == 2
    of_part(tmp_path, 4, part=2)  # it went on from step 3, and was killed before it deleted any
    assert newest_checkpoint(tmp_path, pytest.fail).step == 4
    prune(tmp_path, keep=2, never=None, run_id="mine")
    assert names(tmp_path) == ["step-00000004", "step-00000006"]
    prune(tmp_path, keep=1, never=None, run_id="mine")
    assert names(tmp_path) == ["step-00000004"]


def test_what_another_way_went_is_given_up_once_this_one_has_saved(tmp_path):
    for step in (2, 3, 5, 6):
        of_part(tmp_path, step, part=1)
    of_part(tmp_path, 9, part=1, run_id="another")
    of_part(tmp_path, 4, part=2)
    retire(tmp_path, part=2, after=3, run_id="mine")
    assert names(tmp_path) == [f"step-0000000{step}" for step in (2, 3, 4, 9)]
    of_part(tmp_path, 5, part=2)
    retire(tmp_path, part=2, after=3, run_id="mine")
    assert names(tmp_path) == [f"step-0000000{step}" for step in (2, 3, 4, 5, 9)]


def test_one_that_cannot_be_read_for_once_is_not_why_the_newest_goes(tmp_path, monkeypatch):
    for step in (1, 2):
        write(tmp_path, step)
    read, failed = Path.read_text, []

    def failing(self, **more):
        if self.parent.name == "step-00000001" and not failed:
            failed.append(self)
            raise OSError(errno.EIO, "for once")
        return read(self, **more)

    monkeypatch.setattr(Path, "read_text", failing)
    prune(tmp_path, keep=1, never=None, run_id="mine")
    assert failed
    assert "step-00000002" in names(tmp_path)


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
