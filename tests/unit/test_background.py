"""Checkpoints that are written while the training goes on."""

from __future__ import annotations

import json
import threading

import pytest

from llama_recipes.checkpoint.background import Background
from llama_recipes.checkpoint.folder import published
from llama_recipes.errors import CheckpointError
from llama_recipes.finetuning import main
from llama_recipes.parallel.world import CPU_ALONE
from llama_recipes.training import checkpointer, loop
from llama_recipes.training.interruption import StopRequested
from support.tiny_folder import jsonl, sums, tiny_folder


def test_it_goes_on_beside_and_never_two_at_once():
    background, release, order = Background(CPU_ALONE), threading.Event(), []

    def first() -> None:
        release.wait()
        order.append("first")

    background.start(first)
    background.look()
    assert order == []  # neither has waited for it
    threading.Timer(0.2, release.set).start()
    background.start(lambda: order.append("second"))
    background.wait()
    assert order == ["first", "second"]


def test_what_it_raised_is_raised_once():
    background = Background(CPU_ALONE)

    def failing() -> None:
        raise CheckpointError("The disk is full.")

    background.start(failing)
    with pytest.raises(CheckpointError, match="The disk is full"):
        background.wait()
    background.wait()
    background.look()


@pytest.fixture
def flags(tmp_path):
    return [
        *(f"--model_name={tiny_folder(tmp_path / 'model')}", "--use_peft", "--context_length=64"),
        *("--dataset=file_dataset", f"--train_file={jsonl(tmp_path / 'train.jsonl', sums(20))}"),
        *(f"--output_dir={tmp_path / 'result'}", "--batch_size_training=1", "--num_epochs=1"),
        *("--checkpoint_every=1", "--no_run_validation"),
    ]


def test_a_save_that_fails_ends_the_run_soon_with_what_is_good(
    flags, tmp_path, monkeypatch, capsys
):
    write = checkpointer.write_checkpoint

    def failing(root, step, *arguments, **more):
        if step == 2:
            raise CheckpointError("The checkpoint of step 2 could not be written.")
        return write(root, step, *arguments, **more)

    monkeypatch.setattr(checkpointer, "write_checkpoint", failing)
    assert main(flags) == 4
    assert "The checkpoint of step 2 could not be written." in capsys.readouterr().err
    lines = (tmp_path / "result" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 3  # the step after it, not the end of the run
    assert [path.name for path in (tmp_path / "result" / "checkpoints").iterdir()] == [
        "step-00000001"
    ]


@pytest.mark.parametrize(
    ("available", "of_the_host", "beside"),
    [(0.0, 1, False), (8.0, 1, True), (8.0, 1_000_000, False)],
)
def test_where_copies_have_no_room_it_is_written_at_once(
    flags, available, of_the_host, beside, monkeypatch, capsys
):
    """All processes of a host copy at the same time."""
    write, threads = checkpointer.write_checkpoint, set()

    def noting(*arguments, **more):
        threads.add(threading.current_thread().name)
        return write(*arguments, **more)

    monkeypatch.setattr(checkpointer, "write_checkpoint", noting)
    monkeypatch.setattr(checkpointer, "available_memory_gib", lambda device: available)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(of_the_host))
    assert main([*flags, "--max_train_step=3"]) == 0
    assert threads == ({"checkpoint", "MainThread"} if beside else {"MainThread"})


def test_killed_behind_its_last_save_the_next_start_leaves_what_a_whole_run_does(
    flags, tmp_path, monkeypatch
):
    def dies(root, **more):
        if published(root)[-1].step == 3:
            raise RuntimeError("as good as killed")
        prune(root, **more)

    prune, checkpoints = checkpointer.prune, tmp_path / "result" / "checkpoints"
    command = [*flags, "--max_train_step=3", "--keep_checkpoints=2", "--resume=auto"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "prune", dies)
        assert main(command) == 1
    (checkpoints / ".draft-step-00000001-old").mkdir()  # killed while it deleted that, too
    assert len(list(checkpoints.iterdir())) == 4
    assert main(command) == 0
    kept = sorted(path.name for path in checkpoints.iterdir())
    assert kept == ["step-00000002", "step-00000003"]


def test_what_is_written_beside_the_training_stays_as_it_was(flags, monkeypatch):
    write, states = checkpointer.write_checkpoint, []

    def noting(root, step, state, *arguments, **more):
        states.append((state, json.dumps(state)))
        return write(root, step, state, *arguments, **more)

    monkeypatch.setattr(checkpointer, "write_checkpoint", noting)
    longer = [*(flag for flag in flags if "--num_epochs" not in flag), "--num_epochs=2"]
    assert main(longer) == 0  # a save of the result behind each epoch adds to what was written
    assert len(states) > 2
    assert all(json.dumps(state) == text for state, text in states)


def stopped_after(step: int, monkeypatch) -> None:
    """A signal comes in the step after `step`."""
    make, made = loop.train_step, []

    def train_step(*arguments, **more):
        made.append(1)
        if len(made) > step:
            raise StopRequested("SIGTERM")
        return make(*arguments, **more)

    monkeypatch.setattr(loop, "train_step", train_step)


def test_a_signal_after_a_save_does_not_save_the_same_again(flags, tmp_path, monkeypatch, capsys):
    write, written = checkpointer.write_checkpoint, []

    def noting(root, step, *arguments, **more):
        written.append(step)
        return write(root, step, *arguments, **more)

    monkeypatch.setattr(checkpointer, "write_checkpoint", noting)
    stopped_after(2, monkeypatch)
    assert main(flags) == 75
    path = tmp_path / "result" / "checkpoints" / "step-00000002"
    assert f"Stopped by SIGTERM after step 2, which is saved in {path}" in capsys.readouterr().err
    assert path.is_dir()
    assert written == [1, 2]


@pytest.mark.parametrize("again", [False, True], ids=["there is room by then", "nor then"])
def test_a_signal_after_a_save_that_failed_tries_once_more(
    again, flags, tmp_path, monkeypatch, capsys
):
    write, failed = checkpointer.write_checkpoint, []

    def failing(root, step, *arguments, **more):
        if step == 2 and (again or not failed):
            failed.append(step)
            raise CheckpointError(f"The disk is full for the {len(failed)}. time.")
        return write(root, step, *arguments, **more)

    monkeypatch.setattr(checkpointer, "write_checkpoint", failing)
    stopped_after(2, monkeypatch)
    assert main(flags) == (4 if again else 75)
    said = capsys.readouterr()
    assert "Warning: The disk is full for the 1. time." in said.out
    assert ("The disk is full for the 2. time." in said.err) == again
    assert (tmp_path / "result" / "checkpoints" / "step-00000002").is_dir() == (not again)
