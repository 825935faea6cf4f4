"""Documents of random ids with random masks, and stores that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama_recipes.data.loader import Loader
from llama_recipes.data.store import TokenStore, write_store
from llama_recipes.data.tokenize import IGNORE, Document
from support.tiny import TINY

PAD = 0


def document(ids: Sequence[int], trained: Sequence[bool] | None = None) -> Document:
    """All of it trained, or the places where `trained` says so."""
    input_ids = np.asarray(ids, dtype=np.int32)
    mask = np.ones(len(ids), bool) if trained is None else np.asarray(trained, bool)
    return Document(input_ids, np.where(mask, input_ids, IGNORE).astype(np.int32))


def random_documents(lengths: Sequence[int], seed: int = 0) -> list[Document]:
    """Unequal masks: between one and all of the predicted tokens are trained."""
    random = np.random.default_rng(seed)
    documents = []
    for length in lengths:
        trained = random.random(length) < random.uniform(0.2, 0.9)
        trained[-1] = True
        documents.append(document(random.integers(1, TINY.vocab_size, length), trained))
    return documents


def untrained(length: int, seed: int = 0) -> Document:
    """A document without a single label."""
    ids = np.random.default_rng(seed).integers(1, TINY.vocab_size, length)
    return document(ids, np.zeros(length, bool))


def stored(folder: Path, documents: Sequence[Document]) -> TokenStore:
    return write_store(folder / "documents", documents, {"counts": {"rows": len(documents)}})


def store_of_lengths(lengths: Sequence[int]) -> TokenStore:
    """Documents in memory, of which only the lengths matter: all of the id 1, all trained."""
    ids = np.ones(sum(lengths), np.int32)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    return TokenStore(
        ids,
        ids,
        offsets,
        np.asarray(lengths, np.int64) - 1,
        {"counts": {}, "highest_id": int(ids.max(initial=-1)), "digest": ""},
    )


def loader(store: TokenStore, **settings) -> Loader:
    """A loader of small packed rows; `settings` change any of it."""
    defaults = {
        "strategy": "packing",
        "batch_size": 2,
        "context_length": 32,
        "pad_id": PAD,
        "seed": 42,
        "vocab_size": 96,
        "workers": 0,
    }
    return Loader(store, **(defaults | settings))
