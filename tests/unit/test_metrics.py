"""The figures of an evaluation: what counts as an answer, and how near it is."""

from __future__ import annotations

import re
from statistics import fmean

import pytest
from rouge_score.rouge_scorer import RougeScorer

from llama_recipes import packages
from llama_recipes.errors import ConfigError
from llama_recipes.inference.metrics import (
    answer_match,
    check_rouge,
    exact_match,
    find_answer,
    read_pattern,
    rouge,
)

REFERENCES = ["Return the sum of two numbers.", "Opens files, then closes them.", "One", "Zwei"]
ANSWERS = ["Returns a sum of the numbers.", "Open a file and close it.", "", "Zwei"]
GSM8K = "#### (-?[0-9.,]+)"


def test_rouge_is_that_of_rouge_score():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(REFERENCES, ANSWERS, strict=True)]
    expected = {
        kind: fmean(score[kind].fmeasure for score in scores)
        for kind in ("rouge1", "rouge2", "rougeL")
    }
    assert rouge(REFERENCES, ANSWERS) == expected
    assert 0 < expected["rouge2"] < expected["rougeL"] <= expected["rouge1"] < 1
    assert rouge(REFERENCES, ANSWERS, ["rougeL"]) == {"rougeL": expected["rougeL"]}


def test_an_exact_match_is_one_but_for_white_space_around_it():
    assert exact_match(["a b", "c", "d", "e"], [" a b\n", "C", "", "e"]) == 0.5


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (GSM8K, "48/2 = 24.\n#### 72", "72"),
        (GSM8K, "#### 1\nNo: #### -1,234.5", "-1234.5"),
        (GSM8K, "72", None),
        (r"\d+", "1 and 23", "23"),
        (r"answer: *(yes|no)?", "answer: no, no answer: ", "no"),
        (r"answer: *(yes|no)?", "answer: maybe", None),
        (r"(?:is|was) (.+)", "it was  left ", "left"),
    ],
)
def test_the_last_answer_is_the_answer(pattern, text, found):
    assert find_answer(re.compile(pattern), text) == found


def test_references_without_an_answer_do_not_count():
    references = ["#### 1,000", "#### 2", "nothing", "#### 4"]
    answers = ["so #### 1000", "#### 3, no: #### 2", "#### 3", "4"]
    assert answer_match(references, answers, read_pattern(GSM8K)) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("#### ([0-9", "which is no regular expression: unterminated character set at position"),
        ("(a)(b)", r"which has 2 groups, but one alone can be the answer: write the others as (?:"),
        ("(-?[0-9]*)", "which finds an answer where nothing stands"),
    ],
)
def test_a_pattern_that_cannot_find_answers_is_refused(pattern, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as raised:
        read_pattern(pattern)
    assert str(raised.value).startswith(f"--answer_pattern is {pattern!r}")


def test_a_missing_library_is_named(monkeypatch):
    check_rouge()
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install rouge-score"):
        check_rouge()
