"""Where the documents of a run stand in the data that they were made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llama_recipes.configs.datasets import CustomDataset
from llama_recipes.configs.section import Section
from llama_recipes.data.sources import open_source
from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.data.wording import read_places


def places_of_documents(
    documents: Sequence[int],
    *,
    store: TokenStore,
    section: Section,
    name: str,
    tokenizer: Tokenizer,
) -> list[str]:
    """Of documents of the training part, as "train.jsonl, line 7".

    documents: their numbers in `store`. name: of the data set that `section` describes. Where the
    place cannot be read any more it is the number of the row, from 1.
    """
    rows = [int(store.rows[number]) for number in documents]
    found = _read({row for row in rows if row}, section, tokenizer)
    return [
        found.get(row) or (f"row {row} of {name}" if row else f"document {number + 1} of {name}")
        for number, row in zip(documents, rows, strict=True)
    ]


def _read(rows: Collection[int], section: Section, tokenizer: Tokenizer) -> dict[int, str]:
    if not rows or isinstance(section, CustomDataset):
        return {}  # whose code may give other rows when it runs again
    try:
        source = open_source(section, "train", tokenizer=tokenizer)
        return read_places(source, rows) if source else {}
    except Exception:  # whatever has become of the data: there is something worse to be told
        return {}
