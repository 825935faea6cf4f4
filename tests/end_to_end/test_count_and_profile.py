"""--flop_counter and --use_profiler from the command line: what is said, written and refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from llama_recipes.finetuning import main
from support.outcome import Outcome, run
from support.tiny_folder import jsonl, sums, tiny_folder

SIX_STEPS = "--num_epochs=2"
FEW = "--max_train_step=2"


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("inputs")
    return [
        *(f"--model_name={tiny_folder(folder / 'model')}", "--dataset=file_dataset"),
        f"--file_dataset.train_file={jsonl(folder / 'train.jsonl', sums(12))}",
        *("--batching_strategy=padding", "--no_run_validation", "--use_peft", "--lr=1e-2"),
        *("--no_mixed_precision", SIX_STEPS),
    ]


@pytest.fixture(scope="module")
def plain(flags, tmp_path_factory) -> Outcome:
    return run(tmp_path_factory.mktemp("plain") / "of", *flags)


def same(plain: Outcome, other: Outcome) -> bool:
    """Losses, norms and the adapter, bit for bit."""
    assert plain.code == other.code == 0, other.err
    return plain.adapter() == other.adapter() and all(
        plain.steps(name) == other.steps(name) for name in ("loss", "grad_norm", "tokens")
    )


def test_a_counted_run_says_writes_and_changes_nothing_else(flags, plain, tmp_path):
    counted = run(tmp_path / "of", *flags, "--flop_counter")
    assert same(plain, counted)
    assert plain.result("model_tflops") is None
    assert "flop_counter" not in plain.json("results.json")
    found = counted.result("flop_counter")
    assert found["step"] == 4
    assert found["timed_steps"] == [5, 6]
    by_pass = Counter()
    for passes in found["tflop_by_module"].values():
        by_pass.update(passes)
    assert by_pass["forward"] + by_pass["backward"] == pytest.approx(found["model_tflop"])
    assert by_pass["recomputed"] == pytest.approx(found["recomputed_tflop"])
    assert found["tflop_by_module"]["Llama.layers.mlp.up_proj"]["forward"] > 0
    assert found["matrix_tflops_from"].startswith("measured with products of ")
    rate = found["model_tflop"] / found["tokens"] * found["tokens_per_second_per_device"]
    assert counted.result("model_tflops") == pytest.approx(rate)
    assert found["share_of_matrix_rate"] == pytest.approx(rate / found["matrix_tflops"])
    assert counted.said("Floating-point operations of optimizer step ") == "4:"
    for line in ("forward", "self_attn", "q_proj", "gate_proj", "head and loss", "TFLOP/s per dev"):
        assert line in counted.out


def test_recomputed_operations_are_shown_and_are_none_of_the_model_s(flags, tmp_path):
    def found(name: str, *more: str) -> dict:
        return run(tmp_path / name, *flags, "--flop_counter", *more).result("flop_counter")

    kept = found("kept", "--flop_counter_start=1")
    again = found("again", "--flop_counter_start=1", "--fsdp_activation_checkpointing")
    assert kept["model_tflop"] == again["model_tflop"]
    assert again["recomputed_tflop"] > kept["recomputed_tflop"] == 0


def test_a_profiled_run_leaves_a_trace_and_changes_nothing_else(flags, plain, tmp_path):
    profiled = run(tmp_path / "of", *flags, "--use_profiler", "--profiler_dir=ROOT/traces")
    assert same(plain, profiled)
    (trace,) = (profiled.root / "traces").iterdir()
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("Optimizer.step#AdamW.step") == 3
    assert profiled.said("The trace is in ").startswith(str(profiled.root / "traces"))
    assert "Warning: --use_profiler" not in profiled.out


@pytest.mark.parametrize(
    ("asked", "expected", "outcome"),
    [
        (
            ["--flop_counter", "--flop_counter_start=6"],
            "--flop_counter counts the step after the first 6, and 6 are made: nothing will be"
            " counted. Lower --flop_counter_start.",
            "The run ended before the step that --flop_counter was to count.",
        ),
        (
            ["--use_profiler", "--profiler_dir=ROOT/traces", "--num_epochs=1"],
            "--use_profiler records the steps 4 to 6, and 3 are made: the trace will be shorter,"
            " or there will be none. Raise --num_epochs or lower --batch_size_training.",
            "The run ended after 3 of the 6 steps that --use_profiler needs: nothing was recorded.",
        ),
    ],
)
def test_too_few_steps_are_a_warning_before_training(asked, expected, outcome, flags, tmp_path):
    done = run(tmp_path / "of", *flags, *asked)
    assert done.code == 0
    before, _, after = done.out.partition("Training Epoch")
    assert f"Warning: {expected}" in before
    assert f"Warning: {outcome}" in after
    assert done.result("model_tflops") is None


def test_too_few_steps_are_refused_where_the_settings_alone_tell(flags, tmp_path):
    refused = run(tmp_path / "of", *flags, "--flop_counter", FEW)
    assert refused.code == 2
    assert "--max_train_step is 2, but --flop_counter counts the step after" in refused.err


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_model_loads(flags, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "traces"
    asked = ["--use_profiler", f"--profiler_dir={folder}", "--model_name=/no/such/model"]
    refused = run(tmp_path / "of", *flags, *asked)
    assert refused.code == 2
    assert f"--profiler_dir {folder} cannot be written to: " in refused.err
    assert "Name a folder that you may write to." in refused.err
    assert not Path(refused.folder).exists()


def test_a_run_that_goes_on_counts_from_there(flags, plain, tmp_path):
    begun = run(tmp_path / "of", *flags, FEW, "--checkpoint_every=1")
    assert begun.code == 0
    checkpoint = begun.folder / "checkpoints" / "step-00000002"
    counting = ["--flop_counter", "--flop_counter_start=1", f"--resume={checkpoint}"]
    gone_on = run(tmp_path / "on", *flags, *counting)
    assert gone_on.result("flop_counter")["step"] == 4
    assert gone_on.result("flop_counter")["timed_steps"] == [5, 6]
    assert same(plain, gone_on)


def test_what_was_counted_stays_where_a_finished_run_is_started_again(flags, tmp_path):
    once = run(tmp_path / "of", *flags, "--flop_counter")
    counted = once.result("flop_counter"), once.result("model_tflops")
    again = [*flags, "--flop_counter", f"--output_dir={once.folder}", "--resume=auto"]
    assert main([flag for flag in again if "ROOT" not in flag]) == 0
    assert (once.result("flop_counter"), once.result("model_tflops")) == counted
    assert counted[1] > 0


def test_a_step_that_nothing_times_takes_no_earlier_figures_away(flags, tmp_path, capsys):
    counting = [*flags, "--flop_counter", "--keep_checkpoints=9", "--checkpoint_every=1"]
    once = run(tmp_path / "of", *counting, "--flop_counter_start=3")
    counted = once.result("flop_counter"), once.result("model_tflops")
    checkpoint = once.folder / "checkpoints" / "step-00000005"
    last = ["--flop_counter_start=0", f"--resume={checkpoint}", f"--output_dir={once.folder}"]
    capsys.readouterr()
    assert main([*counting, *last]) == 0
    said = capsys.readouterr().out
    assert "There is no other step to time, so that there is no TFLOP/s." in said
    assert (once.result("flop_counter"), once.result("model_tflops")) == counted
    assert counted[1] > 0
