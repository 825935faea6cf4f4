"""samsum, grammar and alpaca: the prompts character for character, the files, the split."""

from __future__ import annotations

import csv
import json

import pytest

from llama_recipes.configs.datasets import AlpacaDataset, GrammarDataset, SamsumDataset
from llama_recipes.data.example import PromptAnswer
from llama_recipes.data.sources import alpaca, grammar, samsum
from llama_recipes.data.sources.alpaca import open_alpaca
from llama_recipes.data.sources.grammar import open_grammar
from llama_recipes.data.sources.samsum import open_samsum
from llama_recipes.errors import DataError

DIALOGUE = "Ann: Tea?\r\nBob: Yes {please}"
SAMSUM_PROMPT = "Summarize this dialog:\nAnn: Tea?\r\nBob: Yes {please}\n---\nSummary:\n"
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd.\n\n### Input:\n2 and 3\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nAdd.\n\n### Response:"
)


def test_the_prompts():
    assert samsum.prompt(DIALOGUE) == SAMSUM_PROMPT
    assert grammar.prompt("He go") == ("Correct this to standard English: He go\n---\nCorrected: ")
    assert alpaca.prompt("Add.", "2 and 3") == WITH_INPUT
    assert alpaca.prompt("Add.") == alpaca.prompt("Add.", "") == WITHOUT_INPUT


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_samsum_reads_the_file_of_the_split(tmp_path, ending):
    row = {"id": "1", "dialogue": DIALOGUE, "summary": "Bob wants tea."}
    path = tmp_path / f"val.{ending}"
    if ending == "csv":
        with path.open("w", newline="") as handle:
            table = csv.DictWriter(handle, row)
            table.writeheader()
            table.writerow(row)
    else:
        path.write_text(json.dumps(row if ending == "jsonl" else [row]))
    section = SamsumDataset(data_path=str(tmp_path), test_split="val")
    source = open_samsum(section, "validation")
    assert list(source.examples()) == [PromptAnswer(SAMSUM_PROMPT, "Bob wants tea.")]
    assert list(source.examples()) == list(source.examples())
    assert source.format == "samsum"
    assert source.description == f"val.{ending}: dialogues and summaries"


def test_samsum_folder_without_the_split(tmp_path):
    with pytest.raises(
        DataError, match=r"holds none; one of train\.jsonl, train\.json, train\.csv"
    ):
        open_samsum(SamsumDataset(data_path=str(tmp_path)), "train")


def test_samsum_folder_with_the_split_twice(tmp_path):
    (tmp_path / "train.json").touch()
    (tmp_path / "train.csv").touch()
    with pytest.raises(DataError, match=r"holds train\.json and train\.csv; one of"):
        open_samsum(SamsumDataset(data_path=str(tmp_path)), "train")


def test_samsum_given_a_file(tmp_path):
    (tmp_path / "train.csv").touch()
    with pytest.raises(DataError, match=r"train\.csv is a file; the folder that holds train\.json"):
        open_samsum(SamsumDataset(data_path=str(tmp_path / "train.csv")), "train")


def test_samsum_given_no_such_folder(tmp_path):
    (tmp_path / "samsum").mkdir()
    with pytest.raises(DataError) as error:
        open_samsum(SamsumDataset(data_path=str(tmp_path / "samsun")), "train")
    assert str(error.value) == (
        f"--samsum_dataset.data_path={tmp_path}/samsun: no such file or folder; did you mean "
        f"{tmp_path}/samsum?"
    )


def test_grammar_reads_the_two_files(tmp_path):
    (tmp_path / "a.csv").write_text("input,target\nHe go,He goes\n")
    (tmp_path / "b.csv").write_text("target,input\nI am,I is\n")
    section = GrammarDataset(
        train_split=str(tmp_path / "a.csv"), test_split=str(tmp_path / "b.csv")
    )
    train, validation = open_grammar(section, "train"), open_grammar(section, "validation")
    assert list(train.examples()) == [
        PromptAnswer("Correct this to standard English: He go\n---\nCorrected: ", "He goes")
    ]
    assert list(validation.examples()) == [
        PromptAnswer("Correct this to standard English: I is\n---\nCorrected: ", "I am")
    ]
    assert (train.format, train.description) == ("grammar", "a.csv: sentences and corrections")


def test_grammar_names_the_flag_of_a_missing_file(tmp_path):
    section = GrammarDataset(test_split=str(tmp_path / "gone" / "b.csv"))
    with pytest.raises(DataError) as error:
        open_grammar(section, "validation")
    assert str(error.value) == (
        f"--grammar_dataset.test_split={tmp_path}/gone/b.csv: no such file or folder; the folder "
        f"{tmp_path}/gone does not exist either."
    )


def alpaca_rows(tmp_path, count: int) -> AlpacaDataset:
    path = tmp_path / "alpaca.json"
    path.write_text(
        json.dumps([{"instruction": "Add.", "input": "", "output": str(n)} for n in range(count)])
    )
    return AlpacaDataset(data_path=str(path))


@pytest.mark.parametrize(("count", "held_out"), [(1, 1), (19, 1), (20, 1), (39, 1), (40, 2)])
def test_alpaca_holds_out_the_first_twentieth(tmp_path, count, held_out):
    section = alpaca_rows(tmp_path, count)
    validation = [row.answer for row in open_alpaca(section, "validation").examples()]
    train = [row.answer for row in open_alpaca(section, "train").examples()]
    assert validation == [str(number) for number in range(held_out)]
    assert train == [str(number) for number in range(held_out, count)]


def test_alpaca_rows_with_and_without_input(tmp_path):
    path = tmp_path / "alpaca.json"
    rows = [
        {"instruction": "held out", "output": "x"},
        {"instruction": "Add.", "input": "2 and 3", "output": "5"},
        {"instruction": "Add.", "input": "", "output": "5"},
        {"instruction": "Add.", "input": None, "output": "5"},
        {"instruction": "Add.", "output": "5"},
    ]
    path.write_text(json.dumps(rows))
    source = open_alpaca(AlpacaDataset(data_path=str(path)), "train")
    assert list(source.examples()) == [
        PromptAnswer(WITH_INPUT, "5"),
        *[PromptAnswer(WITHOUT_INPUT, "5")] * 3,
    ]
    assert source.format == "alpaca"
    assert source.description == "alpaca.json: instructions and answers, the part for train"


def test_the_parts_of_alpaca_have_fingerprints_of_their_own(tmp_path):
    section = alpaca_rows(tmp_path, 40)
    fingerprints = {open_alpaca(section, split).fingerprint for split in ("train", "validation")}
    assert len(fingerprints) == 2
