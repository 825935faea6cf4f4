"""Stanford Alpaca: instructions, with or without an input, and their answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from llama_recipes.data.example import BadRow, PromptAnswer, Source, Split
from llama_recipes.data.sources import fingerprint
from llama_recipes.data.sources.origin import Origin, from_file
from llama_recipes.data.sources.rows import (
    Row,
    answer_field,
    filled_field,
    text_field,
    to_examples,
)

if TYPE_CHECKING:
    from llama_recipes.configs.datasets import AlpacaDataset

_FLAG = "alpaca_dataset.data_path"
_VALIDATION_SHARE = 0.05


def prompt(instruction: str, context: str = "") -> str:
    """The two prompts of tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT."""
    if context:
        return (
            "Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{instruction}\n\n### Input:\n{context}\n\n### Response:"
        )
    return (
        "Below is an instruction that describes a task. Write a response that appropriately "
        f"completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
    )


def example(row: Mapping[str, object]) -> PromptAnswer:
    """A row with instruction, output and, where it has one, input."""
    context = "" if row.get("input") is None else text_field(row, "input")
    return PromptAnswer(
        prompt(filled_field(row, "instruction"), context), answer_field(row, "output")
    )


def open_alpaca(section: AlpacaDataset, split: Split) -> Source:
    """The first 5% of the rows (at least one) are for validation, the others for training."""
    origin = from_file(section.data_path, _FLAG)
    return Source(
        name="alpaca_dataset",
        format="alpaca",
        rows=lambda: to_examples(_part(origin, split), example),
        fingerprint=fingerprint.combined("alpaca", split, origin.digest),
        description=f"{origin.name}: instructions and answers, the part for {split}",
        on_bad_row=section.on_bad_row,
    )


def _part(origin: Origin, split: Split) -> Iterator[Row | BadRow]:
    count = sum(1 for _ in origin.rows())
    border = max(1, int(count * _VALIDATION_SHARE))
    start, stop = (border, None) if split == "train" else (0, border)
    return islice(origin.rows(), start, stop)
