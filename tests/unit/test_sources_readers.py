"""Reading: each kind of file gives the same rows, in order, with their places, in little memory."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llama_recipes.data.example import BadRow
from llama_recipes.data.sources import json_list as json_list_module
from llama_recipes.data.sources.readers import read_rows
from llama_recipes.data.sources.rows import Row
from llama_recipes.errors import DataError

ROWS = [
    {"prompt": "2 + 2?", "completion": "4"},
    {"prompt": 'say "a, b"\nand ü', "completion": "日本\u2028x"},
    {"prompt": "", "completion": "[{}]"},
]


def write_jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1, ensure_ascii=False), encoding="utf-8")


def write_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        table = csv.DictWriter(handle, ["prompt", "completion"])
        table.writeheader()
        table.writerows(ROWS)


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


WRITERS = {
    "a.jsonl": write_jsonl,
    "a.ndjson": write_jsonl,
    "a.json": write_json,
    "a.csv": write_csv,
    "a.parquet": write_parquet,
}


def places(path: Path) -> list[str]:
    return [row.where for row in read_rows(path)]


def values(path: Path) -> list[object]:
    return [row.value if isinstance(row, Row) else row for row in read_rows(path)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert values(tmp_path / name) == ROWS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", ["line 1", "line 2", "line 3"]),
        ("a.json", ["row 1", "row 2", "row 3"]),
        ("a.csv", ["line 2", "line 3", "line 5"]),  # the second row holds a line end
        ("a.parquet", ["row 1", "row 2", "row 3"]),
    ],
)
def test_every_row_knows_its_place(tmp_path, name, expected):
    WRITERS[name](tmp_path / name)
    assert places(tmp_path / name) == [f"{name}, {place}" for place in expected]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_byte_order_mark_and_windows_line_ends_are_no_part_of_the_rows(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    plain = values(path)
    raw = path.read_bytes()
    if name != "a.csv":  # its rows hold a line end of their own
        raw = raw.replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + raw)
    assert values(path) == plain


def test_byte_order_mark_in_the_middle_of_joined_files(tmp_path):
    path = tmp_path / "joined.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n' * 2)
    assert values(path) == [{"text": "a"}] * 2


def test_empty_lines_are_no_rows_but_count_as_lines(tmp_path):
    path = tmp_path / "gaps.jsonl"
    path.write_text('\n{"text": "a"}\n  \n\n{"text": "b"}\n\n')
    assert places(path) == ["gaps.jsonl, line 2", "gaps.jsonl, line 5"]


def test_text_documents_are_separated_by_blank_lines(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\n\none\r\n  two\r\n\r\n \t\nthree")
    assert list(read_rows(path)) == [
        Row("book.txt, line 3", {"text": "one\n  two"}),
        Row("book.txt, line 7", {"text": "three"}),
    ]


def test_json_lines_named_json_are_read_as_lines(tmp_path):
    path = tmp_path / "lines.json"
    write_jsonl(path)
    assert values(path) == ROWS
    assert places(path)[0] == "lines.json, line 1"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_an_empty_file_has_no_rows(tmp_path, name):
    (tmp_path / name).touch()
    assert values(tmp_path / name) == []


def test_an_empty_json_list_has_no_rows(tmp_path):
    (tmp_path / "a.json").write_text(" [ ] \n")
    assert values(tmp_path / "a.json") == []


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_a_json_list_is_the_same_wherever_its_pieces_end(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_list_module, "_CHUNK", chunk)
    rows = [*ROWS, 123456789012, -1.5e-7, True, None, '\\"é😀', [[], {}], {"a": {"b": [1]}}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert values(path) == rows


@pytest.mark.parametrize(
    ("text", "row", "line", "reason"),
    [
        ('[{"a": 1},\n {"a": }]', 2, 2, "Expecting value"),
        ('[{"a": 1}\n {"a": 2}]', 1, 2, "`,` or `]` expected, `{` found"),
        ('[{"a": 1},\n {"a": "x', 2, 2, "Unterminated string"),
        ('[{"a": 1}\n', 1, 2, "`,` or `]` expected, the end of the file found"),
        ('[{"a": 1}]\n[]', 1, 2, "more text after the end"),
    ],
)
def test_a_broken_json_list_is_an_error_with_its_place(tmp_path, text, row, line, reason):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        values(path)
    message = str(error.value)
    assert message.startswith(f"broken.json, row {row}, line {line}: not valid JSON: {reason}")
    assert "cannot be skipped" in message
    assert ".jsonl" in message


def test_a_json_list_nested_without_end_is_an_error(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"deep\.json, row 1, line 1: not valid JSON: "):
        values(path)


def test_a_json_list_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "latin.json"
    path.write_bytes(b'["a", "\xe9"]')
    with pytest.raises(DataError, match=r"latin\.json, after row 0: not valid UTF-8 \(byte 0xe9\)"):
        values(path)


def test_a_row_of_a_json_list_may_not_grow_without_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(json_list_module, "MAX_ROW_BYTES", 2**20)
    path = tmp_path / "long.json"
    path.write_text('["a", "' + "x" * 2**22 + '"]')
    with pytest.raises(DataError, match=r"row 2, line 1: .*does not end within 1 MiB"):
        values(path)


def test_one_json_object_is_an_error_that_says_what_is_needed(tmp_path):
    path = tmp_path / "object.json"
    path.write_text('{\n "data": []\n}\n')
    with pytest.raises(DataError, match=r"object\.json holds one object; a JSON list"):
        values(path)


def test_utf16_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "powershell.jsonl"
    path.write_text('{"text": "a"}\n', encoding="utf-16")
    with pytest.raises(
        DataError, match=r"powershell\.jsonl is written in UTF-16; save it as UTF-8"
    ):
        values(path)


def test_a_csv_header_that_names_a_column_twice_is_an_error(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("input,input\na,b\n")
    with pytest.raises(DataError, match=r"twice\.csv, line 1: two columns"):
        values(path)


def test_a_csv_header_that_cannot_be_read_is_an_error(tmp_path):
    path = tmp_path / "header.csv"
    path.write_bytes(b"inp\xfft,target\na,b\n")
    with pytest.raises(DataError, match=r"header\.csv, line 1: the header cannot be read: not val"):
        values(path)


def test_a_csv_quote_that_is_never_closed_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "quote.csv"
    path.write_text('input,target\na,b\n"c,d\ne,f\n')
    with pytest.raises(DataError, match=r"quote\.csv, line 3: a quoted field begins here"):
        values(path)


def test_what_is_no_parquet_is_an_error(tmp_path):
    path = tmp_path / "not.parquet"
    path.write_text("PAR1 but no more")
    with pytest.raises(DataError, match=r"not\.parquet cannot be read as Parquet: "):
        values(path)


def test_a_broken_string_in_parquet_spares_the_rows_around_it(tmp_path):
    path = tmp_path / "bytes.parquet"
    binary = pyarrow.array([b"one", b"tw\xff", b"three"], pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(3, binary.buffers()[1], binary.buffers()[2])
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), path)
    assert list(read_rows(path)) == [
        Row("bytes.parquet, row 1", {"text": "one"}),
        BadRow("bytes.parquet, row 2", "not valid UTF-8"),
        Row("bytes.parquet, row 3", {"text": "three"}),
    ]


def test_an_unknown_ending_is_an_error_that_lists_the_known(tmp_path):
    with pytest.raises(DataError, match=r"`\.xlsx` are not known.*\.jsonl, .*\.parquet"):
        read_rows(tmp_path / "table.xlsx")


@pytest.mark.parametrize("name", ["big.jsonl", "big.json", "big.csv", "big.parquet", "big.txt"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    count, text = 25_000, "x" * 400
    path = tmp_path / name
    rows = ({"text": f"{number} {text}"} for number in range(count))
    if name == "big.parquet":
        table = pyarrow.table({"text": [row["text"] for row in rows]})
        pyarrow.parquet.write_table(table, path, row_group_size=2_500, compression="none")
        del table
    else:
        start, between, end, write = {
            "big.jsonl": ("", "\n", "\n", json.dumps),
            "big.json": ("[", ",", "]", json.dumps),
            "big.csv": ("text\n", "\n", "\n", lambda row: row["text"]),
            "big.txt": ("", "\n\n", "\n", lambda row: row["text"]),
        }[name]
        path.write_text(start + between.join(map(write, rows)) + end)
    assert path.stat().st_size > 10_000_000
    tracemalloc.start()
    assert sum(1 for _ in read_rows(path)) == count
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5_000_000
