"""Documents as questions: what stands before an answer, and what a model says in its place.

They are taken apart as token ids, at the border between what is trained and what is not, so that
every data set can be asked, one of ready-made ids too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenize import IGNORE, Document
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.inference.generate import generate
from llama_recipes.model.llama import Llama


@dataclass(frozen=True, slots=True)
class Question:
    """prompt: the ids before the last answer of a document; reference: that answer's text.

    prompt_text: the prompt with its control tokens, for people to read. is_cut: whether the
    reference lost its end when the document was cut to `context_length`.
    """

    prompt: list[int]
    prompt_text: str
    reference: str
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Answers:
    """texts: in the order of the questions; unfinished: those that the limit on tokens ended."""

    texts: list[str]
    unfinished: int


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, equally far apart."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def with_prompt(store: TokenStore, tokenizer: Tokenizer) -> list[int]:
    """The numbers of the documents that have something to be asked.

    A document that is trained from its start, as plain text is, has nothing before its answer but
    the token that begins every text.
    """

    def has_prompt(document: Document) -> bool:
        start, _ = _last_answer(document)
        begins_like_any = int(document.input_ids[0]) == tokenizer.bos_id
        return start > int(begins_like_any)

    return [number for number in range(len(store)) if has_prompt(store.document(number))]


def as_question(document: Document, tokenizer: Tokenizer, *, context_length: int) -> Question:
    start, end = _last_answer(document)
    wanted = document.labels[start:end].tolist()
    stops = wanted[-1] in tokenizer.stop_ids
    while wanted and wanted[-1] in tokenizer.stop_ids:
        wanted.pop()
    prompt = document.input_ids[:start].tolist()
    return Question(
        prompt=prompt,
        prompt_text=tokenizer.decode(prompt),
        reference=_text(wanted, tokenizer),
        is_cut=not stops and end == context_length,
    )


def answer(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int,
    batch_size: int,
    done: Callable[[int], None] = lambda _: None,
) -> Answers:
    """The model's own answers, taking the likeliest token each time.

    Prompts of similar length are answered together, `batch_size` at a time. The longest come first,
    so that memory runs out at once or never. `done` is told of every batch how many they were.
    """
    texts = [""] * len(prompts)
    unfinished = 0
    by_length = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    for start in range(0, len(by_length), batch_size):
        numbers = by_length[start : start + batch_size]
        together = [prompts[number] for number in numbers]
        ids = generate(model, together, max_new_tokens=max_new_tokens, stop_ids=tokenizer.stop_ids)
        for number, prompt, said in zip(numbers, together, ids, strict=True):
            texts[number] = _text(said, tokenizer)
            unfinished += len(said) == min(max_new_tokens, room(model, prompt))
        done(len(numbers))
    return Answers(texts, unfinished)


def room(model: Llama, prompt: Sequence[int]) -> int:
    """Tokens that fit between a prompt and the model's own limit."""
    return model.config.max_position_embeddings - len(prompt)


def _last_answer(document: Document) -> tuple[int, int]:
    """Where the last run of trained tokens begins and ends."""
    trained = document.labels != IGNORE
    end = int(np.flatnonzero(trained)[-1]) + 1
    before = np.flatnonzero(~trained[:end])
    return (int(before[-1]) + 1 if len(before) else 0), end


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return tokenizer.decode(ids, skip_special=True).strip()
