"""One rank of two is killed, or gets a signal, in the middle of something: all end soon, torchrun
names it, nothing is left behind, and the next start ends equal."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from support.ranks import TESTS, run_jobs
from support.tiny_folder import jsonl, sums
from support.torchrun import content, flags_for, launched, make_inputs, ranks_of, steps, wait_until

pytestmark = pytest.mark.faults

SOON_SECONDS = 30
"""From the kill to the end of torchrun, on two cores that are busy: three of these are spent on
waiting for a word of the one that was killed (`_PATIENCE_SECONDS`)."""
HANG_SECONDS = 600
"""Of a collective that nobody answers: what "soon" must not mean."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = make_inputs(tmp_path_factory.mktemp("inputs"))
    jsonl(folder / "validation.jsonl", sums(6))
    return folder


@pytest.fixture
def flags(inputs):
    def make(output: Path) -> list[str]:
        made = flags_for(inputs, output, "--resume=auto", epochs=2)
        made.remove("--no_run_validation")
        more = (f"--validation_file={inputs / 'validation.jsonl'}", "--eval_every=4")
        return [*made, *more, f"--timeout_seconds={HANG_SECONDS}", "--batching_strategy=padding"]

    return make


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """The run that nobody disturbs, made once: its flags differ in the folder alone."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def undisturbed(whole, flags):
    folder = whole / "result"
    if not folder.exists():
        run_jobs(whole / "logs", [flags(folder)], size=2)
    return content(folder)


@pytest.fixture(autouse=True)
def _finds_support(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{TESTS.parent}:{os.environ.get('PYTHONPATH', '')}")


def listening(processes: Iterable[int]) -> set[str]:
    """The local addresses where these listen."""
    sockets = set()
    for process in processes:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
            except FileNotFoundError:  # closed meanwhile
                continue
    return {address for inode, address in listeners() if inode in sockets}


def listeners() -> set[tuple[str, str]]:
    """Inode and local address of every TCP socket of this machine that listens."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {(fields[9], fields[1]) for fields in lines if fields[3] == "0A"}


def goes_on_and_ends_equal(command: list[str], folder: Path, undisturbed, logs: Path) -> None:
    run_jobs(logs, [command], size=2)
    metrics, weights = undisturbed
    again, resumed = content(folder)
    assert again == metrics
    assert resumed.keys() == weights.keys()
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    "place", ["loading", "forward", "backward", "collective", "save", "evaluation"]
)
def test_killed_there(place, rank, flags, undisturbed, tmp_path, record_property):
    folder = tmp_path / "result"
    command = flags(folder)
    disturbed = ("-m", "support.disturbed", "SIGKILL", f"{rank}", place)
    with launched(*disturbed, *command) as process:
        wait_until(lambda: len(ranks_of(process.pid)) == 2)
        ranks = ranks_of(process.pid)
        wait_until(lambda: listening([process.pid, *ranks.values()]))
        ports = listening([process.pid, *ranks.values()])
        said, _ = process.communicate(timeout=120)
        ended = time.time()
    killed = re.search(r"SIGKILL at ([\d.]+)", said)
    assert killed, said[-3000:]
    record_property("kills", 1)
    assert ended - float(killed[1]) < SOON_SECONDS
    assert process.returncode == 1
    first = said[said.index("Root Cause (first observed failure)") :]
    assert re.search(rf"rank +: {rank} ", first), first
    assert re.search(r"exitcode +: -9 ", first), first
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    assert not ports & {address for _, address in listeners()}
    goes_on_and_ends_equal(command, folder, undisturbed, tmp_path / "logs")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("place", ["loading", "forward", "collective", "save", "evaluation"])
def test_told_to_stop_there(place, rank, flags, undisturbed, tmp_path):
    folder = tmp_path / "result"
    command = flags(folder)
    disturbed = ("-m", "support.disturbed", "SIGTERM", f"{rank}", place)
    with launched(*disturbed, *command) as process:
        said, _ = process.communicate(timeout=120)
    assert said.count("Stopped by SIGTERM") == 1, said[-3000:]
    assert re.search(r"exitcode +: 75 ", said), said[-3000:]
    if place == "loading":
        assert "before the first step: nothing is lost" in said
    else:
        saved = max(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))
        assert saved == steps(folder) > 0
    goes_on_and_ends_equal(command, folder, undisturbed, tmp_path / "logs")
