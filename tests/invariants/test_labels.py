"""Invariant 5: labels are what they should be, for prompts with answers, texts and ready-made ids.

From rows in files to the stored ids: the decoded supervised tokens are exactly the answers with
their stop token, and what stands before an answer is what the model is given to answer.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from llama_recipes.configs.datasets import (
    AlpacaDataset,
    CustomDataset,
    GrammarDataset,
    SamsumDataset,
)
from llama_recipes.configs.section import Section
from llama_recipes.data.sources import alpaca, grammar, samsum
from llama_recipes.data.tokenize import IGNORE
from llama_recipes.inference.prompts import encode_prompt
from support.chat_tokenizers import tokenizer
from support.labels import answers, only, prompts, rows, store_of

INSTRUCTION = {"instruction": "Add.", "input": "2 and 3", "output": "The sum\nis 5. "}


def samsum_case(folder: Path) -> tuple[Section, str, str]:
    row = {"dialogue": "Ann: Tea?\r\nBob: Yes", "summary": "Bob wants tea."}
    (folder / "train.jsonl").write_text(json.dumps(row))
    section = SamsumDataset(data_path=str(folder))
    return section, samsum.prompt(row["dialogue"]), row["summary"]


def grammar_case(folder: Path) -> tuple[Section, str, str]:
    with (folder / "train.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("input", "target"), ("He go", "He goes.")])
    section = GrammarDataset(train_split=str(folder / "train.csv"))
    return section, grammar.prompt("He go"), "He goes."


def alpaca_case(folder: Path, **changes: str) -> tuple[Section, str, str]:
    row = INSTRUCTION | changes
    held_out = {"instruction": "Say", "input": "", "output": "no"}
    (folder / "alpaca.json").write_text(json.dumps([held_out, row]))
    prompt = alpaca.prompt(row["instruction"], row["input"])
    return AlpacaDataset(data_path=str(folder / "alpaca.json")), prompt, row["output"]


def alpaca_without_input(folder: Path) -> tuple[Section, str, str]:
    return alpaca_case(folder, input="")


def completion_case(folder: Path) -> tuple[Section, str, str]:
    return rows(folder, {"prompt": "1 + 1 =", "completion": " 2 "}), "1 + 1 =", " 2 "


def completion_without_prompt(folder: Path) -> tuple[Section, str, str]:
    return rows(folder, {"prompt": "", "completion": "Once"}), "", "Once"


CASES = pytest.mark.parametrize(
    "case",
    [
        samsum_case,
        grammar_case,
        alpaca_case,
        alpaca_without_input,
        completion_case,
        completion_without_prompt,
    ],
)
FORMATS = {samsum_case: "samsum", grammar_case: "grammar"}


@CASES
@pytest.mark.parametrize("style", ["no chat", "llama-3", "chatml"])
def test_the_answer_and_eos_are_trained_and_nothing_else(case, style, tmp_path):
    using = tokenizer(style)
    section, prompt, answer = case(tmp_path)
    document = only(store_of(section, using))
    assert answers(document, using) == [answer + using.decode([using.eos_id])]
    ids = document.input_ids.tolist()
    assert (ids[0], ids[-1]) == (using.bos_id, using.eos_id)
    assert (ids.count(using.bos_id), ids.count(using.eos_id)) == (1, 1)
    assert document.labels.tolist()[-1] == using.eos_id
    assert prompts(document) == [[using.bos_id, *using.encode_batch([prompt])[0]]]


@CASES
def test_chat_asks_with_the_ids_of_training(case, tmp_path):
    using = tokenizer("no chat")
    section, prompt, _ = case(tmp_path)
    (before,) = prompts(only(store_of(section, using)))
    typed = {samsum_case: "Ann: Tea?\r\nBob: Yes", grammar_case: "He go"}.get(case, prompt)
    assert encode_prompt(typed, FORMATS.get(case, "prompt_completion"), using) == before


@CASES
def test_with_sentencepiece_the_answer_is_whole_too(case, tmp_path):
    """Its decoder drops one space from the front of any text."""
    using = tokenizer("llama-2, sentencepiece")
    section, prompt, answer = case(tmp_path)
    document = only(store_of(section, using))
    assert answers(document, using) == [answer + "</s>"]
    assert prompts(document) == [[using.bos_id, *using.encode_batch([prompt])[0]]]


def test_a_tokenizer_without_bos_begins_with_the_prompt(tmp_path):
    using = tokenizer("no bos")
    section, prompt, answer = samsum_case(tmp_path)
    document = only(store_of(section, using))
    assert answers(document, using) == [answer + "</s>"]
    assert prompts(document) == using.encode_batch([prompt])


def test_all_of_a_text_is_trained_between_one_bos_and_one_eos(tmp_path):
    using = tokenizer("no chat")
    document = only(store_of(rows(tmp_path, {"text": "Once upon\na time"}), using))
    assert answers(document, using) == ["Once upon\na time</s>"]
    assert prompts(document) == [[using.bos_id]]


@CASES
def test_train_on_prompt_trains_every_token(case, tmp_path):
    using = tokenizer("no chat")
    section, prompt, answer = case(tmp_path)
    document = only(store_of(section, using, on_prompt=True))
    assert document.labels.tolist() == document.input_ids.tolist()
    assert using.decode(document.labels.tolist()) == f"<s>{prompt}{answer}</s>"
    assert document.supervised == len(document.input_ids) - 1


def test_the_ids_of_a_custom_data_set_are_taken_as_they_are(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def get_custom_dataset(config, tokenizer, split):\n"
        "    return [{'input_ids': [5, 6, 7, 8], 'labels': [-100, 6, -100, 9],\n"
        "             'attention_mask': [1, 1, 1, 1]}]\n"
    )
    document = only(store_of(CustomDataset(file=str(file)), tokenizer("no chat")))
    assert document.input_ids.tolist() == [5, 6, 7, 8]
    assert document.labels.tolist() == [IGNORE, 6, IGNORE, 9]
    assert document.supervised == 2
