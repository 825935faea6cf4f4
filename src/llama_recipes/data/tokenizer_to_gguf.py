"""A tokenizer as GGUF's metadata: the way back from `data/tokenizer_gguf.py`.

GGUF cannot say how a text is cut into words, only name one of the ways that its readers know. Which
one it is shows: each is read back and tried on texts, and one that gives the same ids is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.data.tokenizer_gguf import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    tokenizer_of,
)
from llama_recipes.errors import CheckpointError

_WORD_RULES = ("gpt-2", "llama-bpe", "smollm")
"""The names that are tried; the reader knows further ones for the same."""

TRIED = (
    "Hello, world! It's 3:45 pm; we've paid $1,234.56 for 2024's 10000 things.",
    "def f(x):\n    return x ** 2  # two  spaces\n\n\n\tif x:\r\n\t\tpass",
    "Größe, naïve café, Ελληνικά, русский язык, 你好世界, こんにちは, 한국어, עברית",
    "👩‍👧 🇩🇪 é ∑∫ \u200b\u00a0 ﬁ",
    "CamelCaseWORDS snake_case 12a3b 007 3.14159e-10 <html>&amp;</html>",
    "   leading and trailing   ",
    "\n\n \n",
    "½ ² ①  ٣٤ Ⅷ 1e5½ x² 2½3 ² in 1999   2000",
    "I'LL DON'T we'RE 'quoted' ''",
)
"""Texts on which ways to cut differ."""

_SPREAD = 3_000
_JOINED = 10
"""Tokens of the vocabulary that are put together, so many at a time, into further such texts."""


def gguf_tokenizer_metadata(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """Keys and values as `tokenizer.ggml.tokens`; `vocab_size` tokens, as the model has rows.

    Raises CheckpointError for a tokenizer that no name in GGUF stands for.
    """
    texts = tried_texts(tokenizer, vocab_size)
    expected = tokenizer.encode_batch(texts)
    for metadata in _candidates(tokenizer, vocab_size):
        read = tokenizer_of(metadata)
        if read is not None and Tokenizer(read).encode_batch(texts) == expected:
            return {f"tokenizer.{key}": value for key, value in metadata.items()}
    raise CheckpointError(
        "The model's tokenizer cuts texts in a way that has no name in GGUF, or none that is known"
        f" here ({', '.join(_WORD_RULES)}, and SentencePiece's). Export it as a Hugging Face"
        " folder: give an --output that does not end in .gguf."
    )


def tried_texts(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """Texts that two tokenizers are held to be the same by: every added token is in them.

    vocab_size: rows of the model, which has no use for ids beyond them.
    """
    added = tokenizer.hf.backend_tokenizer.get_added_tokens_decoder()
    known = [token.content for id_, token in added.items() if id_ < vocab_size]
    between = [f"a {token} b{token}\nc" for token in known]
    return [*TRIED, *between, *_own_texts(tokenizer)]


def _own_texts(tokenizer: Tokenizer) -> list[str]:
    """What the vocabulary itself can write, spread over all of it."""
    ids = range(0, tokenizer.size, max(1, tokenizer.size // _SPREAD))
    text = [id_ for id_ in ids if id_ not in tokenizer.special_ids]
    parts = (text[start : start + _JOINED] for start in range(0, len(text), _JOINED))
    return [tokenizer.decode(part) for part in parts]


def _candidates(tokenizer: Tokenizer, vocab_size: int) -> Iterator[dict[str, Any]]:
    model = json.loads(tokenizer.hf.backend_tokenizer.to_str())["model"]
    if model["type"] != "BPE" or not model["merges"]:  # llama.cpp reads none without merges
        return
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    common = _vocabulary(tokenizer, vocab_size, model)
    if not model["byte_fallback"]:
        merges = [f"{left} {right}" for left, right in pairs]
        for rule in _WORD_RULES:
            yield {"ggml.model": "gpt2", "ggml.pre": rule, **common, "ggml.merges": merges}
        return
    scores = _scores(common["ggml.tokens"], pairs)
    for add_space in True, False:
        yield {
            "ggml.model": "llama",
            "ggml.pre": "default",
            **common,
            "ggml.scores": scores,
            "ggml.add_space_prefix": add_space,
        }


def _vocabulary(tokenizer: Tokenizer, vocab_size: int, model: Mapping[str, Any]) -> dict[str, Any]:
    """What both kinds of tokenizer have. model: the BPE of the tokenizer's own file."""
    backend, hf = tokenizer.hf.backend_tokenizer, tokenizer.hf
    tokens = [f"[PAD{id_}]" for id_ in range(vocab_size)]
    types = [UNUSED] * vocab_size
    for token, id_ in backend.get_vocab(with_added_tokens=True).items():
        if id_ < vocab_size:
            tokens[id_] = token
            types[id_] = BYTE if model["byte_fallback"] and _is_byte(token) else NORMAL
    for id_, added in backend.get_added_tokens_decoder().items():
        if id_ < vocab_size:
            special = added.special or id_ in tokenizer.special_ids
            types[id_] = CONTROL if special else USER_DEFINED
    if model.get("unk_token") in tokens:
        types[tokens.index(model["unk_token"])] = UNKNOWN
    ids = {
        "bos": tokenizer.bos_id,
        "eos": tokenizer.eos_id,
        "unknown": hf.unk_token_id,
        "padding": hf.pad_token_id,
    }
    metadata: dict[str, Any] = {"ggml.tokens": tokens, "ggml.token_type": types}
    metadata |= {
        f"ggml.{role}_token_id": id_
        for role, id_ in ids.items()
        if id_ is not None and id_ < vocab_size
    }
    starts = hf("a").input_ids[:1] == [tokenizer.bos_id]
    metadata |= {"ggml.add_bos_token": starts, "ggml.add_eos_token": False}
    if tokenizer.chat_template is not None:
        metadata["chat_template"] = tokenizer.chat_template
    return metadata


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _scores(tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    """SentencePiece joins what gives the token of the highest score: the earlier a merge, the
    higher. What no merge gives comes last."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]
