"""What came of the tests of docs/reliability.md when they last ran: a plugin of pytest.

`pytest -p support.last_run …` writes tests/faults/last_run.json: for each test file that ran as a
whole, when and on which processor, how its tests ended, and what `record_property` counted in them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import date

import pytest

from benchmarks.machine import processor
from support.pages import ROOT

RECORD = ROOT / "tests" / "faults" / "last_run.json"


@dataclass
class FileRun:
    """outcomes: how many tests passed, failed or were skipped. figures: sums over its tests."""

    date: str
    on: str
    outcomes: dict[str, int] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)


def read() -> dict[str, FileRun]:
    """Test file, from the repository's root → its last run."""
    if not RECORD.exists():
        return {}
    return {path: FileRun(**each) for path, each in json.loads(RECORD.read_text()).items()}


def write(runs: dict[str, FileRun]) -> None:
    """Beside what is known of other files."""
    known = {path: asdict(each) for path, each in sorted((read() | runs).items())}
    RECORD.write_text(json.dumps(known, indent=1) + "\n")


class _Recorder:
    def __init__(self) -> None:
        self.runs: dict[str, FileRun] = {}
        self.on = f"{processor()}, {os.cpu_count()} cores"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:  # the preparing before and the clearing after
            return
        path = report.nodeid.partition("::")[0]
        run = self.runs.setdefault(path, FileRun(f"{date.today()}", self.on))
        run.outcomes[report.outcome] = run.outcomes.get(report.outcome, 0) + 1
        for name, number in report.user_properties:
            if isinstance(number, int):  # others are measured, and no sum
                run.figures[name] = run.figures.get(name, 0) + number

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            write(self.runs)


def pytest_configure(config: pytest.Config) -> None:
    """Once, in the process that hears of all tests."""
    chosen = config.option.keyword or config.option.markexpr or config.option.maxfail
    if chosen or any("::" in word for word in config.args):
        raise pytest.UsageError("A record is of whole files: with -m '', without -k, -x and ::.")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder())
