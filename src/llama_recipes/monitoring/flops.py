"""The floating-point operations of what a block computes, by module and by pass.

Operations are seen where PyTorch dispatches them, below autograd, and our kernels where they are
called: what is counted is what was computed. A module is found forward by its hooks, and backward
by the number that autograd gave a node when the module's forward pass made it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from llama_recipes.kernels import library
from llama_recipes.monitoring.products import flops_of, flops_of_kernel

Pass = Literal["forward", "backward", "recomputed"]
PASSES: tuple[Pass, ...] = ("forward", "backward", "recomputed")
"""recomputed: a forward pass inside a backward pass, for activations that were not kept."""

OUTSIDE = "head and loss"
"""What is computed outside of every module: the loss, straight from the head's weights, which
computes its gradients in its forward pass."""


class Count:
    """flops: by a module's name, "" for the model itself, and the pass."""

    def __init__(self) -> None:
        self.flops: Counter[tuple[str, Pass]] = Counter()

    def of(self, *passes: Pass) -> int:
        return sum(flops for (_, kind), flops in self.flops.items() if kind in passes)

    @property
    def model(self) -> int:
        """What the step needs whatever memory it has: nothing that is computed twice."""
        return self.of("forward", "backward")

    @property
    def recomputed(self) -> int:
        return self.of("recomputed")

    def as_text(self) -> str:
        return json.dumps([[*key, flops] for key, flops in self.flops.items()])

    @staticmethod
    def summed(texts: Sequence[str]) -> Count:
        """Of counts `as_text`, such as those of several processes."""
        total = Count()
        for text in texts:
            for name, kind, flops in json.loads(text):
                total.flops[name, kind] += flops
        return total


@contextmanager
def counted(model: nn.Module) -> Iterator[Count]:
    """Count what the block computes. Compiled layers run uncompiled in it: a compiled graph shows
    no operations."""
    count, places = Count(), _Places()

    def kernel(name: str, arguments: tuple[Any, ...]) -> AbstractContextManager[object]:
        if flops := flops_of_kernel(name, arguments):
            count.flops[places.here()] += flops
        return nullcontext()

    with ExitStack() as stack:
        if any(module._compiled_call_impl is not None for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(places.followed(model))
        library.watch(kernel)
        stack.callback(library.watch, None)
        stack.enter_context(_Counting(count, places))
        yield count


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, count: Count, places: _Places) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.places = count, places

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if flops := flops_of(func, args, kwargs):
            self.count.flops[self.places.here()] += flops
        return func(*args, **kwargs)


class _Places:
    """Which module computes now, and in which pass."""

    def __init__(self) -> None:
        self._open: list[tuple[str, bool]] = []  # with whether the backward pass runs around it
        # Nodes get rising numbers; from each of these numbers on they are of the module beside it.
        self._from, self._modules = [0], [OUTSIDE]

    def here(self) -> tuple[str, Pass]:
        name, inside_backward = self._open[-1] if self._open else (OUTSIDE, False)
        if inside_backward:
            return name, "recomputed"
        if not _in_backward():
            return name, "forward"
        node = torch._C._current_autograd_node()
        number = node._sequence_nr()
        return self._modules[bisect_right(self._from, number) - 1], "backward"

    @contextmanager
    def followed(self, model: nn.Module) -> Iterator[None]:
        """Hear of every module of `model` when its forward pass begins and ends."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                for handle in (
                    module.register_forward_pre_hook(partial(self._enter, name)),
                    # Recomputing ends with an exception as soon as it has what it is for.
                    module.register_forward_hook(self._leave, always_call=True),
                ):
                    stack.callback(handle.remove)
            yield

    def _enter(self, name: str, *_: Any) -> None:
        self._open.append((name, _in_backward()))
        self._note()

    def _leave(self, *_: Any) -> None:
        self._open.pop()
        self._note()

    def _note(self) -> None:
        if not _in_backward():  # whose thread has numbers of its own
            self._from.append(torch._C._autograd._get_sequence_nr())
            self._modules.append(self._open[-1][0] if self._open else OUTSIDE)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
