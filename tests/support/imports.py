"""Who imports whom in this package, read from its files; nothing of it is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import llama_recipes

ROOT = Path(llama_recipes.__file__).parent
PACKAGE = "llama_recipes"


@dataclass(frozen=True)
class Import:
    """lazy: inside a function. typing: under TYPE_CHECKING, never run."""

    target: str
    line: int
    lazy: bool
    typing: bool


def modules() -> dict[str, Path]:
    """Name below the package → file; a package stands under its own name, the root under ""."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def read(node: ast.AST, *, lazy: bool = False, typing: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, inside, typing)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports name the whole module"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", child.lineno, inside, typing)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for statement in child.body:
                yield from read(ast.Module([statement], []), lazy=inside, typing=True)
        else:
            yield from read(child, lazy=inside, typing=typing)


IMPORTS = {
    name: list(read(ast.parse(path.read_text(encoding="utf-8")))) for name, path in MODULES.items()
}


def module_of(target: str) -> str | None:
    """The module of this package that an imported name stands in; None for another library."""
    if target.split(".")[0] != PACKAGE:
        return None
    below = target.removeprefix(PACKAGE).removeprefix(".")
    return below if below in MODULES else below.rpartition(".")[0]


def own(name: str) -> Iterator[tuple[str, Import]]:
    for entry in IMPORTS[name]:
        target = module_of(entry.target)
        if target:  # the package itself holds its version only
            yield target, entry
