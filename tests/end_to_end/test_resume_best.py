"""A run whose best weights are not its last keeps them, wherever and from where it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from itertools import count

import pytest
import torch
from safetensors.torch import load_file

from llama_recipes.errors import CheckpointError
from llama_recipes.export.result import step_of
from llama_recipes.finetuning import main
from llama_recipes.training import checkpointer, loop
from llama_recipes.training.selection import Selection
from support.ranks import run_jobs
from support.tiny_folder import jsonl, sums, tiny_folder

OTHER = [{"prompt": "unlike all of that", "completion": f" {word}"} for word in ("not", "a", "sum")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that knows what it is evaluated on: all that it learns from other data is worse."""
    folder = tmp_path_factory.mktemp("base")
    flags = [
        *(f"--model_name={tiny_folder(folder / 'tiny')}", f"--output_dir={folder / 'model'}"),
        *("--dataset=file_dataset", f"--train_file={jsonl(folder / 'other.jsonl', OTHER)}"),
        *("--no_run_validation", "--context_length=128", "--batching_strategy=padding"),
        *("--num_epochs=20", "--lr=1e-2"),
    ]
    assert main(flags) == 0
    return folder / "model"


@pytest.fixture(params=["adapter", "all weights"])
def flags(request, base, tmp_path):
    return [
        *(f"--model_name={base}", "--context_length=128", "--num_epochs=1"),
        *(["--use_peft", "--lr=3e-2"] if request.param == "adapter" else ["--lr=3e-3"]),
        *("--dataset=file_dataset", f"--train_file={jsonl(tmp_path / 'train.jsonl', sums(9))}"),
        f"--validation_file={jsonl(tmp_path / 'validation.jsonl', OTHER)}",
        *("--batch_size_training=1", "--batching_strategy=padding", "--eval_every=4"),
    ]


def weights(folder):
    return {
        f"{path.relative_to(folder)}:{key}": value
        for path in [*folder.glob("*.safetensors"), *folder.glob("last/*.safetensors")]
        for key, value in load_file(path).items()
    }


def same(one, other):
    assert one.keys() == other.keys() != set()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def lines(folder):
    """Steps and losses of metrics.jsonl, of evaluations too."""
    read = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line.get("loss"), line.get("eval_loss")) for line in read]


def best_step(folder):
    return json.loads((folder / "results.json").read_text())["best_step"]


@pytest.fixture
def whole(flags, tmp_path):
    """The run that is not interrupted; its best weights are an early step's."""
    folder = tmp_path / "whole"
    assert main([*flags, f"--output_dir={folder}", "--checkpoint_every=3"]) == 0
    assert best_step(folder) == step_of(folder) == 4
    assert step_of(folder / "last") == 9
    return folder


@pytest.fixture
def stopped(flags, tmp_path, whole):
    """Its first six steps. every: 4 or 3, for a checkpoint of the best step or none of it."""

    def run(every: int):
        folder = tmp_path / "stopped"
        more = ("--max_train_step=6", f"--checkpoint_every={every}", "--keep_checkpoints=3")
        assert main([*flags, f"--output_dir={folder}", *more]) == 0
        return folder

    return run


@pytest.mark.parametrize("every", [4, 3], ids=["of its checkpoint", "of the earlier folder"])
def test_another_folder_gets_them(every, flags, stopped, whole, tmp_path):
    checkpoint = stopped(every) / "checkpoints" / "step-00000006"
    moved = tmp_path / "moved"
    assert main([*flags, f"--resume={checkpoint}", f"--output_dir={moved}"]) == 0
    assert best_step(moved) == step_of(moved) == 4
    same(weights(moved), weights(whole))


def test_what_comes_behind_an_earlier_checkpoint_is_given_up(flags, stopped, whole):
    """Its folder holds step 6's as the best, of a way that is not gone on with."""
    folder = stopped(4)
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    shutil.rmtree(other / "checkpoints" / "step-00000006")
    # As after a run that found step 6 better, and goes on from step 4.
    for path in folder.glob("last/*.safetensors"):
        shutil.copyfile(path, other / path.name)
    assert step_of(other) == 6
    resume = f"--resume={other / 'checkpoints' / 'step-00000004'}"
    assert main([*flags, f"--output_dir={other}", resume]) == 0
    assert best_step(other) == step_of(other) == 4
    same(weights(other), weights(whole))


def test_where_they_are_gone_that_is_said_and_the_next_evaluation_begins_anew(
    flags, stopped, tmp_path, capsys
):
    folder, moved = stopped(3), tmp_path / "moved"
    for path in folder.glob("*.safetensors"):
        path.unlink()
    capsys.readouterr()
    checkpoint = folder / "checkpoints" / "step-00000006"
    assert main([*flags, f"--resume={checkpoint}", f"--output_dir={moved}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The weights after step 4, the best so far, are no longer there" in said
    assert best_step(moved) == step_of(moved) >= 8


def test_last_weights_of_a_way_that_is_given_up_go(flags, stopped):
    folder = stopped(4)
    assert step_of(folder / "last") == 6
    resume = f"--resume={folder / 'checkpoints' / 'step-00000004'}"
    bad = ("--lr=1e30", "--no_gradient_clipping", "--resume_with_changes")
    flags = [flag for flag in flags if not flag.startswith("--lr=")]
    assert main([*flags, f"--output_dir={folder}", resume, *bad]) == 5
    last = step_of(folder / "last")
    assert last is None or last < 6


def fails_at(number, error, act):
    """`act`, but that call of it raises `error`."""
    calls = count(1)

    def acts(*arguments, **more):
        if next(calls) == number:
            raise error
        return act(*arguments, **more)

    return acts


def test_killed_between_its_first_evaluation_and_its_first_checkpoint_it_goes_on(
    flags, whole, tmp_path, monkeypatch
):
    folder = tmp_path / "killed"
    dies = fails_at(6, RuntimeError("as good as killed"), loop.train_step)
    command = [*flags, f"--output_dir={folder}", "--checkpoint_every=50", "--resume=auto"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", dies)
        assert main(command) == 1
    assert step_of(folder) == 4
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000004"]
    assert main(command) == 0
    assert lines(folder) == lines(whole)
    same(weights(folder), weights(whole))


@pytest.mark.parametrize("failing", [1, 2])
def test_failing_in_a_first_save_that_is_due_with_an_evaluation_it_can_be_started_again(
    failing, flags, whole, tmp_path, monkeypatch
):
    """The first is ahead of the evaluation, whose weights are there by the second."""
    folder = tmp_path / "failed"
    full = CheckpointError("as good as a full disk")
    fails = fails_at(failing, full, checkpointer.write_checkpoint)
    command = [*flags, f"--output_dir={folder}", "--checkpoint_every=4", "--resume=auto"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "write_checkpoint", fails)
        assert main(command) == CheckpointError.exit_code
    assert step_of(folder) == (None if failing == 1 else 4)
    assert main(command) == 0
    assert lines(folder) == lines(whole)
    same(weights(folder), weights(whole))


def test_killed_while_it_leaves_before_its_first_checkpoint_it_goes_on(
    flags, whole, tmp_path, monkeypatch
):
    folder = tmp_path / "left"

    def signalled(*arguments, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*arguments, **more)

    def dies(*arguments):
        raise RuntimeError("as good as killed")

    train_step = loop.train_step
    command = [*flags, f"--output_dir={folder}", "--resume=auto"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", signalled)
        patch.setattr(Selection, "keep_last", dies)
        assert main(command) == 1
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000000"]
    assert main(command) == 0
    assert lines(folder) == lines(whole)
    same(weights(folder), weights(whole))


@pytest.mark.parametrize(
    "every",
    [pytest.param(4, id="of its checkpoint", marks=pytest.mark.faults), 3],
)
def test_on_two_processes_another_folder_gets_them(every, flags, tmp_path):
    own = [flag for flag in flags if flag != "--num_epochs=1"]  # half as many steps an epoch

    def job(name: str, *extra: str) -> list[str]:
        more = ("--enable_fsdp", "--no_mixed_precision", "--num_epochs=2")
        places = (f"--output_dir={tmp_path / name}", f"--dist_checkpoint_root_folder={tmp_path}")
        return [*own, *more, *places, f"--dist_checkpoint_folder={name}", *extra]

    apart = tmp_path / "stopped-model"  # of all weights
    root = tmp_path / "stopped" / "checkpoints" if "--use_peft" in flags else apart
    checkpoint = f"--checkpoint_every={every}"
    jobs = [
        job("whole", checkpoint),
        job("stopped", checkpoint, "--max_train_step=6", "--keep_checkpoints=3"),
        job("moved", f"--resume={root / 'step-00000006'}"),
    ]
    run_jobs(tmp_path / "logs", jobs, size=2)
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert best_step(moved) == step_of(moved) == best_step(whole) < 6
    same(weights(moved), weights(whole))
