"""Links lead somewhere: to a file of the repository, and to a heading that is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.pages import PAGES, ROOT, anchors, blocks, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert dead(page, page.read_text(encoding="utf-8")) == []


def dead(page: Path, text: str) -> list[str]:
    """The links within the repository that lead nowhere."""
    found = []
    for link in links(text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or not target.is_relative_to(ROOT):
            found.append(f"{link}: there is no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            found.append(f"{link}: there is no such heading")
    return found


def test_every_page_is_reached_from_the_first():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in links(page.read_text(encoding="utf-8")):
            target = (page.parent / link.partition("#")[0]).resolve()
            ahead += [target] if target in PAGES else []
    assert set(PAGES) - reached == set()


def test_every_json_block_is_json():
    checked = 0
    for page in PAGES:
        for block in blocks(page):
            if block.language in ("json", "jsonl"):
                for line in block.text.splitlines() if block.language == "jsonl" else [block.text]:
                    json.loads(line)
                    checked += 1
    assert checked > 3


def test_what_is_wrong_is_found():
    text = (
        "# Here\n[a](../README.md#start) [b](../README.md#nowhere) [c](nothing.md) [d](#here)\n"
        "`[e](code.md)`\n```text\n[f](code.md)\n```\n[![g](settings.md)](settings.md#h)\n"
    )
    assert dead(ROOT / "docs" / "new.md", text.replace("settings.md#h", "gone.md")) == [
        "../README.md#nowhere: there is no such heading",
        "nothing.md: there is no such file",
        "#here: there is no such file",
        "gone.md: there is no such file",
    ]
    assert anchors("# `a_b`: *c*, d!\n## Same\n### Same\n") == {"a_b-c-d", "same", "same-1"}
