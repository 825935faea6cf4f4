"""In which number format each weight is kept, decided while the model is still on meta."""

from __future__ import annotations

import torch
from torch import nn


def set_precision(
    model: nn.Module, compute_dtype: torch.dtype, trained_dtype: torch.dtype = torch.float32
) -> None:
    """Trained weights in `trained_dtype`, frozen ones in the dtype that is computed in.

    An update of a bf16 weight smaller than 1/256 of it is lost in rounding, so that float32 is what
    trained weights are kept in unless memory is all that counts.
    """
    for parameter in model.parameters():
        dtype = trained_dtype if parameter.requires_grad else compute_dtype
        parameter.data = parameter.data.to(dtype)
