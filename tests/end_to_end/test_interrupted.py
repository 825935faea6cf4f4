"""A run that is stopped says what it left, and what it left can be used as it was trained."""

from __future__ import annotations

import errno
import json
import os
from html import escape

import pytest
import torch

from llama_recipes.checkpoint import store
from llama_recipes.cli.main import main as command
from llama_recipes.finetuning import main
from llama_recipes.monitoring.run_log import RunLog
from llama_recipes.running import run as running
from llama_recipes.training import loop, samples
from llama_recipes.training.interruption import StopRequested
from support.tiny_folder import jsonl, sums, tiny_folder


@pytest.fixture
def flags(tmp_path):
    return [
        *(f"--model_name={tiny_folder(tmp_path / 'model')}", "--use_peft", "--context_length=128"),
        *("--dataset=file_dataset", f"--train_file={jsonl(tmp_path / 'train.jsonl', sums(12))}"),
        *(f"--output_dir={tmp_path / 'result'}", "--batch_size_training=1"),
    ]


def stop_at(step: int, error: BaseException, monkeypatch) -> None:
    """Let the step after `step` fail as a signal or a device makes it fail."""
    make, made = loop.train_step, []

    def train_step(*args, **kwargs):
        made.append(1)
        if len(made) > step:
            raise error
        return make(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", train_step)


def test_ctrl_c_keeps_the_last_weights_and_how_prompts_are_written(
    flags, tmp_path, monkeypatch, capsys
):
    stop_at(2, KeyboardInterrupt(), monkeypatch)
    assert main(flags) == 130
    results = json.loads((tmp_path / "result" / "results.json").read_text())
    assert results["steps"] == 2
    assert results["prompt_format"] == "prompt_completion"
    assert results["stop_reason"] == "stopped by KeyboardInterrupt"
    assert (tmp_path / "result" / "adapter_model.safetensors").exists()
    assert f"The weights after step 2 are saved in {tmp_path / 'result'}" in capsys.readouterr().out


def no_memory() -> RuntimeError:
    """What PyTorch says of a processor's memory."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**14)
    return caught.value


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "CUDA out of memory. Lower"),
        (no_memory(), "Lower --context_length"),
        (MemoryError("The memory ran out in attention."), "in attention. Lower --context_length"),
    ],
    ids=["a GPU's", "the machine's", "in a kernel"],
)
def test_a_device_without_memory_is_no_bug_of_ours(
    error, said, flags, tmp_path, monkeypatch, capsys
):
    stop_at(1, error, monkeypatch)
    assert main(flags) == 2
    told = capsys.readouterr().err
    assert said in told
    assert (tmp_path / "result" / "adapter_model.safetensors").exists()
    results = json.loads((tmp_path / "result" / "results.json").read_text())
    assert told == f"Error: {results['stop_message']}\n"
    page = (tmp_path / "result" / "report.html").read_text()
    why = escape(results["stop_message"])
    assert f'by an error: {type(error).__name__}.</p><p class="why">{why}</p>' in page
    assert command(["report", str(tmp_path / "result")]) == 0
    assert (tmp_path / "result" / "report.html").read_text() == page


def test_a_disk_that_is_full_in_mid_run_is_no_bug_of_ours(flags, tmp_path, monkeypatch, capsys):
    write, lines = RunLog.write, []

    def full(self, record):
        lines.append(record)
        if len(lines) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, record)

    monkeypatch.setattr(RunLog, "write", full)
    assert main([*flags, "--checkpoint_every=1"]) == 4
    said = capsys.readouterr().err
    assert "could not be written: No space left on device. What was saved before is intact" in said
    assert "Traceback" not in said
    monkeypatch.setattr(RunLog, "write", write)
    assert main([*flags, "--checkpoint_every=1", "--resume=auto"]) == 0
    assert "Going on after step 1" in capsys.readouterr().out


def fill_disk(monkeypatch, *, of: str, after: int = 0, code: int = errno.ENOSPC) -> None:
    """No file that `of` is the begin of the name of is brought to the disk, but the first."""
    sync, made = store.sync, []

    def full(path):
        if path.name.startswith(f".{of}."):
            made.append(path)
            if len(made) > after:
                raise OSError(code, os.strerror(code))
        sync(path)

    monkeypatch.setattr(store, "sync", full)


SAID = "No space left on device. What was saved before is intact: make room, and go on with"


@pytest.mark.parametrize(
    ("of", "after", "trained"),
    [
        ("results.json", 0, False),
        ("results.json", 1, True),  # before the answers, and behind them
        ("results.json", 2, True),
        ("optimizer.safetensors", 0, True),
    ],
)
def test_a_disk_that_is_full_at_the_end_is_no_bug_of_ours(
    of, after, trained, flags, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        fill_disk(patch, of=of, after=after)
        assert main([*flags, "--save_optimizer"]) == 4
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {tmp_path / 'result' / of} could not be written: {SAID}")
    assert (tmp_path / "result" / "adapter_model.safetensors").exists() == trained
    assert main([*flags, "--save_optimizer", "--resume=auto"]) == 0
    results = json.loads((tmp_path / "result" / "results.json").read_text())
    assert results["stop_reason"] == "all epochs are done"
    assert (tmp_path / "result" / "optimizer.safetensors").exists()


def test_a_disk_that_is_full_before_the_first_step(flags, tmp_path, monkeypatch, capsys):
    fill_disk(monkeypatch, of="config.yaml")
    assert main(flags) == 4
    assert capsys.readouterr().err == (
        f"Error: {tmp_path / 'result' / 'config.yaml'} could not be written: No space left on"
        " device. Make room, or give another --output_dir.\n"
    )


def test_a_tracker_that_cannot_begin_is_no_bug_of_ours(flags, tmp_path, capsys):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "tensorboard").write_text("")
    assert main([*flags, "--use_tensorboard"]) == 4
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {tmp_path / 'result'} could not be written: File exists.")
    assert said.endswith("Make room, or leave the tracker out.\n")


def test_results_that_cannot_be_written_cost_no_checkpoint(flags, tmp_path, monkeypatch, capsys):
    stop_at(2, StopRequested("SIGTERM"), monkeypatch)
    fill_disk(monkeypatch, of="results.json", after=1)
    assert main(flags) == 75
    said = capsys.readouterr()
    assert f"{tmp_path / 'result' / 'results.json'} could not be written: {SAID}" in said.out
    assert "Stopped by SIGTERM after step 2, which is saved in" in said.err


@pytest.mark.parametrize("number", [1, 2], ids=["before", "after"])
def test_a_machine_without_memory_for_answers_has_trained_well(
    number, flags, tmp_path, monkeypatch, capsys
):
    generate, made, folder = samples.generate, [], tmp_path / "result"

    def full(*args, **kwargs):
        made.append(args)
        if len(made) == number:
            raise no_memory()
        return generate(*args, **kwargs)

    monkeypatch.setattr(samples, "generate", full)
    monkeypatch.setattr(samples, "SHARE", 1e9)
    assert main(flags) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["stop_reason"] == "all epochs are done"
    assert len(made) == number
    found = json.loads((folder / "samples.json").read_text())
    assert found["left_out"] == ("the memory ran out." if number == 1 else "")
    said = "The answers after the training are left out: the memory ran out."
    assert (said in capsys.readouterr().out) == (number == 2)


def test_what_breaks_while_it_answers_leaves_a_run_that_ended(flags, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        """What there is after a kill, too."""
        results = json.loads((tmp_path / "result" / "results.json").read_text())
        assert results["stop_reason"] == "all epochs are done"
        raise ZeroDivisionError

    monkeypatch.setattr(running, "ask_after", broken)
    assert main(flags) == 1
    results = json.loads((tmp_path / "result" / "results.json").read_text())
    assert results["stop_reason"] == "all epochs are done"


def test_a_run_that_was_killed_before_it_saved_can_be_started_again(flags, tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "results.json").write_text('{"stop_reason": ""}')
    assert main(flags) == 0


def test_several_processes_do_not_train_into_one_folder(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(flags) == 2
    assert "torchrun started 2 processes, which would all train the same" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "result").exists()


def test_sharing_alone_names_the_command_that_starts_several(flags, tmp_path, capsys):
    assert main([*flags, "--enable_fsdp"]) == 2
    assert "Start them with torchrun --nproc_per_node N" in capsys.readouterr().err
    assert not (tmp_path / "result").exists()


def test_a_warm_up_longer_than_the_run_is_named(flags, capsys):
    assert main([*flags, "--max_train_step=2", "--warmup_steps=2"]) == 0
    assert "Warning: --warmup_steps is 2, so the learning rate never reaches --lr" in (
        capsys.readouterr().out
    )
