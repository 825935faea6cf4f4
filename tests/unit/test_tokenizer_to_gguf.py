"""A tokenizer written into a GGUF file and read back is the same."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from llama_recipes.data.tokenizer import Tokenizer, load_tokenizer
from llama_recipes.data.tokenizer_gguf import tokenizer_of
from llama_recipes.data.tokenizer_to_gguf import gguf_tokenizer_metadata
from llama_recipes.errors import CheckpointError
from support.tiny_folder import byte_tokenizer
from support.tiny_tokenizers import (
    SPLITS,
    TEXTS,
    byte_level,
    byte_level_gguf,
    parts,
    sentencepiece,
    sentencepiece_gguf,
)

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def back(tokenizer: Tokenizer, rows: int) -> tuple[Tokenizer, dict]:
    """Through the metadata, and what that is."""
    metadata = gguf_tokenizer_metadata(tokenizer, rows)
    short = {key.removeprefix("tokenizer."): value for key, value in metadata.items()}
    return Tokenizer(tokenizer_of(short)), short


def wrapped(backend: Backend, **names) -> Tokenizer:
    return Tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE, **names)
    )


@pytest.mark.parametrize("pre", sorted(SPLITS))
def test_byte_level(pre):
    original = wrapped(byte_level(pre), bos_token="<|bos|>", eos_token="<|eot_id|>")
    again, metadata = back(original, original.size)
    assert metadata["ggml.pre"] == pre
    assert again.encode_batch(TEXTS) == original.encode_batch(TEXTS)
    assert again.chat_template == TEMPLATE
    assert (again.bos_id, again.eos_id, again.stop_ids) == (0, 1, original.stop_ids)
    assert again.special_ids == original.special_ids
    tokens, merges = parts(byte_level(pre))
    assert metadata["ggml.tokens"] == tokens
    assert metadata["ggml.merges"] == [" ".join(pair) for pair in merges]


@pytest.mark.parametrize("space", [True, False])
def test_sentencepiece(space, tmp_path):
    path = sentencepiece_gguf(tmp_path / "model.gguf", **{"ggml.add_space_prefix": space})
    original = load_tokenizer(path)
    again, metadata = back(original, original.size)
    assert metadata["ggml.model"] == "llama"
    assert metadata["ggml.add_space_prefix"] == space
    assert again.encode_batch(TEXTS) == original.encode_batch(TEXTS)
    kinds = dict(zip(metadata["ggml.tokens"], metadata["ggml.token_type"], strict=True))
    assert [kinds[token] for token in ("<unk>", "<s>", "<0x0A>", "▁")] == [2, 3, 6, 1]


def test_llama_2_s_own_form_of_it():
    """As in tokenizer.json, where nothing says that merges came from scores."""
    original = wrapped(sentencepiece(), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    again, _ = back(original, original.size)
    assert again.encode_batch(TEXTS) == original.encode_batch(TEXTS)


def test_added_tokens_and_rows_without_a_token(tmp_path):
    original = load_tokenizer(byte_level_gguf(tmp_path / "model.gguf"))
    original.hf.add_tokens(["<tool>"])
    original.hf.add_special_tokens({"pad_token": "<|fill|>"})
    original = Tokenizer(original.hf)
    again, metadata = back(original, original.size + 4)
    assert metadata["ggml.tokens"][-4:] == [f"[PAD{original.size + n}]" for n in range(4)]
    assert metadata["ggml.token_type"][-6:] == [4, 3, 5, 5, 5, 5]
    assert again.pad_id == original.pad_id == original.size - 1
    text = "a <tool> b<|fill|>"
    assert again.encode_batch([text]) == original.encode_batch([text])


def test_a_padding_token_without_a_row_is_left_out(tmp_path):
    original = load_tokenizer(byte_level_gguf(tmp_path / "model.gguf"))
    rows = original.size
    original.hf.add_special_tokens({"pad_token": "<|fill|>"})
    _, metadata = back(Tokenizer(original.hf), rows)
    assert len(metadata["ggml.tokens"]) == rows
    assert "ggml.padding_token_id" not in metadata


def test_a_token_that_takes_the_space_beside_it_is_not_lost_on_the_way(tmp_path):
    original = load_tokenizer(byte_level_gguf(tmp_path / "model.gguf"))
    original.hf.add_tokens([AddedToken("<|user|>", rstrip=True, special=True)], special_tokens=True)
    with pytest.raises(CheckpointError, match="has no name in GGUF"):
        gguf_tokenizer_metadata(Tokenizer(original.hf), original.size + 1)


@pytest.mark.parametrize("kind", ["cut otherwise", "word level", "no merges"])
def test_what_gguf_has_no_name_for_is_refused(kind):
    if kind == "word level":
        backend = Backend(models.WordLevel({"a": 0, "<u>": 1}, unk_token="<u>"))
    elif kind == "no merges":
        backend = byte_tokenizer().backend_tokenizer
    else:
        backend = Backend.from_str(byte_level().to_str())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split("o", "isolated"), pre_tokenizers.ByteLevel(False)]
        )
    with pytest.raises(CheckpointError, match="cuts texts in a way that has no name in GGUF"):
        gguf_tokenizer_metadata(wrapped(backend), 500)
