"""From rows to stored documents, and what of them is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from llama_recipes.configs.datasets import FileDataset
from llama_recipes.configs.section import Section
from llama_recipes.data.example import Message
from llama_recipes.data.prepare import Preparation, prepare
from llama_recipes.data.sources import open_source
from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenize import IGNORE, Document, Truncation
from llama_recipes.data.tokenizer import Tokenizer

LONG = 10_000


def store_of(
    section: Section,
    using: Tokenizer,
    *,
    length: int = LONG,
    truncation: Truncation = "end",
    on_prompt: bool = False,
) -> TokenStore:
    source = open_source(section, "train", tokenizer=using)
    assert source is not None
    return prepare(source, using, Preparation(length, truncation, on_prompt))


def only(store: TokenStore) -> Document:
    assert len(store) == 1
    return store.document(0)


def runs(document: Document) -> Iterator[tuple[bool, list[int], list[int]]]:
    """(trained, the ids, all ids before them) of each run of trained or untrained tokens."""
    ids, labels = document.input_ids.tolist(), document.labels.tolist()
    assert all(label in (IGNORE, id_) for id_, label in zip(ids, labels, strict=True))
    start = 0
    for trained, run in groupby(labels, lambda label: label != IGNORE):
        end = start + len(list(run))
        yield trained, ids[start:end], ids[:start]
        start = end


def answers(document: Document, using: Tokenizer) -> list[str]:
    return [using.decode(ids) for trained, ids, _ in runs(document) if trained]


def prompts(document: Document) -> list[list[int]]:
    """The ids before each answer, those of earlier answers included."""
    return [before for trained, _, before in runs(document) if trained]


def rows(folder: Path, *rows: object) -> FileDataset:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return FileDataset(train_file=str(path))


def chat(*contents: str, system: str = "") -> dict[str, object]:
    roles = ["user", "assistant"] * (len(contents) // 2)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    return {"messages": [{"role": "system", "content": system}] * bool(system) + messages}


def messages_of(row: dict[str, object]) -> list[Message]:
    return [Message(**message) for message in row["messages"]]


CONVERSATIONS = {
    "one turn": chat("Hello world", "Fine.\nAnd you?"),
    "three turns": chat("Hi", "Hello", "How?", "So: ``x = 1``", "Bye", "Good-bye!"),
    "with a system message": chat("Hi", "Hello", "More", "No", system="Be brief."),
}
