"""Where the documents of a step stand, told by their numbers in the store."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llama_recipes.configs.datasets import CustomDataset, FileDataset
from llama_recipes.data.places import places_of_documents
from support.documents import store_of_lengths
from support.tiny_folder import jsonl, sums

NO_TOKENIZER = SimpleNamespace()


@pytest.fixture
def file(tmp_path) -> Path:
    return jsonl(tmp_path / "train.jsonl", [*sums(5), {"neither": "this"}, *sums(5)])


def places(documents, section, *, rows, name="file_dataset") -> list[str]:
    store = store_of_lengths([4] * len(rows))
    store.rows = np.asarray(rows)
    return places_of_documents(
        documents, store=store, section=section, name=name, tokenizer=NO_TOKENIZER
    )


def test_a_document_is_named_by_file_and_line(file):
    """Rows that became no document are counted, and documents come in any order."""
    section = FileDataset(train_file=str(file), on_bad_row="skip")
    found = places([2, 0, 3], section, rows=[3, 9, 11, 1])
    assert found == ["train.jsonl, line 11", "train.jsonl, line 3", "train.jsonl, line 1"]
    assert places([], section, rows=[1]) == []


def test_what_cannot_be_read_again_is_named_by_the_row(file, tmp_path):
    section = FileDataset(train_file=str(file))
    file.unlink()
    assert places([1], section, rows=[3, 9]) == ["row 9 of file_dataset"]
    assert places([1], section, rows=[0, 0]) == ["document 2 of file_dataset"]


def test_a_user_s_code_is_not_run_again_for_it(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    section = CustomDataset(file=str(code))
    assert places([0], section, rows=[7], name="custom_dataset") == ["row 7 of custom_dataset"]
    assert not (tmp_path / "ran").exists()
