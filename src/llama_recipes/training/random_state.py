"""The random generators that dropout draws from, as tensors that go into a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RandomState:
    """tensors: the state of the processor's generator as `cpu`, that of a GPU as `cuda`; uint8."""

    tensors: Mapping[str, Tensor]

    @staticmethod
    def now(device: torch.device) -> RandomState:
        tensors = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            tensors["cuda"] = torch.cuda.get_rng_state(device)
        return RandomState(tensors)

    def restore(self) -> None:
        torch.set_rng_state(self.tensors["cpu"])
        if "cuda" in self.tensors:
            torch.cuda.set_rng_state(self.tensors["cuda"])
