"""The worked data set in recipes/finetuning: what it labels, what it blanks, a run with it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from llama_recipes.configs.datasets import CustomDataset
from llama_recipes.data.sources import user_code
from llama_recipes.finetuning import main
from support.chat_tokenizers import hf_tokenizer
from support.pages import ROOT, blocks
from support.tiny_folder import byte_tokenizer, jsonl, tiny_folder

FILE = ROOT / "recipes" / "finetuning" / "datasets" / "custom_dataset.py"
PAGE = FILE.with_name("README.md")
CHAT = [
    {"role": "user", "content": "My order?"},
    {"role": "assistant", "content": "No idea.", "train": False},
    {"role": "user", "content": "Number 1123."},
    {"role": "assistant", "content": "It left today."},
]


@pytest.fixture
def module():
    return user_code.load(FILE)


def learnt(sample: dict, tokenizer) -> str:
    return tokenizer.decode([label for label in sample["labels"] if label != -100])


@pytest.mark.parametrize("style", ["chatml", "llama-3"])
def test_it_learns_the_answers_that_it_should_with_their_end(module, style):
    tokenizer = hf_tokenizer(style)
    sample = module.make_sample(CHAT, tokenizer)
    end = {"chatml": "<|im_end|>", "llama-3": "<|eot_id|>"}[style]
    assert learnt(sample, tokenizer) == f"It left today.{end}"
    both = module.make_sample([m | {"train": True} for m in CHAT], tokenizer)
    assert learnt(both, tokenizer) == f"No idea.{end}It left today.{end}"
    assert both["input_ids"] == sample["input_ids"]
    assert sample["attention_mask"] == [1] * len(sample["labels"]) == [1] * len(both["labels"])


@pytest.mark.parametrize("style", ["chatml", "llama-3"])
def test_the_text_is_that_of_the_chat_template(module, style):
    tokenizer = hf_tokenizer(style)
    sample = module.make_sample(CHAT, tokenizer)
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert tokenizer.decode(sample["input_ids"]) == rendered.rstrip()


def test_a_template_that_rewrites_what_was_said_is_refused(module):
    tokenizer = byte_tokenizer(chat_template="{{ messages | length }}{{ messages[-1].content }}")
    with pytest.raises(ValueError, match="rewrites earlier messages"):
        module.make_sample(CHAT, tokenizer)


def test_a_line_that_is_no_chat_is_named(module, tmp_path):
    jsonl(tmp_path / "train.jsonl", [{"messages": CHAT}, {"text": "a"}])
    section = CustomDataset(data_path=str(tmp_path))
    with pytest.raises(ValueError, match=r"train.jsonl, line 2: KeyError\('messages'\)"):
        module.get_custom_dataset(section, byte_tokenizer(), "train")


def test_a_batch_blanks_some_of_what_is_not_learnt_and_nothing_else(module, monkeypatch):
    monkeypatch.setattr(module, "PROMPT_DROPOUT", 0.5)
    tokenizer = byte_tokenizer()
    samples = [module.make_sample(CHAT, tokenizer), module.make_sample(CHAT[:2], tokenizer)]
    batch = module.get_data_collator(tokenizer)(samples)
    blanked = 0
    for row, sample in enumerate(samples):
        length = len(sample["input_ids"])
        assert batch["attention_mask"][row][:length] == [1] * length
        assert batch["labels"][row][:length] == sample["labels"]
        before = np.array(sample["input_ids"])
        after = np.array(batch["input_ids"][row][:length])
        changed = before != after
        assert (after[changed] == tokenizer.pad_token_id).all()
        assert (np.array(sample["labels"])[changed] == -100).all()
        assert not set(before[changed]) & set(tokenizer.all_special_ids)
        blanked += changed.sum()
    assert blanked > 20
    assert {len(row) for rows in batch.values() for row in rows} == {len(samples[0]["input_ids"])}


def test_the_same_samples_make_the_same_batch_and_others_another(module):
    tokenizer = byte_tokenizer()
    collate = module.get_data_collator(tokenizer)
    chat, other = (module.make_sample(CHAT[:n], tokenizer) for n in (4, 2))
    assert collate([chat, other]) == collate([chat, other])
    alone, together = collate([chat])["input_ids"][0], collate([chat, other])["input_ids"][0]
    assert alone != together


def test_a_run_learns_from_it(tmp_path, capsys):
    model = tiny_folder(tmp_path / "model")
    rows = [{"messages": [{"role": "user", "content": str(n)}, *CHAT[1:]]} for n in range(8)]
    rows.append({"messages": CHAT[:2]})
    jsonl(tmp_path / "train.jsonl", rows)
    jsonl(tmp_path / "validation.jsonl", rows[:2])
    flags = [
        *(f"--model_name={model}", f"--output_dir={tmp_path / 'result'}", "--lr=1e-2"),
        *("--dataset=custom_dataset", f"--custom_dataset.file={FILE}", "--num_epochs=8"),
        *(f"--custom_dataset.data_path={tmp_path}", "--batch_size_training=2"),
    ]
    assert main(flags) == 0, capsys.readouterr().err
    assert "1 dropped without a supervised token" in capsys.readouterr().out
    lines = map(json.loads, (tmp_path / "result" / "metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if "loss" in line]
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    answer = len("It left today.") + 1  # a token a byte, and the end of the turn
    assert steps[-1]["supervised_tokens"] == 8 * 8 * answer


def test_the_page_shows_the_signature_that_the_file_has():
    (shown,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    assert shown in FILE.read_text(encoding="utf-8")


def test_padding_is_the_end_token_where_a_tokenizer_has_no_other(module):
    tokenizer = SimpleNamespace(pad_token_id=None, eos_token_id=7, all_special_ids=[7])
    short, long = ({"input_ids": [1] * n, "labels": [1] * n} for n in (1, 3))
    batch = module.get_data_collator(tokenizer)([short, long])
    assert batch["input_ids"] == [[1, 7, 7], [1, 1, 1]]
    assert batch["labels"] == [[1, -100, -100], [1, 1, 1]]
