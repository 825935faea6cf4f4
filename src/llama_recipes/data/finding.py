"""A finding, and what findings are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_recipes.data.example import Format
from llama_recipes.data.inspect import Flags, Marks
from llama_recipes.data.sameness import Copies
from llama_recipes.data.store import TokenStore
from llama_recipes.data.wording import Wording

NOTEWORTHY = 0.01
"""Share of the documents, or of the rows, from which most findings are made."""
EXAMPLES = 5
"""Rows that a finding names."""


@dataclass(frozen=True)
class Finding:
    """`name` is for programs; `what` and `fix` are sentences for people.

    part: training, validation or run. count documents or rows `of` so many; of 0: `what` is all
    there is to say. rows: the numbers, from
    1, of the first in their part of the data set; matches: for each the row of the training part
    that it equals, where that is what was found.
    """

    name: str
    part: str
    count: int
    of: int
    what: str
    fix: str
    rows: tuple[int, ...] = ()
    matches: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0


@dataclass(frozen=True)
class Part:
    """One part of a data set and what was counted of it.

    wording: None for ready-made ids, which have no text.
    """

    name: str
    store: TokenStore
    form: Format
    marks: Marks
    copies: Copies
    wording: Wording | None

    @property
    def has_prompt(self) -> Flags:
        """Documents that are asked something before they are trained: more than a BOS."""
        return self.marks.prompts > 1


def of_documents(
    name: str, part: Part, hit: Flags, what: str, fix: str, *, least: float = NOTEWORTHY
) -> Finding:
    """Of the documents that `hit` marks; of none where they are fewer than that share."""
    count = int(hit.sum())
    count = count if count >= least * len(hit) else 0
    rows = rows_of(part, np.flatnonzero(hit)) if count else ()
    return Finding(name, part.name, count, len(hit), what, fix, rows)


def rows_of(part: Part, documents: NDArray[np.int64]) -> tuple[int, ...]:
    """The rows of the first of these documents."""
    return tuple(part.store.rows[documents[:EXAMPLES]].tolist())
