"""The C++ operations between a layer's products. Oracle: the plain path, in float64."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llama_recipes.kernels import layers
from llama_recipes.kernels.loss import cross_entropy_
from llama_recipes.model.rope import rotate
from support.kernels import EACH_SET, enable

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
SIZES = pytest.mark.parametrize("size", [6, 37, 576])
ALLOWED = {torch.float32: 1e-6, torch.bfloat16: 8e-3}
"""Relative to the norm of what is exact; bf16 keeps 8 bits and is rounded several times."""
Operation = Callable[..., Tensor | tuple[Tensor, ...]]


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + 1000 * seed)
    return torch.randn(shape, generator=generator).to(dtype)


def check(ours: Operation, exact: Operation, tensors: list[Tensor]) -> None:
    """Outputs and the gradients of all tensors; the outputs' own gradients are drawn."""
    results = []
    for operation, given in ((ours, tensors), (exact, [x.double() for x in tensors])):
        leaves = [x.clone().requires_grad_() for x in given]
        outputs = operation(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        grads = [numbers(*y.shape, dtype=tensors[0].dtype, seed=7).to(y.dtype) for y in outputs]
        torch.autograd.backward(outputs, grads)
        results.append([*(y.detach() for y in outputs), *(x.grad for x in leaves)])
    for number, (found, expected) in enumerate(zip(*results, strict=True)):
        error = ((found.double() - expected).norm() / expected.norm()).item()
        assert error <= ALLOWED[tensors[0].dtype], (number, error)


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


@DTYPES
@SIZES
@EACH_SET
def test_norm(instruction_set, size, dtype):
    enable(instruction_set)
    x, weight = numbers(9, size, dtype=dtype), numbers(size, dtype=dtype)
    check(lambda x, w: layers.add_norm(x, None, w, 1e-5)[1], plain_norm, [x, weight])


@DTYPES
@SIZES
@EACH_SET
@pytest.mark.parametrize("threads", [1, 3])
def test_norm_of_a_sum(instruction_set, size, dtype, threads):
    enable(instruction_set)
    torch.set_num_threads(threads)
    x, branch = (numbers(9, size, dtype=dtype, seed=seed) for seed in (1, 2))
    weight = numbers(size, dtype=dtype)
    check(
        lambda x, b, w: layers.add_norm(x, b, w, 1e-5),
        lambda x, b, w: (x + b, plain_norm(x + b, w)),
        [x, branch, weight],
    )


@EACH_SET
def test_a_norm_whose_sum_or_result_is_not_used(instruction_set):
    enable(instruction_set)
    x, branch = (numbers(5, 20, dtype=torch.float32, seed=seed) for seed in (1, 2))
    weight = torch.ones(20)
    for used in (0, 1):
        check(
            lambda x, b, used=used: layers.add_norm(x, b, weight, 1e-5)[used],
            lambda x, b, used=used: (x + b, plain_norm(x + b, weight.double()))[used],
            [x, branch],
        )


@DTYPES
@EACH_SET
@pytest.mark.parametrize("dim", [6, 32, 64, 100])
def test_rotation(instruction_set, dim, dtype):
    enable(instruction_set)
    angles = numbers(11, 1, dim // 2, dtype=torch.float64) * 3
    angles = torch.cat((angles, angles), -1)
    table = [angles.cos().to(dtype), angles.sin().to(dtype)]
    check(
        lambda x: layers.rotate(x, *table),
        lambda x: rotate(x, (table[0].double(), table[1].double())),
        [numbers(11, 3, dim, dtype=dtype)],
    )


@DTYPES
@SIZES
@EACH_SET
def test_swiglu(instruction_set, size, dtype):
    enable(instruction_set)
    gate, up = numbers(90, size, dtype=dtype) * 4, numbers(90, size, dtype=dtype, seed=1)
    check(layers.swiglu, lambda g, u: F.silu(g) * u, [gate, up])


@EACH_SET
def test_swiglu_of_extremes(instruction_set):
    enable(instruction_set)
    gate = torch.tensor([-1e4, -100.0, -88.0, 0.0, 88.0, 1e4, float("nan"), float("inf")])
    found = layers.swiglu(gate, torch.ones(8))
    torch.testing.assert_close(found, F.silu(gate), equal_nan=True, rtol=1e-5, atol=1e-30)


@DTYPES
@EACH_SET
@pytest.mark.parametrize("vocabulary", [3, 64, 1_000, 49_153])
def test_cross_entropy(instruction_set, vocabulary, dtype):
    enable(instruction_set)
    logits = numbers(7, vocabulary, dtype=dtype) * 5
    targets = torch.arange(7) * 13 % vocabulary
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="none")
    expected.sum().backward()

    untouched = logits.clone()
    losses = cross_entropy_(untouched, targets, differentiate=False)
    assert torch.equal(untouched, logits)
    assert torch.equal(cross_entropy_(logits, targets, differentiate=True), losses)
    # The logits are exact here in both dtypes; only the derivative is rounded to bf16.
    allowed = 2e-6 if dtype == torch.float32 else 1e-5
    assert ((losses - expected).abs().max() / expected.abs().max()).item() <= allowed
    error = (logits.double() - exact.grad).norm() / exact.grad.norm()
    assert error.item() <= (3e-6 if dtype == torch.float32 else 3e-3)


@EACH_SET
def test_cross_entropy_of_what_is_not_a_number(instruction_set):
    enable(instruction_set)
    logits = numbers(3, 100, dtype=torch.float32)
    logits[1, 50], logits[2, 0] = float("nan"), float("inf")
    losses = cross_entropy_(logits, torch.tensor([1, 2, 3]), differentiate=True)
    assert losses.isfinite().tolist() == [True, False, False]


@DTYPES
@EACH_SET
def test_low_rank_update(instruction_set, dtype):
    enable(instruction_set)
    tensors = [numbers(*shape, dtype=dtype) for shape in ((9, 24), (9, 37), (4, 37), (24, 4))]
    check(
        # Written into y's memory, which a leaf does not allow.
        lambda y, x, a, b: layers.add_low_rank(y * 1, x, a, b, scale=0.5, dropout=0.0),
        lambda y, x, a, b: y + 0.5 * x @ a.T @ b.T,
        tensors,
    )


def masks(x: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    """What dropout does to ones, forward and backward: A and B are identities."""
    size = x.shape[1]
    x = x.clone().requires_grad_()
    zero, one = torch.zeros_like(x.detach()), torch.eye(size, dtype=x.dtype)
    y = layers.add_low_rank(zero, x, one, one, scale=1.0, dropout=dropout)
    y.sum().backward()
    return y.detach(), x.grad


@DTYPES
@EACH_SET
@pytest.mark.parametrize("dropout", [0.05, 0.5])
def test_dropout_keeps_its_share_and_its_mask(instruction_set, dropout, dtype):
    enable(instruction_set)
    ones = torch.ones(500, 333, dtype=dtype)
    torch.manual_seed(3)
    forward, backward = masks(ones, dropout)
    assert torch.equal(forward, backward)
    kept = forward != 0
    torch.testing.assert_close(forward[kept], (ones / (1 - dropout))[kept])
    deviation = sqrt(dropout * (1 - dropout) / kept.numel())
    assert abs(kept.double().mean() - (1 - dropout)) <= 5 * deviation
    # No row or column keeps much more than the others.
    for axis, count in ((0, 500), (1, 333)):
        spread = (kept.double().mean(axis) - (1 - dropout)).abs().max()
        assert spread <= 6 * sqrt(dropout * (1 - dropout) / count)

    again, _ = masks(ones, dropout)
    assert not torch.equal(again, forward)
    both = ((again != 0) & kept).double().mean()
    assert abs(both - (1 - dropout) ** 2) <= 0.01
    torch.manual_seed(3)
    assert torch.equal(masks(ones, dropout)[0], forward)
    torch.set_num_threads(3)
    torch.manual_seed(3)
    assert torch.equal(masks(ones, dropout)[0], forward)


def test_dropout_of_all_gives_nothing():
    enable()
    assert not masks(torch.ones(4, 8), 1.0)[0].any()


@EACH_SET
def test_empty_tensors(instruction_set):
    enable(instruction_set)
    empty = torch.empty(0, 16)
    assert layers.swiglu(empty, empty).shape == (0, 16)
    assert layers.add_norm(empty, empty, torch.ones(16), 1e-5)[1].shape == (0, 16)
    no_targets = torch.empty(0, dtype=torch.int64)
    assert len(cross_entropy_(empty, no_targets, differentiate=True)) == 0
