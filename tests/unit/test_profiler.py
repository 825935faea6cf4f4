"""The trace: of which steps, with what in it, and what a run leaves that is too short for it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from llama_recipes.kernels import library
from llama_recipes.monitoring.profiler import Profiler
from llama_recipes.monitoring.screen import Screen
from support.trained import Trained


def profiled(folder: Path, traces: Path, **settings) -> tuple[Trained, str]:
    """A run with a profiler, and what that showed."""
    trained, shown = Trained(folder, **settings), io.StringIO()
    screen = Screen(Console(file=shown, width=400))
    trained.run.instrument = Profiler(traces, rank=0, device=torch.device("cpu"), screen=screen)
    trained.train()
    return trained, shown.getvalue()


def events(traces: Path) -> list[dict]:
    (file,) = traces.iterdir()
    assert file.name.startswith("rank0.")
    assert file.name.endswith(".pt.trace.json")
    return json.loads(file.read_text())["traceEvents"]


def named(found: list[dict], name: str) -> list[dict]:
    return [event for event in found if event["name"] == name and event.get("ph") == "X"]


def marks(found: list[dict]) -> list[str]:
    steps = [e for e in found if e["name"].startswith("ProfilerStep") and e.get("ph") == "X"]
    return sorted(event["name"] for event in steps)


def test_the_trace_holds_the_steps_4_to_6_and_nothing_else(tmp_path):
    _, shown = profiled(tmp_path, tmp_path / "traces")
    found = events(tmp_path / "traces")
    assert marks(found) == ["ProfilerStep#3", "ProfilerStep#4", "ProfilerStep#5"]  # from 0
    assert len(named(found, "Optimizer.step#AdamW.step")) == 3
    products = named(found, "aten::mm")
    assert all(event["args"]["Input Dims"] for event in products)
    assert len(products) % 3 == 0
    assert len(products) > 30
    assert [event for event in found if event["name"] == "[memory]"]
    assert "aten::mm" in shown
    assert f"The trace is in {tmp_path / 'traces'}: open it with tensorboard --logdir" in shown


def test_the_library_below_says_nothing_and_the_command_can_be_pasted(tmp_path, capfd):
    _, shown = profiled(tmp_path, tmp_path / "my traces")
    assert f"tensorboard --logdir '{tmp_path / 'my traces'}' (and" in shown
    said = capfd.readouterr()
    assert "profiler_start" not in said.out + said.err


def test_steps_are_optimizer_steps_whatever_they_accumulate(tmp_path):
    settings = {"num_epochs": 2, "gradient_accumulation_steps": 2, "evaluated": False}
    profiled(tmp_path, tmp_path / "traces", **settings)
    found = events(tmp_path / "traces")
    assert len(marks(found)) == len(named(found, "Optimizer.step#AdamW.step")) == 3
    assert len(named(found, "_LinearCrossEntropy")) == 6


def test_our_kernels_have_their_names_in_it(tmp_path, either_path):
    profiled(tmp_path, tmp_path / "traces")
    names = {e["name"] for e in events(tmp_path / "traces") if e["name"].startswith("llama_rec")}
    kernels = {"attention_forward", "attention_backward", "norm_forward", "rotate"}
    expected = {f"llama_recipes::{name}" for name in kernels}
    assert names & expected == (expected if library.enabled() else set())
    assert library._watch is None


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (2, "after 2 of the 6 steps that --use_profiler needs: nothing was recorded."),
        (3, "after 3 of the 6 steps that --use_profiler needs: nothing was recorded."),
        (5, "after 5 of the 6 steps that --use_profiler needs: the trace holds 2."),
    ],
)
def test_a_shorter_run_leaves_what_was_recorded_of_it(steps, said, tmp_path):
    traces = tmp_path / "traces"
    _, shown = profiled(tmp_path, traces, max_train_step=steps)
    assert f"Warning: The run ended {said}" in shown
    assert traces.exists() == ("The trace is in" in shown) == (steps == 5)
    if steps == 5:
        assert len(named(events(traces), "Optimizer.step#AdamW.step")) == 2
    assert library._watch is None


def test_a_trace_that_cannot_be_written_does_not_cost_the_run(tmp_path):
    (tmp_path / "traces").write_text("a file")
    trained, shown = profiled(tmp_path, tmp_path / "traces")
    assert f"The trace could not be written to {tmp_path / 'traces'}: " in shown
    assert trained.run.progress.stop_reason == "all epochs are done"


def test_profiling_changes_no_bit(tmp_path, either_path):
    plain = Trained(tmp_path / "plain")
    plain.train()
    watched, _ = profiled(tmp_path / "watched", tmp_path / "traces")
    assert [s["loss"] for s in plain.steps] == [s["loss"] for s in watched.steps]
    weights = dict(watched.model.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in plain.model.named_parameters())
