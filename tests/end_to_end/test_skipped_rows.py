"""What a run says of its data, the first time and from the cache alike."""

from __future__ import annotations

import json

import pytest

from llama_recipes.finetuning import main
from support.tiny_folder import sums, tiny_folder

GOOD = [json.dumps(row) for row in sums(12)]


@pytest.fixture
def printed(tmp_path, capsys):
    model = tiny_folder(tmp_path / "model")

    def printed(lines: list[str], *flags: str) -> list[str]:
        (tmp_path / "train.jsonl").write_text("\n".join(lines))
        usual = [f"--model_name={model}", "--dataset=file_dataset", "--context_length=128"]
        usual += [f"--train_file={tmp_path / 'train.jsonl'}", "--max_train_step=1"]
        usual += ["--save_model=false", "--on_bad_row=skip"]
        assert main([*usual, *flags]) == 0
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return printed


def test_the_rows_that_were_skipped_are_named_every_time(printed):
    lines = [*GOOD, *["nonsense"] * 7]
    for tokenised in (1, 0):
        said = printed(lines)
        reason = "not valid JSON: Expecting value at column 1"
        named = [f"    train.jsonl, line {number}: {reason}" for number in range(13, 18)]
        start = said.index(named[0])
        assert said[start - 1] == "--> Training Set Length = 12 (7 bad rows skipped)"
        assert said[start : start + 6] == [*named, "    and 2 more"]
        assert said.count("Tokenising …") == tokenised
        assert said.count("train.jsonl: recognised as prompts and completions") == 1


def test_of_few_rows_no_more_are_announced(printed):
    said = printed([*GOOD, "nonsense"])
    assert sum("train.jsonl, line 13: not valid JSON" in line for line in said) == 1
    assert not any(line.startswith("    and ") for line in said)


def test_rows_of_a_part_kept_for_validation_are_named_once(printed):
    said = printed([*GOOD, "nonsense"], "--validation_fraction=0.25", "--run_validation")
    assert "--> Validation Set Length = 3" in said
    assert sum("bad rows skipped" in line for line in said) == 1
    assert sum("line 13" in line for line in said) == 1
