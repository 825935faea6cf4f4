"""What only our package knows: the model as a folder, and which documents a step takes.

Run as a process of its own, `python -m benchmarks.inventory JSON`, so that the process which
starts the measured ones stays small: the kernel counts its memory to theirs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.flops import Work

if TYPE_CHECKING:
    from llama_recipes.data.store import TokenStore

MODEL = "smollm2-135m-instruct"
SEED = 42
"""Of our runs: it decides the order of the documents."""


@dataclass(frozen=True)
class Step:
    """An optimizer step: the numbers of its rows in the file, in order, and what they hold."""

    rows: list[int]
    work: Work


def export_model(folder: Path) -> None:
    """Write the packaged model as transformers reads it, in fp32."""
    import torch

    from llama_recipes.data.tokenizer import load_tokenizer
    from llama_recipes.export.hf import save_model, save_tokenizer
    from llama_recipes.model.llama import Llama
    from llama_recipes.model.source import open_model
    from llama_recipes.model.weights import load_weights

    source = open_model(MODEL)
    with torch.device("meta"):
        model = Llama(source.config)
    load_weights(model, source.tensors, device=torch.device("cpu"), skip=set())
    tokenizer = load_tokenizer(source.path)
    generation = source.generation_config or {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": list(tokenizer.stop_ids),
        "pad_token_id": tokenizer.pad_id,
    }
    save_model(model, folder, generation_config=generation)
    save_tokenizer(tokenizer, folder)


def steps(
    *, model: Path, file: Path, context: int, micro_batch: int, accumulation: int
) -> list[Step]:
    """The first epoch of a run of ours with `batching_strategy=padding`."""
    from llama_recipes.data.batching import plan_epoch

    store = open_store(model, file, context)
    with file.open(encoding="utf-8") as lines:
        # Document number and row number are the same only while no row is left out.
        assert len(store) == sum(1 for _ in lines)
    plan = plan_epoch(
        store.lengths,
        strategy="padding",
        batch_size=micro_batch,
        context_length=context,
        seed=SEED,
        epoch=0,
    )
    found = []
    for start in range(0, len(plan), accumulation):
        numbers = [n for batch in plan[start : start + accumulation] for row in batch for n in row]
        lengths = store.lengths[numbers]
        work = Work(
            tokens=int(lengths.sum()),
            supervised=int(store.supervised[numbers].sum()),
            pairs=int((lengths * (lengths + 1) // 2).sum()),
        )
        found.append(Step(numbers, work))
    return found


def open_store(model: Path, file: Path, context: int) -> TokenStore:
    """The documents as a run of ours has them; they are in our cache afterwards."""
    from llama_recipes.configs.datasets import FileDataset
    from llama_recipes.data.prepare import Preparation
    from llama_recipes.data.splits import open_splits
    from llama_recipes.data.tokenizer import load_tokenizer

    return open_splits(
        FileDataset(train_file=str(file)),
        load_tokenizer(model),
        Preparation(context, "end", train_on_prompt=False),
        validate=False,
        seed=SEED,
        notify=lambda _: None,
    ).train


def _main(job: dict[str, Any]) -> Any:
    if "export_to" in job:
        export_model(Path(job["export_to"]))
        return None
    found = steps(
        model=Path(job["model"]),
        file=Path(job["file"]),
        context=job["context"],
        micro_batch=job["micro_batch"],
        accumulation=job["accumulation"],
    )
    return [{"rows": step.rows, "work": vars(step.work)} for step in found]


def read_steps(printed: Sequence[Mapping[str, Any]]) -> list[Step]:
    """The steps that this process printed."""
    return [Step(step["rows"], Work(**step["work"])) for step in printed]


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
