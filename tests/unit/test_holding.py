"""A folder that a run holds, and what a second run and the end of the first make of it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from llama_recipes.running.holding import LOCK_FILE, Hold
from support.outcome import run
from support.tiny_folder import jsonl, sums, tiny_folder

HOLDS = """
import os, sys, time
from pathlib import Path
from llama_recipes.running.holding import Hold
Hold().take([Path(sys.argv[1])], print)
child = 0 if sys.argv[2] == "alone" else os.fork()
if child or sys.argv[2] == "alone":
    print("holds", child, flush=True)
time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """Starts another process that holds tmp_path; gives it and the one that it forked."""
    others = []

    def start(*words: str) -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-c", HOLDS, str(tmp_path), *words]
        others.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        holds, child = others[-1].stdout.readline().split()
        assert holds == "holds"
        return others[-1], int(child)

    yield start
    for other in others:
        other.kill()
        other.communicate()


def test_a_second_run_is_told_who_writes_there_and_changes_nothing(held, tmp_path):
    other, _ = held("alone")
    model = tiny_folder(tmp_path / "model")
    data = jsonl(tmp_path / "train.jsonl", sums(8))
    there = sorted(tmp_path.iterdir())
    flags = [f"--model_name={model}", "--dataset=file_dataset", f"--train_file={data}"]
    said = run(tmp_path / "logs", *flags, "--use_peft", f"--output_dir={tmp_path}")
    assert said.code == 2
    assert f"Another run is writing to {tmp_path} (process {other.pid} on " in said.err
    assert sorted(tmp_path.iterdir()) == sorted([*there, tmp_path / "logs"])


def test_a_killed_process_lets_go_even_where_one_that_it_forked_lives_on(held, tmp_path):
    other, child = held("with a child")
    other.kill()
    other.wait()
    try:
        hold = Hold()
        hold.take([tmp_path], pytest.fail)
        assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")
        hold.close()
        assert list(tmp_path.iterdir()) == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_two_names_of_one_folder_are_one_and_none_is_made(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    hold = Hold()
    hold.take([tmp_path / "a", tmp_path / "link", tmp_path / "missing"], pytest.fail)
    hold.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "link"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, number):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    said: list[str] = []
    Hold().take([tmp_path], said.append)
    assert said == [
        f"{tmp_path} is on a file system without locks ({os.strerror(number)}): take care that no"
        " other run writes there."
    ]


def test_a_lock_whose_file_was_taken_away_meanwhile_is_none(tmp_path, monkeypatch):
    lockf, calls = fcntl.lockf, []

    def lock_what_is_gone(*arguments: int) -> None:
        calls.append(arguments)
        if len(calls) == 1:  # the run that held it has ended since it was opened
            (tmp_path / LOCK_FILE).unlink()
        lockf(*arguments)

    monkeypatch.setattr(fcntl, "lockf", lock_what_is_gone)
    hold = Hold()
    hold.take([tmp_path], pytest.fail)
    assert len(calls) == 2
    assert (tmp_path / LOCK_FILE).exists()
    hold.close()
