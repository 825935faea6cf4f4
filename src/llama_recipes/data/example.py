"""What a data set hands on: examples, the rows that could not become one, and where both come from.

A source knows nothing of tokens; `data/tokenize.py` turns its examples into ids and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
Format = Literal["samsum", "grammar", "alpaca", "chat", "prompt_completion", "text", "tokens"]
OnBadRow = Literal["error", "skip"]
Split = Literal["train", "validation"]


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """BOS + prompt (not trained) + answer (trained) + EOS (trained)."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, rendered by the model's own chat template; the assistant's turns are trained.

    A system message, where there is one, comes first; after it user and assistant take turns, the
    user first and the assistant last.
    """

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """BOS + text + EOS, all of it trained."""

    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ready-made ids from a custom data set.

    input_ids: [T] token ids; labels: [T], the id to be learnt at that place or -100 for none
    (not shifted: labels[t] belongs to input_ids[t]).
    """

    input_ids: Sequence[int]
    labels: Sequence[int]


Collator = Callable[[list[dict[str, Any]]], Mapping[str, Any]]
"""From samples to a batch: [B, T] input_ids, labels and, where rows are padded, attention_mask."""

Example = PromptAnswer | Chat | Text | Tokens


@dataclass(frozen=True, slots=True)
class Located:
    """An example and its place ("train.jsonl, line 7"), for whatever is found wrong later."""

    where: str
    example: Example


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be trained on: its place ("train.jsonl, line 7") and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """One part (training or validation) of a data set, opened but not read.

    rows:        starts reading from the first row each time it is called, with bounded memory.
    format:      how a typed prompt must be wrapped to look like one of the examples.
    fingerprint: hash of everything that the examples depend on; None: nobody can know it, so a
                 cached copy must never be used.
    description: one line for the screen.
    on_bad_row:  whether a row that cannot be used ends the run, or is left out and counted.
    collator:    the user's own way from samples to a batch (custom data sets only).
    """

    name: str
    format: Format
    rows: Callable[[], Iterator[Located | BadRow]]
    fingerprint: str | None
    description: str
    on_bad_row: OnBadRow = "error"
    collator: Collator | None = None

    def examples(self) -> Iterator[Example | BadRow]:
        """The rows without their places."""
        return (row if isinstance(row, BadRow) else row.example for row in self.rows())
