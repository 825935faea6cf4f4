"""The page of all settings: `python -m llama_recipes.configs.table > docs/settings.md`."""

from __future__ import annotations

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


def settings_table() -> str:
    """Markdown: one table a section, one row a setting."""
    shared = [f"`--{name}`" for name, settings in BY_BARE_NAME.items() if len(settings) > 1]
    parts = [_INTRODUCTION.format(shared=", ".join(shared))]
    parts += [_section(section) for section in SECTIONS]
    return "\n".join(parts)


def _section(section: str) -> str:
    lines = [f"## `{section}`", "", str(SECTIONS[section].__doc__), ""]
    rows = [_row(setting) for setting in SETTINGS.values() if setting.section == section]
    if rows:
        lines += ["| flag | value | default | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(setting: Setting) -> str:
    default = setting.default_text
    shown = default if default == "not given" else f"`{default}`"
    return f"| `{setting.flag}` | {setting.rule} | {shown} | {setting.meaning} |"


if __name__ == "__main__":
    print(settings_table(), end="")
