"""Every kind of bad row is named by file, line and reason, and its neighbours are still read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_recipes.configs.datasets import AlpacaDataset, FileDataset, GrammarDataset, SamsumDataset
from llama_recipes.data.example import BadRow, Located, PromptAnswer, Source, Text
from llama_recipes.data.sources import lines
from llama_recipes.data.sources.alpaca import open_alpaca
from llama_recipes.data.sources.files import open_files
from llama_recipes.data.sources.grammar import open_grammar
from llama_recipes.data.sources.samsum import open_samsum

GOOD = b'{"text": "good"}'


def opened(path: Path, **settings) -> Source:
    source = open_files(FileDataset(train_file=str(path), **settings), "train")
    assert source is not None
    return source


def reason_of(path: Path, row: bytes | str, good: bytes = GOOD) -> str:
    """The reason for a line between two good ones; holds that only it is bad, and its place."""
    raw = row if isinstance(row, bytes) else row.encode()
    path = path / "train.jsonl"
    path.write_bytes(b"\n".join([good, raw, good, b""]))
    first, bad, last = opened(path).examples()
    assert not isinstance(first, BadRow)
    assert first == last
    assert isinstance(bad, BadRow)
    assert bad.where == "train.jsonl, line 2"
    return bad.reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"text": "a"', "not valid JSON: Expecting ',' delimiter at column 13"),
        ("{'text': 'a'}", "not valid JSON: Expecting property name"),
        ("nonsense", "not valid JSON: Expecting value at column 1"),
        ('{"text": "a"} {"text": "b"}', "not valid JSON: Extra data at column 15"),
        ('{"text": "tab\there"}', "not valid JSON: Invalid control character"),
        ("[" * 200_000, "not usable JSON: nested too deeply"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "not usable JSON: Exceeds the limit"),
        ("null", "the row is null, an object with fields is needed"),
        ("[1]", "the row is a list, an object with fields is needed"),
        ("3", "the row is a number, an object with fields is needed"),
        ('{"text": null}', "the field `text` is null"),
        ('{"text": 3}', "the field `text` is a number, text is needed"),
        ('{"text": 0.5}', "the field `text` is a number, text is needed"),
        ('{"text": true}', "the field `text` is true or false, text is needed"),
        ('{"text": ["a"]}', "the field `text` is a list, text is needed"),
        ('{"text": {"a": 1}}', "the field `text` is an object, text is needed"),
        ('{"text": " \\n"}', "the field `text` is empty"),
        ('{"body": "a", "n": 1}', "the field `text` is missing (found: `body`, `n`)"),
        ("{}", "the field `text` is missing (found: no fields)"),
        ('{"text": "a\\u0000b"}', "the field `text` holds a NUL character"),
        (b'{"text": "a\0b"}', "the line holds a NUL character"),
        (b"\0" * 64, "the line holds a NUL character"),
        ('{"text": "a\\ud83d"}', "the field `text` holds a lone surrogate (\\ud83d)"),
        ('{"text": "\\udca9 b"}', "the field `text` holds a lone surrogate (\\udca9)"),
        (b'{"text": "caf\xe9"}', "not valid UTF-8 (byte 0xe9 at column 14)"),
        (
            '{"prompt": "a", "completion": "b"}',
            "the row holds prompts and completions (`prompt`, `completion`), the file texts"
            " (`text`)",
        ),
        ('{"messages": []}', "the row holds chat messages (`messages`), the file texts (`text`)"),
    ],
)
def test_a_line_that_cannot_be_used(tmp_path, row, reason):
    assert reason_of(tmp_path, row).startswith(reason)


def test_a_pair_of_surrogates_is_a_character(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "\\ud83d\\ude00"}')
    assert list(opened(path).examples()) == [Text("😀")]


def test_a_line_of_fifty_megabytes(tmp_path):
    row = b'{"text": "' + b"x" * 50_000_000 + b'"}'
    assert reason_of(tmp_path, row) == "the line is 47.7 MiB long, the limit is 32 MiB"


def test_a_long_line_below_the_limit_is_read(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * 5_000_000 + b'"}')
    (example,) = opened(path).examples()
    assert isinstance(example, Text)
    assert len(example.text) == 5_000_000


def test_windows_lines_are_good_rows(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (GOOD + b"\r\n") * 2)
    assert list(opened(path).examples()) == [Text("good")] * 2


USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "the field `messages` is null"),
        ("hello", "the field `messages` is text, a list of messages is needed"),
        ([], "the field `messages` is an empty list"),
        (["Hi"], "message 1 is text, an object is needed"),
        ([USER, {"content": "Hello"}], "message 2 has no `role`"),
        ([USER, {"role": "assistant"}], "message 2 has no `content`"),
        ([USER, {"role": "assistant", "content": None}], "content of message 2 is null"),
        (
            [{"role": "user", "content": 5}, ANSWER],
            "content of message 1 is a number, text is needed",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER],
            "content of message 1 is a list, text is needed",
        ),
        (
            [USER, {"role": "assistant", "content": "\ud800"}],
            "content of message 2 holds a lone surrogate (\\ud800), which is no character",
        ),
        (
            [USER, {"role": "assistant", "content": "a\0"}],
            "content of message 2 holds a NUL character",
        ),
        (
            [{"role": "moderator", "content": "Hi"}, ANSWER],
            "the role of message 1 is `moderator`; known are system, user, assistant, human, gpt",
        ),
        (
            [{"role": None, "content": "Hi"}, ANSWER],
            "the role of message 1 is null; known are system, user, assistant, human, gpt",
        ),
        ([USER], "no assistant turn"),
        ([SYSTEM], "no assistant turn"),
        ([USER, ANSWER, USER], "ends without an assistant turn"),
        ([USER, USER, ANSWER], "two user turns in a row (message 2)"),
        ([USER, ANSWER, ANSWER], "two assistant turns in a row (message 3)"),
        ([ANSWER, USER, ANSWER], "begins with an assistant turn, a user turn is needed before it"),
        ([SYSTEM, ANSWER], "begins with an assistant turn, a user turn is needed before it"),
        ([USER, SYSTEM, ANSWER], "system message not first (message 2)"),
        ([SYSTEM, SYSTEM, USER, ANSWER], "system message not first (message 2)"),
        ([USER, {"role": "assistant", "content": " \n"}], "empty answer (message 2)"),
        (
            [USER, {"role": "assistant", "content": ""}, USER, ANSWER],
            "empty answer (message 2)",
        ),
        (
            [USER, {**ANSWER, "tool_calls": [{"id": "1"}]}],
            "message 2 has `tool_calls`, which is not supported",
        ),
        ([USER, {**ANSWER, "weight": 0}], "message 2 has `weight`, which is not supported"),
    ],
)
def test_a_conversation_that_cannot_be_used(tmp_path, messages, reason):
    good = json.dumps({"messages": [USER, ANSWER]}).encode()
    assert reason_of(tmp_path, json.dumps({"messages": messages}), good) == reason


def test_a_sharegpt_message_without_value(tmp_path):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    good = json.dumps({"conversations": turns}).encode()
    bad = json.dumps({"conversations": [turns[0], {"from": "gpt"}]})
    assert reason_of(tmp_path, bad, good) == "message 2 has no `value`"


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (
            {"prompt": "a", "completion": "b"},
            {"prompt": "a", "completion": ""},
            "empty answer (the field `completion`)",
        ),
        (
            {"prompt": "a", "completion": "b"},
            {"prompt": [USER], "completion": [ANSWER]},
            "the field `prompt` is a list, text is needed",
        ),
        (
            {"prompt": [USER], "completion": [ANSWER]},
            {"prompt": [USER]},
            "the field `completion` is missing",
        ),
        (
            {"prompt": [USER], "completion": [ANSWER]},
            {"prompt": [USER], "completion": [USER]},
            "no assistant turn",
        ),
        (
            {"instruction": "a", "output": "b"},
            {"instruction": "a", "output": " "},
            "empty answer (the field `output`)",
        ),
        (
            {"instruction": "a", "output": "b"},
            {"instruction": "", "output": "b"},
            "the field `instruction` is empty",
        ),
        (
            {"instruction": "a", "output": "b"},
            {"instruction": "a", "input": 1, "output": "b"},
            "the field `input` is a number, text is needed",
        ),
    ],
)
def test_a_pair_that_cannot_be_used(tmp_path, good, bad, reason):
    assert reason_of(tmp_path, json.dumps(bad), json.dumps(good).encode()) == reason


def test_bad_rows_of_a_json_list_are_named_by_their_number(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('[{"text": "a"}, null, {"text": null}, {"text": "b"}]')
    assert list(opened(path).examples()) == [
        Text("a"),
        BadRow("train.json, row 2", "the row is null, an object with fields is needed"),
        BadRow("train.json, row 3", "the field `text` is null"),
        Text("b"),
    ]


def test_bad_rows_of_a_csv_file(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(
        b"input,target\n"
        b"a,b\n"
        b"a\n"  # 3
        b"a,b,c\n"  # 4
        b'a,"b" c\n'  # 5
        b"a,b\xff\n"  # 6
        b"a,b\0\n"  # 7
        b"a,\n"  # 8
        b",b\n"  # 9
        b'"a\nb","c\nd"\n'  # 10 to 12
        b"\n"
        b"a,b\n"
    )
    section = GrammarDataset(train_split=str(path))
    good = PromptAnswer("Correct this to standard English: a\n---\nCorrected: ", "b")
    rows = list(open_grammar(section, "train").examples())
    assert rows[0] == rows[-1] == good
    assert rows[-2] == PromptAnswer(
        "Correct this to standard English: a\nb\n---\nCorrected: ", "c\nd"
    )
    assert rows[1:-2] == [
        BadRow("train.csv, line 3", "1 fields, the header has 2"),
        BadRow("train.csv, line 4", "3 fields, the header has 2"),
        BadRow("train.csv, line 5", "not valid CSV: ',' expected after '\"'"),
        BadRow("train.csv, line 6", "not valid UTF-8 (byte 0xff at column 4)"),
        BadRow("train.csv, line 7", "the line holds a NUL character"),
        BadRow("train.csv, line 8", "empty answer (the field `target`)"),
        BadRow("train.csv, line 9", "the field `input` is empty"),
    ]


def test_bad_documents_of_a_text_file(tmp_path, monkeypatch):
    path = tmp_path / "book.txt"
    path.write_bytes(b"one\n\ntwo\nb\xffd\nmore\n\nthree\n\n" + b"long line\n" * 4 + b"\nfour\n")
    monkeypatch.setattr("llama_recipes.data.sources.readers.MAX_ROW_BYTES", 30)
    assert list(opened(path).examples()) == [
        Text("one"),
        BadRow("book.txt, line 3", "line 4: not valid UTF-8 (byte 0xff at column 2)"),
        Text("three"),
        BadRow(
            "book.txt, line 9",
            "a document of more than 32 MiB; separate documents by blank lines",
        ),
        Text("four"),
    ]


def test_a_line_too_long_is_left_without_being_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 64)
    monkeypatch.setattr(lines, "_SKIP_BYTES", 16)
    limit = b'{"text": "' + b"x" * 51 + b'"}'
    assert len(limit + b"\n") == 64
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\n".join([limit, limit + b" ", b" " * 1000, GOOD]))
    fits, above, far_above, good = opened(path).examples()
    assert fits == Text("x" * 51)
    assert isinstance(above, BadRow)
    assert isinstance(far_above, BadRow)
    assert far_above.where == "train.jsonl, line 3"
    assert good == Text("good")


def test_bad_rows_of_samsum_and_alpaca_are_named_too(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"dialogue": "A: hi", "summary": ""}\n')
    samsum = SamsumDataset(data_path=str(tmp_path))
    assert list(open_samsum(samsum, "train").examples()) == [
        BadRow("train.jsonl, line 1", "empty answer (the field `summary`)")
    ]
    path = tmp_path / "alpaca.json"
    path.write_text('[{"instruction": "a", "output": "b"}, {"instruction": "a", "output": null}]')
    assert list(open_alpaca(AlpacaDataset(data_path=str(path)), "train").examples()) == [
        BadRow("alpaca.json, row 2", "the field `output` is null")
    ]


def test_a_good_row_is_handed_on_with_its_place(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"nonsense\n\n" + GOOD)
    assert list(opened(path).rows())[1] == Located("train.jsonl, line 3", Text("good"))


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_the_policy_is_handed_on(tmp_path, policy):
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    (tmp_path / "train.csv").write_text("input,target\n")
    (tmp_path / "alpaca.json").write_text("[]")
    file = FileDataset(train_file=str(tmp_path / "train.jsonl"), on_bad_row=policy)
    grammar = GrammarDataset(train_split=str(tmp_path / "train.csv"), on_bad_row=policy)
    alpaca = AlpacaDataset(data_path=str(tmp_path / "alpaca.json"), on_bad_row=policy)
    (tmp_path / "samsum").mkdir()
    (tmp_path / "samsum" / "train.csv").touch()
    samsum = SamsumDataset(data_path=str(tmp_path / "samsum"), on_bad_row=policy)
    for source in (
        open_files(file, "train"),
        open_grammar(grammar, "train"),
        open_alpaca(alpaca, "train"),
        open_samsum(samsum, "train"),
    ):
        assert source is not None
        assert source.on_bad_row == policy
