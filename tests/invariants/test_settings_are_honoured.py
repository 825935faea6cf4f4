"""Invariant 10: every setting is read by the run, refused, or named in a warning."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

import llama_recipes
from llama_recipes.configs.datasets import DatasetName, FileDataset
from llama_recipes.configs.needs import without_effect
from llama_recipes.configs.not_built import NOT_BUILT
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.settings import SETTINGS
from llama_recipes.configs.training import TrainConfig

# Between them, these runs have everything switched on that this version can do.
POSSIBLE_RUNS = [
    RunConfig(
        train_config=TrainConfig(dataset=dataset, use_peft=True, gradient_clipping=True),
        file_dataset=FileDataset(validation_fraction=0.1),
    )
    for dataset in get_args(DatasetName)
]

READ_OTHERWISE = {
    "train_config.one_gpu": "every run of this version uses one device",
    "lora_config.task_type": "has one value, which adapter_config.json is written with",
    "file_dataset.train_file": "data/sources/files.py finds it by the name of the split",
}


@cache
def names_read() -> set[str]:
    """Every attribute that the package reads outside of configs/."""
    root = Path(llama_recipes.__file__).parent
    files = [path for path in root.rglob("*.py") if "configs" not in path.parts]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    return {
        node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_is_read_refused_or_named(key: str) -> None:
    reasons = [without_effect(config, key) for config in POSSIBLE_RUNS]
    if all(reasons) or key in NOT_BUILT:
        return  # tests/contract/test_rules.py shows the warning or the refusal of each
    assert (SETTINGS[key].name in names_read()) != (key in READ_OTHERWISE)
