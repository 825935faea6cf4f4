"""A tiny model in a folder as the hub has them, and files to train it on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from support.chat_tokenizers import CHATML
from support.tiny import tiny_llama, transformers_twin

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|pad|>")
VOCABULARY = 256 + len(SPECIAL)


def byte_tokenizer(**changes) -> PreTrainedTokenizerFast:
    """A token a byte: nothing is trained, so that it is the same with every library's version."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    names = dict(zip(("bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    settings = names | {"chat_template": CHATML}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(settings | changes))


def tiny_folder(folder: Path, **changes) -> Path:
    """Random weights and the byte tokenizer, written by transformers; `changes` of the shape."""
    model = tiny_llama(**({"vocab_size": VOCABULARY} | changes))
    transformers_twin(model).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def jsonl(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sums(count: int) -> list[dict[str, str]]:
    """Prompts and completions that a model can learn something about within a few steps."""
    pairs = [(7 * i % 50, 11 * i % 50) for i in range(count)]
    return [{"prompt": f"{a} + {b} =", "completion": f" {a + b}"} for a, b in pairs]
