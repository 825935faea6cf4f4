"""Which weights a run keeps: the best, and the last where they differ; each is written once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llama_recipes.training.selection import Selection


def kept(losses: Sequence[float | None], *, last: int, patience: int = 0) -> tuple:
    """What is written for evaluations after steps 10, 20, …, and the selection itself."""
    written: list[tuple[int, str]] = []

    def save(*, step: int, best: bool) -> None:
        written.append((step, "best" if best else "last"))

    selection = Selection(save, patience=patience)
    for number, loss in enumerate(losses, start=1):
        selection.offer(10 * number, loss)
    selection.keep_last(last)
    return written, selection


def test_every_better_one_replaces_the_best_and_the_last_stands_beside_it():
    written, selection = kept([3.0, 2.0, 2.5], last=30)
    assert written == [(10, "best"), (20, "best"), (30, "last")]
    assert (selection.best_step, selection.best_loss) == (20, 2.0)
    assert len(selection.save_seconds) == 3


def test_the_last_is_not_written_twice_where_it_is_the_best():
    written, _ = kept([3.0, 2.0], last=20)
    assert written == [(10, "best"), (20, "best")]


def test_an_equal_loss_is_not_better():
    written, selection = kept([2.0, 2.0], last=20)
    assert written == [(10, "best"), (20, "last")]
    assert selection.best_step == 10


def test_without_evaluations_the_last_weights_are_the_result():
    assert kept([], last=7)[0] == [(7, "best")]
    written, selection = kept([None, None], last=20)
    assert written == [(10, "best"), (20, "best")]
    assert selection.best_step == 20


def test_steps_after_the_best_are_kept_beside_it():
    assert kept([3.0], last=14)[0] == [(10, "best"), (14, "last")]


def test_before_the_first_step_there_is_nothing_to_keep():
    assert kept([], last=0)[0] == []


def test_a_loss_that_is_no_number_is_never_the_best():
    written, selection = kept([float("nan"), 3.0, float("nan")], last=30)
    assert written == [(20, "best"), (30, "last")]
    assert selection.best_step == 20


@pytest.mark.parametrize(
    ("losses", "patience", "exhausted"),
    [
        ([3.0, 3.1, 3.2], 0, False),
        ([3.0, 3.1], 2, False),
        ([3.0, 3.1, 3.0], 2, True),
        ([3.0, 3.1, 2.9, 3.0], 2, False),
        ([3.0, float("nan"), float("nan")], 2, True),
        ([None, None, None], 1, False),
    ],
)
def test_patience_counts_evaluations_in_a_row_without_a_better_loss(losses, patience, exhausted):
    assert kept(losses, last=99, patience=patience)[1].exhausted is exhausted


def test_where_nothing_is_to_be_saved_the_best_is_still_known():
    selection = Selection(None)
    assert selection.offer(1, 3.0)
    assert not selection.offer(2, 4.0)
    selection.keep_last(2)
    assert (selection.best_step, selection.save_seconds) == (1, [])


def test_a_best_that_could_not_be_saved_is_not_taken_for_saved():
    """Interrupted in its first save, a run still leaves a result and not only a `last/`."""
    written: list[bool] = []

    def save(*, step: int, best: bool) -> None:
        written.append(best)
        if len(written) == 1:
            raise KeyboardInterrupt

    selection = Selection(save)
    with pytest.raises(KeyboardInterrupt):
        selection.offer(10, 2.0)
    selection.keep_last(10)
    assert written == [True, True]
