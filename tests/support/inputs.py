"""Tiny models, adapters and data sets of every kind in one folder, each by a short name."""

from __future__ import annotations

import json
from pathlib import Path

from llama_recipes.configs.peft import LoraConfig
from support.adapted import lora, saved
from support.quantised import WIDE
from support.tiny_folder import VOCABULARY, byte_tokenizer, jsonl, sums, tiny_folder

CUSTOM = """
import threading

SECOND = threading.Event()
THREADS = set()
AWAITED = set()


def get_custom_dataset(config, tokenizer, split):
    AWAITED.add(config.data_path)
    rows = {"train": 6, "validation": 2, "other": 4, "bad": 6}[split]
    ids = [1 + len(config.data_path)] * 8
    bad = [{"input_ids": ids, "labels": []}] if split == "bad" else []
    return bad + [{"input_ids": ids, "labels": ids, "attention_mask": [1] * 8}] * rows


def get_small_dataset(config, tokenizer, split):
    return get_custom_dataset(config, tokenizer, split)[:1]


def get_data_collator(tokenizer):
    def collate(samples):
        thread = threading.current_thread().name
        if thread not in THREADS:
            THREADS.add(thread)
            print("collated by", thread)
        if len(THREADS) > 1:
            SECOND.set()
        elif "two-threads" in AWAITED and thread != "MainThread":
            SECOND.wait(10)
        return {name: [sample[name] for sample in samples] for name in samples[0]}

    return collate
"""

BROKEN = "[1, 2]\n"


def make_inputs(folder: Path) -> dict[str, str]:
    """The path of each input, by name."""
    train, validation = sums(12), sums(16)[12:]
    made = {
        "model": tiny_folder(folder / "model"),
        "other_model": tiny_folder(folder / "other_model", seed=1),
        "biased_model": tiny_folder(folder / "biased_model", attention_bias=True),
        "wide_model": tiny_folder(folder / "wide_model", **WIDE),
        "adapter": _adapter(folder / "adapter"),
        "train": jsonl(folder / "train.jsonl", train),
        "fewer": jsonl(folder / "fewer.jsonl", train[:5]),
        "one": jsonl(folder / "one.jsonl", train[:1]),
        "validation": jsonl(folder / "validation.jsonl", validation),
        "samsum": folder / "samsum",
        "other_samsum": folder / "other_samsum",
        "custom": folder / "custom.py",
        "other_tokenizer": folder / "other_tokenizer",
    }
    byte_tokenizer(eos_token="<|pad|>").save_pretrained(made["other_tokenizer"])
    made["custom"].write_text(CUSTOM)
    made["both"] = jsonl(folder / "both.jsonl", [row | {"text": "a text"} for row in train])
    made["bad"] = jsonl(folder / "bad.jsonl", train)
    for name in ("samsum", "other_samsum"):
        made[name].mkdir()
        dialogues = [{"dialogue": row["prompt"], "summary": row["completion"]} for row in train]
        for part, rows in (("train", dialogues), ("validation", dialogues[:2])):
            jsonl(made[name] / f"{part}.jsonl", rows[:9] if name == "other_samsum" else rows)
        jsonl(made[name] / "other.jsonl", dialogues[:4])
        jsonl(made[name] / "bad.jsonl", dialogues)
    for name, rows in (("grammar", train), ("fewer_grammar", train[:5]), ("bad_grammar", train)):
        lines = [f"{row['prompt']},{row['completion']}" for row in rows]
        made[name] = folder / f"{name}.csv"
        made[name].write_text("\n".join(["input,target", *lines, ""]))
    instructions = [{"instruction": row["prompt"], "output": row["completion"]} for row in train]
    for name, rows in (
        ("alpaca", instructions),
        ("fewer_alpaca", instructions[:5]),
        ("bad_alpaca", [*instructions, {"instruction": 1}]),
    ):
        made[name] = folder / f"{name}.json"
        made[name].write_text(json.dumps(rows))
    for path in (made["bad"], made["samsum"] / "bad.jsonl"):
        path.write_text(path.read_text() + BROKEN)
    made["bad_grammar"].write_text(made["bad_grammar"].read_text() + "only one column,\n")
    return {name: str(path) for name, path in made.items()}


def _adapter(folder: Path) -> Path:
    """Of rank 3, with a B that is not zero, and so much dropout that it shows."""
    config = LoraConfig(r=3, lora_dropout=0.5)
    return saved(lora(config, vocab_size=VOCABULARY), folder, config)
