"""How a Llama is laid out in GGUF: the names of its tensors and settings, the order of its rows.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import re

from torch import Tensor

ROPE_FACTORS = "rope_freqs.weight"
"""A tensor [d/2] by which the angle of each rotating pair is divided."""

LLAMA3_SCALING = {
    "low_freq_factor": ("rope.scaling.low_freq_factor", 1.0),
    "high_freq_factor": ("rope.scaling.high_freq_factor", 4.0),
    "original_max_position_embeddings": ("rope.scaling.original_context_length", 8192),
}
"""Parameters of Llama 3's scaling → their settings in our files, and what they are elsewhere."""

SETTINGS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
}
"""Fields of LlamaConfig that every file has, and their names behind `llama.`."""

_MODEL_KEYS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_KEYS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAMES = {key: name for name, key in (_MODEL_KEYS | _LAYER_KEYS).items()}


def hf_key(name: str) -> str:
    """GGUF's name of a tensor → Hugging Face's key; one without a key keeps its name."""
    stem, _, suffix = name.rpartition(".")
    if stem in _MODEL_KEYS:
        return f"{_MODEL_KEYS[stem]}.{suffix}"
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if layer and layer[2] in _LAYER_KEYS:
        return f"model.layers.{layer[1]}.{_LAYER_KEYS[layer[2]]}.{suffix}"
    return name


def gguf_name(key: str) -> str:
    """Hugging Face's key of a Llama's tensor → its name in GGUF."""
    stem, _, suffix = key.rpartition(".")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    if layer:
        return f"blk.{layer[1]}.{_NAMES[layer[2]]}.{suffix}"
    return f"{_NAMES[stem]}.{suffix}"


def rotates(key: str) -> bool:
    """Whether a tensor's rows belong to heads that are rotated."""
    return re.search(r"\.self_attn\.[qk]_proj\.", key) is not None


def halves(rows: Tensor, head_dim: int) -> Tensor:
    """GGUF keeps two rows that rotate together side by side → half a head apart, as in HF."""
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def neighbours(rows: Tensor, head_dim: int) -> Tensor:
    """The way back from `halves`."""
    pairs = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)
