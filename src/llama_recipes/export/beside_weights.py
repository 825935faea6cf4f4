"""Whether what stands beside the weights is what was trained: the shape, the tokenizer, the ids
that end an answer."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.data.tokenizer_to_gguf import tried_texts
from llama_recipes.export.trained import Trained
from llama_recipes.model.config import LlamaConfig


def differences(trained: Trained, written: Trained) -> list[str]:
    """A sentence for each; none: a comparison of the weights has a meaning."""
    return [
        *_shape_problems(trained.config, written.config),
        *_tokenizer_problems(
            trained.found.tokenizer, written.found.tokenizer, trained.config.vocab_size
        ),
        *_ending_problems(trained, written),
    ]


def _shape_problems(trained: LlamaConfig, written: LlamaConfig) -> list[str]:
    # Which ids end an answer is the tokenizer's to say.
    one, other = (
        _in_float32(asdict(replace(config, bos_token_id=None, eos_token_id=None)))
        for config in (trained, written)
    )
    return [
        f"{key} is {other[key]} in the result, and {one[key]} in the trained model."
        for key in one
        if one[key] != other[key]
    ]


def _in_float32(value: Any) -> Any:
    """GGUF keeps its numbers so."""
    if isinstance(value, dict):
        return {key: _in_float32(entry) for key, entry in value.items()}
    return torch.tensor(value).item() if isinstance(value, float) else value


def _tokenizer_problems(trained: Tokenizer, written: Tokenizer, vocab_size: int) -> list[str]:
    problems = []
    texts = tried_texts(trained, vocab_size)
    if trained.encode_batch(texts) != written.encode_batch(texts):
        problems.append("The result's tokenizer gives other ids for the same texts.")
    for role in "bos_id", "eos_id", "stop_ids":
        one, other = getattr(trained, role), getattr(written, role)
        if one != other:
            problems.append(f"{role} is {other} in the result's tokenizer, and {one} in training.")
    if trained.chat_template != written.chat_template:
        problems.append("The result has another chat template.")
    return problems


def _ending_problems(trained: Trained, written: Trained) -> list[str]:
    """transformers asks generation_config.json where an answer ends, not the tokenizer."""
    saved = written.found.source.generation_config
    wanted = trained.generation_config
    if saved is None or saved.get("eos_token_id") == wanted["eos_token_id"]:
        return []
    return [
        f"eos_token_id is {saved.get('eos_token_id')} in the result's generation_config.json, and"
        f" {wanted['eos_token_id']} in the trained model's tokenizer."
    ]
