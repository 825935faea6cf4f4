"""llama.cpp as an independent reader of GGUF files, where `make .venv/llama_cpp` installed it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(sys.prefix) / "llama_cpp"
SCRIPT = Path(__file__).with_suffix(".mjs")

needs_llama_cpp = pytest.mark.skipif(
    not (FOLDER / "node_modules" / "node-llama-cpp").is_dir(),
    reason="llama.cpp is not installed: make .venv/llama_cpp, which needs npm",
)


def answered(model: Path, texts: list[str], *, tokens: int) -> dict[str, Any]:
    """The ids of each text and of its greedy answer of at most `tokens`, and what it knows of
    special tokens and the template."""
    request = json.dumps({"texts": texts, "tokens": tokens})
    command = ["node", str(SCRIPT), str(FOLDER), str(model), request]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read
