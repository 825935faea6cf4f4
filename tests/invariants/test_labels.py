"""Invariant 5: labels are what they should be.

From rows in files to the stored ids: the decoded supervised tokens are exactly the answers with
their stop token, and what stands before an answer is what the model is given to answer.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from llama_recipes.configs.datasets import (
    AlpacaDataset,
    CustomDataset,
    FileDataset,
    GrammarDataset,
    SamsumDataset,
)
from llama_recipes.configs.section import Section
from llama_recipes.data.example import Message
from llama_recipes.data.prepare import Preparation, prepare
from llama_recipes.data.sources import alpaca, grammar, open_source, samsum
from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenize import IGNORE, Document, Truncation
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError
from llama_recipes.inference.prompts import encode_conversation, encode_prompt
from support.chat_tokenizers import hf_tokenizer, tokenizer

LONG = 10_000


def store_of(
    section: Section,
    using: Tokenizer,
    *,
    length: int = LONG,
    truncation: Truncation = "end",
    on_prompt: bool = False,
) -> TokenStore:
    source = open_source(section, "train", tokenizer=using, seed=0)
    assert source is not None
    return prepare(source, using, Preparation(length, truncation, on_prompt))


def only(store: TokenStore) -> Document:
    assert len(store) == 1
    return store.document(0)


def runs(document: Document) -> Iterator[tuple[bool, list[int], list[int]]]:
    """(trained, the ids, all ids before them) of each run of trained or untrained tokens."""
    ids, labels = document.input_ids.tolist(), document.labels.tolist()
    assert all(label in (IGNORE, id_) for id_, label in zip(ids, labels, strict=True))
    start = 0
    for trained, run in groupby(labels, lambda label: label != IGNORE):
        end = start + len(list(run))
        yield trained, ids[start:end], ids[:start]
        start = end


def answers(document: Document, using: Tokenizer) -> list[str]:
    return [using.decode(ids) for trained, ids, _ in runs(document) if trained]


def prompts(document: Document) -> list[list[int]]:
    """The ids before each answer, those of earlier answers included."""
    return [before for trained, _, before in runs(document) if trained]


def rows(folder: Path, *rows: object) -> FileDataset:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return FileDataset(train_file=str(path))


def chat(*contents: str, system: str = "") -> dict[str, object]:
    roles = ["user", "assistant"] * (len(contents) // 2)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    return {"messages": [{"role": "system", "content": system}] * bool(system) + messages}


# Prompts and answers

INSTRUCTION = {"instruction": "Add.", "input": "2 and 3", "output": "The sum\nis 5. "}


def samsum_case(folder: Path) -> tuple[Section, str, str]:
    row = {"dialogue": "Ann: Tea?\r\nBob: Yes", "summary": "Bob wants tea."}
    (folder / "train.jsonl").write_text(json.dumps(row))
    section = SamsumDataset(data_path=str(folder))
    return section, samsum.prompt(row["dialogue"]), row["summary"]


def grammar_case(folder: Path) -> tuple[Section, str, str]:
    with (folder / "train.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("input", "target"), ("He go", "He goes.")])
    section = GrammarDataset(train_split=str(folder / "train.csv"))
    return section, grammar.prompt("He go"), "He goes."


def alpaca_case(folder: Path, **changes: str) -> tuple[Section, str, str]:
    row = INSTRUCTION | changes
    held_out = {"instruction": "Say", "input": "", "output": "no"}
    (folder / "alpaca.json").write_text(json.dumps([held_out, row]))
    prompt = alpaca.prompt(row["instruction"], row["input"])
    return AlpacaDataset(data_path=str(folder / "alpaca.json")), prompt, row["output"]


def alpaca_without_input(folder: Path) -> tuple[Section, str, str]:
    return alpaca_case(folder, input="")


def completion_case(folder: Path) -> tuple[Section, str, str]:
    return rows(folder, {"prompt": "1 + 1 =", "completion": " 2 "}), "1 + 1 =", " 2 "


def completion_without_prompt(folder: Path) -> tuple[Section, str, str]:
    return rows(folder, {"prompt": "", "completion": "Once"}), "", "Once"


CASES = pytest.mark.parametrize(
    "case",
    [
        samsum_case,
        grammar_case,
        alpaca_case,
        alpaca_without_input,
        completion_case,
        completion_without_prompt,
    ],
)
FORMATS = {samsum_case: "samsum", grammar_case: "grammar"}


@CASES
@pytest.mark.parametrize("style", ["no chat", "llama-3", "chatml"])
def test_the_answer_and_eos_are_trained_and_nothing_else(case, style, tmp_path):
    using = tokenizer(style)
    section, prompt, answer = case(tmp_path)
    document = only(store_of(section, using))
    assert answers(document, using) == [answer + using.decode([using.eos_id])]
    ids = document.input_ids.tolist()
    assert (ids[0], ids[-1]) == (using.bos_id, using.eos_id)
    assert (ids.count(using.bos_id), ids.count(using.eos_id)) == (1, 1)
    assert document.labels.tolist()[-1] == using.eos_id
    assert prompts(document) == [[using.bos_id, *using.encode_batch([prompt])[0]]]


@CASES
def test_chat_asks_with_the_ids_of_training(case, tmp_path):
    using = tokenizer("no chat")
    section, prompt, _ = case(tmp_path)
    (before,) = prompts(only(store_of(section, using)))
    typed = {samsum_case: "Ann: Tea?\r\nBob: Yes", grammar_case: "He go"}.get(case, prompt)
    assert encode_prompt(typed, FORMATS.get(case, "prompt_completion"), using) == before


@CASES
def test_with_sentencepiece_the_answer_is_whole_too(case, tmp_path):
    """Its decoder drops one space from the front of any text."""
    using = tokenizer("llama-2, sentencepiece")
    section, prompt, answer = case(tmp_path)
    document = only(store_of(section, using))
    assert answers(document, using) == [answer + "</s>"]
    assert prompts(document) == [[using.bos_id, *using.encode_batch([prompt])[0]]]


def test_a_tokenizer_without_bos_begins_with_the_prompt(tmp_path):
    using = tokenizer("no bos")
    section, prompt, answer = samsum_case(tmp_path)
    document = only(store_of(section, using))
    assert answers(document, using) == [answer + "</s>"]
    assert prompts(document) == using.encode_batch([prompt])


def test_all_of_a_text_is_trained_between_one_bos_and_one_eos(tmp_path):
    using = tokenizer("no chat")
    document = only(store_of(rows(tmp_path, {"text": "Once upon\na time"}), using))
    assert answers(document, using) == ["Once upon\na time</s>"]
    assert prompts(document) == [[using.bos_id]]


@CASES
def test_train_on_prompt_trains_every_token(case, tmp_path):
    using = tokenizer("no chat")
    section, prompt, answer = case(tmp_path)
    document = only(store_of(section, using, on_prompt=True))
    assert document.labels.tolist() == document.input_ids.tolist()
    assert using.decode(document.labels.tolist()) == f"<s>{prompt}{answer}</s>"
    assert document.supervised == len(document.input_ids) - 1


# Chat

CHATS = {
    "chatml": ("<|im_end|>", "{}<|im_end|>"),
    "llama-3": ("<|eot_id|>", "{}<|eot_id|>"),
    "llama-2": ("</s>", " {} </s>"),
    "llama-2, sentencepiece": ("</s>", " {} </s>"),
}
CHAT_STYLES = pytest.mark.parametrize("style", CHATS)
CONVERSATIONS = {
    "one turn": chat("Hello world", "Fine.\nAnd you?"),
    "three turns": chat("Hi", "Hello", "How?", "So: ``x = 1``", "Bye", "Good-bye!"),
    "with a system message": chat("Hi", "Hello", "More", "No", system="Be brief."),
}
EACH_CONVERSATION = pytest.mark.parametrize("name", CONVERSATIONS)


def messages_of(row: dict[str, object]) -> list[Message]:
    return [Message(**message) for message in row["messages"]]


@CHAT_STYLES
@EACH_CONVERSATION
def test_each_turn_of_the_assistant_is_trained_with_its_end(style, name, tmp_path):
    using, row = tokenizer(style), CONVERSATIONS[name]
    document = only(store_of(rows(tmp_path, row), using))
    said = [m.content for m in messages_of(row) if m.role == "assistant"]
    assert answers(document, using) == [CHATS[style][1].format(text) for text in said]
    ends = [ids[-1] for trained, ids, _ in runs(document) if trained]
    assert {using.decode([end]) for end in ends} == {CHATS[style][0]}
    assert set(ends) <= set(using.stop_ids)


@CHAT_STYLES
@EACH_CONVERSATION
def test_what_stands_before_an_answer_is_what_chat_asks_with(style, name, tmp_path):
    using, row = tokenizer(style), CONVERSATIONS[name]
    messages = messages_of(row)
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    before = prompts(only(store_of(rows(tmp_path, row), using)))
    assert before == [encode_conversation(messages[:turn], using) for turn in turns]
    first = using.render_chat(messages[: turns[0]], add_generation_prompt=True)
    assert before[0] == using.encode_batch([first])[0]


@pytest.mark.parametrize("style", ["chatml", "llama-3", "llama-2"])
@EACH_CONVERSATION
def test_the_ids_of_a_conversation_are_those_of_its_rendered_text(style, name, tmp_path):
    """As every other program tokenises it: cutting it into pieces leaves no seam."""
    using, row = tokenizer(style), CONVERSATIONS[name]
    ids = only(store_of(rows(tmp_path, row), using)).input_ids.tolist()
    text = using.render_chat(messages_of(row), add_generation_prompt=False)
    assert [ids] == using.encode_batch([text])


@EACH_CONVERSATION
def test_only_the_template_adds_bos_and_eos_to_a_conversation(name, tmp_path):
    using, row = tokenizer("llama-3"), CONVERSATIONS[name]
    ids = only(store_of(rows(tmp_path, row), using)).input_ids.tolist()
    assert ids[0] == using.bos_id
    assert (ids.count(using.bos_id), ids.count(using.eos_id)) == (1, 0)
    using = tokenizer("llama-2")
    ids = only(store_of(rows(tmp_path, row), using)).input_ids.tolist()
    turns = sum(message.role == "assistant" for message in messages_of(row))
    assert (ids.count(using.bos_id), ids.count(using.eos_id)) == (turns, turns)


def test_the_line_break_that_chatml_writes_after_a_turn_is_kept_but_not_trained(tmp_path):
    using = tokenizer("chatml")
    document = only(store_of(rows(tmp_path, CONVERSATIONS["one turn"]), using))
    *_, (trained, ids, _) = runs(document)
    assert not trained
    assert using.decode(ids) == "\n"


@CHAT_STYLES
def test_train_on_prompt_trains_the_whole_conversation(style, tmp_path):
    using, row = tokenizer(style), CONVERSATIONS["with a system message"]
    document = only(store_of(rows(tmp_path, row), using, on_prompt=True))
    assert document.labels.tolist() == document.input_ids.tolist()


def test_messages_after_the_last_answer_are_no_part_of_a_document(tmp_path):
    """Nothing of them would be trained; the sources refuse such rows, so none is lost unseen."""
    row = chat("Hi", "Hello", "More", "No")
    row["messages"].pop()
    with pytest.raises(DataError, match="ends without an assistant turn"):
        store_of(rows(tmp_path, row), tokenizer("chatml"))


REWRITING = (
    "{% for m in messages %}{% if m.role == 'user' %}Q{{ m.content }}A"
    "{% elif loop.last %}<think>{{ m.content }}</s>{% else %}{{ m.content }}</s>{% endif %}"
    "{% endfor %}"
)
"""As those that drop the reasoning of earlier answers."""
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{{ m.content }}</s>{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        (REWRITING, chat("Hi", "Hello", "More", "No"), "changes earlier text when a turn is added"),
        (NO_SYSTEM, chat("Hi", "Hello", system="Sing."), "System role not supported"),
        (NO_SYSTEM, chat("Hi</s>Yes", "Hello"), "a message (user) holds </s>"),
        (NO_SYSTEM, chat("Hi", "Hello</s>More"), "a message (assistant) holds </s>"),
    ],
)
def test_a_conversation_that_the_template_cannot_write_is_a_bad_row(
    template, row, reason, tmp_path
):
    using = Tokenizer(hf_tokenizer("no chat", chat_template=template))
    good = chat("Hi", "Hello")
    section = rows(tmp_path, good, row, good)
    with pytest.raises(DataError) as caught:
        store_of(section, using)
    assert "1 rows cannot be used" in str(caught.value)
    assert "row 2: " in str(caught.value)
    assert reason in str(caught.value)
    store = store_of(section.model_copy(update={"on_bad_row": "skip"}), using)
    assert len(store) == 2
    assert store.report["counts"]["bad_rows"] == 1
    assert reason in store.report["bad_rows_shown"][0]


def test_chats_for_a_model_without_a_template_are_one_error_and_not_one_a_row(tmp_path):
    with pytest.raises(DataError, match=r"^The tokenizer has no chat template"):
        store_of(rows(tmp_path, *CONVERSATIONS.values()), tokenizer("no chat"))


# Ready-made ids


def test_the_ids_of_a_custom_data_set_are_taken_as_they_are(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def get_custom_dataset(config, tokenizer, split):\n"
        "    return [{'input_ids': [5, 6, 7, 8], 'labels': [-100, 6, -100, 9],\n"
        "             'attention_mask': [1, 1, 1, 1]}]\n"
    )
    document = only(store_of(CustomDataset(file=str(file)), tokenizer("no chat")))
    assert document.input_ids.tolist() == [5, 6, 7, 8]
    assert document.labels.tolist() == [IGNORE, 6, IGNORE, 9]
    assert document.supervised == 2


# Truncation

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
    assert f"row 1: it has {first} tokens, context_length is {LIMIT}" in said
    assert f"row 3: it has {last} tokens, context_length is {LIMIT}" in said
    assert "--truncation drop" in said


@pytest.mark.parametrize(
    ("truncation", "why"), [("end", "1 no supervised token"), ("drop", "1 too long")]
)
def test_a_set_with_nothing_left_to_train_is_an_error(truncation, why, tmp_path):
    with pytest.raises(DataError, match=f"no supervised token is left in any of its 1 rows.*{why}"):
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
