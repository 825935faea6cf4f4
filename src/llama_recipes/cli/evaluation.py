"""From flags to figures: the documents once, then one model after the other on all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from llama_recipes.checkpoint.store import publish
from llama_recipes.cli import evaluation_table as shown
from llama_recipes.cli.base_bits import kept_as
from llama_recipes.cli.candidates import Candidate, candidates
from llama_recipes.cli.data_flags import Data
from llama_recipes.cli.held_out import other_split
from llama_recipes.cli.measuring import Questions, Work, measure
from llama_recipes.configs.run import RunConfig
from llama_recipes.data.prepare import Preparation
from llama_recipes.data.splits import Part, open_part
from llama_recipes.errors import CheckpointError, ConfigError, DataError, writing
from llama_recipes.inference.answers import as_question, spread, with_prompt
from llama_recipes.inference.metrics import find_answer
from llama_recipes.monitoring import announce
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.device import choose_device, has_bf16
from llama_recipes.parallel.world import OneProcess
from llama_recipes.running import preflight
from llama_recipes.running.resolve import resolve

if TYPE_CHECKING:
    from llama_recipes.cli.evaluate import EvaluateFlags

_WIDTH = 100
"""Columns where the output is no terminal."""
_EXCERPT = 200
"""Characters of a reference in an error."""


def evaluate_models(flags: EvaluateFlags, data: Data, pattern: re.Pattern[str] | None) -> None:
    """Measure as the flags say, show it, and write it where they say. Raises LlamaRecipesError."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    screen = Screen(console)
    for warning in [*flags.warnings(), *data.warnings]:
        screen.warn(warning)
    if data.run_file:
        screen.line(f"The data is that of the run: {data.run_file}")

    models = candidates(
        flags.model_name,
        base=flags.base_model or None,
        compare_with=flags.compare_with,
        kept=kept_as(flags.quantization, flags.quant_type, flags.use_double_quant),
        say=screen.line,
    )
    for model in models:
        for warning in model.found.warning, other_split(model.name, data.config, flags.split):
            if warning:
                screen.warn(warning)
    smallest = min(models, key=lambda model: model.limit)
    config, _ = resolve(data.config, smallest.found.source.config, screen)
    part = _open(config, flags, models, screen)
    questions = _questions(part, models[0], config, flags, pattern, screen)
    device = choose_device()
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    preflight.use_kernels(OneProcess(device), dtype, required=False, screen=screen)
    work = Work(
        config=config,
        part=part,
        questions=questions,
        pattern=pattern,
        flags=flags,
        device=device,
        dtype=dtype,
        screen=screen,
    )
    measured = [measure(model, work) for model in models]

    console.print()
    console.print(shown.table(measured, config, flags))
    for line in shown.notes(measured, questions, flags):
        screen.line(line)
    if flags.output_file:
        path = Path(flags.output_file).expanduser()
        content = shown.as_json(measured, questions, config, flags)
        _write(path, content)
        screen.line(f"All figures, prompts and answers are in {path}")


def _write(path: Path, content: dict[str, Any]) -> None:
    remedy = "The figures are above; make room, and measure again for the answers."
    with writing(f"--output_file {path}", remedy, kind=ConfigError):
        publish(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _open(
    config: RunConfig, flags: EvaluateFlags, models: Sequence[Candidate], screen: Screen
) -> Part:
    """The documents of the split, held against every model's vocabulary."""
    train, tokenizer = config.train_config, models[0].found.tokenizer
    part = open_part(
        config.dataset,
        flags.split,
        tokenizer,
        Preparation(train.context_length, train.truncation, train.train_on_prompt),
        seed=train.seed,
        notify=screen.line,
    )
    announce.documents("Training" if flags.split == "train" else "Validation", part.store, screen)
    highest = part.store.highest_id
    for model in models:
        if highest >= model.vocab_size:
            raise CheckpointError(
                f"The data holds the id {highest} ({tokenizer.decode([highest])!r}), but the"
                f" embedding of {model.name} has only {model.vocab_size} rows. Use the"
                " tokenizer that belongs to the model, or ids that it has."
            )
    return part


def _questions(
    part: Part,
    model: Candidate,
    config: RunConfig,
    flags: EvaluateFlags,
    pattern: re.Pattern[str] | None,
    screen: Screen,
) -> Questions:
    """What the models are asked. Raises DataError where the pattern has nothing to compare."""
    if not flags.generate:
        return Questions([])
    tokenizer = model.found.tokenizer
    numbers = with_prompt(part.store, tokenizer)
    if not numbers:
        reason = (
            "no document has a prompt: all of them are trained from their start, as plain text is,"
            " and as everything is with --train_on_prompt"
        )
        if pattern is not None:
            raise DataError(f"--answer_pattern needs answers, but {reason}. Leave it out.")
        screen.warn(f"Nothing is asked, for {reason}.")
    asked = [
        as_question(
            part.store.document(number),
            tokenizer,
            context_length=config.train_config.context_length,
        )
        for number in spread(numbers, flags.max_samples or len(numbers))
    ]
    without_match = 0
    if pattern is not None:
        stated = [find_answer(pattern, question.reference) for question in asked]
        without_match = stated.count(None)
        if without_match == len(asked):
            raise DataError(
                f"--answer_pattern {pattern.pattern!r} finds nothing in any of the {len(asked)}"
                f" references. The first is {asked[0].reference[:_EXCERPT]!r}. Write a pattern that"
                " fits them."
            )
    return Questions(asked, len(part.store) - len(numbers), without_match)
