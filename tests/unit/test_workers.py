"""Worker processes end with the one that started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from llama_recipes.data import workers

def slow(chunk):
    with open(sys.argv[1], "a") as file:
        print(os.getpid(), file=file, flush=True)
    time.sleep(60)
    return list(chunk)

if __name__ == "__main__":
    items = iter(range(100))
    workers.CHUNK, workers.ALONE = 1, 0
    list(workers.in_order(slow, items))
"""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_no_worker_outlives_a_killed_parent(tmp_path):
    script, pids = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, script, pids])
    try:
        deadline = time.monotonic() + 60
        while not pids.exists() or not pids.read_text().strip():
            assert parent.poll() is None, "the script ended before a worker began"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = {int(line) for line in pids.read_text().split()}
        assert parent.pid not in workers
        assert all(_alive(pid) for pid in workers)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.1)


def test_a_script_that_starts_itself_again_is_told_how_to_begin(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from llama_recipes.data import workers\n"
        "workers.CHUNK = workers.ALONE = 1\n"
        "list(workers.in_order(list, iter(range(9))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "DataError: A process that tokenised the data set ended before" in done.stderr
    assert 'stands under if __name__ == "__main__":' in done.stderr
