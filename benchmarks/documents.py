"""The text that is trained on, as files that both sides read: a JSON object of messages a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.measure import ROOT, BenchmarkError

GSM8K = Path("../shared/data/gsm8k")
"""Where it is looked for, from the repository's root."""
_WORDS = ("red", "blue", "old", "new", "small", "large", "quick", "slow", "river", "stone", "house")


def read_gsm8k(folder: Path, part: str, *, longest_text: int) -> list[dict[str, Any]]:
    """The rows of a part as chats. Raises BenchmarkError where the folder has none.

    longest_text: characters; 0 leaves no row out.
    """
    path = (ROOT / folder / part).with_suffix(".jsonl")
    if not path.is_file():
        raise BenchmarkError(f"GSM8K is not at {path}: name its folder with --gsm8k.")
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        chat(row["question"], row["answer"])
        for row in rows
        if not longest_text or len(row["question"] + row["answer"]) <= longest_text
    ]


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def numbered(rows: Sequence[dict[str, Any]], count: int, mark: str) -> Iterator[dict[str, Any]]:
    """`count` chats that no other `mark` has had: rows again and again, each under a number."""
    for number, row in enumerate(islice(cycle(rows), count)):
        question, answer = (message["content"] for message in row["messages"])
        yield chat(f"{mark}{number}. {question}", answer)


def short(count: int) -> Iterator[dict[str, str]]:
    """Generated prompts and completions of 20 to 40 tokens together; fewer are the first of more.

    They are no chats: the template's words about the system alone would be as long.
    """
    random = Random(0)
    for number in range(count):
        words = random.choices(_WORDS, k=random.randint(15, 33))
        yield {"prompt": f"{number}: {' '.join(words[:8])}", "completion": " ".join(words[8:])}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return path
