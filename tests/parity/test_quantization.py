"""Layers in 8 and 4 bits. Oracle: bitsandbytes, and the same model with dequantised weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Int8Params
from torch import Tensor, nn

from llama_recipes import packages
from llama_recipes.adapters.lora import lora_layers
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Linear, Llama
from llama_recipes.model.weights import all_rows, count_parameters
from llama_recipes.quantization.linear import FourBitLinear, Int8Linear
from llama_recipes.quantization.select import Quantization, quantize, quantized_layer
from support.adapted import saved
from support.in_memory import merged
from support.quantised import CPU, KINDS, WIDE, dense, encoded_layers, quantised
from support.tiny import TINY, tiny_config, tiny_llama

EACH = pytest.mark.parametrize("kind", KINDS)
SHAPES = [(3, 64), (70, 128), (129, 192), (40, 64 * 300)]
"""Rows of one block, blocks of scales that end within a row, rows longer than a block of scales."""


def plain(rows: int, inputs: int, *, bias: bool = False) -> Linear:
    layer = Linear(inputs, rows, bias=bias)
    torch.manual_seed(rows)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.02)
    return layer.requires_grad_(False)


def in_chunks(weight: Tensor, rows: int = 37) -> list[tuple[int, Tensor]]:
    return [(start, weight[start : start + rows]) for start in range(0, len(weight), rows)]


def four_bits(layer: Linear, quant_type: str, *, double: bool) -> FourBitLinear:
    with torch.device("meta"):
        encoded = FourBitLinear(layer, quant_type=quant_type, double_quant=double)
    encoded.to_empty(device=CPU)
    encoded.bias = layer.bias
    encoded.encode(in_chunks(layer.weight), all_rows)
    return encoded


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_4_bit_values_are_bitsandbytes_bit_for_bit(shape, quant_type, double, dtype):
    layer = plain(*shape).to(dtype)
    encoded = four_bits(layer, quant_type, double=double)
    packed, state = quantize_4bit(
        layer.weight.data, quant_type=quant_type, compress_statistics=double
    )
    assert torch.equal(encoded.weight.flatten(), packed.flatten())
    expected = dequantize_4bit(packed, state).float()
    assert torch.equal(encoded.dequantized().weight.to(dtype).float(), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_8_bit_values_are_bitsandbytes(shape):
    layer = plain(*shape)
    with torch.device("meta"):
        encoded = Int8Linear(layer)
    encoded.to_empty(device=CPU)
    encoded.encode(in_chunks(layer.weight), all_rows)
    theirs = Int8Params(layer.weight.data.clone(), requires_grad=False).to("cpu")
    if theirs.SCB is None:  # this version quantises on a CPU with the first product only
        numbers, highest, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(layer.weight.half())
    else:
        numbers, highest = theirs.CB, theirs.SCB
    assert torch.equal(encoded.weight, numbers)
    assert torch.equal(encoded.scale, highest / 127)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_are_those_of_the_dequantised_weights(kind, dtype):
    torch.manual_seed(0)
    model = quantised(kind)
    for _, layer in encoded_layers(model):
        x = torch.randn(7, layer.in_features, dtype=dtype, requires_grad=True)
        weight = layer.dequantized().weight
        y = layer(x)
        y.square().sum().backward()
        wide = x.detach().double().requires_grad_()
        expected = F.linear(wide, weight.double())
        expected.square().sum().backward()
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        for found, wanted in ((y, expected), (x.grad, wide.grad)):
            assert found is not None
            assert wanted is not None
            assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


@EACH
def test_what_is_kept_for_the_backward_pass_is_encoded(kind):
    kept: list[Tensor] = []
    _, layer = next(encoded_layers(quantised(kind)))
    x = torch.randn(5, layer.in_features, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    dense_bytes = 4 * layer.in_features * layer.out_features
    assert sum(t.untyped_storage().nbytes() for t in kept) < dense_bytes / 2


@EACH
def test_a_bias_is_added_and_not_quantised(kind):
    layer = plain(128, 64, bias=True)
    encoded = quantized_layer(layer, KINDS[kind])
    encoded.encode([(0, layer.weight)], all_rows)
    without = encoded.dequantized()
    assert torch.equal(without.bias, layer.bias)
    x = torch.randn(3, 64)
    torch.testing.assert_close(encoded(x), without(x), rtol=1e-5, atol=1e-6)


@EACH
def test_a_part_of_the_rows_stands_for_itself(kind):
    """What shards parameters by rows may cut everywhere: every tensor's rows are output rows."""
    model = quantised(kind)
    for _, layer in encoded_layers(model):
        whole = layer.dequantized().weight
        for part in layer.parts:
            assert len(getattr(layer, part)) == layer.out_features
        for part in layer.parts:
            setattr(layer, part, nn.Parameter(getattr(layer, part)[5:23], requires_grad=False))
        assert torch.equal(layer.dequantized().weight, whole[5:23])


def logits_of(model: Llama) -> Tensor:
    tokens = torch.randint(0, TINY.vocab_size, (40,), generator=torch.Generator().manual_seed(7))
    hidden = model(tokens, torch.arange(40), DocumentAttention([40]))
    return model.logits(hidden)


@pytest.mark.usefixtures("either_path")
@EACH
def test_a_model_is_the_one_with_dequantised_weights(kind):
    model = quantised(kind)
    names = {name.rpartition(".")[2] for name, _ in encoded_layers(model)}
    assert names == {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
    expected = logits_of(dense(model))
    assert (logits_of(model) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.equal(expected, logits_of(tiny_llama(**WIDE)))
    assert count_parameters(model) == sum(p.numel() for p in tiny_llama(**WIDE).parameters())


@pytest.mark.usefixtures("either_path")
@EACH
def test_an_adapter_on_it_starts_at_its_output_and_adds_to_it(kind, tmp_path):
    config = LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear")
    base, model = quantised(kind), quantised(kind, config)
    assert len(list(encoded_layers(model))) == len(list(encoded_layers(base))) == 14
    assert torch.equal(logits_of(model), logits_of(base))
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.lora_B.weight, std=0.05)
    expected = logits_of(model)
    plain = merged(tiny_llama(**WIDE), saved(model, tmp_path, config), KINDS[kind])
    assert (logits_of(plain) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (logits_of(base) - expected).abs().max() > 0.1


@EACH
def test_only_the_adapter_gets_gradients(kind):
    model = quantised(kind, LoraConfig(r=4, lora_dropout=0.0))
    logits_of(model).square().mean().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {
        f"{name}.{part}.weight" for name, _ in lora_layers(model) for part in ("lora_A", "lora_B")
    }


def test_4_bits_need_rows_of_whole_blocks():
    with torch.device("meta"):
        model = Llama(tiny_config()).requires_grad_(False)
    with pytest.raises(CheckpointError, match="layers of 32, 48 inputs"):
        quantize(model, Quantization(4))
    quantize(model, Quantization(8))
    assert len(list(encoded_layers(model))) == 14


def test_without_bitsandbytes_it_is_refused(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        quantize(tiny_llama(**WIDE), Quantization(4))
    quantize(tiny_llama(**WIDE), None)  # nothing is needed for nothing


LOAD = """
import json, sys
import torch
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.model.source import open_model
from llama_recipes.model.weights import load_weights
from llama_recipes.monitoring.memory import GIB, peak_memory_gib
from llama_recipes.running.parts import shape_model

def peak():
    return peak_memory_gib(torch.device("cpu")) * GIB

quantization = {"0": False, "4": "4bit", "8": "8bit"}[sys.argv[2]]
config = RunConfig(train_config={"quantization": quantization})
source = open_model(sys.argv[1])
model, names = shape_model(source.config, config, LoraConfig(), torch.bfloat16)
torch.ops.bitsandbytes.quantize_4bit(torch.ones(64), 64, "nf4", torch.uint8)
before = peak()
load_weights(model, source.tensors, device=torch.device("cpu"), skip=names)
print(json.dumps(peak() - before))
"""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """172 million bf16 weights, nearly all in linear layers, in shards of 40 MB."""
    from llama_recipes.export.hf import save_model

    folder = tmp_path_factory.mktemp("sharded")
    with torch.device("meta"):
        model = Llama(
            tiny_config(
                hidden_size=1024,
                intermediate_size=2816,
                num_hidden_layers=14,
                num_attention_heads=16,
                num_key_value_heads=4,
                head_dim=64,
                vocab_size=2000,
            )
        )
    model = model.to(torch.bfloat16).to_empty(device=CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    save_model(model, folder, generation_config={}, shard_bytes=40_000_000)
    return folder


@pytest.mark.parametrize(("bits", "share"), [("4", 0.4), ("8", 0.6)])
def test_loading_takes_little_more_than_what_is_kept(sharded, bits, share):
    """At its peak a share of the bf16 weights, and one shard; in a process of its own."""
    files = list(sharded.glob("*.safetensors"))
    assert len(files) > 5
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(sharded), bits],
        capture_output=True,
        text=True,
        check=True,
    )
    weights = sum(file.stat().st_size for file in files)
    shard = max(file.stat().st_size for file in files)
    taken = json.loads(done.stdout)
    assert 0.2 * weights < taken < share * weights + shard
