"""Invariants 1, 2 and 11 for every adapter × quantisation × recomputing × packing.

Oracle: the same model on each document of the step alone, nothing recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from llama_recipes.adapters.select import adapter_config, start_adapter
from llama_recipes.configs.fsdp import FsdpConfig
from llama_recipes.configs.peft import LlamaAdapterConfig, LoraConfig, PrefixConfig
from llama_recipes.configs.quantization import QuantizationConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.training import TrainConfig
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import load_weights
from llama_recipes.monitoring.screen import Screen
from llama_recipes.running.parts import shape_model
from llama_recipes.running.preflight import recompute
from llama_recipes.training.step import batch_loss
from support.documents import loader, random_documents, stored
from support.in_memory import InMemory
from support.quantised import WIDE
from support.tiny import tiny_llama

pytestmark = pytest.mark.usefixtures("either_path")

LENGTHS = [9, 3, 20, 2, 14, 5, 31, 8]
WAYS = ("full", "frozen", "lora", "vocabulary", "llama_adapter", "prefix")
KINDS = ("none", "8bit", "4bit", "4bit, double")
PAIRS = [
    (way, kind) for way in WAYS for kind in KINDS if way not in ("full", "frozen") or kind == "none"
]
"""Quantised weights are not trained: it is refused."""


@dataclass(frozen=True)
class Settings:
    way: str
    kind: str
    recomputed: bool

    def config(self) -> RunConfig:
        adapted = self.way not in ("full", "frozen")
        method = self.way if self.way in ("llama_adapter", "prefix") else "lora"
        whole = ["embed_tokens", "lm_head"] if self.way == "vocabulary" else []
        return RunConfig(
            train_config=TrainConfig(
                use_peft=adapted,
                peft_method=method,
                freeze_layers=self.way == "frozen",
                quantization=False if self.kind == "none" else self.kind.split(",")[0],
            ),
            lora_config=LoraConfig(
                lora_dropout=0.0, target_modules="all-linear", modules_to_save=whole
            ),
            llama_adapter_config=LlamaAdapterConfig(adapter_len=3, adapter_layers=2),
            prefix_config=PrefixConfig(num_virtual_tokens=3),
            quantization_config=QuantizationConfig(use_double_quant="double" in self.kind),
            fsdp_config=FsdpConfig(
                **({"fsdp_activation_checkpointing": True} if self.recomputed else {})
            ),
        )

    def model(self) -> Llama:
        """As a run builds it, with every trained weight away from where it starts."""
        base, config = tiny_llama(num_hidden_layers=3, **WIDE), self.config()
        adapter, cpu = adapter_config(config), torch.device("cpu")
        model, names = shape_model(base.config, config, adapter, torch.float32)
        load_weights(model, InMemory(base), device=cpu, skip=names)
        if adapter is not None:
            start_adapter(model, adapter, checkpoint="", seed=1, device=cpu)
        torch.manual_seed(2)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape)
        recompute(config, model, cpu, Screen())
        return model.train()


def update(model: Llama, batches) -> tuple[float, dict[str, Tensor]]:
    supervised = sum(batch.num_supervised for batch in batches)
    loss = 0.0
    for batch in batches:
        if batch.num_supervised:
            part = batch_loss(model, batch) / supervised
            part.backward()
            loss += part.item()
    return loss, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("store"), random_documents(LENGTHS))


@pytest.fixture(scope="module")
def alone(store):
    """Settings → the update from documents that are never together; kept, as many ask for it."""
    kept = {}

    def alone(way: str, kind: str):
        if (way, kind) not in kept:
            batches = list(loader(store, strategy="padding", batch_size=1).batches(0))
            kept[way, kind] = update(Settings(way, kind, False).model(), batches)
        return kept[way, kind]

    return alone


@pytest.mark.parametrize("strategy", ["packing", "padding"])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("way", "kind"), PAIRS)
def test_the_update_is_that_of_documents_alone(store, alone, way, kind, recomputed, strategy):
    (batch,) = loader(store, strategy=strategy, batch_size=8, context_length=92).batches(0)
    expected_loss, expected = alone(way, kind)
    loss, gradients = update(Settings(way, kind, recomputed).model(), [batch])
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert gradients.keys() == expected.keys()
    assert gradients
    for name, gradient in gradients.items():
        assert expected[name].abs().max() > 0, name
        error = (gradient - expected[name]).abs().max() / expected[name].abs().max()
        assert error <= 2e-5, (name, error.item())
