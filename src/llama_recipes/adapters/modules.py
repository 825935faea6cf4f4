"""The modules that an adapter put into a model, found again by their kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def modules_of(model: nn.Module, kind: type[Module]) -> Iterator[tuple[str, Module]]:
    """Name and module, in the order of the layers."""
    for name, module in model.named_modules():
        if isinstance(module, kind):
            yield name, module
