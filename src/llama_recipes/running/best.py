"""The best weights of a run that goes on: its result has to hold them, wherever it goes on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from llama_recipes.adapters.peft_format import load_adapter_weights
from llama_recipes.checkpoint.folder import Checkpoint, open_checkpoint, published
from llama_recipes.errors import CheckpointError
from llama_recipes.export.result import drop_last, holds_weights, step_of
from llama_recipes.model.safetensors_folder import SafetensorsFolder
from llama_recipes.model.weights import load_weights
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.shards import own_rows
from llama_recipes.parallel.world import World
from llama_recipes.running.start import Place, Start
from llama_recipes.training.loop import Run
from llama_recipes.training.snapshot import restore_weights

_UNTOLD = -1
"""Of a result that was written before results told their step."""


def keep_best(run: Run, start: Start, screen: Screen) -> None:
    """Make the run's folder hold the weights that its checkpoint calls the best.

    So it does where the run goes on in its folder from its newest checkpoint. In another folder
    there is no result yet, and behind an earlier checkpoint it may be one that is given up, as the
    last weights beside it are. The best are then in the checkpoint of their step or in the earlier
    folder; where both are gone, the next evaluation begins anew. Raises CheckpointError.
    """
    place, selection, world = start.place, run.selection, run.world
    if place.checkpoint is None or place.folder is None or selection.save is None:
        return
    folder, best = place.folder, selection.best_step
    world.lead(lambda: drop_last(folder, after=place.done))
    here = _agreed_step(folder, world)
    selection.saved_step = best if here == best else None
    if best is None or here in (best, _UNTOLD):
        return
    if (beside := _checkpoint_of(best, place, world)) is not None:
        restore_weights(run.model, beside)
    elif place.earlier is not None and _agreed_step(place.earlier, world) == best:
        _load(run, start, place.earlier)
    else:
        selection.forget_best()
        screen.warn(
            f"The weights after step {best}, the best so far, are no longer there: the best of the"
            " evaluations from here on are kept."
        )
        return
    selection.save(step=best, best=True)
    selection.saved_step = best
    restore_weights(run.model, place.checkpoint)


def _load(run: Run, start: Start, folder: Path) -> None:
    if start.base.adapter is not None:
        load_adapter_weights(run.model, start.base.adapter, folder, own=own_rows)
    else:
        device = run.model.head_weight.device
        load_weights(run.model, SafetensorsFolder(folder), device=device, own=own_rows)


def _agreed_step(folder: Path, world: World) -> int:
    """Of the result there, 0 without one, as the process of rank 0 finds it: it is what writes."""
    step = 0
    if world.rank == 0:
        step = step_of(folder) or (_UNTOLD if holds_weights(folder) else 0)
    return int(world.exchange([step])[0][0])


def _checkpoint_of(step: int, place: Place, world: World) -> Checkpoint | None:
    """One whose weights are whole, as one process reads for all."""
    assert place.checkpoint is not None
    root, run_id = place.checkpoint.path.parent, place.checkpoint.state["run_id"]
    found: list[Path] = []

    def look() -> None:
        for each in published(root):  # of several, the one that was saved last
            if each.run_id == run_id and each.step == step:
                with suppress(CheckpointError):
                    found[:] = [open_checkpoint(each.path, only="weights").path]

    world.lead(look)
    path = world.texts(str(found[0]) if found else "")[0]
    return open_checkpoint(Path(path), verify=False, only="weights") if path else None
