"""Figures of recipes/finetuning/LLM_finetuning_overview.md: `python -m support.arithmetic`.

Models are built on meta as a run builds them, and what they would hold is counted.
"""

from __future__ import annotations

from functools import cache

import torch

from llama_recipes.configs.peft import AdapterConfig, LlamaAdapterConfig, LoraConfig, PrefixConfig
from llama_recipes.configs.quantization import QuantizationConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.training import TrainConfig
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Llama
from llama_recipes.running.parts import shape_model
from support.pages import ROOT, with_part

PAGE = ROOT / "recipes" / "finetuning" / "LLM_finetuning_overview.md"
GIB = 2**30
GRADIENT_AND_MOMENTS = 4 + 2 * 4
"""Bytes of a weight that is trained in fp32, beside itself."""


def _shape(vocabulary, hidden, inner, layers, heads, kv_heads, head_dim, tied) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=tied,
    )


SHAPES = {
    "SmolLM2-135M": _shape(49152, 576, 1536, 30, 9, 3, 64, True),
    "Llama 3.2 1B": _shape(128256, 2048, 8192, 16, 32, 8, 64, True),
    "Llama 3.2 3B": _shape(128256, 3072, 8192, 28, 24, 8, 128, True),
    "Llama 3.1 8B": _shape(128256, 4096, 14336, 32, 32, 8, 128, False),
    "Llama 3.3 70B": _shape(128256, 8192, 28672, 80, 64, 8, 128, False),
}
"""As in their config.json."""

LORA = LoraConfig()
LORA_ALL = LoraConfig(r=16, target_modules="all-linear")


def adapters(shape: LlamaConfig) -> dict[str, AdapterConfig | None]:
    """Column → adapter, with its defaults as a run resolves them."""
    layers = min(LlamaAdapterConfig().adapter_layers, shape.num_hidden_layers)
    return {
        "all weights": None,
        "LoRA": LORA,
        "LoRA, rank 16, all-linear": LORA_ALL,
        "LLaMA-Adapter": LlamaAdapterConfig(adapter_layers=layers),
        "prefix": PrefixConfig(),
    }


@cache
def _model(name: str, column: str, quantization: bool | str = False) -> Llama:
    adapter = adapters(SHAPES[name])[column]
    train = TrainConfig(use_peft=adapter is not None, quantization=quantization)
    config = RunConfig(train_config=train, quantization_config=QuantizationConfig())
    return shape_model(SHAPES[name], config, adapter, torch.bfloat16)[0]


def trained(name: str, column: str) -> int:
    """Weights that get a gradient."""
    return sum(p.numel() for p in _model(name, column).parameters() if p.requires_grad)


def state_bytes(name: str, column: str, quantization: bool | str = False) -> int:
    """Weights as they are kept, and gradients and moments of those that are trained."""
    parameters = list(_model(name, column, quantization).parameters())
    kept = sum(p.numel() * p.itemsize for p in parameters)
    return kept + GRADIENT_AND_MOMENTS * sum(p.numel() for p in parameters if p.requires_grad)


def weights_table() -> str:
    columns = list(adapters(next(iter(SHAPES.values()))))
    rows = [[name, *(f"{trained(name, column):,}" for column in columns)] for name in SHAPES]
    return _table(["", *columns], rows)


MEMORY_COLUMNS = {
    "all weights": ("all weights", False),
    "LoRA": ("LoRA", False),
    "LoRA on 8 bits": ("LoRA", "8bit"),
    "LoRA on 4 bits (QLoRA)": ("LoRA", "4bit"),
}


def memory_table() -> str:
    rows = [
        [name, *(f"{state_bytes(name, *column) / GIB:.2f}" for column in MEMORY_COLUMNS.values())]
        for name in SHAPES
    ]
    return _table(["", *MEMORY_COLUMNS], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["|" + "---|" + "--:|" * (len(head) - 1)]
    return "\n".join(
        [f"| {' | '.join(head)} |", *lines, *(f"| {' | '.join(row)} |" for row in rows)]
    )


def filled(page: str) -> str:
    """The page with its two tables made anew."""
    return with_part(with_part(page, "weights", weights_table()), "memory", memory_table())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
