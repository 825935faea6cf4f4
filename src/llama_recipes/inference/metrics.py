"""How near answers are to their references. Every figure is a mean over answers, from 0 to 1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

from llama_recipes.errors import ConfigError
from llama_recipes.packages import require

ROUGE = ("rouge1", "rouge2", "rougeL")


def check_rouge() -> None:
    """Raises ConfigError where the library that measures ROUGE is missing."""
    require("rouge-score", why="ROUGE is measured with")


def rouge(
    references: Sequence[str], answers: Sequence[str], kinds: Sequence[str] = ROUGE
) -> dict[str, float]:
    """The mean F1 of each kind.

    Lin 2004, https://aclanthology.org/W04-1013, as rouge-score computes it with stemming.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(kinds), use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(references, answers, strict=True)]
    return {kind: fmean(score[kind].fmeasure for score in scores) for kind in kinds}


def exact_match(references: Sequence[str], answers: Sequence[str]) -> float:
    """The share of answers that are their reference, but for white space around them."""
    pairs = zip(references, answers, strict=True)
    return fmean(reference.strip() == answer.strip() for reference, answer in pairs)


def read_pattern(text: str) -> re.Pattern[str]:
    """A regular expression that finds the answer in a text. Raises ConfigError with the rule."""
    flag = f"--answer_pattern is {text!r}"
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(
            f"{flag}, which is no regular expression: {error}. Write one of Python's, such as"
            " '#### (-?[0-9.,]+)'."
        ) from None
    if pattern.groups > 1:
        raise ConfigError(
            f"{flag}, which has {pattern.groups} groups, but one alone can be the answer: write the"
            " others as (?:...). Without a group, the whole match is the answer."
        )
    if pattern.search("") is not None:
        raise ConfigError(
            f"{flag}, which finds an answer where nothing stands: what it matches must have a"
            " character, as with + in the place of *."
        )
    return pattern


def find_answer(pattern: re.Pattern[str], text: str) -> str | None:
    """The last match, or of a pattern with a group what stands in it; None where there is none.

    White space around it and commas in it are nothing: 1,234 is 1234.
    """
    found = [match[pattern.groups] for match in pattern.finditer(text)]
    stated = [answer for answer in found if answer is not None]
    return stated[-1].replace(",", "").strip() if stated else None


def answer_match(
    references: Sequence[str], answers: Sequence[str], pattern: re.Pattern[str]
) -> float:
    """The share of answers in which `pattern` finds what it finds in their reference.

    References in which it finds nothing do not count; one at least must have something.
    """
    pairs = [
        (wanted, find_answer(pattern, answer))
        for reference, answer in zip(references, answers, strict=True)
        if (wanted := find_answer(pattern, reference)) is not None
    ]
    return fmean(wanted == given for wanted, given in pairs)
