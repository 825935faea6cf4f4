"""System calls of a save, by strace: all that it makes, or one of them failing or deadly.

What is traced runs in a fork that strace takes hold of before it begins: the first call of a kind
is the first that the save makes, and none of Python's own start.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

CALLS = (
    *("write", "pwrite64", "ftruncate", "fsync", "openat"),
    *("rename", "renameat", "mkdir", "unlink", "unlinkat", "rmdir"),
)
"""What changes a file or a folder, brings it to the disk, or opens it, one kind a name."""


def traced(action: Callable[[], object], log: Path, *words: str) -> int:
    """Run `action` in a fork under strace with `words`; what it ended with, as a negative signal.

    0: it returned. 1: it raised, and what is on stderr. log: what strace wrote.
    """
    process = os.fork()
    if process == 0:
        _run(action)
    os.waitpid(process, os.WUNTRACED)
    command = ["strace", "-y", "-o", str(log), *words, "-p", str(process)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        if "attached" not in said:
            os.kill(process, signal.SIGKILL)
            pytest.skip(f"strace may not look at another process here: {said}")
        os.kill(process, signal.SIGCONT)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    finally:
        strace.communicate()


def _run(action: Callable[[], object]) -> None:
    """Wait for strace, act, and end without what the process that was forked has to end."""
    code = 1
    try:
        os.kill(os.getpid(), signal.SIGSTOP)
        action()
        code = 0
    except BaseException as error:
        sys.__stderr__.write("".join(traceback.format_exception_only(error)))
    finally:
        os._exit(code)


def kill_at(call: str, number: int) -> tuple[str, str]:
    return "-e", f"inject={call}:signal=SIGKILL:when={number}"


def fail_at(call: str, number: int, error: str) -> tuple[str, str]:
    return "-e", f"inject={call}:error={error}:when={number}"
