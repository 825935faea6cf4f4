"""The floating-point operations that a step has to make, and nothing that it might make besides.

A product of [N, in] and [in, out] is 2·N·in·out. Counted are the products of the model alone:

- forward, every weight matrix of the decoder layers sees every token;
- backward to the inputs, the same once more; backward to the weights, once more where they train;
- the head sees supervised tokens only, for no other has a loss;
- attention sees, for each token, itself and what stands before it in its document: T(T+1)/2 pairs
  of a document of T tokens; two products forward and four backward.

With LoRA nothing is trained below the first adapted layer's own matrices: what enters the first
layer needs no gradient, so its q, k and v get no backward and its scores none to the keys. Norms,
rotation, softmax, dropout, the optimizer, padding and recomputation count nothing; so does leaving
out, in the last layer, what only unsupervised tokens would need, although an implementation may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @staticmethod
    def from_hf(config: Mapping[str, Any]) -> Shape:
        return Shape(
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            vocabulary=config["vocab_size"],
        )

    @property
    def query_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def qkv_weights(self) -> int:
        """Of one layer."""
        return self.hidden * (self.query_size + 2 * self.kv_size)

    @property
    def layer_weights(self) -> int:
        mlp = 3 * self.hidden * self.intermediate
        return self.qkv_weights + self.query_size * self.hidden + mlp


@dataclass(frozen=True)
class Work:
    """What steps are made of. pairs: T(T+1)/2, summed over documents of T tokens."""

    tokens: int
    supervised: int
    pairs: int

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens, self.supervised + other.supervised, self.pairs + other.pairs
        )


@dataclass(frozen=True)
class Flops:
    linear: int
    head: int
    attention: int

    @property
    def total(self) -> int:
        return self.linear + self.head + self.attention


def full_flops(shape: Shape, work: Work) -> Flops:
    """Forward and backward with all weights trained, the embedding too."""
    return Flops(
        linear=6 * shape.layers * shape.layer_weights * work.tokens,
        head=6 * shape.vocabulary * shape.hidden * work.supervised,
        attention=6 * shape.layers * _attention_product(shape, work),
    )


def lora_flops(shape: Shape, work: Work, *, rank: int) -> Flops:
    """Forward and backward with LoRA of `rank` on q_proj and v_proj of every layer."""
    base = 4 * shape.layers * shape.layer_weights - 2 * shape.qkv_weights
    inputs = 2 * shape.hidden
    outputs = shape.query_size + shape.kv_size
    # A and B: forward, to the weights, to the inputs, the last not for A in the first layer.
    adapter = 6 * shape.layers * rank * (inputs + outputs) - 2 * rank * inputs
    return Flops(
        linear=(base + adapter) * work.tokens,
        head=4 * shape.vocabulary * shape.hidden * work.supervised,
        attention=(6 * shape.layers - 1) * _attention_product(shape, work),
    )


def _attention_product(shape: Shape, work: Work) -> int:
    """One of attention's products in one layer, such as the scores."""
    return 2 * shape.query_size * work.pairs
