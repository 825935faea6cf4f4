"""A data set of your own, worked out: chats in which you say which answers are learnt.

Each line of DATA_PATH/SPLIT.jsonl is a chat. The model reads all of it and learns the assistant's
messages, but for those with `"train": false`: an answer that somebody found bad stays there as
what the next one follows, and is not imitated.

    {"messages": [{"role": "user", "content": "My order?"},
                  {"role": "assistant", "content": "No idea.", "train": false},
                  {"role": "user", "content": "It is number 1123."},
                  {"role": "assistant", "content": "Order 1123 left our store today."}]}

    python -m llama_recipes.finetuning --dataset custom_dataset \\
        --custom_dataset.file custom_dataset.py --custom_dataset.data_path FOLDER ...

For tokenizers that work on bytes, such as those of Llama 3 and SmolLM2: Llama 2's puts a space
before every piece of text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

IGNORED = -100
"""The label of a token that is read and not learnt."""

PROMPT_DROPOUT = 0.1
"""Share of the tokens not learnt that are blanked in a batch, so that no answer hangs on one word
(word dropout, Iyyer et al. 2015); 0 switches it off."""


def get_custom_dataset(dataset_config: Any, tokenizer: Any, split: str) -> list[dict[str, Any]]:
    """The samples of one split.

    dataset_config: the section custom_dataset of the run's settings. tokenizer: the model's, as
    transformers has it. split: `--custom_dataset.train_split` or `.test_split`. What is raised here
    is shown with the line of this file.
    """
    path = Path(dataset_config.data_path).expanduser() / f"{split}.jsonl"
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            samples.append(make_sample(json.loads(line)["messages"], tokenizer))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error!r}") from error
    return samples


def make_sample(messages: Sequence[dict[str, Any]], tokenizer: Any) -> dict[str, list[int]]:
    """A chat as ids [T], labels [T] and attention_mask [T], written by the model's own template.

    An answer goes up to its end-of-turn token, which is how a model learns to stop. labels[t]
    belongs to input_ids[t]: the shift by one is made later.
    """
    ids: list[int] = []
    labels: list[int] = []
    written = ""
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = _render(messages[:place], tokenizer, begins_answer=True)
        answered = _render(messages[: place + 1], tokenizer)
        if not (asked.startswith(written) and answered.startswith(asked)):
            raise ValueError(
                "the chat template rewrites earlier messages once a later one is there"
            )
        # Templates put a line break behind the end of a turn, which is no part of the answer.
        answer = answered[len(asked) :].rstrip()
        # The borders of what is learnt are those of the texts: they are never searched for in ids.
        for text, learnt in ((asked[len(written) :], False), (answer, message.get("train", True))):
            piece = tokenizer.encode(text, add_special_tokens=False)
            ids += piece
            labels += piece if learnt else [IGNORED] * len(piece)
        written = asked + answer
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


def _render(messages: Sequence[dict[str, Any]], tokenizer: Any, begins_answer: bool = False) -> str:
    text: str = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=begins_answer
    )
    return text


def get_data_collator(
    tokenizer: Any,
) -> Callable[[list[dict[str, Any]]], dict[str, list[list[int]]]]:
    """A function from samples to a batch [B, T]; a file without this one gets batches all the same.

    It is called for training and for evaluation, in several threads, and has to give the same batch
    for the same samples, or an interrupted run could not go on as if nothing had happened. So what
    is blanked is drawn from the samples themselves: others in other company, the same when they
    come again. Padding is for the shape alone and is taken off again.
    """
    blank = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    kept = set(tokenizer.all_special_ids)

    def collate(samples: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
        random = np.random.default_rng([id_ for sample in samples for id_ in sample["input_ids"]])
        longest = max(len(sample["input_ids"]) for sample in samples)
        batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
        for sample in samples:
            ids, labels = sample["input_ids"], sample["labels"]
            drawn = random.random(len(ids)) < PROMPT_DROPOUT
            seen = [
                blank if drop and label == IGNORED and id_ not in kept else id_
                for id_, label, drop in zip(ids, labels, drawn, strict=True)
            ]
            padding = longest - len(ids)
            batch["input_ids"].append(seen + [blank] * padding)
            batch["labels"].append(labels + [IGNORED] * padding)
            batch["attention_mask"].append([1] * len(ids) + [0] * padding)
        return batch

    return collate
