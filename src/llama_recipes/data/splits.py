"""The training and the validation documents of a run, both or one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama_recipes.configs.datasets import FileDataset
from llama_recipes.configs.section import Section, is_given
from llama_recipes.data.example import Collator, Format, Source, Split
from llama_recipes.data.prepare import Preparation, prepare, split_off
from llama_recipes.data.sources import open_collator, open_source
from llama_recipes.data.store import TokenStore, open_store
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError


@dataclass(frozen=True)
class Splits:
    """validation: None where the data set has none or it was not asked for.

    format: how a prompt has to be written for a model trained on this.
    """

    train: TokenStore
    validation: TokenStore | None
    format: Format
    collator: Collator | None


def open_splits(
    section: Section,
    tokenizer: Tokenizer,
    how: Preparation,
    *,
    validate: bool,
    seed: int,
    notify: Callable[[str], None],
    once: Callable[[Callable[[], str]], str] = lambda make: make(),
) -> Splits:
    """Read, tokenise and cache a data set. Raises DataError.

    once: calls what it is given on one process of each host, and gives all what that returned.
    """
    opened: list[Source] = []

    def make() -> str:
        return json.dumps(_prepared(section, tokenizer, how, validate, notify, opened))

    made = json.loads(once(make))
    train = open_store(Path(made["train"]))
    validation = open_store(Path(made["validation"])) if "validation" in made else None
    held_out = section.validation_fraction if isinstance(section, FileDataset) else 0.0
    if validate and validation is None and held_out:
        train, validation = split_off(train, held_out, seed=seed)
    collator = opened[0].collator if opened else open_collator(section, tokenizer)
    return Splits(train, validation, made["format"], collator)


def _prepared(
    section: Section,
    tokenizer: Tokenizer,
    how: Preparation,
    validate: bool,
    notify: Callable[[str], None],
    opened: list[Source],
) -> dict[str, str]:
    """The stores' folders by their parts, and the format; the training part's source goes to
    `opened`."""
    source = open_source(section, "train", tokenizer=tokenizer)
    if source is None:
        raise DataError("The data set has no training part.")
    opened.append(source)
    train = prepare(source, tokenizer, how, notify=notify)
    made = {"format": source.format, "train": str(train.folder)}
    held_out = open_source(section, "validation", tokenizer=tokenizer) if validate else None
    if held_out is not None:
        made["validation"] = str(prepare(held_out, tokenizer, how, notify=notify).folder)
    return made


@dataclass(frozen=True)
class Part:
    """One split of a data set."""

    store: TokenStore
    collator: Collator | None


def open_part(
    section: Section,
    split: Split,
    tokenizer: Tokenizer,
    how: Preparation,
    *,
    seed: int,
    notify: Callable[[str], None],
) -> Part:
    """The documents that `open_splits` gives as this split, without opening what is not needed.

    Raises DataError, also where there is no such split.
    """
    fraction = 0.0
    if isinstance(section, FileDataset) and not is_given(section.validation_file):
        fraction = section.validation_fraction
    source = open_source(section, "train" if fraction else split, tokenizer=tokenizer)
    if source is None:
        raise DataError("This data set has no validation part. Take the other: --split train.")
    store = prepare(source, tokenizer, how, notify=notify)
    if fraction:
        train, validation = split_off(store, fraction, seed=seed)
        store = train if split == "train" else validation
    return Part(store, source.collator)
