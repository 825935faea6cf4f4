"""A save that is killed at any system call, or meets a full disk, leaves only whole checkpoints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama_recipes.checkpoint.folder import newest_checkpoint, write_checkpoint
from llama_recipes.checkpoint.pieces import Piece

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")

SCRIPT = """
import sys
from pathlib import Path
import torch
from llama_recipes.checkpoint.folder import prune, write_checkpoint
from llama_recipes.checkpoint.pieces import Piece
root = Path(sys.argv[1])
weights, random = torch.full((1000,), 2.0), torch.ones(3)
tensors = {"weights": {"a": Piece.whole(weights)}, "random": {"cpu": Piece.whole(random)}}
write_checkpoint(root, 2, {"run_id": "mine"}, tensors)
prune(root, keep=1, never=None, run_id="mine")
"""
CALLS = ("fsync", "rename", "mkdir", "unlinkat", "openat")


def write(root: Path, step: int) -> None:
    weights, random = torch.full((1000,), float(step)), torch.ones(3)
    tensors = {"weights": {"a": Piece.whole(weights)}, "random": {"cpu": Piece.whole(random)}}
    write_checkpoint(root, step, {"run_id": "mine"}, tensors)


def saved(root: Path, *injected: str) -> int:
    """Save step 2 in a process of its own; its exit code."""
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", *injected] if injected else []
    command = [*trace, sys.executable, "-c", SCRIPT, str(root)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def first_call(root: Path, call: str) -> int:
    """How many such calls there are before the save begins: in Python's and PyTorch's own start."""
    command = [
        "strace",
        "-f",
        "-qq",
        "-e",
        f"trace={call}",
        sys.executable,
        "-c",
        SCRIPT,
        str(root),
    ]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if f"{call}(" in line]
    own = (str(root), "weights.safetensors", "random.safetensors", "state.json", "manifest.json")
    return next(
        number
        for number, line in enumerate(lines, 1)
        if call == "fsync" or any(name in line for name in own)
    )


@needs_strace
@pytest.mark.faults
@pytest.mark.parametrize("call", CALLS)
def test_killed_at_any_call_of_a_save(call, tmp_path):
    write(tmp_path / "counted", 1)
    number = first_call(tmp_path / "counted", call)
    kills = 0
    while True:
        root = tmp_path / f"{number}"
        write(root, 1)
        code = saved(root, "-e", f"inject={call}:signal=SIGKILL:when={number}")
        found = newest_checkpoint(root, pytest.fail)
        assert found.step in (1, 2)
        assert torch.equal(
            found.shards("weights").whole("a"), torch.full((1000,), float(found.step))
        )
        if code == 0:
            break
        kills, number = kills + 1, number + 1
        # Whoever goes on has no trouble with what the killed one left.
        write(root, 3)
        assert sorted(path.name for path in root.iterdir())[-1] == "step-00000003"
        assert not list(root.glob(".draft*"))
        shutil.rmtree(root)
    assert kills >= 1


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
        write(disk, 1)
        (disk / "ballast").write_bytes(bytes(236 * 1024))
        assert saved(disk) != 0
        assert newest_checkpoint(disk, pytest.fail).step == 1
        assert not list(disk.glob(".draft*"))
        (disk / "ballast").unlink()
        assert saved(disk) == 0
        assert newest_checkpoint(disk, pytest.fail).step == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)
