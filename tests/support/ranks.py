"""Several processes that train together, as torchrun starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

TESTS = Path(__file__).parent.parent
GRACE_SECONDS = 20
"""How long the others have, once one has failed, to say what they know of it."""


def rendezvous() -> TCPStore:
    """The store where ranks meet, kept by the test as torchrun's agent keeps it.

    On a port that the kernel gives: one chosen beforehand may be another's by the time it is used.
    """
    return TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
    )


def environment(rank: int, size: int, *, port: int, hosts: int = 1) -> dict[str, str]:
    """port: of the `rendezvous`."""
    here = size // hosts
    variables = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank % here,
        "LOCAL_WORLD_SIZE": here,
        "GROUP_RANK": rank // here,
        "GROUP_WORLD_SIZE": hosts,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "OMP_NUM_THREADS": 1,
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}:{os.environ.get('PYTHONPATH', '')}",
    }
    return os.environ | {name: str(value) for name, value in variables.items()}


def facts(folder: Path, job: int, size: int) -> list[dict]:
    """What `support.rank_worker` found out about a job, by rank."""
    return [json.loads((folder / f"{job}-{rank}.facts").read_text()) for rank in range(size)]


def run_jobs(
    folder: Path,
    jobs: Sequence[list[str] | dict],
    *,
    size: int,
    hosts: int = 1,
    timeout: float = 300,
) -> None:
    """Run each job on `size` ranks; what they print is in `folder`, NUMBER-RANK.log.

    A job is its flags, or these with what else `support.rank_worker` takes. timeout: of all of
    them, in seconds.

    Raises AssertionError with the last lines of all ranks, and where each one waits, soon after one
    has failed or when the time is over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = [{"code": 0} | (job if isinstance(job, dict) else {"flags": job}) for job in jobs]
    (folder / "jobs.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "support.rank_worker", str(folder / "jobs.json")]
    store = rendezvous()
    said = [folder / f"rank-{rank}.said" for rank in range(size)]
    ranks = []
    for rank, path in enumerate(said):
        with path.open("w") as file:
            variables = environment(rank, size, port=store.port, hosts=hosts)
            ranks.append(
                subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT)
            )
    try:
        all_well = _ended(ranks, timeout)
    finally:
        for each in ranks:
            each.kill()
            each.wait()
    if not all_well:
        logs = sorted(folder.glob("*-*.log"), key=lambda log: int(log.name.split("-")[0]))
        texts = [f"{log.name}:\n{log.read_text()[-4000:]}" for log in [*logs[-size:], *said]]
        raise AssertionError("\n".join(texts))


def _ended(ranks: Sequence[subprocess.Popen], timeout: float) -> bool:
    """Whether all have ended with 0 in time; the others are told to say where they are."""
    end = time.monotonic() + timeout
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < end:
        if any(rank.returncode for rank in ranks):
            end = min(end, time.monotonic() + GRACE_SECONDS)
        time.sleep(0.02)
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signal.SIGABRT)
            rank.wait()
    return not any(rank.returncode for rank in ranks)
