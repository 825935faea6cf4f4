"""file_dataset: the form of the rows is recognised, said and held to; errors say what to do."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from llama_recipes.configs.datasets import FileDataset, SamsumDataset
from llama_recipes.data.example import BadRow, Chat, Message, PromptAnswer, Text
from llama_recipes.data.sources.files import open_files
from llama_recipes.data.sources.origin import is_hub_id
from llama_recipes.data.sources.samsum import open_samsum
from llama_recipes.errors import DataError

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
CHAT = Chat((Message("user", "Hi"), Message("assistant", "Hello")))


def opened(tmp_path, *rows: object, name: str = "train.jsonl", **settings):
    path = tmp_path / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    source = open_files(FileDataset(train_file=str(path), **settings), "train")
    assert source is not None
    return source


@pytest.mark.parametrize(
    ("row", "example", "format", "says"),
    [
        ({"messages": [USER, ANSWER]}, CHAT, "chat", "chat messages"),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello"},
                ]
            },
            CHAT,
            "chat",
            "ShareGPT conversations",
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be kind"},
                    {"from": "user", "value": "Hi"},
                    {"from": "assistant", "value": "Hello"},
                ]
            },
            Chat((Message("system", "Be kind"), *CHAT.messages)),
            "chat",
            "ShareGPT conversations",
        ),
        (
            {"instruction": "Add.", "input": "", "output": "5"},
            PromptAnswer(
                "Below is an instruction that describes a task. Write a response that "
                "appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Response:",
                "5",
            ),
            "alpaca",
            "instructions and outputs",
        ),
        (
            {"prompt": "", "completion": " b"},
            PromptAnswer("", " b"),
            "prompt_completion",
            "prompts and completions",
        ),
        (
            {"prompt": [USER], "completion": [ANSWER]},
            CHAT,
            "chat",
            "prompts and completions made of messages",
        ),
        ({"text": " a\n", "id": 7}, Text(" a\n"), "text", "texts"),
    ],
)
def test_each_form_is_recognised(tmp_path, row, example, format, says):
    source = opened(tmp_path, row, row)
    assert list(source.examples()) == [example, example]
    assert list(source.examples()) == [example, example]
    assert source.format == format
    assert source.description == f"train.jsonl: recognised as {says}"


def test_plain_text_is_recognised(tmp_path):
    source = opened(tmp_path, "one\n\ntwo", name="book.txt")
    assert list(source.examples()) == [Text("one"), Text("two")]
    assert source.description == "book.txt: recognised as texts"


def test_the_first_usable_row_decides(tmp_path):
    rows = ["{", "null", {"text": None, "messages": 5}, {}, {"text": "a"}]
    *bad, good = opened(tmp_path, *rows).examples()
    assert good == Text("a")
    assert [row.where for row in bad] == [f"train.jsonl, line {n}" for n in (1, 2, 3, 4)]


def test_a_column_that_is_null_names_no_form(tmp_path):
    # as files exported from a table have them
    assert list(opened(tmp_path, {"messages": None, "text": "a"}).examples()) == [Text("a")]


def test_where_all_rows_are_bad_the_columns_still_tell_the_form(tmp_path):
    source = opened(tmp_path, {"messages": None})
    assert source.format == "chat"
    assert list(source.examples()) == [
        BadRow("train.jsonl, line 1", "the field `messages` is null")
    ]


def test_a_format_that_is_given_is_kept_to(tmp_path):
    row = {"messages": [USER, ANSWER], "text": "a"}
    source = opened(tmp_path, row, format="text")
    assert list(source.examples()) == [Text("a")]
    assert source.description == "train.jsonl: texts"
    assert opened(tmp_path, row, format="auto").format == "chat"


def test_a_given_format_covers_both_kinds_of_prompt_and_completion(tmp_path):
    text = opened(tmp_path, {"prompt": "a", "completion": "b"}, format="prompt_completion")
    assert text.format == "prompt_completion"
    chat = opened(tmp_path, {"prompt": [USER], "completion": [ANSWER]}, format="prompt_completion")
    assert chat.format == "chat"


def test_unknown_columns(tmp_path):
    with pytest.raises(DataError) as error:
        opened(tmp_path, {"question": "a", "answer": "b"})
    assert str(error.value) == (
        "train.jsonl has the columns `question`, `answer`, which are in no known form. Known are "
        "chat: `messages`; sharegpt: `conversations`; alpaca: `instruction`, `output`; "
        "prompt_completion: `prompt`, `completion`; text: `text`. Rename the columns to those of "
        "one form."
    )


def test_columns_of_another_form_than_the_given(tmp_path):
    with pytest.raises(DataError) as error:
        opened(tmp_path, {"text": "a"}, format="chat")
    assert str(error.value) == (
        "train.jsonl has the columns `text`, which are in no known form with "
        "--file_dataset.format chat. Known are chat: `messages`. Rename the columns to those of "
        "one form."
    )


def test_an_empty_file(tmp_path):
    with pytest.raises(DataError, match=r"train\.jsonl holds no rows\."):
        opened(tmp_path)


def test_a_file_without_one_usable_row(tmp_path):
    with pytest.raises(DataError) as error:
        opened(tmp_path, "3", "{")
    assert str(error.value) == (
        "train.jsonl: none of the first rows can be used. train.jsonl, line 1: the row is a "
        "number, not an object."
    )


def test_a_missing_file_is_named_with_its_nearest(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError) as error:
        open_files(FileDataset(train_file=str(tmp_path / "trian.jsonl")), "train")
    assert str(error.value) == (
        f"--file_dataset.train_file={tmp_path}/trian.jsonl: no such file or folder; did you mean "
        f"{tmp_path}/train.jsonl?"
    )


def test_a_missing_file_with_none_like_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="Check the path; relative paths start from "):
        open_files(FileDataset(train_file="train.jsonl"), "train")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match=r"is a folder; a file is needed\."):
        open_files(FileDataset(train_file=str(tmp_path)), "train")


def test_an_unknown_ending(tmp_path):
    (tmp_path / "train.tsv").touch()
    with pytest.raises(DataError, match=r"train\.tsv: the ending .* not known; .* \.jsonl, "):
        open_files(FileDataset(train_file=str(tmp_path / "train.tsv")), "train")


def test_validation_has_its_own_file_or_none(tmp_path):
    opened(tmp_path, {"text": "a"})
    train = str(tmp_path / "train.jsonl")
    assert open_files(FileDataset(train_file=train, validation_fraction=0.5), "validation") is None
    (tmp_path / "val.csv").write_text("prompt,completion\na,b\n")
    section = FileDataset(train_file=train, validation_file=str(tmp_path / "val.csv"))
    source = open_files(section, "validation")
    assert source is not None
    assert list(source.examples()) == [PromptAnswer("a", "b")]
    with pytest.raises(DataError, match=r"^--file_dataset\.validation_file=.*gone\.csv"):
        open_files(FileDataset(train_file=train, validation_file="gone.csv"), "validation")


def test_the_fingerprint_follows_content_and_form_alone(tmp_path):
    row = {"text": "a", "prompt": "b", "completion": "c"}
    first = opened(tmp_path, row)
    assert first.fingerprint == opened(tmp_path, row, name="renamed.jsonl").fingerprint
    assert first.fingerprint != opened(tmp_path, row, row).fingerprint
    assert first.fingerprint != opened(tmp_path, row, format="text").fingerprint


class HubData(list):
    """Rows as the `datasets` library hands them out."""

    _fingerprint = "abc123"


@pytest.fixture
def hub(monkeypatch):
    """The edge of the network: what is asked of the library, and its answer."""
    asked = []

    def load_dataset(name, **how):
        asked.append((name, how))
        if "gone" in name:
            raise ConnectionError(
                f"Couldn't reach '{name}' on the Hub (LocalEntryNotFoundError)\n…"
            )
        return HubData([{"messages": [USER, ANSWER], "dialogue": "A: Hi", "summary": "Greeting"}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_a_data_set_of_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = FileDataset(train_file="owner/chats", validation_file="owner/chats:test_sft")
    train, validation = open_files(section, "train"), open_files(section, "validation")
    assert train is not None
    assert validation is not None
    assert hub == [("owner/chats", {"split": "train"}), ("owner/chats", {"split": "test_sft"})]
    assert list(train.examples()) == [CHAT]
    assert train.description == "owner/chats (train): recognised as chat messages"
    assert train.fingerprint is not None


def test_samsum_of_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = open_samsum(SamsumDataset(data_path="owner/samsum"), "validation")
    assert hub == [("owner/samsum", {"split": "validation"})]
    assert list(source.examples()) == [
        PromptAnswer("Summarize this dialog:\nA: Hi\n---\nSummary:\n", "Greeting")
    ]


def test_bad_rows_of_the_hub_are_named_by_number(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = open_files(FileDataset(train_file="owner/chats", format="chat"), "train")
    assert source is not None
    HubData.__iter__ = lambda _: iter([{"messages": None}])
    try:
        assert list(source.examples()) == [
            BadRow("owner/chats, row 1", "the field `messages` is null")
        ]
    finally:
        del HubData.__iter__


def test_a_hub_that_cannot_be_reached_is_one_sentence(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        open_files(FileDataset(train_file="owner/gone"), "train")
    assert str(error.value) == (
        "--file_dataset.train_file=owner/gone is no local path, and the part `train` of a data set "
        "of that name could not be had from the hub (ConnectionError: Couldn't reach 'owner/gone' "
        "on the Hub (LocalEntryNotFoundError)). Check the name, the part and the connection, or "
        "give a local path."
    )


def test_without_the_library_the_error_names_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'llama-recipes\[hub\]'$"):
        open_files(FileDataset(train_file="owner/chats"), "train")


@pytest.mark.parametrize(
    ("path", "is_id"),
    [
        ("owner/name", True),
        ("HuggingFaceH4/ultrachat_200k", True),
        ("owner/set-v1.0", True),
        ("name", False),
        ("./owner/name", False),
        ("/owner/name", False),
        ("a/b/c", False),
        ("owner/train.jsonl", False),
        ("owner/train.tsv", False),
        ("here/name", False),  # the folder exists: a mistyped path stays on this machine
    ],
)
def test_what_is_taken_for_a_hub_id(tmp_path, monkeypatch, path, is_id):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_hub_id(path) is is_id
