"""The batch script for clusters: what Slurm would do with it, with Slurm's commands played."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.launcher.api import LaunchConfig

SCRIPT = Path(__file__).parents[2] / "recipes" / "finetuning" / "multi_node.slurm"

SRUN = """#!/bin/bash
echo "srun $*" >> "$CALLS"
trap 'echo saved >> "$CALLS"; exit "$AT_TERM"' TERM
if [ "$ENDS" = "" ]; then while :; do sleep 0.05; done; fi
exit "$ENDS"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'host7\\nhost8\\n'; else echo "scontrol $*" >> "$CALLS"; fi
"""


@pytest.fixture
def started(tmp_path):
    """Starts the script with arguments; what it calls is written to `calls`."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": "41",
        "SLURM_JOB_NODELIST": "host[7-8]",
        "SLURM_NNODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
    }

    def start(*words: str, ends: str, at_term: int = 1, gpus: str = "8") -> subprocess.Popen[bytes]:
        played = {"ENDS": ends, "AT_TERM": str(at_term), "SLURM_GPUS_PER_NODE": gpus}
        return subprocess.Popen(["bash", str(SCRIPT), *words], env=os.environ | variables | played)

    return start


def test_shellcheck_finds_nothing():
    checker = Path(sys.executable).with_name("shellcheck")
    if not checker.exists():
        pytest.skip("shellcheck is not installed here")
    done = subprocess.run([checker, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", [0, 5])
def test_it_starts_all_hosts_and_ends_as_the_run_does(started, tmp_path, code):
    assert started("--model_name", "a model", ends=str(code)).wait(20) == code
    calls = (tmp_path / "calls").read_text()
    assert "--cpus-per-task 64 torchrun --nnodes 2 --nproc_per_node 8 --rdzv_id 41-0" in calls
    assert "--rdzv_endpoint host7:29500" in calls
    assert "--max_restarts 3 -m " in calls
    run = "-m llama_recipes.finetuning --enable_fsdp --resume auto --model_name a model"
    assert calls.rstrip().endswith(run)


def test_gpus_of_a_type_are_counted(started, tmp_path):
    assert started(ends="0", gpus="h100:4").wait(20) == 0
    assert "--nproc_per_node 4 " in (tmp_path / "calls").read_text()


def test_torchrun_waits_for_a_save_as_long_as_slurm_does(monkeypatch):
    text = SCRIPT.read_text()
    ahead = re.search(r"--signal=B:USR1@(\d+)", text)
    waits = re.search(r"export (TORCH_ELASTIC_SHUTDOWN_TIMEOUT)=(\d+)", text)
    assert ahead and waits
    assert 30 < int(waits[2]) < int(ahead[1])
    monkeypatch.setenv(waits[1], waits[2])
    torchrun = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1)
    assert torchrun.shutdown_timeout == int(waits[2])


@pytest.mark.parametrize(
    ("at_term", "then"),
    [
        pytest.param(1, ["saved", "scontrol requeue 41"], id="saved"),
        pytest.param(0, ["saved"], id="done"),
    ],
)
def test_before_the_time_limit_it_stops_the_run_and_asks_to_start_again(
    started, tmp_path, at_term, then
):
    script = started(ends="", at_term=at_term)
    calls = tmp_path / "calls"
    while not (calls.exists() and "srun" in calls.read_text()):
        time.sleep(0.02)
    time.sleep(0.2)  # until the trap of the played srun stands
    script.send_signal(signal.SIGUSR1)
    assert script.wait(20) == 0
    assert calls.read_text().splitlines()[1:] == then
