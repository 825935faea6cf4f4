"""One model on all documents: its loss, its own answers, and how near they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llama_recipes.cli.candidates import Candidate
from llama_recipes.configs.run import RunConfig
from llama_recipes.data.loader import Batch, Loader
from llama_recipes.data.splits import Part
from llama_recipes.errors import ConfigError
from llama_recipes.inference.answers import Question, answer, room
from llama_recipes.inference.load import Loaded
from llama_recipes.inference.metrics import answer_match, exact_match, rouge
from llama_recipes.monitoring.memory import ran_out
from llama_recipes.monitoring.screen import Screen
from llama_recipes.quantization.kept import Kept
from llama_recipes.training.evaluate import Evaluation, evaluate
from llama_recipes.training.windows import on_device

if TYPE_CHECKING:
    from llama_recipes.cli.evaluate import EvaluateFlags


@dataclass(frozen=True, slots=True)
class Questions:
    """asked: what every model had to answer.

    without_prompt: documents that nothing can be asked of; without_match: references in which
    --answer_pattern finds nothing.
    """

    asked: list[Question]
    without_prompt: int = 0
    without_match: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """One model. loss: nats per supervised token; scores: from 0 to 1, by their name in JSON.

    kept: how its weights, or those under its adapter, were kept. unfinished: answers that a limit
    ended; short_of_room: prompts that leave fewer tokens than --max_new_tokens to the model's own
    limit.
    """

    title: str
    name: str
    loss: float
    supervised_tokens: int
    documents: int
    scores: Mapping[str, float]
    answers: list[str]
    unfinished: int
    short_of_room: int
    kept: Kept


@dataclass(frozen=True, slots=True)
class Work:
    """What every model is measured on, and how."""

    config: RunConfig
    part: Part
    questions: Questions
    pattern: re.Pattern[str] | None
    flags: EvaluateFlags
    device: torch.device
    dtype: torch.dtype
    screen: Screen


def measure(candidate: Candidate, work: Work) -> Measured:
    """Load a model and measure it; when this returns, nothing holds the model any more."""
    try:
        loaded = candidate.load(work.device, work.dtype)
        loss = _loss(loaded, candidate.title, work)
        texts, unfinished = _answers(loaded, candidate.title, work)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise ConfigError(
            f"The memory ran out: {error} Lower --val_batch_size, --generation_batch_size or"
            " --context_length, or take a smaller model."
        ) from error
    return Measured(
        title=candidate.title,
        name=candidate.name,
        kept=Kept(candidate.found.quantization),
        loss=loss.loss,
        supervised_tokens=loss.supervised_tokens,
        documents=len(work.part.store),
        scores=_scores(texts, work),
        answers=texts,
        unfinished=unfinished,
        short_of_room=sum(
            room(loaded.model, question.prompt) < work.flags.max_new_tokens
            for question in work.questions.asked
        ),
    )


def _loss(loaded: Loaded, title: str, work: Work) -> Evaluation:
    train, vocab_size = work.config.train_config, loaded.model.config.vocab_size
    # A padding token that the model has no row for is never seen: any other will do.
    pad_id = loaded.tokenizer.pad_id if loaded.tokenizer.pad_id < vocab_size else 0
    loader = Loader(
        work.part.store,
        strategy=train.batching_strategy,
        batch_size=train.val_batch_size,
        context_length=train.context_length,
        pad_id=pad_id,
        seed=train.seed,
        vocab_size=vocab_size,
        workers=1,
        collator=work.part.collator,
    )
    work.screen.line(f"{title}: the loss on {len(work.part.store)} documents …")
    with _progress("Loss", len(loader.plan(0)), work.screen) as done:
        batches = _told(loader.batches(0), done)
        return evaluate(loaded.model, on_device(batches, loaded.model, work.device))


def _answers(loaded: Loaded, title: str, work: Work) -> tuple[list[str], int]:
    asked = work.questions.asked
    if not asked:
        return [], 0
    work.screen.line(f"{title}: answers to {len(asked)} of them …")
    with _progress("Answers", len(asked), work.screen) as done:
        answers = answer(
            loaded.model,
            [question.prompt for question in asked],
            loaded.tokenizer,
            max_new_tokens=work.flags.max_new_tokens,
            batch_size=work.flags.generation_batch_size,
            done=done,
        )
    return answers.texts, answers.unfinished


def _scores(texts: Sequence[str], work: Work) -> dict[str, float]:
    """By the name that JSON has for it; nothing where nothing was asked."""
    if not texts:
        return {}
    references = [question.reference for question in work.questions.asked]
    scores = rouge(references, texts) | {"exact_match": exact_match(references, texts)}
    if work.pattern is not None:
        scores["answer_match"] = answer_match(references, texts, work.pattern)
    return scores


def _told(batches: Iterable[Batch], done: Callable[[int], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        done(1)


@contextmanager
def _progress(what: str, total: int, screen: Screen) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, which is told how many more are done; elsewhere nothing."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = screen.console
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
