"""The table of docs/reliability.md: what came of each promise's tests when they last ran.

`PYTHONPATH=tests python -m support.reliability` makes that column anew; with the word `files` it
prints the test files that the table names, which `make test-faults` runs.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

from support.last_run import FileRun, read
from support.pages import ROOT

PAGE = ROOT / "docs" / "reliability.md"
_ROW = re.compile(r"^\| (?P<promise>.+?) \| (?P<shown>.*`.*?test_\w+\.py`.*?) \|.*\|$", re.M)
_WHERE = re.compile(r"^Recorded on .*\.$", re.M)
_FILE = re.compile(r"`((?:tests/)?(?:\w+/)*test_\w+\.py)`")


def rows(page: str) -> list[tuple[str, list[str]]]:
    """Each promise with its test files, from the repository's root."""
    return [(found["promise"], _files(found["shown"])) for found in _ROW.finditer(page)]


def files(page: str) -> list[str]:
    """All test files of the table, in its order."""
    return list(dict.fromkeys(file for _, named in rows(page) for file in named))


def filled(page: str, known: Mapping[str, FileRun]) -> str:
    """The page with the last column made of what is known of test files."""

    def row(found: re.Match[str]) -> str:
        runs = [known.get(file) for file in _files(found["shown"])]
        return f"| {found['promise']} | {found['shown']} | {_cell(runs)} |"

    machines = sorted({run.on for run in known.values()})
    return _WHERE.sub(
        f"Recorded on {'; '.join(machines) or 'no machine yet'}.", _ROW.sub(row, page)
    )


def _files(text: str) -> list[str]:
    return list(dict.fromkeys(_found(name) for name in _FILE.findall(text)))


@cache
def _found(name: str) -> str:
    """The file of that path, or the only one of that name."""
    paths = [ROOT / name] if "/" in name else list((ROOT / "tests").rglob(name))
    assert len(paths) == 1, f"{name} is the name of {len(paths)} files"
    assert paths[0].is_file(), f"{name} is missing"
    return str(paths[0].relative_to(ROOT))


def _cell(runs: Sequence[FileRun | None]) -> str:
    made = [run for run in runs if run is not None]
    if len(made) < len(runs):
        return "not recorded yet"
    outcomes, figures = Counter[str](), Counter[str]()
    for run in made:
        outcomes.update(run.outcomes)
        figures.update(run.figures)
    said = [_OUTCOMES[name].format(outcomes[name]) for name in _OUTCOMES if outcomes[name]]
    said += [f"{name} {number:,}" for name, number in figures.items()]
    return f"{min(run.date for run in made)}: {', '.join(said)}"


_OUTCOMES = {"passed": "{} passed", "failed": "**{} failed**", "skipped": "{} skipped"}


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    if sys.argv[1:] == ["files"]:
        print(*files(text))
    else:
        PAGE.write_text(filled(text, read()), encoding="utf-8")
