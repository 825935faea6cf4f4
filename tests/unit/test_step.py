"""One optimizer step: what it reports, what it clips, and what it never lets into the weights."""

from __future__ import annotations

import pytest
import torch
from torch.amp import GradScaler
from torch.optim import SGD

from llama_recipes.data.loader import Batch
from llama_recipes.errors import NonFiniteError
from llama_recipes.model.llama import Llama
from llama_recipes.training.loss_scale import LossScale
from llama_recipes.training.optimizers import make_optimizer, set_lr
from llama_recipes.training.precision import set_precision
from llama_recipes.training.step import batch_loss, train_step
from support.documents import loader, random_documents, stored
from support.tiny import tiny_config, tiny_llama


@pytest.fixture
def batches(tmp_path) -> list[Batch]:
    store = stored(tmp_path, random_documents([9, 3, 20, 2, 14]))
    return list(loader(store, strategy="padding", batch_size=2).batches(0))


def weights(model: Llama) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def change(model: Llama, before: dict[str, torch.Tensor]) -> torch.Tensor:
    """The Euclidean length of the step that was made."""
    moved = [(p.detach() - before[name]).flatten() for name, p in model.named_parameters()]
    return torch.cat(moved).norm()


def test_it_reports_loss_norm_and_tokens(batches):
    model = tiny_llama(dtype=torch.float64)
    total = sum(batch_loss(model, batch).item() for batch in batches)
    before = weights(model)
    result = train_step(model, batches, SGD(model.parameters(), lr=1.0))
    assert result is not None
    assert result.tokens == 9 + 3 + 20 + 2 + 14
    assert result.supervised_tokens == sum(batch.num_supervised for batch in batches)
    assert result.loss == pytest.approx(total / result.supervised_tokens, rel=1e-12)
    assert result.grad_norm == pytest.approx(change(model, before).item(), rel=1e-9)


def test_gradients_are_gone_afterwards(batches):
    model = tiny_llama()
    train_step(model, batches, make_optimizer(model, lr=1e-3, weight_decay=0.0))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_clipping_shortens_the_step_and_not_the_report(batches, share):
    free, clipped = tiny_llama(dtype=torch.float64), tiny_llama(dtype=torch.float64)
    before = weights(free)
    full = train_step(free, batches, SGD(free.parameters(), lr=1.0))
    assert full is not None
    norm = share * full.grad_norm
    result = train_step(clipped, batches, SGD(clipped.parameters(), lr=1.0), clip_norm=norm)
    assert result == full
    assert change(clipped, before).item() == pytest.approx(norm, rel=1e-5)


def test_a_gradient_below_the_threshold_is_left_alone(batches):
    free, clipped = tiny_llama(), tiny_llama()
    train_step(free, batches, SGD(free.parameters(), lr=1.0))
    train_step(clipped, batches, SGD(clipped.parameters(), lr=1.0), clip_norm=1e6)
    assert change(clipped, weights(free)) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight"])
def test_what_is_not_finite_changes_nothing(batches, value, place):
    model = tiny_llama()
    optimizer = make_optimizer(model, lr=1e-3, weight_decay=0.1)
    train_step(model, batches, optimizer)  # so that there are moments to keep
    with torch.no_grad():
        model.get_parameter(place)[0, 0] = value
    before, moments = weights(model), repr(optimizer.state_dict())
    with pytest.raises(NonFiniteError) as caught:
        train_step(model, batches, optimizer)
    assert caught.value.documents == [0, 1, 2, 3, 4]
    assert "Lower --lr" in str(caught.value)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name], rtol=0, atol=0, equal_nan=True)
        assert p.grad is None
    assert repr(optimizer.state_dict()) == moments


def test_a_gradient_that_overflows_behind_a_finite_loss_is_caught(batches):
    model = tiny_llama()
    handle = model.model.embed_tokens.weight.register_hook(lambda grad: grad * float("inf"))
    before = weights(model)
    with pytest.raises(NonFiniteError, match=r"The loss is \d.* gradient's norm (nan|inf)"):
        train_step(model, batches, SGD(model.parameters(), lr=1.0), clip_norm=1.0)
    handle.remove()
    assert change(model, before) == 0


def test_in_mixed_precision_small_updates_are_not_lost(batches):
    """bf16 has 8 bits: weights of 0.2 kept in it would not move by 1e-5."""
    model = tiny_llama()
    model.compute_dtype = torch.bfloat16
    set_precision(model, torch.bfloat16)
    before = weights(model)
    train_step(model, batches, make_optimizer(model, lr=1e-5, weight_decay=0.0))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    moved = model.get_parameter(name) != before[name]
    assert moved.float().mean() > 0.9


def test_frozen_weights_are_kept_in_the_precision_that_is_computed_in():
    with torch.device("meta"):
        model = Llama(tiny_config())
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    set_precision(model, torch.bfloat16)
    trained = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert trained == {"model.norm.weight"}


def test_at_a_rate_of_zero_nothing_decays_either(batches):
    model = tiny_llama()
    optimizer = make_optimizer(model, lr=1.0, weight_decay=0.5)
    set_lr(optimizer, 0.0)
    before = weights(model)
    train_step(model, batches, optimizer)
    assert change(model, before) == 0


SCALED_TOO_FAR = 2.0**126
"""A loss of a few nats is finite with it; its gradients are not."""


def test_gradients_that_leave_their_range_cost_no_document(batches):
    """The step is made again with half the scale until it fits; then it is the same."""
    plain, scaled = tiny_llama(), tiny_llama()
    expected = train_step(plain, batches, SGD(plain.parameters(), lr=1.0))
    scale = LossScale(enabled=True, scale=SCALED_TOO_FAR)
    for parameter in scaled.parameters():  # as if the range ended earlier
        parameter.register_hook(lambda g: torch.where(g.abs() > 1e30, torch.inf, g))
    result = train_step(scaled, batches, SGD(scaled.parameters(), lr=1.0), scale=scale)
    assert scale.scale < SCALED_TOO_FAR / 4
    assert result == expected
    assert all(
        torch.equal(p, q) for p, q in zip(plain.parameters(), scaled.parameters(), strict=True)
    )


def test_gradients_that_no_scale_makes_finite_stop_the_run(batches):
    model = tiny_llama()
    before = weights(model)
    model.model.norm.weight.register_hook(lambda g: g * torch.inf)
    scale = LossScale(enabled=True, scale=4.0)
    with pytest.raises(NonFiniteError):
        train_step(model, batches, SGD(model.parameters(), lr=1.0), scale=scale)
    assert scale.scale == 1.0
    assert change(model, before) == 0


def test_a_loss_that_is_not_finite_is_no_matter_of_scale(batches):
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    scale = LossScale(enabled=True, scale=4.0)
    with pytest.raises(NonFiniteError):
        train_step(model, batches, SGD(model.parameters(), lr=1.0), scale=scale)
    assert scale.scale == 4.0


def test_the_scale_grows_as_pytorch_s_does():
    ours, theirs = LossScale(enabled=True), GradScaler("cpu")
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = SGD([weight], lr=0.0)
    for _ in range(2001):
        weight.grad = torch.ones(1)
        theirs.scale(torch.ones(1))  # which makes its state
        theirs.step(optimizer)
        theirs.update()
        ours.count()
    assert ours.scale == theirs.get_scale() == 2 * 65536
    weight.grad = torch.full((1,), torch.inf)
    theirs.step(optimizer)
    theirs.update()
    assert ours.halve()
    assert ours.scale == theirs.get_scale() == 65536
