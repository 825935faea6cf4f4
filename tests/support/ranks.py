"""Several processes that train together, as torchrun starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent.parent


def environment(rank: int, size: int, *, port: int = 0, hosts: int = 1) -> dict[str, str]:
    here = size // hosts
    variables = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank % here,
        "LOCAL_WORLD_SIZE": here,
        "GROUP_RANK": rank // here,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}:{os.environ.get('PYTHONPATH', '')}",
    }
    return os.environ | {name: str(value) for name, value in variables.items()}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


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

    A job is its flags, or these with what else `support.rank_worker` takes.

    Raises AssertionError with the last lines of a rank that failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(len(jobs))
    whole = [job if isinstance(job, dict) else {"flags": job} for job in jobs]
    plan = [{"code": 0, "port": port} | job for job, port in zip(whole, ports, strict=True)]
    (folder / "jobs.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "support.rank_worker", str(folder / "jobs.json")]
    ranks = [
        subprocess.Popen(
            command,
            env=environment(rank, size, hosts=hosts),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [rank.communicate(timeout=timeout)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    if any(rank.returncode for rank in ranks):
        logs = sorted(folder.glob("*-*.log"), key=lambda log: int(log.name.split("-")[0]))
        last = "\n".join(f"{log.name}:\n{log.read_text()[-2500:]}" for log in logs[-size:])
        raise AssertionError(f"{said}\n{last}")
