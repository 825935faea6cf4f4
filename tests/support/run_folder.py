"""The folder of a run, written line by line without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llama_recipes.configs.document import to_yaml
from llama_recipes.monitoring.report.files import read_run
from llama_recipes.monitoring.report.page import report_page
from support.settings import configured


def step(number: int, loss: float | None, **more: Any) -> dict[str, Any]:
    line = {"step": number, "epoch": 1, "loss": loss, "lr": 1e-4, "grad_norm": 0.5}
    return line | {"supervised_tokens": 10 * number} | more


def evaluation(number: int, loss: float | None) -> dict[str, Any]:
    return {"step": number, "eval_loss": loss, "eval_perplexity": 2.0}


def run_folder(folder: Path, *lines: dict, flags=("--use_peft",), **files: Any) -> Path:
    """config.yaml of these flags, metrics.jsonl of these lines, and `run={...}` as run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(configured(*flags)))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def page_of(folder: Path) -> str:
    return report_page(read_run(folder))
