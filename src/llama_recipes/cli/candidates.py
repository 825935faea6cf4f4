"""The models that are measured: found, and held against each other, before a weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.inference.checkpoint import Say
from llama_recipes.inference.load import Found, Loaded, check, find, load

BASE = "base"
"""What --compare_with calls the model under an adapter."""
_TUNED = "tuned"


@dataclass(frozen=True, slots=True)
class Candidate:
    """title: what its results are called."""

    title: str
    found: Found

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def vocab_size(self) -> int:
        return self.found.source.config.vocab_size

    @property
    def limit(self) -> int:
        """The most tokens that the model was made for."""
        return self.found.source.config.max_position_embeddings

    def load(self, device: torch.device, dtype: torch.dtype) -> Loaded:
        return load(self.found, device=device, dtype=dtype)


def candidates(name: str, *, base: str | None, compare_with: str, say: Say) -> list[Candidate]:
    """The model, and the one that it is compared with: a base before its adapter, others after it.

    say: as for `find`. Raises ConfigError and CheckpointError, also where the two see other tokens.
    """
    found = find(name, base=base, say=say)
    if not compare_with:
        return [Candidate(name, found)]
    if compare_with == BASE:
        if found.adapter is None:
            raise ConfigError(
                f"--compare_with is base, but {name} is no adapter, so that it does not say which"
                " model it was made from. Name that model with --compare_with."
            )
        pair = [Candidate(BASE, find(found.source.name)), Candidate(_TUNED, found)]
    else:
        pair = [Candidate(name, found), Candidate(compare_with, find(compare_with, say=say))]
    if len({candidate.found.tokenizer.fingerprint for candidate in pair}) > 1:
        raise CheckpointError(
            f"{pair[0].name} and {pair[1].name} have different tokenizers: they would see other"
            " tokens, and a loss per token would not mean the same. Measure each on its own."
        )
    for candidate in pair:
        check(candidate.found)  # now, and not once the first has been measured
    return pair
