"""The tokenizer inside a GGUF file, as the transformers tokenizer it was converted from.

GGUF keeps the vocabulary and the merges, but of the text's way into them only a name: `pre`.
What each name means is written down in llama.cpp (src/llama-vocab.cpp); the parts below are those
of the models' own tokenizer.json.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from llama_recipes.errors import CheckpointError
from llama_recipes.gguf_metadata import read_gguf_header

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Values of tokenizer.ggml.token_type."""

_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _gpt2_words() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm_words() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), _gpt2_words()])


def _llama3_words() -> PreTokenizer:
    words = Split(Regex(_LLAMA3_WORDS), behavior="isolated")
    return Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])


WORD_RULES: Mapping[str, Callable[[], PreTokenizer]] = {
    "default": _gpt2_words,
    "gpt-2": _gpt2_words,
    "llama-bpe": _llama3_words,
    "llama-v3": _llama3_words,
    "llama3": _llama3_words,
    "smollm": _smollm_words,
}
"""`tokenizer.ggml.pre` → how a text is cut into words before anything is merged."""


def gguf_tokenizer(path: Path, *, or_else: str = "") -> Any:
    """A transformers tokenizer. Raises CheckpointError where the file's is unknown or damaged.

    or_else: what else would mend that, as `load_tokenizer` has it.
    """
    metadata = {
        key.removeprefix("tokenizer."): value
        for key, value in read_gguf_header(path).metadata.items()
        if key.startswith("tokenizer.")
    }
    tokens = metadata.get("ggml.tokens")
    if not tokens:
        raise CheckpointError(
            f"{path} holds no tokenizer. Give the model as a Hugging Face folder{or_else}."
        )
    try:
        tokenizer = tokenizer_of(metadata)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(
            f"The tokenizer in {path} is damaged ({error}). Fetch the file again."
        ) from error
    if tokenizer is not None:
        return tokenizer
    if metadata.get("ggml.model") != "gpt2":
        raise CheckpointError(
            f"{path} has a tokenizer of the kind {metadata.get('ggml.model')!r}; the kinds known in"
            f" GGUF files are gpt2, llama. Give the model as a Hugging Face folder{or_else}."
        )
    raise CheckpointError(
        f"{path} splits text in the way named {metadata.get('ggml.pre', '')!r}, which is not known"
        f" here; known: {', '.join(WORD_RULES)}. Give the model as a Hugging Face folder{or_else}."
    )


def tokenizer_of(metadata: Mapping[str, Any]) -> Any:
    """A transformers tokenizer from metadata without its `tokenizer.`; None for an unknown kind."""
    if metadata.get("ggml.model") == "llama":
        return _wrap(_sentencepiece(metadata), metadata)
    if metadata.get("ggml.model") != "gpt2" or metadata.get("ggml.pre") not in WORD_RULES:
        return None
    return _wrap(_byte_level(metadata), metadata)


def _byte_level(metadata: Mapping[str, Any]) -> Tokenizer:
    pre = str(metadata["ggml.pre"])
    llama3 = WORD_RULES[pre] is _llama3_words
    backend = Tokenizer(
        BPE(
            vocab={token: id_ for id_, token in enumerate(metadata["ggml.tokens"])},
            merges=[tuple(merge.split(" ")) for merge in metadata["ggml.merges"]],
            # Llama 3's vocabulary, from tiktoken, has words that no chain of merges reaches.
            ignore_merges=llama3,
        )
    )
    backend.pre_tokenizer = WORD_RULES[pre]()
    backend.decoder = decoders.ByteLevel()
    steps: list[Any] = [processors.ByteLevel(trim_offsets=True)]
    if metadata.get("ggml.add_bos_token", llama3):
        steps.append(_bos_first(metadata))
    backend.post_processor = processors.Sequence(steps)
    return backend


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    """Llama 2's: byte-pair merges by score, unknown characters as bytes, spaces as ▁."""
    tokens = metadata["ggml.tokens"]
    types = metadata.get("ggml.token_type") or [UNKNOWN, *[1] * len(tokens)]
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    backend = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=_merges_by_score(vocabulary, metadata["ggml.scores"]),
            unk_token=tokens[types.index(UNKNOWN)],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    plain: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("ggml.add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend("▁"))
        plain.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(spaces)
    backend.decoder = decoders.Sequence(plain)
    if metadata.get("ggml.add_bos_token", True):
        backend.post_processor = _bos_first(metadata)
    return backend


def _merges_by_score(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, best first: what the scores of GGUF stand for."""
    found = []
    for token, id_ in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if left is not None and right is not None:
                found.append((-scores[id_], left, right, token[:cut], token[cut:]))
    return [(left, right) for *_, left, right in sorted(found, key=operator.itemgetter(0, 1, 2))]


def _bos_first(metadata: Mapping[str, Any]) -> processors.TemplateProcessing:
    """What transformers' own callers get when they ask for special tokens."""
    id_ = metadata["ggml.bos_token_id"]
    bos = metadata["ggml.tokens"][id_]
    return processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, id_)]
    )


def _wrap(backend: Tokenizer, metadata: Mapping[str, Any]) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokens = metadata["ggml.tokens"]
    named = {
        f"{role}_token": tokens[metadata[key]]
        for role, key in (
            ("bos", "ggml.bos_token_id"),
            ("eos", "ggml.eos_token_id"),
            ("pad", "ggml.padding_token_id"),
            ("unk", "ggml.unknown_token_id"),
        )
        if key in metadata
    }
    special, text = [], []
    for token, kind in zip(tokens, metadata.get("ggml.token_type") or [], strict=False):
        if kind in (UNKNOWN, CONTROL) or token in named.values():
            special.append(AddedToken(token, normalized=False))
        elif kind == USER_DEFINED:
            text.append(AddedToken(token, normalized=False))
    backend.add_special_tokens(special)
    backend.add_tokens(text)
    hf = PreTrainedTokenizerFast(tokenizer_object=backend, **named)  # type: ignore[no-untyped-call]
    hf.chat_template = metadata.get("chat_template")
    return hf
