"""Data sets by name: each module here turns one section of settings into a Source of examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_recipes.configs.datasets import (
    AlpacaDataset,
    CustomDataset,
    FileDataset,
    GrammarDataset,
    SamsumDataset,
    StdlibDocstringsDataset,
)
from llama_recipes.configs.section import Section
from llama_recipes.data.example import Collator, Source, Split
from llama_recipes.data.sources.alpaca import open_alpaca
from llama_recipes.data.sources.custom import has_collator, open_custom
from llama_recipes.data.sources.files import open_files
from llama_recipes.data.sources.grammar import open_grammar
from llama_recipes.data.sources.samsum import open_samsum
from llama_recipes.data.sources.stdlib_docstrings import open_stdlib_docstrings

if TYPE_CHECKING:
    from llama_recipes.data.tokenizer import Tokenizer


def open_source(section: Section, split: Split, *, tokenizer: Tokenizer) -> Source | None:
    """One part of the data set that `section` describes, its first rows checked.

    None: this data set has no part of its own for validation. Raises DataError for data
    that cannot be opened.
    """
    match section:
        case SamsumDataset():
            return open_samsum(section, split)
        case GrammarDataset():
            return open_grammar(section, split)
        case AlpacaDataset():
            return open_alpaca(section, split)
        case CustomDataset():
            return open_custom(section, split, tokenizer)
        case FileDataset():
            return open_files(section, split)
        case StdlibDocstringsDataset():
            return open_stdlib_docstrings(split, tokenizer)
        case _:
            raise AssertionError(f"no source for {type(section).__name__}")


def open_collator(section: Section, tokenizer: Tokenizer) -> Collator | None:
    """The training part's own way to batches, on a process that did not open it.

    Where there is one, the user's function for the samples runs here too: it may prepare it.
    """
    if not (isinstance(section, CustomDataset) and has_collator(section)):
        return None
    source = open_source(section, "train", tokenizer=tokenizer)
    return source.collator if source else None
