"""The models that are measured: found, and held against each other, before a weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llama_recipes.cli.data_flags import run_file_of
from llama_recipes.configs.flags import read
from llama_recipes.configs.section import is_given
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.inference.checkpoint import Say
from llama_recipes.inference.load import Found, Loaded, check, find, load
from llama_recipes.quantization.kept import Kept

BASE = "base"
"""What --compare_with calls the model that the other was trained from."""
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


def candidates(
    name: str, *, base: str | None, compare_with: str, kept: Kept | None, say: Say
) -> list[Candidate]:
    """The model, and the one that it is compared with: a base before its adapter, others after it.

    kept: how bases are kept, where an adapter does not tell; None: as they are. say: as for `find`.
    Raises ConfigError and CheckpointError, also where the two see other tokens.
    """
    found = find(name, base=base, kept=kept, say=say)
    if not compare_with:
        return [Candidate(name, found)]
    if compare_with == BASE:
        under = found.source.name if found.adapter else _trained_from(name)
        pair = [Candidate(BASE, find(under, kept=kept)), Candidate(_TUNED, found)]
    else:
        other = find(compare_with, kept=kept, say=say)
        pair = [Candidate(name, found), Candidate(compare_with, other)]
    if len({candidate.found.tokenizer.fingerprint for candidate in pair}) > 1:
        raise CheckpointError(
            f"{pair[0].name} and {pair[1].name} have different tokenizers: they would see other"
            " tokens, and a loss per token would not mean the same. Measure each on its own."
        )
    for candidate in pair:
        check(candidate.found)  # now, and not once the first has been measured
    return pair


def _trained_from(name: str) -> str:
    """The model that a run which trained all weights began with, as its settings tell."""
    run_file = run_file_of(name)
    words = [f"--config={run_file}"] if run_file else []
    model = read(words, prog="").config.train_config.model_name
    if not is_given(model):
        raise ConfigError(
            f"--compare_with is base, but {name} is no adapter, and there is no config.yaml of a"
            " run beside it that would say which model it was made from. Name that model with"
            " --compare_with."
        )
    return model
