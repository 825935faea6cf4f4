"""A run that goes on from an earlier checkpoint than its newest gives up what came behind that."""

from __future__ import annotations

import json

import pytest

from llama_recipes.finetuning import main
from llama_recipes.training import checkpointer, loop
from support.tiny_folder import jsonl, sums, tiny_folder


@pytest.fixture
def flags(tmp_path):
    """A run whose six steps are saved in `result`, of which `root` are the checkpoints."""
    rows = sums(12)
    flags = [
        *(f"--model_name={tiny_folder(tmp_path / 'model')}", "--use_peft", "--context_length=128"),
        *("--dataset=file_dataset", f"--train_file={jsonl(tmp_path / 'train.jsonl', rows[:9])}"),
        f"--validation_file={jsonl(tmp_path / 'validation.jsonl', rows[9:])}",
        *(f"--output_dir={tmp_path / 'result'}", "--batch_size_training=1", "--checkpoint_every=1"),
        *("--batching_strategy=padding", "--lr=1e-2", "--eval_every=1"),
    ]
    assert main([*flags, "--max_train_step=6", "--keep_checkpoints=6"]) == 0
    return flags


@pytest.fixture
def root(tmp_path):
    return tmp_path / "result" / "checkpoints"


def steps(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "loss" in line]


def names(root):
    return sorted(int(path.name[5:]) for path in root.iterdir())


def from_three(root):
    return f"--resume={root / 'step-00000003'}"


def test_auto_goes_on_from_what_was_saved_last(flags, root, tmp_path):
    assert main([*flags, from_three(root), "--keep_checkpoints=2", "--max_train_step=4"]) == 0
    assert max(names(root)) == 4
    assert main([*flags, "--resume=auto", "--max_train_step=8"]) == 0
    assert steps(tmp_path / "result") == [1, 2, 3, 4, 5, 6, 7, 8]


def test_with_other_settings_auto_meets_those_and_not_the_old(flags, root, tmp_path):
    changed = [*flags, "--weight_decay=0.1"]
    assert main([*changed, from_three(root), "--resume_with_changes", "--max_train_step=4"]) == 0
    assert main([*changed, "--resume=auto", "--max_train_step=5"]) == 0
    assert steps(tmp_path / "result") == [1, 2, 3, 4, 5]


def test_nothing_is_given_up_before_there_is_something_new(flags, root, monkeypatch):
    def killed(*arguments, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "write_checkpoint", killed)
        assert main([*flags, from_three(root), "--keep_checkpoints=1"]) == 130
    assert names(root) == [1, 2, 3, 4, 5, 6]


def test_killed_before_it_gives_up_the_old_it_goes_on_from_the_new(
    flags, root, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        for name in ("retire", "prune"):
            patch.setattr(checkpointer, name, lambda *arguments, **more: None)
        assert main([*flags, from_three(root), "--max_train_step=4"]) == 0
    assert names(root) == [1, 2, 3, 4, 5, 6]
    assert main([*flags, "--resume=auto", "--max_train_step=8"]) == 0
    assert steps(tmp_path / "result") == [1, 2, 3, 4, 5, 6, 7, 8]


def test_metrics_that_are_gone_are_missed_and_not_passed_over(
    flags, root, tmp_path, monkeypatch, capsys
):
    """It went on from step 3, and was killed before it saved: its lines from 4 on are cut."""

    def killed(*arguments, **more):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", killed)
        assert main([*flags, from_three(root)]) != 0
    assert steps(tmp_path / "result") == [1, 2, 3]
    capsys.readouterr()
    assert main([*flags, "--resume=auto", "--max_train_step=8"]) == 4
    said = capsys.readouterr().err
    metrics = tmp_path / "result" / "metrics.jsonl"
    assert f"{metrics} no longer holds all that was measured until {root / 'step-00000006'}" in said
    assert steps(tmp_path / "result") == [1, 2, 3]
    assert main([*flags, from_three(root), "--max_train_step=8"]) == 0
    assert steps(tmp_path / "result") == [1, 2, 3, 4, 5, 6, 7, 8]
    metrics.unlink()
    assert main([*flags, "--resume=auto", "--max_train_step=9"]) == 0
    assert steps(tmp_path / "result") == [9]
