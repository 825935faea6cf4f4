"""Micro-batches as tensors, in an order that (seed, epoch) alone decides.

Shapes: N tokens of a micro-batch, padding included; S supervised tokens among them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from llama_recipes.data.batching import Row, Strategy, plan_epoch, share_of_rank
from llama_recipes.data.collate import collated
from llama_recipes.data.example import Collator
from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenize import IGNORE, Document


@dataclass(frozen=True)
class Batch:
    """Documents one after the other, without a batch axis.

    tokens, positions: [N]; positions restart at every document.
    spans: tokens of each document in order, its padding included; they sum to N.
    lengths: tokens of each document without padding.
    supervised: [S] where a trained token is predicted; targets: [S] that token's id.
    documents: the numbers of the documents in the store.
    """

    tokens: Tensor
    positions: Tensor
    spans: tuple[int, ...]
    lengths: tuple[int, ...]
    supervised: Tensor
    targets: Tensor
    documents: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def num_supervised(self) -> int:
        return len(self.targets)

    def split(self, max_tokens: int) -> Iterator[Batch]:
        """Cut between documents into parts of at most `max_tokens`, or of one longer document.

        Documents do not see each other, so the parts together are the batch.
        """
        start = first = 0
        for last in _borders(self.spans, max_tokens):
            part = slice(first, last)
            end = start + sum(self.spans[part])
            inside = (self.supervised >= start) & (self.supervised < end)
            yield Batch(
                tokens=self.tokens[start:end],
                positions=self.positions[start:end],
                spans=self.spans[part],
                lengths=self.lengths[part],
                supervised=self.supervised[inside] - start,
                targets=self.targets[inside],
                documents=self.documents[part],
            )
            start, first = end, last

    def to(self, device: torch.device) -> Batch:
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("tokens", "positions", "supervised", "targets")
        }
        return replace(self, **moved)


BLANK = Batch(
    tokens=torch.zeros(1, dtype=torch.int64),
    positions=torch.zeros(1, dtype=torch.int64),
    spans=(1,),
    lengths=(1,),
    supervised=torch.zeros(0, dtype=torch.int64),
    targets=torch.zeros(0, dtype=torch.int64),
    documents=(),
)
"""What a process computes that has nothing to do while another has: of no document, trained on
nothing."""


def _borders(spans: Sequence[int], max_tokens: int) -> Iterator[int]:
    """Where each greedy group of neighbours ends."""
    total = 0
    for index, span in enumerate(spans):
        if total and total + span > max_tokens:
            yield index
            total = 0
        total += span
    if spans:
        yield len(spans)


def make_batch(
    documents: Sequence[Document], *, numbers: Sequence[int], pad_id: int, padded: bool
) -> Batch:
    """Lay documents out; with `padded`, each filled up to the longest with `pad_id`."""
    lengths = tuple(len(document.input_ids) for document in documents)
    longest = max(lengths, default=0)
    spans = tuple(longest for _ in lengths) if padded else lengths
    starts = np.cumsum((0, *spans))
    tokens = np.full(starts[-1], pad_id, dtype=np.int64)
    labels = np.full(starts[-1], IGNORE, dtype=np.int64)
    for start, length, document in zip(starts, lengths, documents, strict=False):
        tokens[start : start + length] = document.input_ids
        # Shifted within the document: its last token predicts nothing.
        labels[start : start + length - 1] = document.labels[1:]
    supervised = np.flatnonzero(labels != IGNORE)
    positions = [np.arange(span, dtype=np.int64) for span in spans]
    return Batch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(np.concatenate(positions) if positions else tokens),
        spans=spans,
        lengths=lengths,
        supervised=torch.from_numpy(supervised),
        targets=torch.from_numpy(labels[supervised]),
        documents=tuple(numbers),
    )


class Loader:
    """The micro-batches of one rank.

    vocab_size: ids of the model; what a collator makes is held against it.
    workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        strategy: Strategy,
        batch_size: int,
        context_length: int,
        pad_id: int,
        seed: int,
        vocab_size: int,
        workers: int = 0,
        collator: Collator | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.store = store
        self.strategy: Strategy = strategy
        self.batch_size, self.context_length = batch_size, context_length
        self.pad_id, self.vocab_size, self.seed = pad_id, vocab_size, seed
        self.workers, self.collator = workers, collator
        self.rank, self.world_size = rank, world_size

    def plan(self, epoch: int, start: int = 0, stop: int | None = None) -> list[list[Row]]:
        """This rank's micro-batches in `epoch`: rows of document numbers.

        start, stop: of the micro-batches of all ranks, in the order of the epoch.
        """
        batches = plan_epoch(
            self.store.lengths,
            strategy=self.strategy,
            batch_size=self.batch_size,
            context_length=self.context_length,
            seed=self.seed,
            epoch=epoch,
        )
        return share_of_rank(batches[start:stop], self.rank, self.world_size)

    def batches(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """This rank's micro-batches of `epoch`, of those from `start` to `stop` of all ranks."""
        plan = self.plan(epoch, start, stop)
        if not self.workers:
            yield from map(self._build, plan)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: deque[Future[Batch]] = deque()
            try:
                for rows in plan:
                    ahead.append(pool.submit(self._build, rows))
                    if len(ahead) > 2 * self.workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _build(self, rows: Sequence[Row]) -> Batch:
        numbers = [number for row in rows for number in row]
        documents = [self.store.document(number) for number in numbers]
        if self.collator is not None and documents:
            documents = collated(documents, self.collator, vocab_size=self.vocab_size)
        return make_batch(
            documents, numbers=numbers, pad_id=self.pad_id, padded=self.strategy == "padding"
        )
