"""Tokenised once, found again, never half written, never in memory as a whole."""

from __future__ import annotations

import os
import resource
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from llama_recipes.data import prepare as preparing
from llama_recipes.data import workers
from llama_recipes.data.example import BadRow, Chat, Example, Located, Message, Source, Text
from llama_recipes.data.prepare import Preparation, prepare, split_off
from llama_recipes.data.store import TokenStore, open_store, write_store
from llama_recipes.data.tokenize import Document
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError
from support.chat_tokenizers import hf_tokenizer, tokenizer
from support.documents import document, random_documents

HOW = Preparation(context_length=64, truncation="end", train_on_prompt=False)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Readings:
    """A source of texts that counts how often it was read from the start."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.number = texts, 0

    def __call__(self) -> Iterator[Example | BadRow]:
        self.number += 1
        return (Text(text) for text in self.texts)


def source(examples: Callable[[], Iterator[Example | BadRow]], **changes) -> Source:
    def rows() -> Iterator[Located | BadRow]:
        for number, row in enumerate(examples(), start=1):
            yield row if isinstance(row, BadRow) else Located(f"row {number}", row)

    plain = Source("made_up", "text", rows, fingerprint="a1", description="texts")
    return replace(plain, **changes)


def contents(store: TokenStore) -> list[tuple[list[int], list[int]]]:
    parts = (store.document(i) for i in range(len(store)))
    return [(part.input_ids.tolist(), part.labels.tolist()) for part in parts]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The store


def test_documents_come_back_as_they_were_written(tmp_path):
    written = random_documents([3, 1, 40, 2])
    store = write_store(tmp_path / "store", written, {"counts": {"rows": 4}})
    assert contents(store) == [(d.input_ids.tolist(), d.labels.tolist()) for d in written]
    assert store.lengths.tolist() == [3, 1, 40, 2]
    assert store.supervised.tolist() == [d.supervised for d in written]
    assert store.report["counts"] == {"rows": 4}
    assert contents(open_store(tmp_path / "store")) == contents(store)


def test_the_highest_id_is_that_of_inputs_and_labels(tmp_path):
    only_inputs = document([3, 90, 2], [False, False, True])
    custom = Document(np.array([5, 6], np.int32), np.array([-100, 95], np.int32))
    assert write_store(tmp_path / "a", [only_inputs], {}).highest_id == 90
    assert write_store(tmp_path / "b", [only_inputs, custom], {}).highest_id == 95
    assert write_store(tmp_path / "c", [], {}).highest_id == -1


def test_a_subset_is_the_same_documents_in_the_given_order(tmp_path):
    store = write_store(tmp_path / "store", random_documents([3, 1, 40, 2]), {})
    part = store.subset(np.array([2, 0]))
    assert contents(part) == [contents(store)[2], contents(store)[0]]
    assert part.lengths.tolist() == [40, 3]
    assert part.supervised.tolist() == store.supervised[[2, 0]].tolist()


def test_the_ids_are_mapped_and_cannot_be_changed(tmp_path):
    ids = write_store(tmp_path / "store", random_documents([9]), {}).document(0).input_ids
    assert isinstance(ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


def test_an_interrupted_writing_leaves_nothing(tmp_path):
    def interrupted() -> Iterator[Document]:
        yield document([1, 2, 3])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "cache" / "store", interrupted(), {})
    assert list((tmp_path / "cache").iterdir()) == []


def test_of_two_writers_the_first_to_finish_wins_and_both_can_read(tmp_path):
    made = random_documents([4, 5])

    def while_another_writes() -> Iterator[Document]:
        yield made[0]
        write_store(tmp_path / "store", made, {"by": "the other"})
        yield made[1]

    store = write_store(tmp_path / "store", while_another_writes(), {"by": "this one"})
    assert store.report["by"] == "the other"
    assert len(store) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["store"]


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_data_set(tmp_path, monkeypatch):
    """Four times the rows take a quarter more at most, and a fraction of what is written."""
    monkeypatch.setattr(workers, "CHUNK", 32)
    monkeypatch.setattr(workers, "ALONE", 10**6)

    def work(rows: int) -> int:
        examples = Readings(*("word " * 50 for _ in range(rows)))
        return peak_bytes(
            lambda: prepare(source(examples, fingerprint=str(rows)), tokenizer("no chat"), HOW)
        )

    work(32)  # what is loaded lazily is loaded
    small, large = work(1000), work(4000)
    written = sum(len(content) for content in files(tmp_path / "cache").values())
    assert large < 1.25 * small
    assert large < written / 3


# The cache


def test_a_second_start_does_not_read_the_source_again():
    said: list[str] = []
    texts = Readings("Hello world", "Once upon a time")
    first = prepare(source(texts), tokenizer("no chat"), HOW, notify=said.append)
    second = prepare(source(texts), tokenizer("no chat"), HOW, notify=said.append)
    assert texts.number == 1
    assert contents(first) == contents(second)
    assert first.report == second.report
    assert said == ["texts", "Tokenising …", "texts"]


CHAT = (Message("user", "Hi"), Message("assistant", "Hello"))
TEMPLATE = "{% for m in messages %}{{ m.content }}|{% endfor %}"


@pytest.mark.parametrize(
    "changed",
    [
        {"fingerprint": "another"},
        {"on_bad_row": "skip"},
        {"how": replace(HOW, context_length=63)},
        {"how": replace(HOW, truncation="drop")},
        {"how": replace(HOW, train_on_prompt=True)},
        {"using": tokenizer("chatml")},
        {"using": Tokenizer(hf_tokenizer("no chat", chat_template=TEMPLATE))},
        {"using": Tokenizer(hf_tokenizer("no chat", eos_token="<|eot_id|>"))},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_decides_the_tokens_is_part_of_the_key(changed):
    texts = Readings("Hello world")
    prepare(source(texts), tokenizer("no chat"), HOW)
    how, using = changed.pop("how", HOW), changed.pop("using", tokenizer("no chat"))
    prepare(source(texts, **changed), using, how)
    assert texts.number == 2


def test_another_version_of_the_code_tokenises_anew(monkeypatch):
    texts = Readings("Hello world")
    prepare(source(texts), tokenizer("no chat"), HOW)
    monkeypatch.setattr("llama_recipes.__version__", "another")
    prepare(source(texts), tokenizer("no chat"), HOW)
    assert texts.number == 2


@pytest.mark.parametrize("library", ["transformers", "tokenizers", "jinja2"])
def test_another_version_of_what_makes_the_tokens_tokenises_anew(library, monkeypatch):
    texts = Readings("Hello world")
    prepare(source(texts), tokenizer("no chat"), HOW)
    installed = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "another" if name == library else installed(name)
    )
    prepare(source(texts), tokenizer("no chat"), HOW)
    assert texts.number == 2


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def cut_by_one_number(file: Path) -> None:
    os.truncate(file, file.stat().st_size - (8 if file.stem in ("offsets", "supervised") else 4))


def delete(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("name", ["input_ids", "labels", "offsets", "supervised", "report"])
@pytest.mark.parametrize("damage", [cut, cut_by_one_number, delete])
def test_a_damaged_copy_is_made_anew(cache, name, damage):
    texts, said = Readings("Hello world", "Once upon a time"), []
    whole = contents(prepare(source(texts), tokenizer("no chat"), HOW))
    (file,) = cache.rglob(f"{name}.*")
    damage(file)
    for readings in (2, 2):
        store = prepare(source(texts), tokenizer("no chat"), HOW, notify=said.append)
        assert contents(store) == whole
        assert texts.number == readings
    assert sum("is damaged, and is made anew" in line for line in said) == 1


@pytest.mark.parametrize("name", ["offsets", "report"])
def test_a_copy_of_zeros_after_a_power_cut_is_made_anew(cache, name):
    texts = Readings("Hello world")
    whole = contents(prepare(source(texts), tokenizer("no chat"), HOW))
    (file,) = cache.rglob(f"{name}.*")
    file.write_bytes(bytes(file.stat().st_size))
    assert contents(prepare(source(texts), tokenizer("no chat"), HOW)) == whole


def test_what_was_left_out_is_reported_once_of_two_parts():
    def rows() -> Iterator[Example | BadRow]:
        yield BadRow("line 1", "bad")
        yield from (Text(text) for text in ("one", "two", "three"))

    store = prepare(source(rows, on_bad_row="skip"), tokenizer("no chat"), HOW)
    train, held_out = split_off(store, 0.3, seed=1)
    assert (len(train), len(held_out)) == (2, 1)
    assert train.report["counts"]["bad_rows"] == 1
    assert not any(held_out.report["counts"].values())
    assert not held_out.report["bad_rows_shown"]
    assert held_out.highest_id == store.highest_id


def test_where_every_row_was_skipped_the_first_reason_is_said():
    def rows() -> Iterator[Example | BadRow]:
        yield BadRow("train.jsonl, line 1", "not valid JSON")

    with pytest.raises(DataError, match=r"its only row \(1 bad\).*line 1: not valid JSON"):
        prepare(source(rows, on_bad_row="skip"), tokenizer("no chat"), HOW)


def test_what_the_user_s_code_made_is_never_found_again(cache):
    texts = Readings("Hello world")
    for _ in range(2):
        assert len(prepare(source(texts, fingerprint=None), tokenizer("no chat"), HOW)) == 1
    assert texts.number == 2
    assert files(cache) == {}


def test_a_failure_leaves_nothing_in_the_cache(cache):
    def rows() -> Iterator[Example | BadRow]:
        yield Text("good")
        yield BadRow("train.jsonl, line 2", "not valid JSON")

    with pytest.raises(DataError, match="line 2: not valid JSON"):
        prepare(source(rows), tokenizer("no chat"), HOW)
    assert files(cache) == {}
    store = prepare(source(rows, on_bad_row="skip"), tokenizer("no chat"), HOW)
    assert store.report["counts"]["bad_rows"] == 1
    assert store.report["bad_rows_shown"] == ["train.jsonl, line 2: not valid JSON"]


def test_reading_stops_at_the_twentieth_bad_row():
    read = []

    def rows() -> Iterator[Example | BadRow]:
        for number in range(10_000):
            read.append(number)
            yield BadRow(f"line {number}", "bad")

    with pytest.raises(DataError, match="at least 20 rows cannot be used"):
        prepare(source(rows), tokenizer("no chat"), HOW)
    assert len(read) == 20


def test_an_empty_source_says_so():
    with pytest.raises(DataError, match="texts: the data set is empty"):
        prepare(source(Readings()), tokenizer("no chat"), HOW)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    said: list[str] = []
    store = prepare(source(Readings("Hello")), tokenizer("no chat"), HOW, notify=said.append)
    assert len(store) == 1
    assert "cannot be written to: nothing is kept for the next run." in said[2]


def test_a_disk_that_is_full_is_said_and_leaves_nothing(cache):
    """A limit on the size of files stands in for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    examples = Readings(*("word " * 60 for _ in range(2000)))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(DataError, match=r"could not be written to .*File too large"):
            prepare(source(examples), tokenizer("no chat"), HOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(cache) == {}


# In several processes


def test_several_processes_make_the_same_store_as_one(cache, monkeypatch):
    def rows() -> Iterator[Example | BadRow]:
        for number in range(300):
            if number % 50 == 7:
                yield BadRow(f"line {number}", "bad")
            elif number % 3:
                yield Text(f"text number {number} " * (number % 25))
            else:
                yield Chat((Message("user", f"Say {number}"), Message("assistant", str(number))))

    made = {}
    for name, alone in (("one", 10**6), ("several", 32)):
        monkeypatch.setattr(workers, "CHUNK", 16)
        monkeypatch.setattr(workers, "ALONE", alone)
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache / name))
        prepare(source(rows, on_bad_row="skip"), tokenizer("chatml"), HOW)
        made[name] = files(cache / name)
    assert made["one"] == made["several"]
    assert made["one"]


def test_reading_runs_only_a_little_ahead_of_the_other_processes(monkeypatch):
    monkeypatch.setattr(workers, "CHUNK", 8)
    monkeypatch.setattr(workers, "ALONE", 8)
    read: list[int] = []
    many = (Text("word " * (read.append(n) or 5)) for n in range(4000))
    tokenise = partial(preparing._tokenise, tokenizer=tokenizer("no chat"), how=HOW)
    made = workers.in_order(tokenise, many)
    assert len(list(islice(made, 9))) == 9
    cores = len(os.sched_getaffinity(0))
    assert len(read) <= 8 * (1 + 2 * cores + 2)
    made.close()


def test_a_problem_in_another_process_is_named_like_one_in_this(monkeypatch):
    monkeypatch.setattr(workers, "CHUNK", 16)
    monkeypatch.setattr(workers, "ALONE", 16)
    texts = [*("short" for _ in range(90)), "long " * 100, "short"]
    with pytest.raises(DataError, match=r"row 91: it has \d+ tokens, context_length is 64"):
        prepare(source(Readings(*texts)), tokenizer("no chat"), replace(HOW, truncation="error"))
