"""A run by its flags, and everything about it that can be seen from outside."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import safe_open

from llama_recipes.finetuning import main

OUTPUT = "result"


@dataclass(frozen=True)
class Outcome:
    """code: the exit code; out, err: what was printed; root: where the run's folder stands."""

    code: int
    out: str
    err: str
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / OUTPUT

    @cached_property
    def metrics(self) -> list[dict]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def steps(self, name: str) -> list:
        """A value of every step."""
        return [line[name] for line in self.metrics if "loss" in line]

    def evaluations(self, name: str) -> list:
        return [line[name] for line in self.metrics if "eval_loss" in line]

    def result(self, name: str) -> object:
        return self.json("results.json")[name]

    def json(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())

    def said(self, words: str) -> str:
        """What stands behind `words` on their line of the screen; empty where they do not."""
        found = re.search(rf"{re.escape(words)}(.*)", self.out)
        return found[1] if found else ""

    def files(self) -> list[str]:
        return sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file())

    def adapter(self) -> dict[str, list]:
        """The adapter's tensors as lists of numbers, by name."""
        with safe_open(self.folder / "adapter_model.safetensors", "pt") as file:
            return {key: file.get_tensor(key).tolist() for key in file.keys()}  # noqa: SIM118


def run(root: Path, *flags: str) -> Outcome:
    """Run with these flags, the later of two with one name winning, and results below `root`."""
    root.mkdir(parents=True)
    last = {_name(flag): flag for flag in (f"--output_dir={root / OUTPUT}", *flags)}
    argv: Sequence[str] = [flag.replace("ROOT", str(root)) for flag in last.values()]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(argv)
    return Outcome(code, out.getvalue(), err.getvalue(), root)


def _name(flag: str) -> str:
    """`lr` of --lr=1, `run_validation` of --no_run_validation; a section's name stays."""
    return (
        flag.partition("=")[0].removeprefix("--").removeprefix("train_config.").removeprefix("no_")
    )
