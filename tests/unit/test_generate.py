"""Generation: the tokens that transformers gives, however the prompts are put together."""

from __future__ import annotations

import pytest
import torch
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from llama_recipes.adapters.lora import add_lora, initialise_lora
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.inference.generate import generate
from llama_recipes.inference.kv_cache import KvCache
from llama_recipes.inference.sampling import Sampling, next_tokens, probabilities
from llama_recipes.model.attention import DocumentAttention
from support.tiny import tiny_llama, transformers_twin

PROMPTS = [[5, 9, 2], [7], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [7, 7], [90, 1, 44, 3, 20]]
NEW_TOKENS = 24


def greedy(model, prompts, **settings):
    return generate(model, prompts, **{"max_new_tokens": NEW_TOKENS, "stop_ids": ()} | settings)


def oracle(model, prompt, stop_ids=()):
    """transformers' greedy answer, without the prompt and the stop token."""
    twin = transformers_twin(model)
    output = twin.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=list(stop_ids) or None,
    )
    answer = output[0, len(prompt) :].tolist()
    return answer[:-1] if answer[-1] in stop_ids else answer


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_greedy_answers_are_those_of_transformers(kv_heads):
    model = tiny_llama(num_key_value_heads=kv_heads)
    assert greedy(model, PROMPTS) == [oracle(model, prompt) for prompt in PROMPTS]


def test_answers_stop_where_those_of_transformers_stop():
    model = tiny_llama()
    free = greedy(model, PROMPTS)
    stop_ids = {free[0][3], free[2][0], free[4][9]}
    answers = greedy(model, PROMPTS, stop_ids=stop_ids)
    assert answers == [oracle(model, prompt, stop_ids) for prompt in PROMPTS]
    assert len({len(answer) for answer in answers}) > 2
    assert answers[2] == []
    assert not any(stop_ids & set(answer) for answer in answers)


def test_a_prompt_is_answered_alike_alone_and_among_others():
    model = tiny_llama(seed=3)
    stop_ids = {greedy(model, PROMPTS)[1][5]}
    together = greedy(model, PROMPTS, stop_ids=stop_ids)
    assert together == [greedy(model, [prompt], stop_ids=stop_ids)[0] for prompt in PROMPTS]
    assert together == greedy(model, PROMPTS[::-1], stop_ids=stop_ids)[::-1]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.no_grad()
def test_the_cache_changes_no_logits(dtype, tolerance, kv_heads):
    model = tiny_llama(dtype=dtype, num_key_value_heads=kv_heads)
    rows = [torch.randint(0, 96, (length,)) for length in (12, 7, 20)]
    prompt_lengths, steps = [5, 2, 9], [5, 5, 11]
    cache = KvCache(model.config, sequences=3, capacity=20, dtype=dtype, device=torch.device("cpu"))
    positions = torch.cat([torch.arange(length) for length in prompt_lengths])
    tokens = torch.cat([row[:n] for row, n in zip(rows, prompt_lengths, strict=True)])
    seen = model.logits(model(tokens, positions, cache.prefill(prompt_lengths)))
    with_cache = [[part] for part in seen.split(prompt_lengths)]

    present = [0, 1, 2]
    for step in range(max(steps)):
        if step == 5:  # the first two are over: the third takes the first one's row
            cache.drop(1)
            cache.drop(0)
            present = [2]
        places = torch.tensor(cache.lengths)
        tokens = torch.stack([rows[i][place] for i, place in zip(present, places, strict=True)])
        logits = model.logits(model(tokens, places, cache.step()))
        for i, row in zip(present, logits, strict=True):
            with_cache[i].append(row[None])

    for row, parts in zip(rows, with_cache, strict=True):
        whole = model.logits(model(row, torch.arange(len(row)), DocumentAttention([len(row)])))
        together = torch.cat(parts)
        torch.testing.assert_close(together, whole[: len(together)], atol=tolerance, rtol=tolerance)


def test_an_answer_ends_at_the_models_last_position():
    model = tiny_llama(max_position_embeddings=12)
    answers = greedy(model, [[1] * 4, [1] * 11, [1] * 12, [1] * 15])
    assert [len(answer) for answer in answers] == [8, 1, 0, 0]
    assert greedy(model, [[1] * 4], max_new_tokens=3)[0] == answers[0][:3]
    assert greedy(model, [[1] * 4], max_new_tokens=0) == [[]]
    assert greedy(model, []) == []


def test_tokens_are_told_as_they_come():
    model, told = tiny_llama(), []
    answers = greedy(model, PROMPTS[:2], on_token=lambda *pair: told.append(pair))
    assert told == [
        (number, answers[number][place]) for place in range(NEW_TOKENS) for number in (0, 1)
    ]


def test_dropout_is_off_and_the_mode_is_left_as_it_was():
    model = tiny_llama()
    add_lora(model, LoraConfig(lora_dropout=0.9, target_modules="all-linear"))
    initialise_lora(model, seed=0, device=torch.device("cpu"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    expected = greedy(model.eval(), PROMPTS)
    assert greedy(model.train(), PROMPTS) == expected
    assert model.training


def test_the_same_seed_gives_the_same_answers():
    model = tiny_llama()
    settings = {"temperature": 2.0, "top_k": 50, "top_p": 0.95}
    answers = greedy(model, PROMPTS, seed=1, **settings)
    torch.rand(1)
    assert greedy(model, PROMPTS, seed=1, **settings) == answers
    assert greedy(model, PROMPTS, seed=2, **settings) != answers


def test_nearly_no_temperature_is_greedy():
    model = tiny_llama()
    assert greedy(model, PROMPTS, temperature=1e-4) == greedy(model, PROMPTS)
    assert greedy(model, PROMPTS, temperature=5.0, top_k=1) == greedy(model, PROMPTS)
    assert greedy(model, PROMPTS, temperature=5.0, top_p=1e-6) == greedy(model, PROMPTS)


LOGITS = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 50, 60])
@pytest.mark.parametrize("top_p", [0.1, 0.6, 0.95, 1.0])
def test_what_is_drawn_from_is_what_transformers_draws_from(temperature, top_k, top_p):
    expected = LOGITS / temperature
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    found = probabilities(LOGITS, Sampling(temperature, top_k, top_p))
    found = found / found.sum(-1, keepdim=True)
    torch.testing.assert_close(found, expected.softmax(-1))


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)

    def shares(how):
        drawn = next_tokens(logits.expand(20_000, 4), how, generator)
        return torch.bincount(torch.tensor(drawn), minlength=4) / 20_000

    for how, expected in [
        (Sampling(1.0), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(1.0, top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(1.0, top_p=0.9), [0.526, 0.316, 0.158, 0]),
        (Sampling(0.5), [0.685, 0.247, 0.062, 0.007]),
    ]:
        assert shares(how).tolist() == pytest.approx(expected, abs=0.015)
