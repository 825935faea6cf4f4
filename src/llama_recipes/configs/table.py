"""The tables of settings in the documents, made from the declarations.

`python -m llama_recipes.configs.table > docs/settings.md` writes the page of all of them;
`python -m llama_recipes.configs.table PAGE.md ...` fills pages of one's own, wherever they say
`<!-- settings: SECTION -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from llama_recipes.configs.settings import BY_BARE_NAME, SECTIONS, SETTINGS, Setting

_INTRODUCTION = """\
# All settings

Made from the declarations in `src/llama_recipes/configs/` by
`python -m llama_recipes.configs.table > docs/settings.md`; do not edit it by hand.

A flag may leave its section's name out: `--r 16` is `--lora_config.r 16`. Where several sections
have the name, it then sets all of them:
{shared}.

How flags and files are written: `llama-recipes train --help`.
"""

_MARKER = "<!-- settings:"
_MARKED = re.compile(
    re.escape(_MARKER) + r" (?P<section>\S+) -->.*?<!-- /settings -->", flags=re.DOTALL
)


def settings_table() -> str:
    """Markdown: one table a section, one row a setting."""
    shared = [f"`--{name}`" for name, settings in BY_BARE_NAME.items() if len(settings) > 1]
    parts = [_INTRODUCTION.format(shared=", ".join(shared))]
    parts += [_section(section) for section in SECTIONS]
    return "\n".join(parts)


def filled(page: str) -> str:
    """A page with the tables between its markers made anew.

    Raises ValueError for a marker that names no section, and for one without its end.
    """
    if len(_MARKED.findall(page)) != page.count(_MARKER):
        raise ValueError(f"a {_MARKER} NAME --> has no <!-- /settings --> behind it")
    return _MARKED.sub(_between, page)


def _between(found: re.Match[str]) -> str:
    section = found["section"]
    if section not in SECTIONS:
        raise ValueError(f"{_MARKER} {section} --> names no section: {', '.join(SECTIONS)}")
    table = "\n".join(_table(section))
    return f"{_MARKER} {section} -->\n\n{table}\n<!-- /settings -->"


def _section(section: str) -> str:
    meaning = " ".join(str(SECTIONS[section].__doc__).split())
    return "\n".join([f"## `{section}`", "", meaning, "", *_table(section)])


def _table(section: str) -> list[str]:
    rows = [_row(setting) for setting in SETTINGS.values() if setting.section == section]
    head = ["| flag | value | default | meaning |", "|---|---|---|---|"]
    return [*head, *rows, ""] if rows else []


def _row(setting: Setting) -> str:
    default = setting.default_text
    shown = default if default == "not given" else f"`{default}`"
    return f"| `{setting.flag}` | {setting.rule} | {shown} | {setting.meaning} |"


def main(pages: Sequence[str]) -> None:
    """Fill these pages; without any, print the page of all settings."""
    if not pages:
        print(settings_table(), end="")
    for path in map(Path, pages):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
