"""Rotary position embedding in the half-split layout of Hugging Face's Llama checkpoints.

Shapes: N tokens, H heads, d head dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llama_recipes.kernels import layers, library
from llama_recipes.model.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int, device: torch.device) -> Tensor:
    """Radians per position of each of the d/2 rotating pairs, [d/2] float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    frequencies = torch.pow(rope.theta, exponents).reciprocal()
    if rope.scaling is None:
        return frequencies
    if rope.scaling["rope_type"] == "linear":
        return frequencies / float(rope.scaling["factor"])
    return _llama3(
        frequencies,
        factor=rope.scaling["factor"],
        low_frequency_factor=rope.scaling["low_freq_factor"],
        high_frequency_factor=rope.scaling["high_freq_factor"],
        original_context=rope.scaling["original_max_position_embeddings"],
    )


def _llama3(
    frequencies: Tensor,
    *,
    factor: float,
    low_frequency_factor: float,
    high_frequency_factor: float,
    original_context: int,
) -> Tensor:
    """Llama 3.1's scaling (Llama Team 2024, https://arxiv.org/abs/2407.21783).

    Wavelengths that fit the original context often are kept, those longer than it are stretched
    by `factor`, and those between are interpolated.
    """
    wavelengths = 2 * math.pi / frequencies
    low_wavelength = original_context / low_frequency_factor
    high_wavelength = original_context / high_frequency_factor
    smooth = (original_context / wavelengths - low_frequency_factor) / (
        high_frequency_factor - low_frequency_factor
    )
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = torch.where(wavelengths > low_wavelength, frequencies / factor, blended)
    return torch.where(wavelengths < high_wavelength, frequencies, scaled)


def rotation_table(
    rope: RopeConfig, head_dim: int, positions: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each token's rotation, both [N, 1, d].

    Angles are computed in float32 whatever `dtype` is: bf16 cannot tell position 1,000 from 1,001.
    """
    angles = positions.float()[:, None] * inverse_frequencies(rope, head_dim, positions.device)
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate queries or keys [N, H, d] by their positions."""
    cosines, sines = table
    if library.serves(x, cosines, sines):
        return layers.rotate(x, cosines, sines)
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines
