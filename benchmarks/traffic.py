"""Bytes that one process receives from the others to share a model, counted where FSDP2 asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Bytes by the name of the collective while the block runs.

    Of N processes each receives (N − 1)/N of what is gathered or scattered; adding up whole tensors
    costs twice that.
    """
    received: Counter[str] = Counter()

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            tensors = [*arguments, *named.values()][:2]
            size = dist.get_world_size(named.get("group"))
            whole = max(t.numel() * t.itemsize for t in tensors if hasattr(t, "numel"))
            times = 2 if name == "all_reduce" else 1
            received[name] += times * whole * (size - 1) // size
            return original(*arguments, **named)

        return call

    names = ("all_gather_single", "reduce_scatter_single", "all_reduce")
    before = {name: getattr(dist, name) for name in names}
    for name, original in before.items():
        setattr(dist, name, counting(name, original))
    try:
        yield received
    finally:
        for name, original in before.items():
            setattr(dist, name, original)
