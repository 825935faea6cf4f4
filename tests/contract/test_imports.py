"""Who may import whom: downwards only, no cycles, and a few things in one place only."""

from __future__ import annotations

import ast

import pytest

from support.imports import IMPORTS, MODULES, ROOT, Import, module_of, own, read

LAYERS = (
    {"cli"},
    {"finetuning"},
    {"running"},
    {"training"},
    {"export", "inference", "checkpoint"},
    {"adapters", "data", "monitoring", "parallel", "quantization"},
    {"model", "configs"},
    {"gguf_metadata", "kernels", "packages"},
    {"errors"},
)
"""From top to bottom, by the first part of a module's name below the package."""

NEVER = {"model": {"data", "configs", "parallel"}, "data": {"model"}}
"""Beside the layers: the model knows no settings, ranks or texts, and texts know no model."""

ONLY_IN = {
    "transformers": ("data.tokenizer", "data.tokenizer_gguf"),
    "tokenizers": ("data.tokenizer", "data.tokenizer_gguf"),
    "torch.distributed": ("parallel", "checkpoint"),
    "torch.utils.tensorboard": ("monitoring.to_tensorboard",),
    "wandb": ("monitoring.to_wandb",),
    "matplotlib": ("monitoring.plots",),
    "torch.profiler": ("monitoring.profiler",),
}
"""Libraries, and the modules or packages that may import them."""

LIGHT = ("cli.main", "finetuning")
"""What `--help` and a mistyped flag pass through, with all that these import at once."""

HEAVY = {
    *("torch", "numpy", "transformers", "datasets", "pyarrow", "safetensors", "gguf"),
    *("wandb", "tensorboard", "matplotlib"),
}


def layer(name: str) -> int:
    part = name.split(".")[0]
    places = [index for index, layer in enumerate(LAYERS) if part in layer]
    assert len(places) == 1, f"{name} has no layer: give it one in LAYERS"
    return places[0]


def place(name: str, entry: Import) -> str:
    return f"{MODULES[name].relative_to(ROOT)}:{entry.line} imports {entry.target}"


def test_every_module_has_a_layer():
    assert all(layer(name) >= 0 for name in MODULES if name)


def test_imports_go_down_or_sideways():
    wrong = [
        place(name, entry)
        for name in MODULES
        if name
        for target, entry in own(name)
        if layer(target) < layer(name)
    ]
    assert wrong == []


def test_what_a_run_is_made_of_does_not_know_the_run():
    """`running.run` sees all; how it ends is known to it alone."""
    above = ("running.run", "running.ending")
    wrong = [
        place(name, entry)
        for name in MODULES
        if name.startswith("running.") and name != "running.run"
        for target, entry in own(name)
        if target in above
    ]
    assert wrong == []


def test_who_never_imports_whom():
    wrong = [
        place(name, entry)
        for name in MODULES
        for target, entry in own(name)
        if target.split(".")[0] in NEVER.get(name.split(".")[0], ())
    ]
    assert wrong == []


@pytest.mark.parametrize("depth", [1, None], ids=["packages", "modules"])
def test_there_is_no_cycle(depth):
    """Neither between files nor between packages; what is only said to a type checker may be."""
    edges: dict[str, set[str]] = {}
    for name in MODULES:
        for target, entry in own(name):
            if entry.typing:
                continue
            source, end = (".".join(part.split(".")[:depth]) for part in (name, target))
            if source != end:
                edges.setdefault(source, set()).add(end)
    assert cycle(edges) == []


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """The nodes on or between cycles: what is left once all that lead nowhere are taken away."""
    left = {node: set(targets) for node, targets in edges.items()}
    while True:
        done = [node for node, targets in left.items() if not targets & left.keys()]
        if not done:
            return sorted(left)
        for node in done:
            del left[node]


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_in_one_place(library):
    wrong = [
        place(name, entry)
        for name in MODULES
        for entry in IMPORTS[name]
        if entry.target == library or entry.target.startswith(f"{library}.")
        if not any(name == at or name.startswith(f"{at}.") for at in ONLY_IN[library])
    ]
    assert wrong == []


def test_the_environment_is_read_by_the_ranks_only():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for name, path in MODULES.items()
        if name != "parallel.ranks"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
    ]
    assert wrong == []


def test_nothing_heavy_is_imported_on_the_way_to_help():
    reached, heavy, ahead = set(), [], list(LIGHT)
    while ahead:
        name = ahead.pop()
        if name in reached:
            continue
        reached.add(name)
        for entry in IMPORTS[name]:
            if entry.lazy or entry.typing:
                continue
            if entry.target.split(".")[0] in HEAVY:
                heavy.append(place(name, entry))
            ahead += [target] if (target := module_of(entry.target)) else []
    assert heavy == []
    assert "configs.run" in reached


def test_cycles_and_places_are_found_where_there_are_some():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"f"}}) == list("abcd")
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []
    tree = ast.parse(
        "import torch\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from a import b\n"
        "def f():\n    from llama_recipes.data import store\n"
    )
    found = {e.target: (e.lazy, e.typing) for e in read(tree)}
    assert found == {
        "torch": (False, False),
        "typing.TYPE_CHECKING": (False, False),
        "a.b": (False, True),
        "llama_recipes.data.store": (True, False),
    }
    assert module_of("llama_recipes.data.store.TokenStore") == "data.store"
    assert module_of("llama_recipes.data.store") == "data.store"
    assert module_of("torch.nn") is None
