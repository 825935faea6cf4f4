"""The learning rate at each step, and that it needs nothing but the step to be known."""

from __future__ import annotations

import math

import pytest

from llama_recipes.training.schedule import Schedule


def rates(kind: str, *, warmup: int = 0, total: int = 8, gamma: float = 0.5) -> list[float]:
    """Over two epochs of equal length."""
    schedule = Schedule(kind=kind, peak=1.0, warmup_steps=warmup, total_steps=total, gamma=gamma)
    return [schedule.at(step, step // (total // 2)) for step in range(total)]


def test_gamma_falls_after_every_epoch_only():
    assert rates("gamma") == [1.0] * 4 + [0.5] * 4
    assert rates("gamma", gamma=1.0) == [1.0] * 8


def test_constant():
    assert rates("constant") == [1.0] * 8


def test_linear_reaches_zero_after_the_last_step():
    assert rates("linear") == pytest.approx([1 - step / 8 for step in range(8)])


def test_cosine_is_half_in_the_middle_and_zero_after_the_last_step():
    found = rates("cosine")
    assert found == pytest.approx([(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])
    assert found[4] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["gamma", "constant", "linear", "cosine"])
def test_warm_up_rises_in_a_line_to_the_peak_and_no_step_is_without_effect(kind):
    found = rates(kind, warmup=4)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert min(found) > 0
    assert max(found) == 1.0


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_what_falls_starts_at_the_peak_where_warm_up_ends(kind):
    found = rates(kind, warmup=3)
    assert found[3] == 1.0
    assert found[3:] == sorted(found[3:], reverse=True)


@pytest.mark.parametrize("kind", ["gamma", "constant", "linear", "cosine"])
def test_a_warm_up_as_long_as_the_run_or_longer_is_all_of_it(kind):
    assert rates(kind, warmup=8, gamma=1.0) == [(step + 1) / 8 for step in range(8)]
    assert rates(kind, warmup=16, gamma=1.0) == [(step + 1) / 16 for step in range(8)]


def test_it_is_scaled_by_the_peak():
    schedule = Schedule(kind="cosine", peak=3e-4, warmup_steps=2, total_steps=10, gamma=0.85)
    assert schedule.at(1, 0) == 3e-4
    assert schedule.at(6, 0) == pytest.approx(1.5e-4)
