"""Small tokenizers, trained on the spot, and GGUF files that hold them; texts to try them on."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llama_recipes.model.llama import Llama
from support.tiny import tiny_llama
from support.tiny_gguf import write_gguf

PIECES = [
    *("Hello world", " leading", "trailing ", "  two", "a   b", "\t\ttabs", "\n\n\n", " \n \n x"),
    *("def f(x):\n    return x**2 - 1\n", "for (int i = 0; i < n; ++i) { a[i] += 3; }", "__init__"),
    *(
        "don't I'll we've they're it's I'M",
        "'s 'S",
        "3.14159",
        "1234567890",
        "in 1999   2000",
        "\r\n",
    ),
    *("½ ² ①  ٣٤", "naïve café Ünïcödé", "Привет, мир", "你好世界。", "こんにちは", "안녕하세요"),
    *(
        "שלום עולם",
        "مرحبا",
        "नमस्ते",
        "👩\u200d👩\u200d👧 🎉🎉",
        "e\u0301 \u200b\u200d\ufeff",
        "\u00a0\u2003x",
    ),
    *(
        "<|im_start|>user\nhi<|im_end|>\n",
        "<|im_end|><|im_end|>",
        "<|not_special|>",
        "<s></s><unk>",
    ),
    *(
        "https://example.com/a?b=c&d=%20e#f",
        "user@example.org",
        '{"a": [1, null, true]}',
        "\\begin{x}",
    ),
    *("!!!???...---___===", "ALLCAPS MixedCase camelCase", "a" * 40, "ab " * 20, "ﬁ Å ℃", ""),
    *("\x00\x01\x7f", "x_y_z"),
]
TEXTS = PIECES + [a + b for a, b in pairwise(PIECES)] + [f"{a} {b}" for a, b in pairwise(PIECES)]
TEXTS += [a.upper() + "\n" + a for a in PIECES]

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    ),
}
SPECIAL = ["<|bos|>", "<|eot_id|>", "<|pad|>"]


@cache
def byte_level(pre: str = "gpt-2") -> Tokenizer:
    """A small GPT-2-like tokenizer, trained here; ids 0, 1, 2 are bos, end of turn and pad."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = SPLITS[pre]
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(PIECES * 3, trainer)
    return tokenizer


def parts(tokenizer: Tokenizer) -> tuple[list[str], list[list[str]]]:
    """Tokens in the order of their ids, and the merges."""
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def byte_level_gguf(
    path: Path, pre: str = "gpt-2", *, model: Llama | None = None, **changes
) -> Path:
    """model: what the file holds beside the tokenizer; None: one that does not fit to it."""
    tokens, merges = parts(byte_level(pre))
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        **{f"tokenizer.{key}": value for key, value in changes.items()},
    }
    write_gguf(path, model or tiny_llama(), metadata=metadata)
    return path


SPIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]


@cache
def sentencepiece() -> Tokenizer:
    """A small Llama-2-like tokenizer, trained here."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPIECES, limit_alphabet=60, show_progress=False
    )
    # Pieces never reach from one word into the next, as sentencepiece trains them.
    words = [" " + word for text in PIECES * 3 for word in text.split()]
    tokenizer.train_from_iterator(words, trainer)
    return tokenizer


def sentencepiece_gguf(path: Path, **changes) -> Path:
    tokens, merges = parts(sentencepiece())
    rank = {left + right: index for index, (left, right) in reversed(list(enumerate(merges)))}
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3} | dict.fromkeys(SPIECES[3:], 6)
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(rank.get(token, len(merges))) for token in tokens],
        "tokenizer.ggml.token_type": [kinds.get(token, 1) for token in tokens],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **{f"tokenizer.{key}": value for key, value in changes.items()},
    }
    write_gguf(path, tiny_llama(), metadata=metadata)
    return path
