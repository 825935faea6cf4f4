"""open_source: each section leads to its own data set, and asking costs no heavy import."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
import tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from llama_recipes.configs import datasets
from llama_recipes.configs.datasets import DatasetName
from llama_recipes.data.sources import open_source
from llama_recipes.data.tokenizer import Tokenizer


@pytest.mark.parametrize("name", get_args(DatasetName))
def test_every_data_set_of_the_settings_opens(tmp_path, name):
    (tmp_path / "train.jsonl").write_text('{"dialogue": "a", "summary": "b"}\n')
    (tmp_path / "grammar.csv").write_text("input,target\na,b\n")
    (tmp_path / "alpaca.json").write_text('[{"instruction": "a", "output": "b"}]')
    (tmp_path / "text.txt").write_text("a\n")
    (tmp_path / "mine.py").write_text(
        "def get_custom_dataset(config, tokenizer, split):\n return []\n"
    )
    settings = {
        "samsum_dataset": {"data_path": str(tmp_path)},
        "grammar_dataset": {"train_split": str(tmp_path / "grammar.csv")},
        "alpaca_dataset": {"data_path": str(tmp_path / "alpaca.json")},
        "custom_dataset": {"file": str(tmp_path / "mine.py")},
        "file_dataset": {"train_file": str(tmp_path / "text.txt")},
        "stdlib_docstrings_dataset": {},
    }[name]
    section = getattr(datasets, name.title().replace("_", ""))(**settings)
    words = tokenizers.Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"))
    source = open_source(section, "train", tokenizer=tokenizer)
    assert source is not None
    assert source.name == name


def test_importing_the_sources_is_cheap():
    code = (
        "import sys, llama_recipes.data.sources; "
        "print({'torch', 'numpy', 'transformers', 'pyarrow', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
