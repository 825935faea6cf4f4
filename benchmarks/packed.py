"""The rows that we pack, as token ids, `python -m benchmarks.packed JSON`: TRL gets the very same.

Neither side's packing then decides what a step holds. For TRL they are rows that it packed itself:
token ids, labels, and the lengths of the documents, of which it makes positions that begin anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.documents import write_rows
from benchmarks.inventory import SEED, open_store

if TYPE_CHECKING:
    from llama_recipes.data.store import TokenStore


def _main(job: dict[str, Any]) -> dict[str, list[int]]:
    """Write the first `count` rows that a run of ours takes, one row a micro-batch.

    Returns tokens and supervised tokens of every row.
    """
    from llama_recipes.data.batching import plan_epoch

    store = open_store(Path(job["model"]), Path(job["file"]), job["context"])
    plan = plan_epoch(
        store.lengths,
        strategy="packing",
        batch_size=1,
        context_length=job["context"],
        seed=SEED,
        epoch=0,
    )
    taken = [row for batch in plan[: job["count"]] for row in batch]
    write_rows(Path(job["write_to"]), (_row(store, numbers) for numbers in taken))
    return {
        "tokens": [int(store.lengths[numbers].sum()) for numbers in taken],
        "supervised": [int(store.supervised[numbers].sum()) for numbers in taken],
    }


def _row(store: TokenStore, numbers: list[int]) -> dict[str, list[int]]:
    documents = [store.document(number) for number in numbers]
    return {
        "input_ids": [token for document in documents for token in document.input_ids.tolist()],
        "labels": [label for document in documents for label in document.labels.tolist()],
        "seq_lengths": [len(document.input_ids) for document in documents],
    }


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
