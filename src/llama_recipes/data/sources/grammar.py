"""Sentences with errors and their corrections, in the two CSV files of the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_recipes.data.example import PromptAnswer, Source, Split
from llama_recipes.data.sources import fingerprint
from llama_recipes.data.sources.origin import from_file
from llama_recipes.data.sources.rows import answer_field, filled_field, to_examples

if TYPE_CHECKING:
    from llama_recipes.configs.datasets import GrammarDataset


def prompt(sentence: str) -> str:
    return f"Correct this to standard English: {sentence}\n---\nCorrected: "


def open_grammar(section: GrammarDataset, split: Split) -> Source:
    setting = "train_split" if split == "train" else "test_split"
    flag = f"grammar_dataset.{setting}"
    origin = from_file(getattr(section, setting), flag)
    return Source(
        name="grammar_dataset",
        format="grammar",
        rows=lambda: to_examples(origin.rows(), _example),
        fingerprint=fingerprint.combined("grammar", origin.digest),
        description=f"{origin.name}: sentences and corrections",
        on_bad_row=section.on_bad_row,
    )


def _example(row: Mapping[str, object]) -> PromptAnswer:
    return PromptAnswer(prompt(filled_field(row, "input")), answer_field(row, "target"))
