"""One measured process, and what is made of several measurements."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_POLL_SECONDS = 0.02


class BenchmarkError(Exception):
    """Nothing can be measured; the text is for the user."""


@dataclass(frozen=True)
class Ended:
    """What a process left.

    output: its last line on stdout.
    first_seconds: from its start to the first line in the watched file; None where there was none.
    peak_gib: its highest resident memory, as the kernel counted it.
    """

    output: str
    first_seconds: float | None
    peak_gib: float


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    watch: Path | None = None,
) -> Ended:
    """Run a command in a fresh process from the repository's root, and wait for it.

    log: a new file for all that it prints to stderr. Raises BenchmarkError where it fails.
    """
    started = time.perf_counter()
    first = None
    with log.open("wb") as errors, log.with_suffix(".out").open("w+b") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=errors
        )
        try:
            while True:
                # wait4 and not wait: the memory of this one process, of no other before it.
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if first is None and watch is not None and _has_line(watch):
                    first = time.perf_counter() - started
                if pid:
                    break
                time.sleep(_POLL_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if process.returncode:
        told = log.read_text(errors="replace").strip()
        tail = "\n  ".join((told or said).splitlines()[-15:])
        raise BenchmarkError(
            f"{' '.join(command)[:300]} ended with exit code {process.returncode}:\n  {tail}"
        )
    return Ended(
        output=said.splitlines()[-1] if said else "",
        first_seconds=first,
        peak_gib=usage.ru_maxrss * 1024 / 2**30,
    )


def _has_line(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


@dataclass(frozen=True)
class Spread:
    """Of several measurements: the median, the lowest and the highest."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of ours over theirs, round by round: what was measured minutes apart is not compared."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])
