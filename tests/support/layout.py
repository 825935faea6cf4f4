"""The layout in docs/architecture.md, drawn anew: `PYTHONPATH=tests python -m support.layout`.

Arrows, lists and lines come from the imports and the first sentences of the files.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from contract.test_imports import LAYERS
from support.imports import MODULES, ROOT, own
from support.pages import ROOT as REPOSITORY
from support.pages import with_part

PAGE = REPOSITORY / "docs" / "architecture.md"
ORDER = [name for layer in LAYERS for name in sorted(layer)]
"""Packages, and files that stand beside them, from top to bottom."""


def edges() -> dict[str, set[str]]:
    """Package or file → those that it imports, also inside functions."""
    found: dict[str, set[str]] = {name: set() for name in ORDER}
    for name in MODULES:
        for target, entry in own(name):
            source, end = name.split(".")[0], target.split(".")[0]
            if source and source != end and not entry.typing:
                found[source].add(end)
    return found


def reached(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    """All that arrows lead to from `start`."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = arrows[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def reduced(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that others together make: who imports a also imports what a does."""
    return {
        name: {
            end for end in ends if not any(end in reached(other, arrows) for other in ends - {end})
        }
        for name, ends in arrows.items()
    }


def drawing() -> str:
    few = reduced(edges())
    arrows = [f"    {name} --> {end}" for name in ORDER for end in sorted(few[name], key=_place)]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```"])


def listing() -> str:
    """Each package with what it imports and its files; files beside packages among them."""
    all_edges, parts = edges(), []
    for name in ORDER:
        below = sorted(all_edges[name], key=_place)
        imported = ", ".join(f"`{end}`" for end in below) or "nothing of this package"
        parts += [f"### {name}", "", f"Imports {imported}.", "", "| file | |", "|---|---|"]
        parts += [f"| `{path.relative_to(ROOT)}` | {sentence(path)} |" for path in files(name)]
        parts.append("")
    return "\n".join(parts).rstrip()


def files(name: str) -> list[Path]:
    """The files of a package, or the one of that name; empty ones have nothing to say."""
    if (ROOT / f"{name}.py").is_file():
        return [ROOT / f"{name}.py"]
    return [
        path
        for path in sorted((ROOT / name).rglob("*"))
        if path.suffix in (".py", ".cpp", ".h") and path.stat().st_size
    ]


def sentence(path: Path) -> str:
    """The first sentence of what a file says about itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        lines = text.splitlines()
        comment = next((i for i, line in enumerate(lines) if not line.startswith("//")), len(lines))
        said = "\n".join(line.removeprefix("//").strip() for line in lines[:comment])
    paragraph = " ".join(said.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0].replace("|", r"\|")


def filled(page: str) -> str:
    """The page with its drawing and its lists made anew."""
    return with_part(with_part(page, "drawing", drawing()), "files", listing())


def _place(name: str) -> int:
    return ORDER.index(name)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
