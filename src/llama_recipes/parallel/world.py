"""The processes that train together, as one of them sees them; and the one that trains alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn

from llama_recipes.model.weights import TensorSource


class World(Protocol):
    """What is the same on every process is called by every process, in the same order.

    rank: of this process, from 0; the one of rank 0 writes files and the screen. device: what this
    process computes on.
    """

    rank: int
    size: int
    device: torch.device

    def shard(self, model: nn.Module, *, gathered_in: torch.dtype | None) -> None:
        """Rewrite a model on meta so that each process keeps a part of its rows.

        gathered_in: the type that weights are sent in; None: the one that they are kept in.
        """

    def read_by_one(self, tensors: TensorSource) -> TensorSource:
        """`tensors`, of which one process reads for all what all ask for."""

    def gather_gradients(self, model: nn.Module, *, wanted: bool) -> None:
        """Whether the next backward pass ends with the sum of all processes' gradients."""

    def rest(self, model: nn.Module) -> None:
        """Let go of what a forward pass gathered that no backward pass followed."""

    def exchange(self, numbers: Sequence[float]) -> list[list[float]]:
        """Every process's numbers, of which all give as many, by rank."""

    def texts(self, text: str) -> list[str]:
        """Every process's text, by rank."""

    def aside(self) -> World:
        """The same processes for another thread: what it exchanges does not meet what this does.

        It exchanges and leads; nothing else.
        """

    def lead(self, action: Callable[[], object]) -> None:
        """Let rank 0 do something; where that raises, all processes do."""

    def once(self, make: Callable[[], str]) -> str:
        """What `make` returns on rank 0, however long that takes; where that raises, all do."""

    def once_a_host(self, make: Callable[[], str]) -> str:
        """What `make` returns on one process of this host, once it has on all of them, however long
        that takes; where one raises, all do."""

    def is_first_to_say(self, text: str) -> bool:
        """Whether no other process has said the same: what fails everywhere is said once."""


class OneProcess:
    """Nobody to share with."""

    rank, size = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def shard(self, model: nn.Module, *, gathered_in: torch.dtype | None) -> None:
        pass

    def read_by_one(self, tensors: TensorSource) -> TensorSource:
        return tensors

    def gather_gradients(self, model: nn.Module, *, wanted: bool) -> None:
        pass

    def rest(self, model: nn.Module) -> None:
        pass

    def exchange(self, numbers: Sequence[float]) -> list[list[float]]:
        return [list(numbers)]

    def texts(self, text: str) -> list[str]:
        return [text]

    def aside(self) -> World:
        return self

    def lead(self, action: Callable[[], object]) -> None:
        action()

    def once(self, make: Callable[[], str]) -> str:
        return make()

    def once_a_host(self, make: Callable[[], str]) -> str:
        return make()

    def is_first_to_say(self, text: str) -> bool:
        return True


CPU_ALONE = OneProcess(torch.device("cpu"))
