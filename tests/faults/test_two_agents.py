"""Two torchruns, as on two hosts, of which each restarts its process when one is killed.

The agents count restarts differently: the one whose process is lost counts it, the one that learns
of it by the other's coming back does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from support.ranks import rendezvous, run_jobs
from support.torchrun import (
    content,
    flags_for,
    make_inputs,
    ranks_of,
    steps,
    torchrun,
    wait_until,
)


@contextmanager
def two_agents(flags: list[str], folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """torchrun twice, a process each, which meet in a store of this test's."""
    store = rendezvous()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"),
        *("--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{store.port}", "--rdzv_id=run"),
        *("--rdzv_conf=is_host=false", "--local_addr=127.0.0.1", "--max_restarts=3"),
        *("-m", "llama_recipes.finetuning", *flags),
    ]
    with ExitStack() as stack:
        yield [
            stack.enter_context(torchrun(command, stdout=stack.enter_context(log.open("w"))))
            for log in (folder / "agent0.log", folder / "agent1.log")
        ]


@pytest.mark.faults
def test_killed_on_either_host_both_start_again_and_it_ends_equal(tmp_path):
    inputs = make_inputs(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_jobs(tmp_path / "logs", [flags_for(inputs, whole, epochs=15)], size=2, hosts=2)
    flags = flags_for(inputs, killed, "--resume=auto", "--timeout_seconds=20", epochs=15)
    with two_agents(flags, tmp_path) as agents:
        for rank, step in ((1, 10), (0, 40)):
            wait_until(lambda step=step: steps(killed) >= step)
            ranks = {rank: pid for agent in agents for rank, pid in ranks_of(agent.pid).items()}
            os.kill(ranks[rank], signal.SIGKILL)
        codes = [agent.wait(120) for agent in agents]
    said = "".join(log.read_text() for log in tmp_path.glob("agent*.log"))
    assert codes == [0, 0], said[-3000:]
    assert said.count("Going on after step") == 2
    metrics, weights = content(whole)
    again, resumed = content(killed)
    assert again == metrics
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)
