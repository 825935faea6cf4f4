"""A published file is there completely or not at all, and others may read it."""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import sys
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


@pytest.mark.parametrize("process", ["999999999", "9" * 30, "this"])
def test_what_a_killed_run_left_is_removed(process, path):
    """Also where this process has its number, as in a container that was started again."""
    number = os.getpid() if process == "this" else process
    left = path.with_name(f".result.json.{number}-0123abcd.draft")
    left.write_bytes(b"a longer draft that was never finished")
    left.chmod(0o400)
    publish(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
    assert only(path.parent) == ["result.json"]


def test_what_others_are_writing_stays(path):
    """A process that lives, another file's draft, and this process's own, of another thread."""
    others = {f".result.json.{os.getppid()}-0123abcd.draft", ".result.json.old.999999999-ab.draft"}
    for name in others:
        path.with_name(name).write_bytes(b"half")
    with drafted(path) as draft:
        publish(path, b"from another thread")
        assert {*only(path.parent)} == {"result.json", draft.name, *others}
        draft.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert {*only(path.parent)} == {"result.json", *others}


PUBLISH = """
import sys
from pathlib import Path
from llama_recipes.checkpoint.store import publish
print("begun", flush=True)
sys.stdin.readline()
for number in range(100):
    publish(Path(sys.argv[1]), sys.argv[2].encode() * 1000)
"""


def test_two_processes_write_one_file(path):
    """As `llama-recipes report` does while the run goes on."""
    command = [sys.executable, "-c", PUBLISH, str(path)]
    both = [
        subprocess.Popen(
            [*command, letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for letter in "ab"
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    ends = []
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in both:
        _, said = process.communicate()
        ends.append((process.returncode, said))
    assert ends == [(0, ""), (0, "")]
    assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert only(path.parent) == ["result.json"]


def test_the_content_is_on_the_disk_before_it_is_renamed_and_the_folder_after(path, monkeypatch):
    synced: list[tuple[str, bytes]] = []
    real = os.fsync
    monkeypatch.setattr(secrets, "token_hex", lambda count: "ab" * count)

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, path.read_bytes()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    publish(path, b"new")
    draft = f".result.json.{os.getpid()}-abababab.draft"
    assert synced == [(draft, b"old"), (path.parent.name, b"new")]


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
