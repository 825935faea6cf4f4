"""From logits to the next token.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature 0 takes the likeliest token. Otherwise one is drawn from the `top_k` likeliest
    (0: all), and of these from the fewest that together have the probability `top_p`."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


def next_tokens(logits: Tensor, how: Sampling, generator: torch.Generator) -> list[int]:
    """One token for each row of logits [B, V]."""
    if how.temperature == 0:
        chosen = logits.argmax(dim=-1)
    else:
        drawn = torch.multinomial(probabilities(logits, how), 1, generator=generator)
        chosen = drawn.squeeze(-1)
    tokens: list[int] = chosen.tolist()
    return tokens


def probabilities(logits: Tensor, how: Sampling) -> Tensor:
    """What is drawn from, [B, V] float32, for a temperature above 0.

    top_p is nucleus sampling (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751).
    """
    logits = logits.float() / how.temperature
    if 0 < how.top_k < logits.shape[-1]:
        weakest = logits.topk(how.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < weakest, -torch.inf)
    probs = logits.softmax(dim=-1)
    if how.top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        # What stands before a token: the first is always kept, and the one that reaches top_p.
        beyond = ordered.cumsum(dim=-1) - ordered >= how.top_p
        probs = probs.masked_fill(beyond.gather(-1, order.argsort(dim=-1)), 0.0)
    return probs
