"""AdamW with bf16 moments. Oracle: torch.optim.AdamW in float32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim import AdamW

from llama_recipes.training.anyprecision import AnyPrecisionAdamW
from llama_recipes.training.optimizers import make_optimizer
from support.tiny import tiny_llama

STEPS = 300


def walk(optimizer_of, dtype: torch.dtype, *, lr: float = 1e-3) -> torch.Tensor:
    """Weights [64] after steps down a noisy bowl; the same noise for every optimizer."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(64, generator=generator)
    weight = torch.nn.Parameter(torch.ones(64, dtype=dtype))
    optimizer = optimizer_of([weight], lr=lr)
    for _ in range(STEPS):
        noise = 0.1 * torch.randn(64, generator=generator)
        weight.grad = (weight.detach().float() - target + noise).to(dtype)
        optimizer.step()
    return weight.detach().float()


def fp32_adamw(parameters, *, lr):
    return AdamW(parameters, lr=lr, weight_decay=0.1)


def ours(kahan: bool, **settings):
    def make(parameters, *, lr):
        return AnyPrecisionAdamW(parameters, lr=lr, weight_decay=0.1, kahan=kahan, **settings)

    return make


@pytest.mark.parametrize("kahan", [False, True])
def test_with_float32_moments_it_is_adamw(kahan):
    found = walk(ours(kahan, moment_dtype=torch.float32), torch.float32)
    torch.testing.assert_close(found, walk(fp32_adamw, torch.float32), rtol=1e-5, atol=1e-6)


def test_kahan_summation_follows_float32_where_plain_bf16_does_not():
    exact = walk(fp32_adamw, torch.float32)
    moved = (exact - 1).abs().mean()

    def off(optimizer_of) -> float:
        return ((walk(optimizer_of, torch.bfloat16) - exact).abs().mean() / moved).item()

    plain, bf16_moments, with_kahan = off(fp32_adamw), off(ours(False)), off(ours(True))
    assert with_kahan < 0.05
    assert plain > 4 * with_kahan
    assert bf16_moments > 4 * with_kahan
    assert bf16_moments > 0.8 * plain  # which the flag's description and its warning say


def test_its_state_is_in_bf16_and_of_what_trains_alone():
    model = tiny_llama(dtype=torch.bfloat16)
    model.model.embed_tokens.requires_grad_(False)
    optimizer = make_optimizer(model, lr=1e-3, weight_decay=0.0, kind="anyprecision", kahan=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    assert len(optimizer.state) == len([p for p in model.parameters() if p.requires_grad])
    for weight, state in optimizer.state.items():
        assert {name: state[name].dtype for name in ("exp_avg", "exp_avg_sq", "lost")} == (
            dict.fromkeys(("exp_avg", "exp_avg_sq", "lost"), torch.bfloat16)
        )
        assert state["lost"].shape == weight.shape


def test_float32_weights_lose_nothing_that_could_be_kept():
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = AnyPrecisionAdamW([weight], lr=1e-3, weight_decay=0.0, kahan=True)
    optimizer.step()
    assert "lost" not in optimizer.state[weight]
    assert optimizer.state[weight]["exp_avg"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_its_saved_state_bit_for_bit(dtype):
    def steps(optimizer, weight, count):
        for _ in range(count):
            weight.grad = weight.detach().clone()
            optimizer.step()

    def fresh(value):
        weight = torch.nn.Parameter(value.clone())
        return weight, AnyPrecisionAdamW([weight], lr=1e-2, weight_decay=0.1, kahan=True)

    weight, optimizer = fresh(torch.ones(5, dtype=dtype))
    steps(optimizer, weight, 3)
    other, second = fresh(weight.detach())
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, weight, 3)
    steps(second, other, 3)
    assert torch.equal(weight, other)
