"""A vocabulary that grows: what the new rows are, and that nothing else moves."""

from __future__ import annotations

import pytest
import torch

from llama_recipes.model.fingerprint import weights_fingerprint
from llama_recipes.model.vocabulary import GrownVocabulary
from support.in_memory import InMemory, loaded
from support.tiny import TINY, tiny_config, tiny_llama

KEYS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_new_rows_are_the_mean_and_all_else_is_as_it_was(tied):
    base = tiny_llama(tie_word_embeddings=tied)
    config = tiny_config(vocab_size=TINY.vocab_size + 5, tie_word_embeddings=tied)
    grown = loaded(GrownVocabulary(InMemory(base), config.vocab_size), config).state_dict()
    for key, weight in base.state_dict().items():
        if key not in KEYS:
            assert torch.equal(grown[key], weight)
            continue
        assert torch.equal(grown[key][:-5], weight)
        mean = weight.double().mean(0).float()
        assert torch.equal(grown[key][-5:], mean.expand(5, -1))


@pytest.mark.parametrize("rows", [(0, 96), (90, 98), (95, 96), (96, 101), (97, 99), (0, None)])
def test_any_rows_of_it_can_be_read(rows):
    tensors = GrownVocabulary(InMemory(tiny_llama()), 101)
    whole = torch.cat([tensors.read(KEYS[0], row, row + 1) for row in range(101)])
    assert torch.equal(tensors.read(KEYS[0], *rows), whole[slice(*rows)])
    assert tensors.shapes[KEYS[0]] == (101, TINY.hidden_size)


def test_it_never_shrinks():
    assert GrownVocabulary(InMemory(tiny_llama()), 3).shapes[KEYS[0]][0] == TINY.vocab_size


def test_new_rows_have_the_type_of_the_others():
    tensors = GrownVocabulary(InMemory(tiny_llama(dtype=torch.bfloat16)), 101)
    assert tensors.read(KEYS[0]).dtype == tensors.dtype(KEYS[0]) == torch.bfloat16


def test_a_fingerprint_tells_weights_and_not_how_they_are_stored():
    base = tiny_llama(dtype=torch.bfloat16)
    found = weights_fingerprint(InMemory(base))
    assert weights_fingerprint(InMemory(base.float())) == found
    assert weights_fingerprint(InMemory(tiny_llama(seed=1, dtype=torch.bfloat16))) != found
    # One layer that was trained on is enough.
    with torch.no_grad():
        base.model.layers[1].mlp.up_proj.weight.add_(0.01)
    assert weights_fingerprint(InMemory(base)) != found


def test_a_stored_copy_of_a_tied_head_is_no_other_model():
    base = tiny_llama(tie_word_embeddings=True)
    twice = InMemory(base)
    twice.tensors["lm_head.weight"] = base.model.embed_tokens.weight
    twice.shapes["lm_head.weight"] = tuple(base.model.embed_tokens.weight.shape)
    assert weights_fingerprint(twice) == weights_fingerprint(InMemory(base))
