"""Tables of settings in the documents are those that the declarations make."""

from __future__ import annotations

import re

import pytest

from llama_recipes.configs import table
from llama_recipes.configs.settings import SECTIONS, SETTINGS
from support.pages import PAGES, ROOT

FILLED = [page for page in PAGES if "<!-- settings:" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", FILLED, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tables_of_a_page_are_fresh(page):
    text = page.read_text(encoding="utf-8")
    assert text == table.filled(text), "made anew with: make docs"


def test_the_recipes_have_every_setting():
    text = "".join(page.read_text(encoding="utf-8") for page in FILLED if "recipes" in page.parts)
    missing = [s.flag for s in SETTINGS.values() if f"| `{s.flag}` | {s.rule} |" not in text]
    assert missing == []


def test_make_docs_fills_every_page_that_has_a_table():
    recipe = (ROOT / "Makefile").read_text().partition("\ndocs:")[2].partition("\n\n")[0]
    assert {str(page.relative_to(ROOT)) for page in FILLED} <= set(recipe.split())


def test_only_what_stands_between_the_markers_is_made_anew(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- settings: prefix_config -->\nold\n<!-- /settings -->\nafter\n")
    table.main([str(page)])
    text = page.read_text()
    assert re.fullmatch(
        r"before\n<!-- settings: prefix_config -->\n\n\| flag .*num_virtual_tokens.*\|\n\n"
        r"<!-- /settings -->\nafter\n",
        text,
        flags=re.DOTALL,
    )
    assert table.filled(text) == text
    assert "old" not in text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<!-- settings: nothing --><!-- /settings -->", "names no section"),
        ("<!-- settings: lora_config -->", "no <!-- /settings -->"),
    ],
)
def test_a_wrong_marker_is_an_error(page, words):
    with pytest.raises(ValueError, match=words):
        table.filled(page)


def test_the_page_of_all_settings_is_what_is_printed_without_a_page(capsys):
    table.main([])
    printed = capsys.readouterr().out
    assert printed == table.settings_table()
    assert all(f"## `{section}`\n" in printed for section in SECTIONS)
