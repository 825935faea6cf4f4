"""A published file is there completely or not at all, and others may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llama_recipes.checkpoint.store import drafted, publish


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    return path


def only(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def test_the_new_content_replaces_the_old(path):
    publish(path, b"new")
    assert path.read_bytes() == b"new"
    assert only(path.parent) == ["result.json"]


def test_a_failure_in_the_middle_leaves_the_old_content_and_no_draft(path):
    with pytest.raises(ZeroDivisionError), drafted(path) as draft:
        draft.write_bytes(b"half of the n")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert only(path.parent) == ["result.json"]


def test_a_failure_before_there_was_anything_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), drafted(tmp_path / "new.bin") as draft:
        draft.write_bytes(b"half")
        raise KeyboardInterrupt
    assert only(tmp_path) == []


def test_the_old_content_stands_until_the_new_one_is_complete(path):
    with drafted(path) as draft:
        draft.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_what_a_killed_run_left_is_written_over(path):
    (path.parent / ".result.json.draft").write_bytes(b"a longer draft that was never finished")
    (path.parent / ".result.json.draft").chmod(0o400)
    publish(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
    assert only(path.parent) == ["result.json"]


def test_the_content_is_on_the_disk_before_it_is_renamed_and_the_folder_after(path, monkeypatch):
    synced: list[tuple[str, bytes]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, path.read_bytes()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    publish(path, b"new")
    assert synced == [(".result.json.draft", b"old"), (path.parent.name, b"new")]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_who_may_read_it_is_the_umask_s_to_say(mask, tmp_path):
    """The safetensors library makes files that only their owner can read."""
    before = os.umask(mask)
    try:
        with drafted(tmp_path / "model.safetensors") as draft:
            save_file({"a": torch.zeros(2)}, draft)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o666 & ~mask


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
