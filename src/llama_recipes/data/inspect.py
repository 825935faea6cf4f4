"""What a part of a data set would train, counted over its documents as the loader gives them.

Everything is read in pieces of a bounded number of tokens, so that memory grows by a few dozen
bytes a document and not with their lengths.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_recipes.data.example import Format
from llama_recipes.data.loader import Batch, Loader
from llama_recipes.data.store import TokenStore, write_store
from llama_recipes.data.tokenize import IGNORE, Document
from llama_recipes.data.tokenizer import Tokenizer

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_PIECE_TOKENS = 2**20
_NEAR_THE_END = 4
"""Trained tokens at the end of a document among which its stop token is looked for: with
--train_on_prompt what a template writes behind it is trained too."""


@dataclass(frozen=True)
class Marks:
    """One value a document, [documents].

    prompts: tokens before the first trained one. ends: its stop token is trained.
    stop_is_masked: it ends with a stop token that is not trained. begins_twice: with two BOS.
    only_stops: nothing but stop tokens is trained. shifted: each label is the id after its place.
    unknown: tokens that stand for text which the tokenizer does not know.
    whole, prompt, answer: hashes of ids and labels, of the prompt's ids, of the trained ids.
    """

    prompts: Numbers
    ends: Flags
    stop_is_masked: Flags
    begins_twice: Flags
    only_stops: Flags
    shifted: Flags
    unknown: Numbers
    whole: Hashes
    prompt: Hashes
    answer: Hashes


def as_trained(loader: Loader) -> TokenStore:
    """The documents of `loader` as its batches hold them: those of its store, or what the user's
    collator makes of them in the first epoch, in a folder that the caller need not keep."""
    if loader.collator is None:
        return loader.store
    batches = list[Sequence[int]]()

    def documents() -> Iterator[Document]:
        for batch in loader.batches(0):
            batches.append(batch.documents)
            yield from _documents(batch, loader.store)

    with tempfile.TemporaryDirectory(prefix="llama_recipes-") as folder:
        store = write_store(Path(folder) / "documents", documents(), loader.store.report)
        order = np.argsort(np.concatenate([*batches, np.empty(0, np.int64)]), kind="stable")
        return store.subset(order, store.report)


def _documents(batch: Batch, store: TokenStore) -> Iterator[Document]:
    """A batch taken apart again: what training sees of each document."""
    labels = np.full(len(batch.tokens) + 1, IGNORE, np.int32)
    labels[batch.supervised.numpy() + 1] = batch.targets.numpy()
    ids, start = batch.tokens.numpy().astype(np.int32), 0
    for number, span, length in zip(batch.documents, batch.spans, batch.lengths, strict=True):
        own = slice(start, start + length)
        trained = labels[own].copy()
        trained[0] = IGNORE  # nothing of this document predicts it
        yield Document(ids[own], trained, int(store.rows[number]), int(store.cut[number]))
        start += span


def mark(store: TokenStore, tokenizer: Tokenizer, form: Format) -> Marks:
    """Look at every document of `store` once. form: what it was made of."""
    pieces = [
        _mark_piece(*store.together(first, last), tokenizer, form)
        for first, last in _pieces(store.lengths)
    ]
    columns: list[NDArray[np.generic]] = [
        np.concatenate(column) for column in zip(*pieces, strict=True)
    ]
    return Marks(*columns)  # type: ignore[arg-type]


def _pieces(lengths: Numbers) -> Iterator[tuple[int, int]]:
    """Neighbouring documents of at most _PIECE_TOKENS tokens together, or a longer one alone."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + _PIECE_TOKENS, side="right"))
        yield first, max(last, first + 1)
        first = max(last, first + 1)


def _mark_piece(
    ids: NDArray[np.int32],
    labels: NDArray[np.int32],
    offsets: Numbers,
    tokenizer: Tokenizer,
    form: Format,
) -> tuple[NDArray[np.generic], ...]:
    starts, ends, lengths = offsets[:-1], offsets[1:], np.diff(offsets)
    trained = labels != IGNORE
    trained[starts] = False  # nothing predicts a document's first token
    places = np.flatnonzero(trained)
    firsts, lasts = (np.searchsorted(places, border) for border in (starts, ends))
    counts = lasts - firsts
    prompts = lengths.copy()
    prompts[counts > 0] = places[firsts[counts > 0]] - starts[counts > 0]

    answer, stops = labels[places], np.asarray(tokenizer.stop_ids, np.int32)
    stop = np.isin(answer, stops)
    per_document = np.diff(np.concatenate([[0], np.cumsum(stop)])[[firsts, lasts]], axis=0)[0]
    stops_behind = np.concatenate([[0], np.cumsum(stop)])
    near = stops_behind[lasts] - stops_behind[np.maximum(lasts - _NEAR_THE_END, firsts)]
    # A custom data set may cut text where it likes; the others end where their documents do.
    is_trained = (per_document if form == "tokens" else near) > 0
    bos = tokenizer.bos_id
    second = ids[np.minimum(starts + 1, ends - 1)]
    begins_twice = (lengths > 1) & (ids[starts] == bos) & (second == bos)
    unknown = ids == tokenizer.unknown_id if tokenizer.unknown_id is not None else np.zeros(0)
    return (
        prompts,
        is_trained,
        np.isin(ids[ends - 1], stops) & (labels[ends - 1] == IGNORE) & (counts > 0),
        begins_twice if bos is not None else np.zeros(len(lengths), bool),
        (per_document == counts) & (counts > 0),
        _shifted(ids, labels, trained, offsets),
        np.add.reduceat(unknown.astype(np.int64), starts) if len(unknown) else 0 * lengths,
        *_hashes(ids, labels, answer, starts, ends, prompts, firsts, lasts),
    )


def _shifted(
    ids: NDArray[np.int32], labels: NDArray[np.int32], trained: Flags, offsets: Numbers
) -> Flags:
    """Documents whose labels are the ids one place on: shifted before they came here."""
    following = np.append(ids[1:], -1)
    inside = trained.copy()
    inside[offsets[1:] - 1] = False  # after the last token there is nothing to compare
    own, others = inside & (labels != ids), inside & (labels != following)
    differ, stray = (np.add.reduceat(part.astype(np.int64), offsets[:-1]) for part in (own, others))
    found: Flags = (differ > 0) & (stray == 0)
    return found


def _hashes(
    ids: NDArray[np.int32],
    labels: NDArray[np.int32],
    answer: NDArray[np.int32],
    starts: Numbers,
    ends: Numbers,
    prompts: Numbers,
    firsts: Numbers,
    lasts: Numbers,
) -> tuple[Hashes, Hashes, Hashes]:
    """64 bits of BLAKE2b: of a million documents two differ and agree with chance 3e-8."""
    id_bytes, label_bytes, answer_bytes = (
        memoryview(part.tobytes()) for part in (ids, labels, answer)
    )
    whole, prompt, answers = bytearray(), bytearray(), bytearray()
    borders = (part.tolist() for part in (4 * starts, 4 * ends, 4 * prompts, 4 * firsts, 4 * lasts))
    for start, end, asked, first, last in zip(*borders, strict=True):
        both = hashlib.blake2b(id_bytes[start:end], digest_size=8)
        both.update(label_bytes[start:end])
        whole += both.digest()
        prompt += hashlib.blake2b(id_bytes[start : start + asked], digest_size=8).digest()
        answers += hashlib.blake2b(answer_bytes[first:last], digest_size=8).digest()
    return (
        np.frombuffer(bytes(whole), np.uint64),
        np.frombuffer(bytes(prompt), np.uint64),
        np.frombuffer(bytes(answers), np.uint64),
    )
