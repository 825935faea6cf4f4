"""Invariant 3: the model is Llama. Oracle: transformers' LlamaForCausalLM with the same weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.config import RopeConfig
from llama_recipes.model.loss import cross_entropy_sum
from support.tiny import tiny_llama, transformers_twin

pytestmark = pytest.mark.usefixtures("either_path")

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGURATIONS = {
    "grouped heads, untied": {},
    "one key/value head": {"num_key_value_heads": 1},
    "as many key/value heads as heads": {"num_key_value_heads": 4},
    "tied embeddings": {"tie_word_embeddings": True},
    "attention bias": {"attention_bias": True},
    "mlp bias": {"mlp_bias": True},
    "llama-3 rope scaling": {"rope": RopeConfig(theta=500_000.0, scaling=LLAMA3_SCALING)},
    "linear rope scaling": {"rope": RopeConfig(scaling={"rope_type": "linear", "factor": 4.0})},
    "heads wider than hidden/heads": {"head_dim": 20},
    "heads of 6": {"head_dim": 6},
    "large eps": {"rms_norm_eps": 1e-2},
    "one layer": {"num_hidden_layers": 1},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_logits_and_gradients_equal_transformers(name):
    model = tiny_llama(**CONFIGURATIONS[name])
    twin = transformers_twin(model)
    length = 100
    tokens = torch.randint(0, model.config.vocab_size, (length,))
    targets = torch.randint(0, model.config.vocab_size, (length,))

    expected = twin(tokens[None]).logits[0]
    hidden = model(tokens, torch.arange(length), DocumentAttention([length]))
    torch.testing.assert_close(model.logits(hidden), expected, rtol=1e-5, atol=1e-5)

    F.cross_entropy(expected, targets).backward()
    (cross_entropy_sum(hidden, model.head_weight, targets) / length).backward()
    theirs = dict(twin.named_parameters())
    for key, parameter in model.named_parameters():
        expected_grad = theirs[key].grad
        error = (parameter.grad - expected_grad).abs().max() / expected_grad.abs().max()
        assert error <= 1e-5, (key, error.item())


def test_the_configuration_survives_a_round_trip_through_config_json():
    model = tiny_llama(
        rope=RopeConfig(theta=500_000.0, scaling=LLAMA3_SCALING), tie_word_embeddings=True
    )
    config = type(model.config).from_hf(transformers_twin(model).config.to_dict())
    assert config == model.config
    assert type(config).from_hf(config.to_hf()) == config
