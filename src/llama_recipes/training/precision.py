"""In which number format each weight is kept, decided while the model is still on meta."""

from __future__ import annotations

import torch
from torch import nn


def set_precision(model: nn.Module, compute_dtype: torch.dtype) -> None:
    """Trained weights in float32, frozen ones in the dtype that is computed in.

    An update of a bf16 weight smaller than 1/256 of it would be lost in rounding.
    """
    for parameter in model.parameters():
        dtype = torch.float32 if parameter.requires_grad else compute_dtype
        parameter.data = parameter.data.to(dtype)
