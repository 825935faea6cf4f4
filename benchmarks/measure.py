"""One measured process, and what is made of several measurements."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_POLL_SECONDS = 0.02
_SPARED_GIB = 1.0
"""What a measured process leaves the machine, or it is ended: without it the kernel would choose
what to end, after minutes in which nothing answers."""
_SAYS_OUT_OF_MEMORY = ("allocate memory", "MemoryError", "GiB are left on this device")
"""Of PyTorch's allocator, of Python, and of our check before the first step."""


class BenchmarkError(Exception):
    """Nothing can be measured; the text is for the user."""


class OutOfMemoryError(BenchmarkError):
    """A process wanted more memory than there is; peak_gib: what it had by then."""

    def __init__(self, text: str, peak_gib: float) -> None:
        super().__init__(text)
        self.peak_gib = peak_gib


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

    log: a new file for all that it prints to stderr. Raises BenchmarkError where it fails, and of
    these OutOfMemoryError where there is too little memory for it.
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
                if available_gib() < _SPARED_GIB:
                    process.kill()  # the next wait4 finds it ended, with its memory
                time.sleep(_POLL_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    peak_gib = usage.ru_maxrss * 1024 / 2**30
    if process.returncode:
        told = log.read_text(errors="replace").strip()
        tail = "\n  ".join((told or said).splitlines()[-15:])
        text = f"{' '.join(command)[:300]} ended with exit code {process.returncode}:\n  {tail}"
        killed = process.returncode == -signal.SIGKILL
        if killed or any(words in tail for words in _SAYS_OUT_OF_MEMORY):
            raise OutOfMemoryError(text, peak_gib)
        raise BenchmarkError(text)
    return Ended(
        output=said.splitlines()[-1] if said else "", first_seconds=first, peak_gib=peak_gib
    )


def available_gib() -> float:
    """What all processes together can still take; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024 / 2**30


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
