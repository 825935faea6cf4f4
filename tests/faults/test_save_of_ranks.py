"""A save that two processes make together: one of them is killed at any system call, or meets a
full disk, and only whole checkpoints are left."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama_recipes.checkpoint.folder import newest_checkpoint
from support.ranks import environment, rendezvous

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

ROWS = 1000
SCRIPT = f"""
import sys
from pathlib import Path
import torch
from llama_recipes.checkpoint.folder import write_checkpoint
from llama_recipes.checkpoint.pieces import Piece
from llama_recipes.checkpoint.retention import prune
from llama_recipes.configs.fsdp import FsdpConfig
from llama_recipes.errors import LlamaRecipesError
from llama_recipes.parallel.processes import ManyProcesses
from llama_recipes.parallel.ranks import end
root, step = Path(sys.argv[1]), int(sys.argv[2])
world = ManyProcesses(FsdpConfig(timeout_seconds=60), torch.device("cpu"))
world.join()
rows = torch.full(({ROWS} // 2,), float(step))
weights = {{"a": Piece(rows, world.rank * len(rows), ({ROWS},))}}
try:
    with world.watched():
        write_checkpoint(
            root, step, {{"run_id": "mine"}}, {{f"weights-{{world.rank}}": weights}}, world=world
        )
    if world.rank == 0:
        prune(root, keep=1, never=None, run_id="mine")
except LlamaRecipesError as error:
    print(error)
    end(error.exit_code)
world.leave()
end(0)
"""
CALLS = ("fsync", "rename", "mkdir", "unlinkat", "openat")


def saved(root: Path, step: int, traced: int = 0, *strace: str) -> list[tuple[int, str]]:
    """Exit code and output of both ranks; with words for strace, one of them is `traced`.

    With `-o` among them: what strace prints would fill the pipe of a rank that is not read yet.
    """
    store = rendezvous()
    ranks = []
    for rank in range(2):
        trace = ["strace", "-f", "-qq", *strace] if strace and rank == traced else []
        variables = environment(rank, 2, port=store.port) | {"PYTHONDONTWRITEBYTECODE": "1"}
        command = [*trace, sys.executable, "-c", SCRIPT, str(root), str(step)]
        ranks.append(
            subprocess.Popen(
                command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        said = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for each in ranks:
            each.kill()
    return [(each.returncode, text) for each, text in zip(ranks, said, strict=True)]


def calls_of_the_save(folder: Path, rank: int, call: str) -> list[int]:
    """The numbers of such calls that `rank` makes for a save after another one, among all of its.

    What comes before are those of Python's and PyTorch's own start.
    """
    saved(folder / "counted", 1)
    done = saved(folder / "counted", 2, rank, "-e", f"trace={call}", "-o", str(folder / "trace"))
    assert [code for code, _ in done] == [0, 0], done
    traced = (folder / "trace").read_text().splitlines()
    if not traced:
        return []
    thread = traced[0].split()[0]  # strace counts the calls of each one for itself
    lines = [line for line in traced if f"{call}(" in line and line.split()[0] == thread]
    own = re.compile(rf"{re.escape(str(folder / 'counted'))}|weights-|state\.json|manifest\.json")
    return [n for n, line in enumerate(lines, 1) if call == "fsync" or own.search(line)]


def check_whole(root: Path, *steps: int) -> None:
    found = newest_checkpoint(root, pytest.fail)
    assert found is not None
    assert found.step in steps
    weights = found.shards("weights").whole("a")
    assert torch.equal(weights, torch.full((ROWS,), float(found.step)))


@pytest.mark.faults
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_is_killed_at_any_call(rank, call, tmp_path, record_property):
    saved(tmp_path / "first", 1)
    numbers = calls_of_the_save(tmp_path, rank, call)
    if rank == 1 and call in ("rename", "mkdir", "unlinkat"):
        assert not numbers  # these are for the process of rank 0
        return
    kills = 0
    for number in numbers:
        root = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "first", root)
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        done = saved(root, 2, rank, "-o", "/dev/null", "-e", inject)
        kills += done[rank][0] != 0
        check_whole(root, 1, 2)
        # Who goes on has no trouble with what was left.
        assert [code for code, _ in saved(root, 3)] == [0, 0]
        check_whole(root, 3)
        assert not list(root.glob(".draft*"))
        shutil.rmtree(root)
    record_property("kills", kills)
    assert kills == len(numbers)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.faults), 1])
def test_the_disk_of_one_of_two_is_full(rank, tmp_path):
    root = tmp_path / "checkpoints"
    saved(root, 1)
    done = saved(root, 2, rank, "-o", "/dev/null", "-e", "inject=fsync:error=ENOSPC:when=1")
    for code, text in done:
        assert code == 4
        assert f"The checkpoint of step 2 could not be written to {root}" in text
        assert os.strerror(errno.ENOSPC) in text
    check_whole(root, 1)
    assert not list(root.glob(".draft*"))
    assert [code for code, _ in saved(root, 2)] == [0, 0]
    check_whole(root, 2)
