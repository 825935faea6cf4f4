"""Bytes that one process receives from the others to share a model, counted where FSDP2 asks.

`python -m benchmarks.traffic FOLDER FLAGS…`, started by torchrun, is a run that writes them, with
the process's peak memory, to FOLDER/rank-N.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_COLLECTIVES = ("all_gather_single", "reduce_scatter_single", "all_reduce")


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Bytes by the name of the collective while the block runs.

    Of N processes each receives (N − 1)/N of what is gathered or scattered; adding up whole tensors
    costs twice that.
    """
    received: Counter[str] = Counter()

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            tensors = [each for each in [*arguments, *named.values()] if _is_tensor(each)]
            size = dist.get_world_size(named.get("group"))
            whole = max(tensor.numel() * tensor.itemsize for tensor in tensors)
            times = 2 if name == "all_reduce" else 1
            received[name] += times * whole * (size - 1) // size
            return original(*arguments, **named)

        return call

    before = {name: getattr(dist, name) for name in _COLLECTIVES}
    for name, original in before.items():
        setattr(dist, name, counting(name, original))
    try:
        yield received
    finally:
        for name, original in before.items():
            setattr(dist, name, original)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def main(folder: Path, flags: list[str]) -> int:
    from llama_recipes.finetuning import main as finetune
    from llama_recipes.monitoring.memory import peak_memory_gib

    with counted() as received:
        code = finetune(flags)
    facts = {"received": dict(received), "peak_gib": peak_memory_gib(torch.device("cpu"))}
    (folder / f"rank-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(facts))
    return code


if __name__ == "__main__":
    from llama_recipes.parallel.ranks import end

    end(main(Path(sys.argv[1]), sys.argv[2:]))
