"""The chunked loss against torch's own cross-entropy in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llama_recipes.model import loss as loss_module
from llama_recipes.model.loss import cross_entropy_sum


def _inputs(rows: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(50, 16, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 50, (rows,), generator=generator)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 30])
def test_loss_and_gradients_equal_the_unchunked_ones(rows, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 8 * 50)
    hidden, weight, targets = _inputs(rows, torch.float64)
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum") / 13
    expected_grads = torch.autograd.grad(expected, (hidden, weight))

    actual = cross_entropy_sum(hidden, weight, targets) / 13
    grads = torch.autograd.grad(actual, (hidden, weight))

    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-10, atol=1e-12)


def test_bf16_stays_within_its_rounding():
    hidden, weight, targets = _inputs(30, torch.bfloat16)
    exact = F.cross_entropy(hidden.double() @ weight.double().T, targets, reduction="sum")
    actual = cross_entropy_sum(hidden, weight, targets)
    assert actual.dtype == torch.float32
    assert abs(actual.item() / exact.item() - 1) < 1e-2


def test_no_supervised_token_gives_zero_and_zero_gradients():
    hidden, weight, targets = _inputs(0, torch.float32)
    loss = cross_entropy_sum(hidden, weight, targets)
    loss.backward()
    assert loss.item() == 0.0
    assert not weight.grad.any()


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets = _inputs(5, torch.float32)
    cross_entropy_sum(hidden, weight.detach(), targets).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_a_second_backward_pass_through_the_same_loss_is_refused():
    """The head's gradient is scaled in place: once more would scale it twice."""
    weight = torch.nn.Parameter(torch.randn(50, 8))
    loss = cross_entropy_sum(torch.randn(4, 8), weight, torch.arange(4)) * 0.5
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
