"""The Llama model (Touvron et al. 2023, https://arxiv.org/abs/2302.13971).

Tokens come flat, without a batch axis: documents stand one after the other and `attention` alone
decides who sees whom. So packed rows, padded rows and generation are the same model.
Parameter names are the keys of Hugging Face checkpoints.

Shapes: N tokens, S selected tokens, D hidden size, H heads, K key/value heads, d head dimension,
V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_recipes.kernels import layers, library
from llama_recipes.model.attention import AttentionFn
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.rope import rotate, rotation_table


class Linear(nn.Module):
    """x [N, in] → [N, out], computed in x's dtype whatever the weights are stored in."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Embedding(nn.Module):
    """ids [N] → [N, D] in the weights' dtype."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor, branch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The residual stream x and what a branch adds to it [N, D] → their sum, and it normalised.

        Both at once, so that a kernel reads and writes them once, in the backward pass too.
        """
        weight = self.weight.to(x.dtype)
        if library.serves(x, branch, weight):
            return layers.add_norm(x, branch, weight, self.eps)
        if branch is not None:
            x = x + branch
        # The mean of squares overflows or loses its small terms in half precision.
        wide = x.float() if x.dtype.itemsize < 4 else x
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return x, weight * normed.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(config.hidden_size, query_size, bias=bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=bias)
        self.o_proj = Linear(query_size, config.hidden_size, bias=bias)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        attention: AttentionFn,
        layer: int,
        rows: Tensor | None = None,
    ) -> Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (-1, self.head_dim))
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = attention(rotate(q, rotation), rotate(k, rotation), v, layer).flatten(1)
        return self.o_proj(y if rows is None else y[rows])  # type: ignore[no-any-return]


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        sizes = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(*sizes, bias=config.mlp_bias)
        self.up_proj = Linear(*sizes, bias=config.mlp_bias)
        self.down_proj = Linear(*reversed(sizes), bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        fast = library.serves(gate, up)
        activated = layers.swiglu(gate, up) if fast else F.silu(gate) * up
        return self.down_proj(activated)  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        branch: Tensor | None,
        rotation: tuple[Tensor, Tensor],
        attention: AttentionFn,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream and what is still to be added to it, before and after this layer.

        rows: the tokens that are wanted of it, where not all are; all of them are attended to.
        """
        x, normed = self.input_layernorm(x, branch)
        attended = self.self_attn(normed, rotation, attention, self.layer, rows)
        x, normed = self.post_attention_layernorm(x if rows is None else x[rows], attended)
        return x, self.mlp(normed)


class Decoder(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """Build it under `torch.device("meta")` and fill it with `model.weights.load_weights`.

    compute_dtype: what activations are computed in; None means the embedding's own dtype.
    recomputes: whether its layers compute their activations anew (`parallel.recompute`).
    """

    recomputes: bool = False

    def __init__(self, config: LlamaConfig, *, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention: AttentionFn,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Token ids and positions, both [N] → hidden states after the last norm [N, D].

        rows: indices [S] of the tokens whose states are wanted → [S, D]; the last layer's
        feed-forward part is computed for these alone.
        """
        return self.upper(self.lower(tokens, positions, attention, 0), positions, attention, rows)

    def lower(self, tokens: Tensor, positions: Tensor, attention: AttentionFn, stop: int) -> Tensor:
        """Embedding and the `stop` lowest layers → the residual stream above them [N, D]."""
        x: Tensor = self.model.embed_tokens(tokens).to(self.dtype)
        rotation = rotation_table(self.config.rope, self.config.head_dim, positions, x.dtype)
        branch = None
        for layer in self.layers[:stop]:
            x, branch = layer(x, branch, rotation, attention)
        return x if branch is None else x + branch

    def upper(
        self,
        x: Tensor,
        positions: Tensor,
        attention: AttentionFn,
        rows: Tensor | None = None,
        *,
        start: int = 0,
    ) -> Tensor:
        """The decoder layers from `start` on, of which there is at least one, and the last norm."""
        rotation = rotation_table(self.config.rope, self.config.head_dim, positions, x.dtype)
        branch = None
        *lower, last = self.layers[start:]
        for layer in lower:
            x, branch = layer(x, branch, rotation, attention)
        x, branch = last(x, branch, rotation, attention, rows)
        _, normed = self.model.norm(x, branch)
        return normed  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in."""
        return self.compute_dtype or self.model.embed_tokens.weight.dtype

    @property
    def layers(self) -> list[DecoderLayer]:
        return cast(list[DecoderLayer], list(self.model.layers))

    @property
    def head_weight(self) -> nn.Parameter:
        """The output embedding [V, D]: the input embedding itself where the two are tied."""
        owner = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return owner.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [S, D] → unnormalised log-probabilities [S, V]."""
        return F.linear(hidden, self.head_weight.to(hidden.dtype))
