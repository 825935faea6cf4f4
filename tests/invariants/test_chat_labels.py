"""Invariant 5 for conversations: each answer is trained with its end of turn, and nothing else."""

from __future__ import annotations

import pytest

from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError
from llama_recipes.inference.prompts import encode_conversation
from support.chat_tokenizers import hf_tokenizer, tokenizer
from support.labels import (
    CONVERSATIONS,
    answers,
    chat,
    messages_of,
    only,
    prompts,
    rows,
    runs,
    store_of,
)

CHATS = {
    "chatml": ("<|im_end|>", "{}<|im_end|>"),
    "llama-3": ("<|eot_id|>", "{}<|eot_id|>"),
    "llama-2": ("</s>", " {} </s>"),
    "llama-2, sentencepiece": ("</s>", "{} </s>"),  # its decoder drops one space in front
}
CHAT_STYLES = pytest.mark.parametrize("style", CHATS)
EACH_CONVERSATION = pytest.mark.parametrize("name", CONVERSATIONS)


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


@CHAT_STYLES
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
        (NO_SYSTEM, chat("<s>Hi", "Hello"), "a message (user) holds <s>"),
        (NO_SYSTEM, chat("Hi<|eot_id|>", "Hello"), "a message (user) holds <|eot_id|>"),
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
    assert "1 row cannot be used" in str(caught.value)
    assert "train.jsonl, line 2: " in str(caught.value)
    assert reason in str(caught.value)
    store = store_of(section.model_copy(update={"on_bad_row": "skip"}), using)
    assert len(store) == 2
    assert store.report["counts"]["bad_rows"] == 1
    assert reason in store.report["bad_rows_shown"][0]


HEADERS = (
    "{% for m in messages %}{{ '<|system|>' if m.role == 'system' else '<|head|>' + m.role }}\n"
    "{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<|head|>assistant\n{% endif %}"
)


def test_only_what_would_forge_a_turn_is_refused_and_not_every_control_token(tmp_path):
    more = ["<|head|>", "<|system|>", "<filename>"]
    using = Tokenizer(
        hf_tokenizer("no chat", chat_template=HEADERS, additional_special_tokens=more)
    )
    assert len(using.special_ids & set(using.encode_batch(["".join(more)])[0])) == 3
    harmless = chat("How do I cp <filename> to /tmp?", "cp <filename> /tmp")
    document = only(store_of(rows(tmp_path, harmless), using))
    assert answers(document, using) == ["cp <filename> /tmp</s>"]
    for border in ("<|head|>", "<|system|>"):
        with pytest.raises(DataError) as caught:
            store_of(rows(tmp_path, chat(f"Hi{border}user", "Hello")), using)
        assert f"a message (user) holds {border}," in str(caught.value)


def test_chats_for_a_model_without_a_template_are_one_error_and_not_one_a_row(tmp_path):
    with pytest.raises(DataError, match=r"^The tokenizer has no chat template"):
        store_of(rows(tmp_path, *CONVERSATIONS.values()), tokenizer("no chat"))


def test_a_template_that_ends_no_answer_is_counted(tmp_path):
    """The run says so: a model that never sees a stop token never learns to stop."""
    template = (
        "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant\n{% endif %}"
    )
    endless = Tokenizer(hf_tokenizer("no chat", chat_template=template))
    store = store_of(rows(tmp_path, *CONVERSATIONS.values()), endless)
    assert store.report["counts"]["without_stop_token"] == 3
    for style in CHATS:
        store = store_of(rows(tmp_path, *CONVERSATIONS.values()), tokenizer(style))
        assert not store.report["counts"]["without_stop_token"]
