"""Checkpoints that are written while the training goes on."""

from __future__ import annotations

import json
import threading

import pytest

from llama_recipes.checkpoint.background import Background
from llama_recipes.errors import CheckpointError
from llama_recipes.finetuning import main
from llama_recipes.parallel.world import CPU_ALONE
from llama_recipes.training import checkpointer
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


@pytest.mark.parametrize(("available", "beside"), [(0.0, False), (8.0, True)])
def test_where_a_copy_has_no_room_it_is_written_at_once(
    flags, available, beside, monkeypatch, capsys
):
    write, threads = checkpointer.write_checkpoint, set()

    def noting(*arguments, **more):
        threads.add(threading.current_thread().name)
        return write(*arguments, **more)

    monkeypatch.setattr(checkpointer, "write_checkpoint", noting)
    monkeypatch.setattr(checkpointer, "available_memory_gib", lambda device: available)
    assert main([*flags, "--max_train_step=3"]) == 0
    assert threads == ({"checkpoint", "MainThread"} if beside else {"MainThread"})
