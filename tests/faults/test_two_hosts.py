"""Two hosts, each a network namespace of its own, joined by a cable that is cut in mid-run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support.ranks import run_jobs
from support.torchrun import content, flags_for, make_inputs, steps, wait_until

ADDRESSES = ("10.77.31.1", "10.77.31.2")
ENDED = "which has ended or has not answered for 5 seconds"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[str]]:
    """The names of two namespaces whose interface `cable` leads to the other."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    names = [f"llama{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ends = ("netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        ip("link", "add", "cable", *ends)
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr}")
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=False)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def start(hosts: list[str], flags: list[str], folder: Path) -> list[subprocess.Popen[bytes]]:
    """torchrun on both hosts, a process each, which meet at the first one's address."""
    launchers = []
    for number, name in enumerate(hosts):
        command = [
            *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=run"),
            *(f"--rdzv_endpoint={ADDRESSES[0]}:29500", f"--local_addr={ADDRESSES[number]}"),
            # Both have the machine's name, by which torchrun would know the first.
            f"--rdzv_conf=is_host={'false' if number else 'true'}",
            *("-m", "llama_recipes.finetuning", *flags),
        ]
        log = (folder / f"host{number}.log").open("ab")
        variables = os.environ | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
        launchers.append(
            subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
        )
        log.close()
    return launchers


@pytest.mark.faults
def test_a_cut_cable_ends_the_run_and_the_next_start_goes_on(hosts, inputs, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_jobs(tmp_path / "logs", [flags_for(inputs, whole)], size=2, hosts=2)
    flags = flags_for(inputs, cut, "--resume=auto", "--timeout_seconds=5")
    logs = [tmp_path / f"host{number}.log" for number in range(2)]

    launchers = start(hosts, flags, tmp_path)
    try:
        wait_until(lambda: steps(cut) >= 20)
        ip("-n", hosts[0], "link", "set", "cable", "down")
        wait_until(lambda: any(ENDED in log.read_text() for log in logs), 60)
    finally:
        # Their launchers wait for each other as long as torchrun's own timeouts say.
        for launcher in launchers:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
    assert any((cut / "checkpoints").glob("step-*"))

    ip("-n", hosts[0], "link", "set", "cable", "up")
    time.sleep(1)
    again = start(hosts, flags, tmp_path)
    try:
        codes = [launcher.wait(120) for launcher in again]
    finally:
        for launcher in again:
            launcher.kill()
    said = "\n".join(log.read_text() for log in logs)
    assert codes == [0, 0], said[-3000:]
    assert "Going on after step" in said
    metrics, weights = content(whole)
    others, resumed = content(cut)
    assert others == metrics
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)
