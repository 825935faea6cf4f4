"""A text that goes on with another gets no space in front, whatever the vocabulary is like."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.data.tokenizer_border import find_borders
from support.chat_tokenizers import STYLES, llama2, tokenizer
from support.tiny_tokenizers import PIECES


def whole_and_apart(using: Tokenizer, *pieces: str) -> tuple[list[int], list[int]]:
    (whole,) = using.encode_batch(["".join(pieces)])
    apart = using.encode_batch(list(pieces), [number > 0 for number in range(len(pieces))])
    return whole, [id_ for ids in apart for id_ in ids]


def wrapped(backend: tokenizers.Tokenizer) -> Tokenizer:
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))


def characters(*more: str, **settings) -> tokenizers.Tokenizer:
    """Each character of ASCII is a token, each of `more` the merge of its two halves."""
    vocabulary = ["<unk>", "▁", "\n", *map(chr, range(33, 127)), *more]
    merges = [(token[: len(token) // 2], token[len(token) // 2 :]) for token in more if token[1:]]
    ids = {token: id_ for id_, token in enumerate(vocabulary)}
    backend = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", **settings))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Replace("▁", " ")
    return backend


@pytest.mark.parametrize(("before", "after"), pairwise(piece for piece in PIECES if piece.strip()))
def test_words_apart_have_the_ids_of_the_whole(before, after):
    before = before.rstrip()  # two spaces may be one token, across the cut
    whole, apart = whole_and_apart(wrapped(llama2()), before, f" {after}", "</s>", f" {before}")
    assert apart == whole


def test_no_space_is_put_inside_a_word():
    using = wrapped(characters())
    whole, apart = whole_and_apart(using, "[a]", "b", "\nc", "", "d")
    assert apart == whole
    assert using.decode(apart) == " [a]b\ncd"


def test_behind_a_control_token_a_space_is_put_where_the_whole_text_has_one():
    using = wrapped(llama2())
    whole, apart = whole_and_apart(using, "Hello</s>", "[INST]", "</s>", "", " x")
    assert apart == whole
    assert using.decode(apart) == "Hello</s> [INST]</s>  x"


def test_behind_nothing_a_text_begins_anew():
    using = wrapped(characters())
    assert using.encode_batch(["", "a"], [False, True])[1] == using.encode_batch(["a"])[0]


def test_a_text_that_begins_anew_keeps_its_space():
    using = wrapped(characters())
    one, two = using.encode_batch(["a", "b"], [False, False])
    assert [one, two] == using.encode_batch(["a", "b"])
    assert using.decode(two) == " b"


def test_where_the_space_comes_from_does_not_matter():
    backend = characters()
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    whole, apart = whole_and_apart(wrapped(backend), "a", "b", " c")
    assert apart == whole


def test_a_border_that_could_merge_with_what_follows_is_not_used():
    backend = characters("\n\n", "\na", "␞")
    assert find_borders(backend).usual.text == "␞"
    whole, apart = whole_and_apart(wrapped(backend), "x", "\n", "b", "\n\n", "\na")
    assert apart == whole


def test_a_border_that_an_added_token_would_swallow_is_not_used():
    backend = llama2()
    backend.add_special_tokens([AddedToken("<turn>", lstrip=True, normalized=False)])
    assert find_borders(backend).usual.text == "␞"
    whole, apart = whole_and_apart(wrapped(backend), "Hello", "<turn>", " world")
    assert apart == whole


def test_an_unknown_character_is_no_border():
    """It would melt into one <unk> with an unknown character behind it."""
    assert find_borders(characters("\n\n", fuse_unk=True)) is None


@pytest.mark.parametrize("style", sorted(set(STYLES) - {"llama-2, sentencepiece"}))
def test_a_tokenizer_that_puts_nothing_in_front_needs_no_border(style):
    assert find_borders(tokenizer(style).hf.backend_tokenizer) is None
