"""The data sets, one section each, named as `--dataset` names them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llama_recipes.configs.section import Section

DatasetName = Literal[
    "samsum_dataset",
    "grammar_dataset",
    "alpaca_dataset",
    "custom_dataset",
    "file_dataset",
    "stdlib_docstrings_dataset",
]

OnBadRow = Literal["error", "skip"]
_ON_BAD_ROW = "A row that cannot be used is an error, or is skipped and counted"


class SamsumDataset(Section):
    """Dialogues and their summaries, with --dataset samsum_dataset."""

    data_path: str = Field(
        default="PATH/to/samsum",
        description="Folder with a .jsonl, .json or .csv file for each split (train.jsonl), with "
        "the columns dialogue and summary; or a hub id",
    )
    train_split: str = Field(default="train", description="Name of the training part")
    test_split: str = Field(default="validation", description="Name of the validation part")
    on_bad_row: OnBadRow = Field(default="error", description=_ON_BAD_ROW)


class GrammarDataset(Section):
    """Sentences and their corrections, with --dataset grammar_dataset."""

    train_split: str = Field(
        default="PATH/to/gtrain_10k.csv",
        description="CSV file for training, columns input and target",
    )
    test_split: str = Field(
        default="PATH/to/grammar_validation.csv",
        description="CSV file for validation, columns input and target",
    )
    on_bad_row: OnBadRow = Field(default="error", description=_ON_BAD_ROW)


class AlpacaDataset(Section):
    """Instructions in Stanford's form, with --dataset alpaca_dataset."""

    data_path: str = Field(
        default="PATH/to/alpaca_data.json",
        description="JSON list of objects with instruction, input and output; the first 5% is "
        "for validation",
    )
    on_bad_row: OnBadRow = Field(default="error", description=_ON_BAD_ROW)


class CustomDataset(Section):
    """A data set made by your own Python file, with --dataset custom_dataset."""

    file: str = Field(
        default="PATH/to/custom_dataset.py",
        description="Python file, or file.py:function; the function is get_custom_dataset where "
        "not named",
    )
    train_split: str = Field(
        default="train", description="Split asked of the function for training"
    )
    test_split: str = Field(
        default="validation", description="Split asked of the function for validation"
    )
    data_path: str = Field(default="", description="Path handed to the function, for its own use")
    on_bad_row: OnBadRow = Field(default="error", description=_ON_BAD_ROW)


class FileDataset(Section):
    """Your own rows, with --dataset file_dataset."""

    train_file: str = Field(
        default="PATH/to/train.jsonl",
        description="JSONL, JSON, CSV, Parquet or text file for training, or a hub id",
    )
    validation_file: str = Field(default="", description="The same for validation; empty: none")
    validation_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Share of train_file kept apart for validation instead"
    )
    format: Literal["auto", "chat", "sharegpt", "alpaca", "prompt_completion", "text"] = Field(
        default="auto",
        description="What a row is: messages (chat), conversations (sharegpt), instruction, input "
        "and output (alpaca), prompt and completion, or text; auto: seen from the rows",
    )
    on_bad_row: OnBadRow = Field(default="error", description=_ON_BAD_ROW)


class StdlibDocstringsDataset(Section):
    """Function bodies and their docstrings, read from this machine's Python standard library."""
