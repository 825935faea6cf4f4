"""The training and the validation documents of a run, both or one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llama_recipes.configs.datasets import FileDataset
from llama_recipes.configs.section import Section, is_given
from llama_recipes.data.example import Collator, Format, Split
from llama_recipes.data.prepare import Once, Preparation, prepare, split_off
from llama_recipes.data.sources import open_source
from llama_recipes.data.store import TokenStore
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
    once: Once = lambda make: make(),
) -> Splits:
    """Read, tokenise and cache a data set; once: as in `prepare`. Raises DataError."""
    source = open_source(section, "train", tokenizer=tokenizer)
    if source is None:
        raise DataError("The data set has no training part.")
    train = prepare(source, tokenizer, how, notify=notify, once=once)
    validation = None
    if validate:
        held_out = open_source(section, "validation", tokenizer=tokenizer)
        if held_out is not None:
            validation = prepare(held_out, tokenizer, how, notify=notify, once=once)
        elif isinstance(section, FileDataset) and section.validation_fraction:
            train, validation = split_off(train, section.validation_fraction, seed=seed)
    return Splits(train, validation, source.format, source.collator)


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
