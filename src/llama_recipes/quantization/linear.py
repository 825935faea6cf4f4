"""Frozen linear layers in 8 and 4 bits, with the values that bitsandbytes gives them.

8 bits: whole numbers from -127 to 127 and one scale an output row (LLM.int8, Dettmers et al. 2022,
https://arxiv.org/abs/2208.07339); activations are not rounded. 4 bits: one of 16 values a weight
and one scale for 64 of them (QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), the
scales in 8 bits themselves with double quantisation.

Everything is kept in plain tensors whose first dimension is the output row, so that whatever shards
parameters by rows shards these too.

Shapes: N tokens, O output rows, I inputs, J = I / 64 blocks of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llama_recipes.model.llama import Linear
from llama_recipes.model.weights import OwnRows, copy_rows

QuantType = Literal["nf4", "fp4"]

BLOCK = 64
"""Weights that share a scale in 4 bits."""

_SCALES_BLOCK = 256
"""Scales that share a scale with double quantisation: neighbours in the order of the rows."""


class Int8Linear(nn.Module):
    """x [N, I] → [N, O] with weights in 8 bits; built on meta, filled by `encode`."""

    parts = ("weight", "scale")
    needs_all_rows = False

    def __init__(self, replaced: Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = replaced.in_features, replaced.out_features
        self.shapes = {"weight": (self.out_features, self.in_features)}
        self.weight = _frozen(self.out_features, self.in_features, dtype=torch.int8)
        self.scale = _frozen(self.out_features, dtype=torch.float32)
        self.bias = replaced.bias

    def forward(self, x: Tensor) -> Tensor:
        # Whole numbers are exact in every dtype: the scale is applied to what they add up to.
        y = frozen_linear(x, _as_dtype, self.weight) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def encode(self, rows: Iterable[tuple[int, Tensor]], own: OwnRows) -> None:
        """Take rows [·, I] of a checkpoint's weight in order, each with the first one's number."""
        (weight, first), (scale, _) = own(self.weight), own(self.scale)
        for start, some in rows:
            numbers, scales = _to_int8(some.to(weight.device))
            copy_rows(weight, first, numbers, start)
            copy_rows(scale, first, scales, start)

    def dequantized(self) -> Linear:
        """A plain layer with the weights that this one computes with, in fp32."""
        return _plain(self, self.weight.float() * self.scale[:, None])


class FourBitLinear(nn.Module):
    """x [N, I] → [N, O] with weights in 4 bits; built on meta, filled by `encode`.

    weight [O, I/2] holds two weights a byte, the first in its upper half. scale [O, J] holds the
    scales; with double quantisation as bytes, which `scale_scale` [O, ·] explains: it begins with
    the mean that was taken off all scales, and with how many blocks of the row belong to the first
    256 that share a scale; then follow the scales of the scales.
    """

    def __init__(self, replaced: Linear, *, quant_type: QuantType, double_quant: bool) -> None:
        super().__init__()
        rows, inputs = replaced.out_features, replaced.in_features
        self.in_features, self.out_features = inputs, rows
        self.shapes = {"weight": (rows, inputs)}
        self.quant_type, self.double_quant = quant_type, double_quant
        blocks = inputs // BLOCK
        self.weight = _frozen(rows, inputs // 2, dtype=torch.uint8)
        self.scale = _frozen(rows, blocks, dtype=torch.uint8 if double_quant else torch.float32)
        self.parts: tuple[str, ...] = ("weight", "scale")
        if double_quant:
            self.scale_scale = _frozen(rows, 2 + _touched(blocks), dtype=torch.float32)
            self.parts += ("scale_scale",)
        self.bias = replaced.bias

    def forward(self, x: Tensor) -> Tensor:
        y = frozen_linear(x, self._decode, *(getattr(self, part) for part in self.parts))
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def encode(self, rows: Iterable[tuple[int, Tensor]], own: OwnRows) -> None:
        """Take rows [·, I] of a checkpoint's weight in order, each with the first one's number."""
        (weight, first), (scale, _) = own(self.weight), own(self.scale)
        target, first_scale = scale, first
        if self.double_quant:
            target, first_scale = weight.new_empty(self.scale.shape, dtype=torch.float32), 0
        for start, some in rows:
            packed, scales = self._quantize(some.to(weight.device))
            copy_rows(weight, first, packed, start)
            copy_rows(target, first_scale, scales, start)
        if self.double_quant:
            numbers, explained = _quantize_scales(target)
            copy_rows(scale, first, numbers, 0)
            copy_rows(*own(self.scale_scale), explained, 0)

    @property
    def needs_all_rows(self) -> bool:
        """The scales of all rows decide how each is kept in 8 bits."""
        return self.double_quant

    def dequantized(self) -> Linear:
        """A plain layer with the weights that this one computes with, in fp32."""
        parts = (getattr(self, part) for part in self.parts)
        return _plain(self, self._decode(torch.float32, *parts))

    def _quantize(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        packed, scales = torch.ops.bitsandbytes.quantize_4bit(
            rows.contiguous(), BLOCK, self.quant_type, torch.uint8
        )
        return packed.view(len(rows), -1), scales.view(len(rows), -1)

    def _decode(
        self, dtype: torch.dtype, weight: Tensor, scale: Tensor, *explained: Tensor
    ) -> Tensor:
        if explained:
            scale = _dequantize_scales(scale, *explained)
        shape = len(weight), self.in_features
        decoded: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
            weight, scale.flatten(), BLOCK, self.quant_type, shape, dtype
        )
        return decoded


def frozen_linear(x: Tensor, decode: Callable[..., Tensor], *encoded: Tensor) -> Tensor:
    """x [N, I] times the transpose of `decode(dtype, *encoded)` [O, I], decoded again in the
    backward pass: between the two only the encoded weights are held."""
    y: Tensor = _FrozenLinear.apply(x, decode, *encoded)  # type: ignore[no-untyped-call]
    return y


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, decode: Callable[..., Tensor], *encoded: Tensor) -> Tensor:
        ctx.decode = decode
        ctx.save_for_backward(*encoded)
        return F.linear(x, decode(x.dtype, *encoded))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        encoded = ctx.saved_tensors
        return grad @ ctx.decode(grad.dtype, *encoded), None, *[None for _ in encoded]


def _as_dtype(dtype: torch.dtype, weight: Tensor) -> Tensor:
    return weight.to(dtype)


def _to_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers and scales; rounded to fp16 first, as bitsandbytes does."""
    numbers, highest, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(rows.half().contiguous())
    return numbers, highest / 127


def _touched(blocks: int) -> int:
    """The most groups of 256 scales that the `blocks` scales of one row can be part of."""
    return (blocks - 2) // _SCALES_BLOCK + 2 if blocks > 1 else 1


def _quantize_scales(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Scales [O, J] in fp32 → bytes [O, J] and what explains them, `FourBitLinear.scale_scale`."""
    rows, blocks = scales.shape
    mean = scales.mean()
    numbers, highest = torch.ops.bitsandbytes.quantize_blockwise(
        (scales - mean).flatten(), _codes(scales.device), _SCALES_BLOCK
    )
    starts = torch.arange(rows, device=scales.device) * blocks
    first = starts // _SCALES_BLOCK
    groups = first[:, None] + torch.arange(_touched(blocks), device=scales.device)
    explained = torch.cat(
        [
            mean.expand(rows, 1),
            (_SCALES_BLOCK - starts % _SCALES_BLOCK)[:, None].float(),
            highest[groups.clamp(max=len(highest) - 1)],
        ],
        dim=1,
    )
    return numbers.view(rows, blocks), explained


def _dequantize_scales(numbers: Tensor, explained: Tensor) -> Tensor:
    mean, left, highest = explained[:, :1], explained[:, 1:2], explained[:, 2:]
    places = torch.arange(numbers.shape[1], device=numbers.device)
    groups = torch.div(places - left, _SCALES_BLOCK, rounding_mode="floor").long() + 1
    return _codes(numbers.device)[numbers.long()] * highest.gather(1, groups) + mean


_CODES: dict[torch.device, Tensor] = {}


def _codes(device: torch.device) -> Tensor:
    """The 256 values of bitsandbytes' dynamic 8-bit numbers."""
    if device not in _CODES:
        from bitsandbytes.functional import create_dynamic_map

        _CODES[device] = create_dynamic_map().to(device)  # type: ignore[no-untyped-call]
    return _CODES[device]


def _frozen(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _plain(layer: Int8Linear | FourBitLinear, weight: Tensor) -> Linear:
    plain = Linear(layer.in_features, layer.out_features, bias=False)
    plain.weight = _parameter(weight)
    plain.bias = layer.bias
    return plain
