"""However a run ends: what it leaves, and what the user is told."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from llama_recipes.checkpoint.store import publish
from llama_recipes.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    LlamaRecipesError,
    NonFiniteError,
    unwritten,
    writing,
)
from llama_recipes.monitoring.memory import memory_peaks, ran_out
from llama_recipes.monitoring.results import (
    RESULTS_FILE,
    STOPPED_BY,
    counted_before,
    reason_of,
    summarise,
)
from llama_recipes.monitoring.screen import Screen
from llama_recipes.monitoring.trackers import Trackers
from llama_recipes.monitoring.tracking import metrics_file
from llama_recipes.parallel.world import World
from llama_recipes.running import preflight
from llama_recipes.running.parts import quantization
from llama_recipes.running.start import Start
from llama_recipes.training.interruption import StopRequested
from llama_recipes.training.loop import Run

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOST_DOCUMENTS = 10
"""Of a step that failed, whose places are shown."""


@contextmanager
def finishing(trackers: Trackers) -> Iterator[None]:
    """What ends the run before its end ends the trackers', if nobody has told them yet."""
    try:
        yield
    except BaseException as error:
        trackers.finish({"stop_reason": _stopped_by(error)})
        raise


def _stopped_by(error: BaseException) -> str:
    return STOPPED_BY + (error.name if isinstance(error, StopRequested) else type(error).__name__)


def train(
    run: Run,
    folder: Path | None,
    screen: Screen,
    facts: Mapping[str, Any],
    places: Callable[[Sequence[int]], list[str]],
) -> None:
    """Train; however that ends, results.json and the screen say what there is.

    places: where documents stand in the data, by their numbers in the store.
    """
    # Written before the first step too: chat asks as training did even after a kill.
    run.world.lead(lambda: write_results(folder, results_of(run, **facts)))
    try:
        run.train()
    except BaseException as error:
        run.count_time()
        told = _told(error, run, folder, places)
        results = results_of(run, **facts) | {"stop_reason": _stopped_by(error)}
        if said := reason_of(told):
            results["stop_message"] = said
        try:
            write_results(folder, results)
        except CheckpointError as problem:  # no reason to save less, or to end as another run
            screen.warn(str(problem))
        try:
            _end_early(run, told, folder, screen)
        except Interrupted:
            run.trackers.finish(results)
            # Once one process has left, torchrun sends the others a signal, which for one that had
            # one is its second: they leave together.
            run.world.exchange([0])
            raise
        finally:
            run.trackers.finish(results)  # what can be saved is: this may take its time
    # At once: what follows may fail, and a run whose training is done is one that ended well.
    run.world.lead(lambda: write_results(folder, results_of(run, **facts)))


def conclude(run: Run, folder: Path | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The last word on a run that came to its end, with what was done since: its results."""
    results = results_of(run, **facts)
    with finishing(run.trackers):
        run.world.lead(lambda: write_results(folder, results))
    run.trackers.finish(results)
    return results


def _end_early(run: Run, error: BaseException, folder: Path | None, screen: Screen) -> NoReturn:
    """Save what there is, and raise what the user is told."""
    if run.checkpoint is not None and isinstance(error, NonFiniteError):
        run.checkpoint.wait()  # all processes are here: what is being saved is good
    if isinstance(error, StopRequested):
        _leave(run, error.name, screen)
    if run.selection.saved_step is not None:
        screen.line(f"The weights after step {run.selection.saved_step} are saved in {folder}")
    raise error


def _told(
    error: BaseException,
    run: Run,
    folder: Path | None,
    places: Callable[[Sequence[int]], list[str]],
) -> BaseException:
    """What the user is told in the place of an error: how to mend it, and where to look."""
    told = error
    if isinstance(error, NonFiniteError):
        told = NonFiniteError(f"{error} These are {_named(error.documents, run, places)}.")
    elif isinstance(error, OSError) and error.errno in _FULL:
        told = CheckpointError(unwritten(error.filename or folder, error))
    elif ran_out(error):
        told = ConfigError(f"The memory ran out: {error} {preflight.SAVE_MEMORY}")
    if told is not error:
        told.__cause__ = error
    return told


def _named(documents: Sequence[int], run: Run, places: Callable[[Sequence[int]], list[str]]) -> str:
    """The process of rank 0 looks them up for all: what all say alike is said once."""
    here = [] if run.world.rank else places(documents[:_MOST_DOCUMENTS])
    shown: list[str] = json.loads(run.world.texts(json.dumps(here))[0])
    more = len(documents) - len(shown)
    return "; ".join(shown) + (f"; and {more:,} more" if more else "")


def _leave(run: Run, name: str, screen: Screen) -> NoReturn:
    """Save what the run needs to go on, and end it. Raises Interrupted, or CheckpointError."""
    if run.checkpoint is None:
        raise KeyboardInterrupt
    try:
        run.checkpoint.wait()
    except Exception as error:  # of the save before: there may be room for this one
        screen.warn(str(error) or type(error).__name__)
    path = run.checkpoint()  # first: without one, weights that are here are in the way of a start
    if run.selection.saved_step is None:
        try:
            run.selection.keep_last(run.progress.step)
        except LlamaRecipesError as error:
            screen.warn(str(error))
    raise Interrupted(
        f"Stopped by {name} after step {run.progress.step}, which is saved in {path}. Run the same"
        " command again with --resume auto."
    )


def facts_of(start: Start, world: World) -> dict[str, Any]:
    """What results.json holds of a run however it goes."""
    place, how = start.place, quantization(start.config)
    return {
        "prompt_format": start.splits.format,
        "quantization": how and asdict(how),
        "metrics_filename": None if world.rank else metrics_file(start.config, place.folder),
        **counted_before(place.earlier),
    }


def write_results(folder: Path | None, results: Mapping[str, Any]) -> None:
    """Nothing without a folder. Raises CheckpointError."""
    if folder is not None:
        with writing(folder / RESULTS_FILE):
            publish(folder / RESULTS_FILE, (json.dumps(results, indent=2) + "\n").encode())


def results_of(run: Run, **facts: Any) -> dict[str, Any]:
    """What results.json holds of a run as it is now; `facts` are added as they are.

    Of --flop_counter in an earlier part of the run they stay where this part could time no step.
    """
    progress, selection = run.progress, run.selection
    counted = run.instrument.figures()
    if counted.get("model_tflops") is None and facts.get("model_tflops") is not None:
        counted = {}
    return summarise(
        epoch_losses=progress.epoch_losses,
        eval_losses=progress.eval_losses,
        epoch_seconds=progress.epoch_seconds,
        save_seconds=selection.save_seconds,
        best_step=selection.best_step,
        best_eval_loss=selection.best_loss,
        steps=progress.step,
        tokens=progress.tokens,
        supervised_tokens=progress.supervised_tokens,
        stop_reason=progress.stop_reason,
        total_time=sum(progress.epoch_seconds) + progress.epoch_elapsed,
        memory=memory_peaks(run.device),
        **(facts | counted),
    )
