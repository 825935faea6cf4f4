"""A trained model as one GGUF file, for llama.cpp and what is built on it.

The keys are those that llama.cpp's own converter writes for a Llama.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_VERSION
from gguf.quants import quantize

from llama_recipes.data.tokenizer_to_gguf import gguf_tokenizer_metadata
from llama_recipes.export.encodings import Q8_BLOCK, Encoding
from llama_recipes.export.trained import Trained
from llama_recipes.model.config import LlamaConfig, RopeConfig
from llama_recipes.model.gguf_layout import (
    LLAMA3_SCALING,
    ROPE_FACTORS,
    SETTINGS,
    gguf_name,
    neighbours,
    rotates,
)
from llama_recipes.model.rope import inverse_frequencies

_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}


def write_gguf(trained: Trained, path: Path, encoding: Encoding, *, name: str) -> None:
    """Matrices in `encoding`, vectors in F32. name: what the file calls the model.

    One tensor at a time is in memory. Raises CheckpointError for a tokenizer or a value that the
    file has no place for.
    """
    writer = GGUFWriter(path, "llama")
    try:
        _write(writer, trained, encoding, name)
    finally:
        writer.close()


def _write(writer: GGUFWriter, trained: Trained, encoding: Encoding, name: str) -> None:
    config = trained.config
    metadata: dict[str, Any] = {
        "general.type": "model",
        "general.name": name,
        "general.file_type": int(_FILE_TYPES[encoding]),
        "general.quantization_version": GGML_QUANT_VERSION,
        **_settings(config),
        **gguf_tokenizer_metadata(trained.found.tokenizer, config.vocab_size),
    }
    for key, value in metadata.items():
        _add(writer, key, value)
    factors = _rope_factors(config)
    if factors is not None:
        writer.add_tensor_info(
            ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes, GGMLQuantizationType.F32
        )
    for key, shape in trained.shapes.items():
        kind = tensor_type(shape, encoding)
        elements, size = GGML_QUANT_SIZES[kind]
        # The numpy type is only asked for where `kind` is not given.
        size *= math.prod(shape) // elements
        writer.add_tensor_info(gguf_name(key), shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for key, shape in trained.shapes.items():
        writer.write_tensor_data(_encoded(trained, key, tensor_type(shape, encoding)))


def tensor_type(shape: tuple[int, ...], encoding: Encoding) -> GGMLQuantizationType:
    """Vectors are kept whole; a row that blocks do not fit into is kept in 16 bits."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if encoding == "Q8_0" and shape[-1] % Q8_BLOCK:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType[encoding]


def _encoded(trained: Trained, key: str, kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    # Through the 16-bit type first, which says where a value does not fit it.
    half = torch.float16 if kind == GGMLQuantizationType.F16 else torch.float32
    rows = trained.rounded(key, half).float()
    if rotates(key):
        rows = neighbours(rows, trained.config.head_dim)
    return np.ascontiguousarray(quantize(rows.numpy(), kind))


def _settings(config: LlamaConfig) -> dict[str, Any]:
    values = {
        **{gguf: getattr(config, name) for name, gguf in SETTINGS.items()},
        "vocab_size": config.vocab_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope.theta,
    }
    scaling = config.rope.scaling
    if scaling is not None and scaling["rope_type"] == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    if scaling is not None and scaling["rope_type"] == "llama3":
        # Beside the factors that llama.cpp takes: what they were made of, for who reads it back.
        values |= {key: type(usual)(scaling[name]) for name, (key, usual) in LLAMA3_SCALING.items()}
    return {f"llama.{key}": value for key, value in values.items()}


def _rope_factors(config: LlamaConfig) -> np.ndarray[Any, Any] | None:
    """What Llama 3's scaling divides the angles by; llama.cpp knows it in no other form."""
    scaling = config.rope.scaling
    if scaling is None or scaling["rope_type"] != "llama3":
        return None
    cpu = torch.device("cpu")
    plain = inverse_frequencies(RopeConfig(config.rope.theta), config.head_dim, cpu)
    scaled = inverse_frequencies(config.rope, config.head_dim, cpu)
    factors: np.ndarray[Any, Any] = (plain / scaled).float().numpy()
    return factors


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
