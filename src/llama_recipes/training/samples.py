"""samples.json: the same documents answered before the first step and after the last.

Answering draws nothing and changes nothing: a run with it is the run without it, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_recipes.checkpoint.store import publish
from llama_recipes.data.splits import Splits
from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.inference.answers import Question, as_question, spread, with_prompt
from llama_recipes.inference.generate import generate
from llama_recipes.model.llama import Llama
from llama_recipes.monitoring.memory import ran_out
from llama_recipes.monitoring.report.files import SAMPLES_FILE
from llama_recipes.monitoring.screen import Screen
from llama_recipes.training.interruption import StopRequested

MAX_NEW_TOKENS = 64
SHARE = 0.05
"""Of the tokens that a run trains on, what questions and answers may be, before and after. On a
processor one of these takes as long as two or three that are trained on (SmolLM2-135M, fp32), for
they come one after the other: so the share of the time is about a tenth."""
_LOOKED_AT = 50
"""Documents for each that is wanted, in search of some that have a question."""


@dataclass
class Samples:
    """questions: none where `left_out` says why. part: of the data, that they are from.

    before, after: the answers, in the order of the questions; empty where nothing was asked yet.
    after_step: of the weights that gave `after`.
    """

    part: str
    questions: list[Question] = field(default_factory=list)
    left_out: str = ""
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    after_step: int | None = None


def choose(
    splits: Splits,
    tokenizer: Tokenizer,
    *,
    count: int,
    context_length: int,
    trained_tokens: float,
    processes: int,
) -> Samples:
    """`count` documents to ask, spread over the validation part, or the training part without one.

    trained_tokens: those of all steps of the run, of which asking may be a SHARE.
    """
    part = "training" if splits.validation is None else "validation"
    store = splits.train if splits.validation is None else splits.validation
    if processes > 1:
        reason = "the model is shared by several processes; llama-recipes evaluate shows answers."
        return Samples(part, left_out=reason)
    looked_at = store.subset(np.array(spread(range(len(store)), count * _LOOKED_AT)))
    numbers = spread(with_prompt(looked_at, tokenizer), count)
    if not numbers:
        reason = f"no document of the {part} part has anything before what is trained."
        return Samples(part, left_out=reason)
    questions = [
        as_question(looked_at.document(number), tokenizer, context_length=context_length)
        for number in numbers
    ]
    asked = 2 * sum(len(question.prompt) + MAX_NEW_TOKENS for question in questions)
    if asked > SHARE * trained_tokens:
        reason = (
            f"they would take {asked:,} tokens, before and after, and the run trains on"
            f" about {trained_tokens:,.0f}: more than {SHARE:.0%} of it."
        )
        return Samples(part, left_out=reason)
    return Samples(part, questions)


def trained_tokens(store: TokenStore, *, steps: int, steps_an_epoch: float) -> float:
    """Tokens of a run's steps, each as many as an epoch's on average."""
    return float(store.lengths.sum()) * steps / steps_an_epoch


def _answers(
    model: Llama, samples: Samples, tokenizer: Tokenizer, check: Callable[[], None]
) -> list[str]:
    """The likeliest tokens of the model as it is now. check: called for each; it may raise."""
    if not samples.questions:
        return []
    with _eager(model):
        found = generate(
            model,
            [question.prompt for question in samples.questions],
            max_new_tokens=MAX_NEW_TOKENS,
            stop_ids=tokenizer.stop_ids,
            on_token=lambda number, token: check(),
        )
    return [tokenizer.decode(ids, skip_special=True).strip() for ids in found]


def _eager(model: Llama) -> AbstractContextManager[Any]:
    """Compiled layers are compiled for training: generation would make them anew."""
    if model.head_weight.device.type == "cpu":
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def ask_before(
    samples: Samples | None,
    model: Llama,
    tokenizer: Tokenizer,
    folder: Path | None,
    *,
    goes_on: bool,
    screen: Screen,
) -> None:
    """Have the model answer as it was before the first step, and write that down.

    goes_on: whether the run goes on from a checkpoint, whose answers then stand.
    """
    if folder is None:
        return
    if not goes_on:
        with suppress(OSError):
            (folder / SAMPLES_FILE).unlink(missing_ok=True)  # of a run that saved nothing
    if samples is None:
        return
    if goes_on:
        _take_up(samples, folder)
    if samples.questions and not samples.before:
        screen.line(f"Answering {len(samples.questions)} documents as the model is now …")
        try:
            samples.before = _answers(model, samples, tokenizer, check=lambda: None)
        except Exception as error:
            if not ran_out(error):
                raise
            samples.questions, samples.left_out = [], "the memory ran out."
    _save(samples, folder, screen)


def ask_after(
    samples: Samples | None,
    model: Llama,
    tokenizer: Tokenizer,
    folder: Path | None,
    *,
    step: int,
    check: Callable[[], None],
    screen: Screen,
) -> None:
    """Have it answer again after `step`. check: raises StopRequested where the run shall end.

    That leaves the answers out: everything else of the run is done and saved by now.
    """
    if folder is None or samples is None or not samples.questions or samples.after_step == step:
        return
    try:
        samples.after = _answers(model, samples, tokenizer, check)
    except (StopRequested, Exception) as error:
        if not isinstance(error, StopRequested) and not ran_out(error):
            raise
        reason = error.name if isinstance(error, StopRequested) else "the memory ran out"
        screen.line(f"The answers after the training are left out: {reason}.")
        return
    samples.after_step = step
    _save(samples, folder, screen)


def _take_up(samples: Samples, folder: Path) -> None:
    """Take the answers that a run which is gone on with has given to the same questions."""
    try:
        known = json.loads((folder / SAMPLES_FILE).read_text(encoding="utf-8"))
        examples = known["examples"]
        asked = [(example["prompt"], example["reference"]) for example in examples]
        before = [str(example["before"]) for example in examples]
        after = [example["after"] for example in examples if example["after"] is not None]
        step = known["after_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if asked == [(question.prompt_text, question.reference) for question in samples.questions]:
        samples.before = before
        if len(after) == len(before):
            samples.after, samples.after_step = after, step


def _save(samples: Samples, folder: Path, screen: Screen) -> None:
    """Where it cannot be written the run goes on without it."""
    path = folder / SAMPLES_FILE
    try:
        publish(path, (json.dumps(_as_json(samples), indent=2) + "\n").encode())
    except OSError as error:
        screen.warn(f"{path} could not be written: {error.strerror or error}.")


def _as_json(samples: Samples) -> Mapping[str, Any]:
    after: Sequence[str | None] = samples.after or [None] * len(samples.questions)
    return {
        "part": samples.part,
        "left_out": samples.left_out,
        "max_new_tokens": MAX_NEW_TOKENS,
        "after_step": samples.after_step,
        "examples": [
            {
                "prompt": question.prompt_text,
                "reference": question.reference,
                "before": before,
                "after": answer,
            }
            for question, before, answer in zip(
                samples.questions, samples.before, after, strict=True
            )
        ],
    }
