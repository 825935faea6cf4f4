"""The figures of the overview: those of the code, and of formulas and model cards beside it."""

from __future__ import annotations

import pytest

from support.arithmetic import (
    MEMORY_COLUMNS,
    PAGE,
    SHAPES,
    filled,
    state_bytes,
    trained,
)

PUBLISHED = {
    "SmolLM2-135M": 134_515_008,
    "Llama 3.2 1B": 1_235_814_400,
    "Llama 3.2 3B": 3_212_749_824,
    "Llama 3.1 8B": 8_030_261_248,
    "Llama 3.3 70B": 70_553_706_496,
}
"""Parameters as the hub counts them in the models' safetensors."""


def test_the_page_is_what_the_code_makes_of_it():
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text, "made anew with: make docs"


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_has_the_published_number_of_weights(name):
    assert trained(name, "all weights") == PUBLISHED[name]


def linear_layers(name: str) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the linear layers of one decoder layer."""
    shape = SHAPES[name]
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries = shape.num_attention_heads * shape.head_dim
    values = shape.num_key_value_heads * shape.head_dim
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, values),
        "v_proj": (hidden, values),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


@pytest.mark.parametrize("name", SHAPES)
def test_adapters_have_as_many_weights_as_the_text_says(name):
    shape, layers = SHAPES[name], linear_layers(name)
    depth = shape.num_hidden_layers
    assert trained(name, "LoRA") == depth * sum(
        8 * sum(layers[target]) for target in ("q_proj", "v_proj")
    )
    assert trained(name, "LoRA, rank 16, all-linear") == depth * sum(
        16 * sum(sizes) for sizes in layers.values()
    )
    assert trained(name, "LLaMA-Adapter") == min(30, depth) * (10 * shape.hidden_size + 1)
    values = shape.num_key_value_heads * shape.head_dim
    assert trained(name, "prefix") == depth * 30 * 2 * values


@pytest.mark.parametrize("name", SHAPES)
def test_memory_is_as_many_bytes_a_weight_as_the_text_says(name):
    """Whatever is not a linear layer of the decoder is in bf16 wherever it is frozen."""
    every, adapter = PUBLISHED[name], trained(name, "LoRA")
    sizes, depth = linear_layers(name).values(), SHAPES[name].num_hidden_layers
    in_few_bits = depth * sum(inputs * outputs for inputs, outputs in sizes)
    rows = depth * sum(outputs for _, outputs in sizes)
    rest = 2 * (every - in_few_bits) + 16 * adapter
    expected = {
        "all weights": 16 * every,
        "LoRA": 2 * every + 16 * adapter,
        "LoRA on 8 bits": in_few_bits + 4 * rows + rest,
        "LoRA on 4 bits (QLoRA)": in_few_bits // 2 + 4 * in_few_bits // 64 + rest,
    }
    found = {title: state_bytes(name, *column) for title, column in MEMORY_COLUMNS.items()}
    assert found == expected
