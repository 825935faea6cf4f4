"""docs/architecture.md against the code: arrows, imports, files, folders."""

from __future__ import annotations

import re

from contract.test_imports import LAYERS
from support.imports import MODULES, ROOT, own
from support.layout import PAGE, filled, reached, reduced, sentence
from support.pages import ROOT as REPOSITORY

TEXT = PAGE.read_text(encoding="utf-8")


def drawn() -> dict[str, set[str]]:
    """Package → those that an arrow of the page leads to."""
    arrows = re.findall(r"^    (\w+) --> (\w+)$", TEXT, flags=re.MULTILINE)
    names = {name for layer in LAYERS for name in layer}
    assert {name for arrow in arrows for name in arrow} <= names
    return {name: {end for start, end in arrows if start == name} for name in names}


def real() -> dict[str, set[str]]:
    """Package → those that its files import."""
    found: dict[str, set[str]] = {name: set() for layer in LAYERS for name in layer}
    for name in MODULES:
        for target, entry in own(name):
            if name and not entry.typing:
                found[name.split(".")[0]].add(target.split(".")[0])
    return {name: ends - {name} for name, ends in found.items()}


def test_every_arrow_is_an_import():
    imported = real()
    wrong = [(name, end) for name, ends in drawn().items() for end in ends - imported[name]]
    assert wrong == [], "drawn anew with: make docs"


def test_every_import_is_an_arrow_or_a_way_of_arrows():
    arrows = drawn()
    wrong = [(name, end) for name, ends in real().items() for end in ends - reached(name, arrows)]
    assert wrong == [], "drawn anew with: make docs"


def test_no_arrow_is_drawn_in_vain():
    assert drawn() == reduced(drawn())


def test_the_lists_of_imports_are_whole():
    listed = {
        name: set(re.findall(r"`(\w+)`", imported))
        for name, imported in re.findall(r"^### (\w+)\n\nImports (.*)\.$", TEXT, re.MULTILINE)
    }
    assert listed == real(), "made anew with: make docs"


def test_every_file_of_the_package_is_named_once():
    named = re.findall(r"^\| `([\w/]+\.(?:py|cpp|h))` \| (.*) \|$", TEXT, re.MULTILINE)
    there = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*")
        if path.suffix in (".py", ".cpp", ".h") and path.stat().st_size
    } - {"__init__.py"}
    assert sorted(name for name, _ in named) == sorted(there), "made anew with: make docs"
    assert [name for name, said in named if not said.strip()] == []


def test_the_page_is_what_the_code_makes_of_it():
    assert filled(TEXT) == TEXT, "made anew with: make docs"


def test_every_path_that_is_written_by_hand_is_there():
    by_hand = re.sub(r"<!-- files -->.*<!-- /files -->", "", TEXT, flags=re.DOTALL)
    paths = set(re.findall(r"`([\w./]+/|[\w/]+\.py)`", by_hand))
    missing = [p for p in paths if not ((ROOT / p).exists() or (REPOSITORY / p).exists())]
    assert missing == []
    folders = {
        f"tests/{path.name}/"
        for path in (REPOSITORY / "tests").iterdir()
        if path.is_dir() and not path.name.startswith("__")
    }
    assert folders <= paths


def test_arrows_are_reduced_to_those_that_say_something():
    arrows = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert reduced(arrows) == {"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert reached("a", reduced(arrows)) == {"b", "c", "d"}


def test_a_file_is_named_by_its_first_sentence(tmp_path):
    page = tmp_path / "a.py"
    page.write_text('"""First (Li et al. 2021, x.y)\nsentence: more. Second.\n\nThird."""\n')
    assert sentence(page) == "First (Li et al. 2021, x.y) sentence: more."
    page = tmp_path / "a.h"
    page.write_text("// What it\n// is.\n//\n// Else.\n#pragma once\n")
    assert sentence(page) == "What it is."
