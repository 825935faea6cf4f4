"""Tiny GGUF files, written with the gguf library as llama.cpp's converter writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import QuantError, dequantize, quantize

from llama_recipes.model.llama import Llama

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(key: str) -> str:
    stem, _, suffix = key.rpartition(".")
    prefix = ""
    if stem.startswith("model.layers."):
        _, _, layer, stem = stem.split(".", 3)
        prefix = f"blk.{layer}."
    return f"{prefix}{NAMES[stem]}.{suffix}"


def rotating_rows(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows that rotate together: half a head apart in Hugging Face's order, neighbours here."""
    size = len(rows) // heads
    order = [
        head * size + half * size // 2 + pair
        for head in range(heads)
        for pair in range(size // 2)
        for half in (0, 1)
    ]
    return rows[order]


def encode(values: np.ndarray, kind: str) -> np.ndarray:
    """Rows in one of ggml's types; random blocks of it where the library only knows how to read."""
    dtype = GGMLQuantizationType[kind]
    try:
        return quantize(values, dtype)
    except (NotImplementedError, QuantError):
        elements, size = GGML_QUANT_SIZES[dtype]
        blocks = np.random.default_rng(0).integers(
            0, 256, (values.size // elements, size), dtype=np.uint8
        )
        halves = {"Q4_K": (0, 2), "Q6_K": (208,)}[kind]
        for offset in halves:  # scales in half precision: keep them finite
            scale = np.random.default_rng(1).normal(0, 0.01, len(blocks)).astype(np.float16)
            blocks[:, offset : offset + 2] = scale.view(np.uint8).reshape(-1, 2)
        return blocks.reshape(len(values), -1)


def write_gguf(
    path: Path,
    model: Llama,
    *,
    kind: str = "F32",
    metadata: dict | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Write `model` with its matrices in `kind`; returns the values the file holds, by HF key.

    metadata: further keys, or None to leave one out. tensors: further float32 tensors.
    """
    config = model.config
    writer = GGUFWriter(path, "llama")
    settings = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope.theta,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    } | (metadata or {})
    for key, value in settings.items():
        _add(writer, key, value)
    written = {}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, parameter in model.named_parameters():
        values = parameter.detach().float().numpy()
        used = kind if values.ndim > 1 else "F32"
        dtype = GGMLQuantizationType[used]
        rows = encode(values, used)
        written[key] = dequantize(rows, dtype)
        projection = key.split(".")[-2]
        if projection in heads:
            rows = rotating_rows(rows, heads[projection])
        writer.add_tensor(gguf_name(key), np.ascontiguousarray(rows), raw_dtype=dtype)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _add(writer: GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)
