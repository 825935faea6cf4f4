"""metrics.jsonl and results.json: every line is there at once, and all of it is JSON."""

from __future__ import annotations

import json
import math

import pytest

from llama_recipes.errors import CheckpointError
from llama_recipes.monitoring.results import summarise
from llama_recipes.monitoring.run_log import METRICS_FILE, RunLog, finite, perplexity


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def test_a_line_is_on_the_disk_before_the_next_step(tmp_path):
    with RunLog(tmp_path) as log:
        log.write({"step": 1, "loss": 2.5})
        assert lines(tmp_path) == [{"step": 1, "loss": 2.5}]
        log.write({"step": 2, "loss": 2.25})
        assert lines(tmp_path)[1] == {"step": 2, "loss": 2.25}


def test_lines_survive_an_exception_and_are_appended_to(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLog(tmp_path) as log:
        log.write({"step": 1})
        raise ZeroDivisionError
    with RunLog(tmp_path) as log:
        log.write({"step": 2})
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}]


def test_numbers_come_back_exactly(tmp_path):
    with RunLog(tmp_path) as log:
        log.write({"loss": 0.1 + 0.2})
    assert lines(tmp_path) == [{"loss": 0.1 + 0.2}]


def test_what_is_not_finite_is_null(tmp_path):
    with RunLog(tmp_path) as log:
        log.write({"a": math.inf, "b": math.nan, "c": -math.inf, "d": "inf"})
    assert lines(tmp_path) == [{"a": None, "b": None, "c": None, "d": "inf"}]
    assert finite({"n": 3}) == {"n": 3}


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunLog(None) as log:
        log.write({"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / METRICS_FILE).mkdir()
    with pytest.raises(CheckpointError, match=r"metrics.jsonl could not be written: .* Make room"):
        RunLog(tmp_path)


def test_perplexity():
    assert perplexity(0.0) == 1.0
    assert perplexity(1.0) == pytest.approx(math.e)
    assert perplexity(1e6) == math.inf


def summary(**changes):
    nothing = {"epoch_losses": [], "eval_losses": [], "epoch_seconds": [], "save_seconds": []}
    return summarise(**(nothing | changes))


def test_results_are_means_over_epochs_evaluations_and_savings():
    results = summary(
        epoch_losses=[2.0, 1.0],
        eval_losses=[3.0],
        epoch_seconds=[10.0, 20.0],
        save_seconds=[1.0, 2.0],
        best_step=4,
    )
    assert results == {
        "avg_train_prep": pytest.approx((math.exp(2) + math.exp(1)) / 2),
        "avg_train_loss": 1.5,
        "avg_eval_prep": pytest.approx(math.exp(3)),
        "avg_eval_loss": 3.0,
        "avg_epoch_time": 15.0,
        "avg_checkpoint_time": 1.5,
        "model_tflops": None,
        "metrics_filename": None,
        "best_step": 4,
    }


def test_results_without_evaluation_or_saving_are_null():
    results = summary(epoch_losses=[math.nan], best_eval_loss=math.inf)
    assert results["avg_eval_loss"] is None
    assert results["avg_checkpoint_time"] is None
    assert results["avg_train_loss"] is None
    assert results["best_eval_loss"] is None
    json.dumps(results, allow_nan=False)
