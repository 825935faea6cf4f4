"""Answers from a model: token by token, several prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from llama_recipes.inference.kv_cache import KvCache
from llama_recipes.inference.sampling import Sampling, next_tokens
from llama_recipes.model.llama import Llama

OnToken = Callable[[int, int], None]
"""Called with the number of the prompt and the token that was just added to its answer."""


@torch.inference_mode()
def generate(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """The answer to each prompt as token ids, without dropout.

    An answer ends before the first of `stop_ids`, after `max_new_tokens`, or where prompt and
    answer together reach the model's max_position_embeddings. No prompt may be empty. The same
    arguments give the same answers; `Sampling` explains temperature, top_k and top_p.
    """
    assert all(len(prompt) for prompt in prompts)
    limit = model.config.max_position_embeddings
    room = [min(max_new_tokens, limit - len(prompt)) for prompt in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    numbers = [number for number, tokens in enumerate(room) if tokens > 0]
    if not numbers:
        return answers

    def accept(number: int, token: int) -> bool:
        """Add a token to an answer; whether the answer goes on."""
        if token in stop_ids:
            return False
        answers[number].append(token)
        if on_token is not None:
            on_token(number, token)
        return len(answers[number]) < room[number]

    was_training = model.training
    model.eval()
    try:
        _run(
            model,
            [prompts[number] for number in numbers],
            numbers,
            capacity=max(len(prompts[number]) + room[number] for number in numbers),
            how=Sampling(temperature, top_k, top_p),
            seed=seed,
            accept=accept,
        )
    finally:
        model.train(was_training)
    return answers


def _run(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    numbers: list[int],
    *,
    capacity: int,
    how: Sampling,
    seed: int,
    accept: Callable[[int, int], bool],
) -> None:
    """Feed the prompts, then every accepted token, until no answer goes on.

    numbers: what `accept` knows each prompt by.
    """
    device = model.head_weight.device
    generator = torch.Generator(device).manual_seed(seed)
    lengths = [len(prompt) for prompt in prompts]
    cache = KvCache(
        model.config,
        sequences=len(prompts),
        capacity=capacity,
        dtype=model.compute_dtype or model.model.embed_tokens.weight.dtype,
        device=device,
    )
    tokens = torch.tensor([token for prompt in prompts for token in prompt], device=device)
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    hidden = model(tokens, positions, cache.prefill(lengths))
    hidden = hidden[torch.tensor(lengths, device=device).cumsum(0) - 1]
    while True:
        chosen = next_tokens(model.logits(hidden), how, generator)
        goes_on = [accept(*pair) for pair in zip(numbers, chosen, strict=True)]
        # From the last row on, since the last row takes the place of one that is dropped.
        for row in reversed([row for row, more in enumerate(goes_on) if not more]):
            cache.drop(row)
            for items in numbers, chosen:
                items[row] = items[-1]
                del items[-1]
        if not numbers:
            return
        positions = torch.tensor(cache.lengths, device=device)
        hidden = model(torch.tensor(chosen, device=device), positions, cache.step())
