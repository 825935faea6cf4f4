"""Documents that are there twice, in a part or in both parts of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_recipes.data.inspect import Flags, Hashes, Marks, Numbers

_SHARE_OF_A_SHARED_PROMPT = 0.01
_SHARED_BY_FEW = 3
"""A prompt that more documents than these have is an instruction they share, and no question."""


@dataclass(frozen=True)
class Copies:
    """Equal documents of one part.

    distinct: how many different ones there are. copies: the numbers of those that are there before,
    originals: of the first of their kind, in the same order. other_answers: documents whose prompt
    is there with another answer too.
    """

    distinct: int
    copies: Numbers
    originals: Numbers
    other_answers: int


@dataclass(frozen=True)
class Overlap:
    """Validation documents that are in the training part: one value each, [validation documents].

    same: prompt and answer. alike: the same but for case and white space. prompt: the prompt alone,
    with another answer. match: the number of a training document with which it shares the most.
    """

    same: Flags
    alike: Flags
    prompt: Flags
    match: Numbers


def copies(marks: Marks, has_prompt: Flags) -> Copies:
    _, first, kind = np.unique(marks.whole, return_index=True, return_inverse=True)
    original = first[kind]
    later = np.flatnonzero(original != np.arange(len(kind)))
    return Copies(len(first), later, original[later], _other_answers(marks, has_prompt))


def _other_answers(marks: Marks, has_prompt: Flags) -> int:
    own = has_prompt & ~_is_shared(marks.prompt)
    _, prompt = np.unique(marks.prompt[own], return_inverse=True)
    _, answer = np.unique(marks.answer[own], return_inverse=True)
    different = np.unique(np.stack([prompt, answer]), axis=1)[0]
    answers = np.bincount(different, minlength=1)
    return int((answers[prompt] > 1).sum()) if len(prompt) else 0


def _is_shared(prompts: Hashes) -> Flags:
    _, prompt, count = np.unique(prompts, return_inverse=True, return_counts=True)
    limit = max(_SHARED_BY_FEW, _SHARE_OF_A_SHARED_PROMPT * len(prompts))
    shared: Flags = count[prompt] > limit
    return shared


def overlap(
    training: Marks,
    validation: Marks,
    *,
    alike: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None,
    has_prompt: tuple[Flags, Flags],
) -> Overlap:
    """alike: hashes of the two parts' texts without case and white space, where there are texts;
    has_prompt: which documents of the two parts are asked anything."""
    same, match = _found(validation.whole, training.whole)
    near = np.zeros_like(same)
    if alike is not None:
        near, others = _found(alike[1], alike[0])
        near &= ~same
        match = np.where(near, others, match)
    own = np.flatnonzero(has_prompt[0] & ~_is_shared(training.prompt))
    asked, others = _found(validation.prompt, training.prompt[own])
    asked &= has_prompt[1] & ~same & ~near
    if len(own):
        match = np.where(asked, own[others], match)
    return Overlap(same, near, asked, match)


def _found(wanted: Hashes, among: Hashes) -> tuple[Flags, Numbers]:
    """Whether each is there, and the number of the first that it equals (0 where none does)."""
    if not len(among):
        return np.zeros(len(wanted), bool), np.zeros(len(wanted), np.int64)
    order = np.argsort(among, kind="stable")
    at = np.minimum(np.searchsorted(among[order], wanted), len(among) - 1)
    there: Flags = among[order[at]] == wanted
    return there, np.where(there, order[at], 0)
