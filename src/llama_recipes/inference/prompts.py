"""What a person types, as the token ids that stood before an answer in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llama_recipes.data.example import Format, Message
from llama_recipes.data.sources import alpaca, grammar, samsum
from llama_recipes.data.tokenize import chat_pieces
from llama_recipes.data.tokenizer import Tokenizer

_TEMPLATES: Mapping[Format, Callable[[str], str]] = {
    "samsum": samsum.prompt,
    "grammar": grammar.prompt,
    "alpaca": alpaca.prompt,
}
"""The other formats take a prompt as it is typed."""


def default_format(tokenizer: Tokenizer) -> Format:
    """That of a model of which no training is known."""
    return "text" if tokenizer.chat_template is None else "chat"


def encode_prompt(
    text: str, prompt_format: Format, tokenizer: Tokenizer, *, system: str = ""
) -> list[int]:
    """The ids of one prompt. `system` belongs to the chat format alone.

    "text" and "tokens" (a custom data set's own ids) are gone on with as they are typed. Raises
    DataError where the model has no chat template, or one that refuses the conversation.
    """
    if prompt_format == "chat":
        messages = [Message("system", system)] if system else []
        return encode_conversation([*messages, Message("user", text)], tokenizer)
    assert not system
    template = _TEMPLATES.get(prompt_format, str)
    (ids,) = tokenizer.encode_batch([template(text)])
    return ids if tokenizer.bos_id is None else [tokenizer.bos_id, *ids]


def encode_conversation(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The ids of a conversation that the assistant has to answer, by the model's own template."""
    # Any answer: what stands before it is cut off as training does, piece by piece.
    pieces = chat_pieces([*messages, Message("assistant", "?")], tokenizer)[:-1]
    return [id_ for ids in tokenizer.encode_batch([text for text, _ in pieces]) for id_ in ids]
