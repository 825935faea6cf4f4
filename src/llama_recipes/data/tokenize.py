"""Examples → token ids and labels. What is trained is decided when the text is put together.

Each piece of text is tokenised on its own and either trained or not, so that no mask is ever found
by searching; and a prompt has the same ids as it will have when the model is asked to answer it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llama_recipes.data.example import Chat, Example, Message, PromptAnswer, Text, Tokens
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError

IGNORE = -100
"""The label of a token that is not trained."""

Truncation = Literal["error", "drop", "end"]


@dataclass(frozen=True, slots=True)
class Document:
    """input_ids and labels, both [T] int32; labels are not shifted, IGNORE where not trained.

    row: of the data set's part, from 1, that it was made of; 0: of none. cut: tokens that were
    taken off its end.
    """

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    row: int = 0
    cut: int = 0

    @property
    def supervised(self) -> int:
        """Tokens that are predicted and trained: nothing predicts the first one."""
        return int(np.count_nonzero(self.labels[1:] != IGNORE))


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that cannot be trained on: `kind` counts it, `reason` explains this one."""

    kind: Literal["bad_rows", "too_long", "no_supervised_token"]
    reason: str


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    trained: bool


def encode(
    examples: Sequence[Example], tokenizer: Tokenizer, *, train_on_prompt: bool
) -> list[Document]:
    """Tokenise a batch of examples, all their pieces in one call.

    Raises DataError where the chat template cannot say which part of its text is the answer.
    """
    pieces = [_pieces(example, tokenizer) for example in examples]
    encoded = iter(
        tokenizer.encode_batch(
            [piece.text for group in pieces for piece in group],
            # As in the original, an answer begins anew after a prompt that is no conversation.
            [
                number > 0 and isinstance(example, Chat)
                for example, group in zip(examples, pieces, strict=True)
                for number in range(len(group))
            ],
        )
    )
    return [
        _document(example, [(piece.trained, next(encoded)) for piece in group], tokenizer,
                  train_on_prompt=train_on_prompt)
        for example, group in zip(examples, pieces, strict=True)
    ]  # fmt: skip


def fit(document: Document, context_length: int, truncation: Truncation) -> Document | Rejected:
    """Bring a document within `context_length` tokens as `truncation` says, or reject it."""
    length = len(document.input_ids)
    if length > context_length:
        if truncation != "end":
            return Rejected(
                "too_long", f"it has {length} tokens, context_length is {context_length}"
            )
        document = Document(
            document.input_ids[:context_length],
            document.labels[:context_length],
            cut=length - context_length,
        )
    if not document.supervised:
        cut = " once it is cut to context_length" if length > context_length else ""
        return Rejected("no_supervised_token", f"no token of it is trained{cut}")
    return document


def chat_pieces(messages: Sequence[Message], tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """(text, is an assistant's turn) in order, up to the last assistant turn.

    The text before an answer is the template's own with its generation prompt: exactly what the
    model is given when it has to answer. The answer is what the template then adds.
    Raises DataError where that cannot be told apart, or where a message would forge turns.
    """
    _check_no_borders(messages, tokenizer)
    pieces: list[tuple[str, bool]] = []
    done = ""
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        asked = tokenizer.render_chat(messages[:index], add_generation_prompt=True)
        answered = tokenizer.render_chat(messages[: index + 1], add_generation_prompt=False)
        if not (asked.startswith(done) and answered.startswith(asked)):
            raise DataError(
                "The model's chat template changes earlier text when a turn is added, so which"
                " tokens are an answer cannot be told. Use a template that only appends."
            )
        pieces += [(asked[len(done) :], False), (answered[len(asked) :], True)]
        done = answered
    return pieces


def _check_no_borders(messages: Sequence[Message], tokenizer: Tokenizer) -> None:
    """In a message they would be read as the borders of turns that nobody took."""
    for message in messages:
        found = tokenizer.turn_borders.search(message.content)
        if found:
            raise DataError(
                f"a message ({message.role}) holds {found[0]}, which the model reads as the border"
                " of a turn and not as text; take it out"
            )


def _pieces(example: Example, tokenizer: Tokenizer) -> list[_Piece]:
    match example:
        case PromptAnswer(prompt=prompt, answer=answer):
            return [_Piece(prompt, False), _Piece(answer, True)]
        case Text(text=text):
            return [_Piece(text, True)]
        case Chat(messages=messages):
            return [_Piece(*piece) for piece in chat_pieces(messages, tokenizer)]
        case Tokens():
            return []


def _document(
    example: Example,
    pieces: Sequence[tuple[bool, list[int]]],
    tokenizer: Tokenizer,
    *,
    train_on_prompt: bool,
) -> Document:
    if isinstance(example, Tokens):
        ids, labels = list(example.input_ids), list(example.labels)
    else:
        chat = isinstance(example, Chat)
        ids, labels = [], []
        if not chat and tokenizer.bos_id is not None:
            ids.append(tokenizer.bos_id)
            labels.append(IGNORE)
        for trained, piece in pieces:
            kept = _up_to_stop(piece, tokenizer) if chat and trained else len(piece)
            ids += piece
            labels += piece[:kept] if trained else [IGNORE] * len(piece)
            labels += [IGNORE] * (len(ids) - len(labels))
        if not chat and tokenizer.eos_id is not None:
            ids.append(tokenizer.eos_id)
            labels.append(tokenizer.eos_id)
        if train_on_prompt:
            labels = ids
    return Document(np.asarray(ids, dtype=np.int32), np.asarray(labels, dtype=np.int32))


def _up_to_stop(answer: Sequence[int], tokenizer: Tokenizer) -> int:
    """Tokens of an answer through its end-of-turn: a template's line break after it is not one.

    Generation stops at the end-of-turn token, so what follows is never the model's to write.
    """
    for index in range(len(answer) - 1, -1, -1):
        if answer[index] in tokenizer.stop_ids:
            return index + 1
    return len(answer)
