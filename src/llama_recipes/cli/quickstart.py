"""`llama-recipes quickstart`: a real fine-tuning run, small enough for any machine, and its effect.

The number of steps is fixed, not the time, so that the same machine gets the same result twice.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from llama_recipes.cli.flags import read_flags
from llama_recipes.configs.section import Section
from llama_recipes.errors import ConfigError, guard
from llama_recipes.parallel.ranks import share_processor

if TYPE_CHECKING:
    from rich.console import Console

    from llama_recipes.inference.load import Loaded

PROG = "llama-recipes quickstart"
MODEL = "smollm2-135m-instruct"
STEPS = 60
ASKED = 64
"""Held-out functions to answer; answering all of them would take as long as training."""
EXAMPLES = 5
EXAMPLE_FILE = "example_prompt.txt"
MEASUREMENTS_FILE = "before_after.json"
_WIDTH = 100
"""Columns where the output is no terminal."""


class QuickstartFlags(Section):
    """Fine-tune SmolLM2-135M-Instruct to write the first line of a Python function's docstring,
    with examples from this machine's own standard library, and show what it wrote before and
    after. Takes about five minutes on two processor cores."""

    output_dir: str = Field(
        default="quickstart-output",
        description="Folder for the adapter and what was measured; where it is taken, the next "
        "free name, as quickstart-output-2",
    )
    debug: bool = Field(default=False, description="Show the traceback of an error too")


def main(argv: Sequence[str]) -> int:
    """Run the quickstart as the flags say; return the exit code."""

    def body() -> int:
        flags = read_flags(argv, QuickstartFlags, prog=PROG)
        share_processor()
        quickstart(Path(flags.output_dir).expanduser())
        return 0

    return guard(body, debug="--debug" in argv)


def training_flags(folder: Path, steps: int) -> list[str]:
    """The run, as one would write it after `llama-recipes train`."""
    return [
        f"--model_name={MODEL}",
        "--dataset=stdlib_docstrings_dataset",
        "--use_peft",
        "--lr=2e-3",
        "--lr_scheduler=linear",
        "--warmup_steps=6",
        "--batch_size_training=1",
        "--context_length=512",
        "--num_epochs=1",
        f"--max_train_step={steps}",
        "--run_validation=False",  # the quickstart measures before and after by itself,
        "--report_samples=0",  # and puts the answers into the report
        f"--output_dir={folder}",
    ]


def quickstart(
    wanted: Path,
    *,
    steps: int = STEPS,
    measured: int | None = None,
    asked: int = ASKED,
    console: Console | None = None,
) -> Path:
    """Measure, train, measure again; returns the folder that everything was saved in."""
    from rich.console import Console

    from llama_recipes.checkpoint.store import publish
    from llama_recipes.cli import before_after as shown
    from llama_recipes.configs.flags import parse
    from llama_recipes.inference.answers import spread
    from llama_recipes.inference.metrics import check_rouge
    from llama_recipes.monitoring.report.files import SAMPLES_FILE
    from llama_recipes.monitoring.report.tracker import write_report
    from llama_recipes.monitoring.screen import Screen, duration
    from llama_recipes.running.run import finetune

    started = time.monotonic()
    check_rouge()
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_WIDTH)
    screen = Screen(console)
    folder = free_folder(wanted)
    if folder != wanted:
        screen.line(f"{wanted} is taken: everything goes to {folder}.")

    base = _load(MODEL)
    held_out = shown.held_out(base.tokenizer, measured=measured, asked=asked)
    screen.line(
        f"Before the training: the loss of {MODEL} on {len(held_out.all)} functions of modules"
        f" that are held out, and its answers to {len(held_out.asked)} of them …"
    )
    before = shown.measure(base, held_out)
    del base

    flags = training_flags(folder, steps)
    screen.line(f"Training, as with: llama-recipes train {shlex.join(flags)}")
    finetune(parse(flags, prog=PROG).config, screen)

    screen.line(f"After the training: the same with the adapter in {folder} …")
    after = shown.measure(_load(str(folder)), held_out)
    result = json.dumps(shown.as_json(before, after, held_out), indent=2) + "\n"
    publish(folder / MEASUREMENTS_FILE, result.encode())
    samples = shown.as_samples(before, after, held_out, EXAMPLES, step=steps)
    publish(folder / SAMPLES_FILE, (json.dumps(samples, indent=2) + "\n").encode())
    report = write_report(folder, publish)
    example = spread(held_out.prompts, EXAMPLES)[0]
    publish(folder / EXAMPLE_FILE, f"{example}\n".encode())

    console.print()
    console.print(shown.examples_table(before, after, held_out, EXAMPLES))
    console.print()
    console.print(shown.numbers_table(before, after, held_out))
    screen.line(
        f"\nDone in {duration(time.monotonic() - started)}. In {folder}: the adapter, the run's"
        f" config.yaml, metrics.jsonl and results.json, and all answers in {MEASUREMENTS_FILE}."
    )
    command = ["chat", str(folder), "--prompt_file", str(folder / EXAMPLE_FILE)]
    screen.line("Ask the result yourself (the prompt is written as in training):")
    screen.line(f"  {shlex.join([_program(), *command])}")
    screen.line("Curves, answers, settings and what to do next, to open in a browser:")
    screen.line(f"  {report.resolve()}")
    return folder


def free_folder(wanted: Path) -> Path:
    """`wanted`, or with the lowest number behind it that nothing else has.

    Raises ConfigError where it has no name that a number could stand behind: the root.
    """
    if not wanted.exists() or (wanted.is_dir() and not any(wanted.iterdir())):
        return wanted
    if wanted.name in ("", ".."):
        wanted = wanted.resolve()
    if not wanted.name:
        raise ConfigError(f"--output_dir {wanted} is full. Name a new folder in it.")
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))
    return next(path for path in numbered if not path.exists())


def _load(name: str) -> Loaded:
    import torch

    from llama_recipes.inference.load import load_for_inference
    from llama_recipes.parallel.device import choose_device, has_bf16

    device = choose_device()
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    return load_for_inference(name, device=device, dtype=dtype)


def _program() -> str:
    """How this program was called, shortened where the shell finds it by its name."""
    called = Path(sys.argv[0])
    found = shutil.which(called.name)
    if called.name == "llama-recipes" and not (found and Path(found).samefile(called)):
        return str(called)
    return "llama-recipes"
