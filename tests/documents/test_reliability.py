"""Each promise of docs/reliability.md names tests that there are, and what came of them."""

from __future__ import annotations

import pytest

from support import reliability
from support.last_run import FileRun
from support.pages import ROOT

PAGE = """
| promise | shown by | last run |
|---|---|---|
| It holds | so: `tests/faults/test_kill.py`, and `test_save.py` | what was said before |
| It holds, too | `tests/faults/test_ranks.py` | |
| no test | `make test` | as it is |
"""


def test_the_page_is_fresh():
    text = reliability.PAGE.read_text(encoding="utf-8")
    assert text == reliability.filled(text, reliability.read()), "made anew with: make docs"


def test_every_promise_has_its_tests():
    text = reliability.PAGE.read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(reliability.rows(text)) == len(table) - 1  # that of the headings


def test_all_of_the_long_proofs_stand_in_it():
    proofs = {str(path.relative_to(ROOT)) for path in (ROOT / "tests/faults").glob("test_*.py")}
    assert proofs <= set(reliability.files(reliability.PAGE.read_text(encoding="utf-8")))


def test_the_last_column_is_what_came_of_the_files():
    runs = {
        "tests/faults/test_kill.py": FileRun("2026-01-02", "one", {"passed": 2}, {"kills": 1000}),
        "tests/faults/test_save.py": FileRun("2026-01-03", "one", {"passed": 3, "failed": 1}),
    }
    page = reliability.filled(PAGE, runs)
    assert page == PAGE.replace(
        "what was said before", "2026-01-02: 5 passed, **1 failed**, kills 1,000"
    ).replace("test_ranks.py` | |", "test_ranks.py` | not recorded yet |")


@pytest.mark.parametrize(("name", "words"), [("test_no.py", "0 files"), ("test_trackers.py", "2")])
def test_a_name_that_is_not_one_file_is_an_error(name, words):
    with pytest.raises(AssertionError, match=words):
        reliability.files(PAGE.replace("test_save.py", name))
