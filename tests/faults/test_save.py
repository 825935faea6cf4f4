"""A save that is killed at any system call, or meets a full disk, leaves only whole checkpoints."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_recipes.checkpoint.folder import newest_checkpoint, write_checkpoint
from llama_recipes.checkpoint.pieces import Piece
from llama_recipes.checkpoint.retention import prune
from llama_recipes.errors import CheckpointError
from support.traced import CALLS, fail_at, kill_at, needs_strace, traced

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
FILES = ("random.safetensors", "weights.safetensors", "state.json", "manifest.json")
OLD, NEW, NEXT = 1.0, 2.0, 3.0
"""Of what a checkpoint holds: what was there, what is being saved, and what is saved after that."""


def write(root: Path, step: int, value: float) -> None:
    """As a run saves that keeps one: what was before is deleted once the new one is there."""
    weights, random = torch.full((1000,), value), torch.ones(3)
    tensors = {"weights": {"a": Piece.whole(weights)}, "random": {"cpu": Piece.whole(random)}}
    write_checkpoint(root, step, {"run_id": "mine", "value": value}, tensors)
    prune(root, keep=1, never=None, run_id="mine")


def saving(root: Path) -> Callable[[], None]:
    return lambda: write(root, 2, NEW)


def check_whole(root: Path, *values: float) -> float:
    """What is found without a word of warning."""
    found = newest_checkpoint(root, pytest.fail)
    assert found is not None, "no checkpoint is left"
    value = found.state["value"]
    assert value in values
    assert torch.equal(found.shards("weights").whole("a"), torch.full((1000,), value))
    return value


def check_next(root: Path) -> None:
    """Whoever goes on has no trouble with what was left, and leaves nothing of it."""
    write(root, 3, NEXT)
    check_whole(root, NEXT)
    assert [path.name for path in root.iterdir()] == ["step-00000003"]


LONG = [
    pytest.param(call, marks=[] if call in ("rename", "write") else pytest.mark.faults)
    for call in CALLS
]


@needs_strace
@pytest.mark.parametrize("before", [1, 2], ids=["after another step", "over the same step"])
@pytest.mark.parametrize("call", LONG)
def test_killed_at_any_call_of_a_save(call, before, tmp_path, record_property):
    kills = 0
    for number in itertools.count(1):
        root = tmp_path / f"{number}"
        write(root, before, OLD)
        code = traced(saving(root), tmp_path / "trace", *kill_at(call, number))
        check_whole(root, OLD, NEW)
        if code == 0:
            check_whole(root, NEW)
            break
        assert code == -9
        kills += 1
        check_next(root)
        shutil.rmtree(root)
    record_property("kills", kills)
    # Of two kinds the libraries of today make none.
    assert kills >= 1 or call in ("pwrite64", "unlink")


@needs_strace
@pytest.mark.parametrize("before", [1, 2], ids=["after another step", "over the same step"])
@pytest.mark.parametrize("call", LONG)
@pytest.mark.parametrize("error", ["ENOSPC", pytest.param("EIO", marks=pytest.mark.faults)])
def test_a_disk_that_fails_at_any_call_costs_the_new_one_alone(
    error, call, before, tmp_path, record_property
):
    failed = []
    for number in itertools.count(1):
        root, said, log = tmp_path / f"{number}", tmp_path / f"{number}.txt", tmp_path / "trace"
        write(root, before, OLD)
        code = traced(telling(root, said), log, *fail_at(call, number, error))
        text = log.read_text()
        if "(INJECTED)" not in text:
            assert code == 0
            break
        failed += [line for line in text.splitlines() if "(INJECTED)" in line]
        check_whole(root, OLD, NEW)
        if said.exists():
            text, reason = said.read_text(), os.strerror(getattr(errno, error))
            assert text.startswith(f"The checkpoint of step 2 could not be written to {root}: ")
            assert reason in text
            assert "The ones before it are intact: make room, and go on with" in text
            assert not list(root.glob(".draft*"))
        else:  # it failed at what is deleted afterwards
            assert code == 0
            check_whole(root, NEW)
        check_next(root)
        shutil.rmtree(root)
    record_property("failed calls", len(failed))
    if call in ("openat", "fsync"):
        assert all(any(name in line for line in failed) for name in FILES)
    if call == "write":
        assert all(any(name in line for line in failed) for name in (".tmp", *FILES[2:]))


def telling(root: Path, said: Path) -> Callable[[], None]:
    """Save, and write down the error that a user gets; any other ends the process with 1."""

    def save() -> None:
        try:
            write(root, 2, NEW)
        except CheckpointError as error:
            said.write_text(str(error))

    return save


@needs_strace
@pytest.mark.parametrize("before", [1, 2], ids=["after another step", "over the same step"])
def test_all_is_on_the_disk_before_it_is_published_and_the_name_after(before, tmp_path):
    """What a loss of power may cost is what no fsync was made for."""
    root, log = tmp_path / "root", tmp_path / "trace"
    write(root, before, OLD)
    assert traced(saving(root), log, "-e", "trace=write,fsync,rename") == 0
    draft, path = root / ".draft-step-00000002", root / "step-00000002"
    calls = [
        (found[1], *re.findall(r'<([^>]+)>|"(/[^"]+)"', line))
        for line in log.read_text().splitlines()
        if (found := re.match(r"(write|fsync|rename)\(", line))
    ]
    made = [(name, *(file or text for file, text in places)) for name, *places in calls]
    published = made.index(("rename", str(draft), str(path)))
    synced = made.index(("fsync", str(draft)))
    for file in FILES:
        at = made.index(("fsync", str(draft / file)))
        assert at < synced
        assert ("write", str(draft / file)) not in made[at:]
    assert not [call for call in made[synced:] if call[0] == "write"]
    after = made[published + 1 :]
    assert synced < published
    assert after[0] == ("fsync", str(root))
    assert [call[0] for call in after[1:]] == ["rename"]  # of the old one, to be deleted


@needs_root
def test_a_full_disk_costs_the_new_one_alone(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("mount refuses a tmpfs here")
    try:
        write(disk, 1, OLD)
        (disk / "ballast").write_bytes(bytes(236 * 1024))
        with pytest.raises(CheckpointError, match="No space left on device"):
            write(disk, 2, NEW)
        check_whole(disk, OLD)
        assert not list(disk.glob(".draft*"))
        (disk / "ballast").unlink()
        write(disk, 2, NEW)
        check_whole(disk, NEW)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
