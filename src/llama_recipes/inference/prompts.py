"""What a person types, as the token ids that stood before an answer in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llama_recipes.data.example import Format, Message
from llama_recipes.data.sources import alpaca, grammar, samsum
from llama_recipes.data.tokenize import chat_pieces
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import CheckpointError, DataError
from llama_recipes.model.config import LlamaConfig

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
    texts = [text for text, _ in pieces]
    encoded = tokenizer.encode_batch(texts, [number > 0 for number in range(len(texts))])
    return [id_ for ids in encoded for id_ in ids]


def check_prompt(ids: Sequence[int], tokenizer: Tokenizer, model: LlamaConfig) -> None:
    """Raises DataError or CheckpointError where the model cannot answer these ids."""
    limit = model.max_position_embeddings
    if not ids:
        raise DataError("The prompt is empty. Write something to go on with.")
    if len(ids) >= limit:
        raise DataError(
            f"The prompt has {len(ids)} tokens, and the model was made for at most {limit} with"
            " the answer. Give a shorter one."
        )
    check_ids(ids, tokenizer, model)


def check_ids(ids: Sequence[int], tokenizer: Tokenizer, model: LlamaConfig) -> None:
    """Raises CheckpointError where the embedding has no row for one of these ids."""
    if max(ids) >= model.vocab_size:
        raise CheckpointError(
            f"The tokenizer gives the id {max(ids)} ({tokenizer.decode([max(ids)])!r}), but the"
            f" model's embedding has only {model.vocab_size} rows. Use the tokenizer that belongs"
            " to the model."
        )
