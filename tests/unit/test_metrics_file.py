"""The eight lists, and the curves that are drawn, from lines of metrics.jsonl."""

from __future__ import annotations

import json
import math
from datetime import datetime

import pytest
from matplotlib import rcParams

from llama_recipes.checkpoint.store import publish
from llama_recipes.monitoring import metrics_file
from llama_recipes.monitoring.curves import LossCurve, curves
from llama_recipes.monitoring.metrics_file import MetricsFile, eight_lists, metrics_path
from llama_recipes.monitoring.plots import draw, figure


def step(number: int, epoch: int, loss: float | None, supervised: int) -> dict:
    return {"step": number, "epoch": epoch, "loss": loss, "supervised_tokens": supervised}


def evaluation(number: int, loss: float | None) -> dict:
    return {"step": number, "eval_loss": loss, "eval_perplexity": None}


RUN = [
    *(step(1, 1, 4.0, 10), evaluation(1, 3.5), step(2, 1, 2.0, 40), evaluation(2, 3.0)),
    *(step(3, 2, 1.0, 45), step(4, 2, 0.0, 50), evaluation(4, 2.5)),
]


def test_an_epoch_is_the_mean_over_its_tokens_and_its_last_evaluation():
    found = curves(RUN)
    assert found == {
        "train_step": LossCurve([1, 2, 3, 4], [4.0, 2.0, 1.0, 0.0]),
        "train_epoch": LossCurve([1, 2], [(4.0 * 10 + 2.0 * 30) / 40, 0.5]),
        "val_step": LossCurve([1, 2, 4], [3.5, 3.0, 2.5]),
        "val_epoch": LossCurve([1, 2], [3.0, 2.5]),
    }
    assert found["val_epoch"].perplexities == [math.exp(3.0), math.exp(2.5)]


def test_an_epoch_whose_first_lines_are_missing_is_the_mean_of_the_others():
    """The first line there is not as heavy as all that are not."""
    lines = [step(51, 1, 9.0, 510), *(step(n, 1, 1.0, 10 * n) for n in range(52, 102))]
    assert curves(lines)["train_epoch"] == LossCurve([1], [(9.0 + 50 * 1.0) / 51])


def test_a_run_without_validation_has_no_empty_curve_in_its_pictures():
    alone = LossCurve([1, 2], [2.0, 1.0])
    for train, validation, title in (
        (alone, LossCurve(), "Train loss by step"),
        (LossCurve(), alone, "Validation loss by step"),
        (LossCurve(), LossCurve(), "Loss by step"),
    ):
        (axes,) = figure(train, validation, measure="loss", per="step").axes
        assert axes.get_title() == title
        legend = axes.get_legend()
        names = [text.get_text() for text in legend.get_texts()] if legend else []
        assert [line.get_label() for line in axes.lines] == names
        assert names == title.split()[:1] * len(axes.lines)


def test_the_eight_lists_are_the_original_s():
    lists = eight_lists([*RUN, step(5, 3, 2000.0, 60), evaluation(5, None)])
    assert sorted(lists) == sorted(
        f"{part}_{per}_{measure}"
        for part in ("train", "val")
        for per in ("step", "epoch")
        for measure in ("loss", "perplexity")
    )
    assert lists["train_step_loss"] == [4.0, 2.0, 1.0, 0.0, 2000.0]
    assert lists["train_step_perplexity"][2:] == [math.e, 1.0, None]  # JSON has no infinity
    assert lists["val_step_loss"] == [3.5, 3.0, 2.5, None]
    assert lists["val_epoch_loss"] == [3.0, 2.5, None]
    assert all(values == [] for values in eight_lists([]).values())


def test_it_is_written_at_evaluations_and_at_the_end_and_never_at_a_step(tmp_path):
    written = []

    def note(path, content):
        written.append((path.name, content))

    path = tmp_path / "metrics_data_0.json"
    file = MetricsFile(path, earlier=RUN[:2], publish=note, warn=pytest.fail)
    counts = []
    for line in RUN[2:]:
        file.write(line)
        counts.append(len(written))
    assert counts == [0, 1, 1, 1, 2]
    assert json.loads(written[0][1]) == eight_lists(RUN[:4])
    file.finish({})
    names = [name for name, _ in written[2:]]
    assert names == [
        "metrics_data_0.json",
        "metrics_data_0_train_and_validation_loss.png",
        "metrics_data_0_train_and_validation_perplexity.png",
        "metrics_data_0_train_and_validation_loss_by_step.png",
        "metrics_data_0_train_and_validation_perplexity_by_step.png",
    ]
    assert json.loads(written[2][1]) == eight_lists(RUN)


def test_what_cannot_be_written_is_a_warning_once_and_tried_again(tmp_path, monkeypatch):
    def full_disk(path, content):
        raise OSError(28, "No space left on device")

    warned, path = [], tmp_path / "a run" / "metrics_data_0.json"
    path.parent.mkdir()
    file = MetricsFile(path, earlier=[], publish=full_disk, warn=warned.append)
    for line in RUN:
        file.write(line)
    file.finish({})
    assert warned == [
        f"{path} or its plots could not be written: No space left on device. The training goes on;"
        f" make them later with llama-recipes report '{path.parent}'."
    ]

    file = MetricsFile(path, earlier=RUN, publish=publish, warn=warned.append)
    monkeypatch.setattr(metrics_file, "draw", lambda records: 1 / 0)
    file.finish({})
    assert json.loads(path.read_text()) == eight_lists(RUN)
    assert "its plots could not be written: division by zero." in warned[1]


def test_a_run_that_goes_on_keeps_its_file(tmp_path):
    now = datetime(2026, 11, 24, 20, 5, 9)
    new = metrics_path(tmp_path, None, now)
    assert new == tmp_path / "metrics_data_None-2026-11-24_20-05-09.json"
    assert metrics_path(tmp_path, 0, now).name == "metrics_data_0-2026-11-24_20-05-09.json"
    new.touch()
    assert metrics_path(tmp_path, None, datetime(2027, 1, 1)) == new


@pytest.mark.parametrize(
    ("measure", "per", "y"),
    [
        ("loss", "step", "Loss (nats per token)"),
        ("perplexity", "epoch", "Perplexity"),
    ],
)
def test_a_plot_shows_both_curves_where_they_belong(measure, per, y):
    found = curves(RUN)
    train, validation = found[f"train_{per}"], found[f"val_{per}"]
    backend = dict(rcParams)["backend"]
    (axes,) = figure(train, validation, measure=measure, per=per).axes
    assert dict(rcParams)["backend"] == backend
    assert (axes.get_xlabel(), axes.get_ylabel()) == (per.capitalize(), y)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["Train", "Validation"]
    for line, curve in zip(axes.get_lines(), (train, validation), strict=True):
        assert list(line.get_xdata()) == curve.x
        expected = curve.losses if measure == "loss" else curve.perplexities
        assert list(line.get_ydata()) == expected


def test_a_run_without_evaluations_or_with_infinite_values_is_drawn_too():
    for records in ([], [step(1, 1, 2000.0, 10), step(2, 1, None, 20)]):
        pictures = draw(records)
        assert len(pictures) == 4
        assert all(content.startswith(b"\x89PNG") for content in pictures.values())
