"""What is wrong with the text of rows, before it becomes tokens: one more reading of them.

Ready-made ids of a custom data set have no text, and are not read.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_recipes.data.example import BadRow, Chat, Example, Message, PromptAnswer, Source, Text
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError

Fault = Literal[
    "control_tokens_in_text",
    "foreign_markers",
    "replacement_characters",
    "mojibake",
    "prompt_holds_answer",
]
LONG_ANSWER = 20
"""Characters from which an answer that stands in its prompt is no coincidence."""

# What the templates of other models, and older habits, write between turns.
_MARKERS = (
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "### Human:", "### Assistant:"),
)
_PLAIN = ("\n\nHuman:", "\n\nAssistant:")
# </s> also ends what is struck through in HTML: it is a marker where nothing stands behind it.
_END = r"</s>(?=\s*(?:\0|$))"
_UTF8_AS_LATIN = re.compile(
    "[\u00c2-\u00f4](?:[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013\u2014\u2018-\u201a\u201c-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122])+"
)


@dataclass
class Wording:
    """What one reading of a source's rows found.

    faults: the numbers of the rows that have each, from 1. said: what was found there first.
    long_answers: rows with an answer of at least LONG_ANSWER characters. alike: of each row a hash
    that is equal where rows are equal but for case and white space (0: no text).
    """

    faults: dict[str, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    said: dict[str, str] = field(default_factory=dict)
    long_answers: array[int] = field(default_factory=lambda: array("q"))
    alike: array[int] = field(default_factory=lambda: array("Q"))

    def hashes(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """`alike` of the rows with these numbers."""
        return np.frombuffer(self.alike, np.uint64)[rows - 1]


def read_wording(source: Source, tokenizer: Tokenizer) -> Wording:
    found, foreign = Wording(), _foreign(tokenizer, source)
    for number, row in enumerate(source.rows(), start=1):
        texts = [] if isinstance(row, BadRow) else _texts(row.example)
        found.alike.append(_alike(texts) if texts else 0)
        if isinstance(row, BadRow) or not texts:
            continue
        if len(_answer(row.example)) >= LONG_ANSWER:
            found.long_answers.append(number)
        for fault, said in _faults(row.example, texts, tokenizer, foreign):
            found.faults[fault].append(number)
            found.said.setdefault(fault, said)
    return found


def read_places(source: Source, wanted: Collection[int]) -> dict[int, str]:
    """Where the rows with these numbers stand, as "train.jsonl, line 7"."""
    rows = enumerate(islice(source.rows(), max(wanted, default=0)), start=1)
    return {number: row.where for number, row in rows if number in wanted}


def _texts(example: Example) -> list[str]:
    match example:
        case PromptAnswer(prompt=prompt, answer=answer):
            return [prompt, answer]
        case Chat(messages=messages):
            return [message.content for message in messages]
        case Text(text=text):
            return [text]
        case _:
            return []


def _alike(texts: list[str]) -> int:
    normal = "\0".join(" ".join(text.casefold().split()) for text in texts)
    digest = hashlib.blake2b(normal.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _foreign(tokenizer: Tokenizer, source: Source) -> re.Pattern[str]:
    """Markers of other templates. Those of this tokenizer, or of a chat's own template, mean
    something here."""
    special = {tokenizer.decode([id_]) for id_ in tokenizer.special_ids}
    own = set(_MARKERS) & special
    if source.format == "chat":
        own |= {marker for marker in _MARKERS if marker in _written_by_template(tokenizer)}
    markers = [re.escape(marker) for marker in (*_MARKERS, *_PLAIN) if marker not in own]
    return re.compile("|".join([*markers, *([] if "</s>" in special else [_END])]))


def _written_by_template(tokenizer: Tokenizer) -> str:
    turns = (Message("system", "d"), Message("user", "a"), Message("assistant", "b"))
    try:
        return tokenizer.render_chat(turns, add_generation_prompt=False)
    except DataError:
        return ""


def _faults(
    example: Example, texts: list[str], tokenizer: Tokenizer, foreign: re.Pattern[str]
) -> list[tuple[Fault, str]]:
    found: list[tuple[Fault, str]] = []
    together = "\0".join(texts)
    if not isinstance(example, Chat) and (said := _control_token(texts, tokenizer)):
        found.append(("control_tokens_in_text", said))
    if match := foreign.search(together):
        found.append(("foreign_markers", match[0].strip()))
    if "\ufffd" in together:
        found.append(("replacement_characters", _around(together, together.index("\ufffd"))))
    if (at := _mojibake(together)) >= 0:
        found.append(("mojibake", _around(together, at)))
    if _holds_answer(example):
        found.append(("prompt_holds_answer", _answer(example)[:60]))
    return found


def _control_token(texts: list[str], tokenizer: Tokenizer) -> str:
    """A border of turns in a text; not the BOS in front, which is told from the tokens."""
    first, *others = texts
    if tokenizer.bos_id is not None:
        first = first.removeprefix(tokenizer.decode([tokenizer.bos_id]))
    found = (tokenizer.turn_borders.search(text) for text in (first, *others))
    return next((match[0] for match in found if match), "")


def _mojibake(text: str) -> int:
    """Where UTF-8 was read as Windows-1252 or Latin-1, so that undoing it works; else -1."""
    if text.isascii():
        return -1
    for match in _UTF8_AS_LATIN.finditer(text):
        for encoding in ("cp1252", "latin-1"):
            try:
                match[0].encode(encoding).decode()
            except UnicodeError:
                continue
            return match.start()
    return -1


def _around(text: str, at: int) -> str:
    return text[max(at - 12, 0) : at + 12].replace("\0", " ")


def _answer(example: Example) -> str:
    """The last answer; empty for plain text."""
    match example:
        case PromptAnswer(answer=answer):
            return answer.strip()
        case Chat(messages=messages):
            return messages[-1].content.strip()
        case _:
            return ""


def _holds_answer(example: Example) -> bool:
    """Whether a long answer stands in what is asked, word for word."""
    answer = _answer(example)
    if len(answer) < LONG_ANSWER:
        return False
    match example:
        case PromptAnswer(prompt=prompt):
            return answer in prompt
        case Chat(messages=messages):
            return any(answer in m.content for m in messages if m.role != "assistant")
        case _:
            return False
