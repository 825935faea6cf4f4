"""Invariant 5 for documents that are too long: cut, left out or refused, never unnoticed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llama_recipes.configs.section import Section
from llama_recipes.data.tokenize import Document
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError
from support.chat_tokenizers import tokenizer
from support.labels import CONVERSATIONS, answers, chat, only, rows, store_of

SHORT = {"prompt": "Hi", "completion": "Yo"}
LONG_ANSWER = {"prompt": "Hi", "completion": "a b c d e f g h i j k l m"}
LONG_PROMPT = {"prompt": "a b c d e f g h i j k l m", "completion": "Yo"}
LIMIT = 8


def lengths(section: Section, using: Tokenizer) -> list[int]:
    return store_of(section, using).lengths.tolist()


def test_end_cuts_answers_and_leaves_out_what_has_none_left(tmp_path):
    using = tokenizer("no chat")
    section = rows(tmp_path, SHORT, LONG_ANSWER, LONG_PROMPT)
    assert [length > LIMIT for length in lengths(section, using)] == [False, True, True]
    store = store_of(section, using, length=LIMIT, truncation="end")
    assert store.report["counts"] == {
        "rows": 3,
        "documents": 2,
        "truncated": 1,
        "without_stop_token": 0,
        "no_supervised_token": 1,
    }
    whole, cut = store.document(0), store.document(1)
    assert answers(whole, using) == ["Yo</s>"]
    assert len(cut.input_ids) == LIMIT
    (kept,) = answers(cut, using)
    assert LONG_ANSWER["completion"].startswith(kept)
    assert all(store.supervised > 0)


def test_drop_leaves_out_and_counts_what_is_too_long(tmp_path):
    using = tokenizer("no chat")
    section = rows(tmp_path, LONG_ANSWER, SHORT, LONG_PROMPT)
    store = store_of(section, using, length=LIMIT, truncation="drop")
    assert answers(only(store), using) == ["Yo</s>"]
    assert store.report["counts"]["too_long"] == 2


def test_error_names_every_row_that_is_too_long(tmp_path):
    using = tokenizer("no chat")
    section = rows(tmp_path, LONG_ANSWER, SHORT, LONG_PROMPT)
    first, _, last = lengths(section, using)
    with pytest.raises(DataError) as caught:
        store_of(section, using, length=LIMIT, truncation="error")
    said = str(caught.value)
    assert "2 rows cannot be used" in said
    assert f"train.jsonl, line 1: it has {first} tokens, context_length is {LIMIT}" in said
    assert f"train.jsonl, line 3: it has {last} tokens, context_length is {LIMIT}" in said
    assert "--truncation drop" in said
    assert "--on_bad_row" not in said


@pytest.mark.parametrize(
    ("truncation", "why"), [("end", "1 no supervised token"), ("drop", "1 too long")]
)
def test_a_set_with_nothing_left_to_train_is_an_error(truncation, why, tmp_path):
    with pytest.raises(DataError, match=f"no supervised token is left in its only row .*{why}"):
        store_of(
            rows(tmp_path, LONG_PROMPT), tokenizer("no chat"), length=LIMIT, truncation=truncation
        )


@pytest.mark.parametrize("limit", range(2, 30))
def test_no_document_is_ever_without_a_label(limit, tmp_path):
    using = tokenizer("chatml")
    section = rows(tmp_path, *CONVERSATIONS.values(), chat("x", "y"))
    try:
        store = store_of(section, using, length=limit)
    except DataError as error:
        assert "no supervised token is left" in str(error)
        return
    counts = store.report["counts"]
    assert counts["rows"] == counts["documents"] + counts.get("no_supervised_token", 0)
    documents: Sequence[Document] = [store.document(i) for i in range(len(store))]
    assert all(d.supervised > 0 and len(d.input_ids) <= limit for d in documents)
