"""A GPU's fast path is the same model: run on the CPU, with stand-ins for what needs a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llama_recipes.data.loader import make_batch
from llama_recipes.model.llama import Llama
from llama_recipes.training import gpu_kernels
from llama_recipes.training.step import batch_loss
from support.documents import random_documents
from support.tiny import tiny_llama


def loss_and_gradients(model: Llama, lengths: list[int]) -> list[Tensor]:
    documents = random_documents(lengths)
    batch = make_batch(documents, numbers=range(len(documents)), pad_id=0, padded=False)
    model.zero_grad()
    loss = batch_loss(model, batch)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


def assert_same(model: Llama, rewritten: Llama) -> None:
    for lengths in ([9, 4, 20], [30], [3, 3, 3, 7]):
        expected = loss_and_gradients(model, lengths)
        for found, exact in zip(loss_and_gradients(rewritten, lengths), expected, strict=True):
            assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the capture looks at everything
def test_compiled_layers_compute_the_same():
    """The graph is captured and run; what inductor makes of it is PyTorch's own affair."""
    rewritten = tiny_llama()
    gpu_kernels.compile_layers(rewritten, backend="eager")
    assert_same(tiny_llama(), rewritten)


def liger() -> SimpleNamespace:
    """liger_kernel.ops as its signatures stand in version 0.8, in plain PyTorch: it needs a GPU."""

    def norm(x, weight, eps, offset=0.0, casting_mode="llama", in_place=True):
        assert (casting_mode, in_place) == ("llama", False)
        return (weight + offset) * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

    return SimpleNamespace(
        LigerRMSNormFunction=SimpleNamespace(apply=norm),
        LigerSiLUMulFunction=SimpleNamespace(apply=lambda gate, up: F.silu(gate) * up),
    )


def test_norms_and_activations_of_liger_are_put_in_their_places():
    rewritten = tiny_llama()
    gpu_kernels.use_liger(rewritten, liger())
    assert_same(tiny_llama(), rewritten)


@pytest.mark.parametrize("steps", [1, gpu_kernels.COMPILE_STEPS - 1])
def test_short_runs_are_not_compiled(monkeypatch, steps):
    monkeypatch.setattr(gpu_kernels, "compile_layers", lambda model: pytest.fail("compiled"))
    monkeypatch.setattr(gpu_kernels, "_liger", lambda: None)
    assert "not installed" in gpu_kernels.speed_up(tiny_llama(), steps=steps)
    monkeypatch.setattr(gpu_kernels, "_liger", liger)
    assert "Liger" in gpu_kernels.speed_up(tiny_llama(), steps=steps)


def test_long_runs_are_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(gpu_kernels, "compile_layers", compiled.append)
    model = tiny_llama()
    assert "compiled" in gpu_kernels.speed_up(model, steps=gpu_kernels.COMPILE_STEPS)
    assert compiled == [model]
