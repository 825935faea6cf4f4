"""A Llama in a GGUF file, seen as a Hugging Face checkpoint: its configuration, keys and rows.

The tokenizer inside the same file is `data.tokenizer`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from llama_recipes.errors import CheckpointError
from llama_recipes.gguf_metadata import GgufHeader, GgufTensor
from llama_recipes.model.config import LlamaConfig, RopeConfig
from llama_recipes.model.gguf_layout import (
    LLAMA3_SCALING,
    ROPE_FACTORS,
    SETTINGS,
    halves,
    hf_key,
    rotates,
)
from llama_recipes.model.rope import inverse_frequencies

TENSOR_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")

_WIDE_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}

_UNSUPPORTED_UNLESS_ZERO = (
    "expert_count",
    "attention.sliding_window",
    "attention.scale",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
)


class GgufTensors:
    """The weights under their Hugging Face keys; a tensor without one keeps its GGUF name."""

    def __init__(self, header: GgufHeader, *, head_dim: int) -> None:
        self._path = header.path
        self._head_dim = head_dim
        self._tensors = {
            hf_key(name): tensor for name, tensor in header.tensors.items() if name != ROPE_FACTORS
        }
        self.shapes = {key: tensor.shape for key, tensor in self._tensors.items()}

    def dtype(self, key: str) -> torch.dtype:
        return _WIDE_TYPES.get(self._tensors[key].type, torch.float32)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` of a tensor, dequantised, float32."""
        tensor = self._tensors[key]
        stop = tensor.shape[0] if stop is None else min(stop, tensor.shape[0])
        if not rotates(key):
            return _read_rows(self._path, tensor, start, stop)
        size = self._head_dim
        first, last = start // size * size, -(-stop // size) * size
        rows = _read_rows(self._path, tensor, first, last)
        return halves(rows, size)[start - first : stop - first]


def _read_rows(path: Path, tensor: GgufTensor, start: int, stop: int) -> Tensor:
    """Read from the file, not through a map: mapped pages would count as this process's memory."""
    if len(tensor.shape) == 1:
        return _read_rows(path, replace(tensor, shape=(1, *tensor.shape)), 0, 1)[0, start:stop]
    row_bytes = tensor.size // tensor.shape[0]
    with path.open("rb") as file:
        file.seek(tensor.offset + start * row_bytes)
        raw = np.fromfile(file, dtype=np.uint8, count=(stop - start) * row_bytes)
    rows = dequantize(raw.reshape(stop - start, row_bytes), GGMLQuantizationType[tensor.type])
    return torch.from_numpy(rows)


def llama_config(header: GgufHeader) -> LlamaConfig:
    """The model's configuration. Raises CheckpointError with everything that is unsupported."""
    architecture = header.metadata.get("general.architecture")
    if architecture != "llama":
        raise CheckpointError(
            f"the architecture is {architecture!r}; those known in GGUF files are: llama."
            " Give a model of one of these."
        )
    settings = {
        key.removeprefix("llama."): _one_for_all_layers(value)
        for key, value in header.metadata.items()
        if key.startswith("llama.")
    }
    problems = [*_setting_problems(settings), *_tensor_problems(header)]
    if problems:
        raise CheckpointError(*problems)
    raw = {name: settings[key] for name, key in SETTINGS.items()}
    head_dim = _head_dim(settings)
    return LlamaConfig.from_hf(
        {
            **raw,
            "model_type": "llama",
            "vocab_size": header.tensors["token_embd.weight"].shape[0],
            "num_key_value_heads": settings.get("attention.head_count_kv"),
            "head_dim": head_dim,
            # float32 in the file: 1e-5 would come back as 9.99999974e-06.
            "rms_norm_eps": float(str(np.float32(raw["rms_norm_eps"]))),
            "tie_word_embeddings": "output.weight" not in header.tensors,
            "attention_bias": "blk.0.attn_q.bias" in header.tensors,
            "mlp_bias": "blk.0.ffn_gate.bias" in header.tensors,
            "rope_theta": _theta(settings),
            "rope_scaling": _rope_scaling(header, settings, head_dim),
            "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": header.metadata.get("tokenizer.ggml.eos_token_id"),
        }
    )


def _one_for_all_layers(value: Any) -> Any:
    """Some writers repeat a setting for every layer."""
    return value[0] if isinstance(value, list) and len(set(value)) == 1 else value


def _setting_problems(settings: Mapping[str, Any]) -> list[str]:
    problems = []
    bad = [key for key in SETTINGS.values() if not _is_positive_number(settings.get(key))]
    if bad:
        problems.append(
            "the metadata holds no positive number for "
            + ", ".join(f"llama.{key}" for key in bad)
            + ". Convert the model again with a current converter."
        )
    given = [f"{key} = {settings[key]}" for key in _UNSUPPORTED_UNLESS_ZERO if settings.get(key)]
    if given:
        problems.append(f"llama.{', llama.'.join(given)} is not supported. Give a plain Llama.")
    scaling = settings.get("rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        problems.append(f"rope scaling {scaling!r} is not supported; known: none, linear, llama3.")
    if not bad:
        head_dim = _head_dim(settings)
        odd = {
            key: settings[key]
            for key in ("rope.dimension_count", "attention.value_length")
            if settings.get(key, head_dim) != head_dim
        }
        if odd:
            problems.append(
                f"the heads are {head_dim} wide, but "
                + ", ".join(f"llama.{key} = {value}" for key, value in odd.items())
                + "; only heads that rotate whole are supported."
            )
    return problems


def _is_positive_number(value: object) -> bool:
    return isinstance(value, int | float) and value > 0


def _tensor_problems(header: GgufHeader) -> list[str]:
    problems = []
    unknown = sorted({tensor.type for tensor in header.tensors.values()} - set(TENSOR_TYPES))
    if unknown:
        problems.append(
            f"tensors are of the type {', '.join(unknown)}; known types: {', '.join(TENSOR_TYPES)}."
            " Give the model in one of these."
        )
    if "token_embd.weight" not in header.tensors:
        problems.append("there is no token_embd.weight. Give a file with a whole model.")
    parts = header.metadata.get("split.count", 0)
    if parts > 1:
        problems.append(
            f"this is one of {parts} parts. Join them first: llama-gguf-split --merge FIRST OUT."
        )
    return problems


def _head_dim(settings: Mapping[str, Any]) -> int:
    default = settings["embedding_length"] // settings["attention.head_count"]
    return int(settings.get("attention.key_length", default))


def _theta(settings: Mapping[str, Any]) -> float:
    return float(settings.get("rope.freq_base", 10_000.0))


def _rope_scaling(
    header: GgufHeader, settings: Mapping[str, Any], head_dim: int
) -> dict[str, Any] | None:
    """GGUF keeps Llama 3's scaling as the factor of each rotating pair: of the parameters that
    Llama 3 has, where the file does not say others."""
    if settings.get("rope.scaling.type") == "linear":
        return {"rope_type": "linear", "factor": settings["rope.scaling.factor"]}
    if ROPE_FACTORS not in header.tensors:
        return None
    tensor = header.tensors[ROPE_FACTORS]
    factors = _read_rows(header.path, tensor, 0, tensor.shape[0])
    parameters = {
        name: type(usual)(settings.get(key, usual)) for name, (key, usual) in LLAMA3_SCALING.items()
    }
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **parameters}
    cpu = torch.device("cpu")
    plain = inverse_frequencies(RopeConfig(theta=_theta(settings)), head_dim, cpu)
    scaled = inverse_frequencies(RopeConfig(_theta(settings), scaling), head_dim, cpu)
    if factors.shape != plain.shape or not torch.allclose(factors, plain / scaled, rtol=1e-4):
        raise CheckpointError(
            f"the rope factors in {ROPE_FACTORS} are not those of Llama 3's scaling with"
            f" {', '.join(f'{name} {value:g}' for name, value in parameters.items())}."
            " Give the model as a Hugging Face folder."
        )
    return scaling
