"""The best weights of a run that goes on: its result has to hold them, wherever it goes on."""

from __future__ import annotations

from pathlib import Path

from llama_recipes.adapters.peft_format import load_adapter_weights
from llama_recipes.checkpoint.folder import open_checkpoint, published
from llama_recipes.export.result import step_of
from llama_recipes.model.safetensors_folder import SafetensorsFolder
from llama_recipes.model.weights import load_weights
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.shards import own_rows
from llama_recipes.parallel.world import World
from llama_recipes.running.start import Place, Start
from llama_recipes.training.loop import Run
from llama_recipes.training.snapshot import restore_weights


def keep_best(run: Run, start: Start, screen: Screen) -> None:
    """Make the run's folder hold the weights that its checkpoint calls the best.

    So it does where the run goes on in its folder from its newest checkpoint. In another folder
    there is no result yet, and behind an earlier checkpoint it may be one that is given up. The
    best weights are then those of the checkpoint of their step, or of the earlier folder; where
    both are gone, the next evaluation begins anew. Raises CheckpointError.
    """
    place, selection, world = start.place, run.selection, run.world
    if place.checkpoint is None or selection.save is None:
        return
    best, here = selection.best_step, _agreed_step(place.folder, world)
    selection.saved_step = here
    if best is None or here == best:
        return
    beside = _checkpoint_of(best, place, world)
    if beside is not None:
        remedy = "It holds the best weights so far: remove it to go on without them."
        restore_weights(run.model, open_checkpoint(beside, remedy=remedy))
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


def _agreed_step(folder: Path | None, world: World) -> int | None:
    """Of the result there, as the process of rank 0 finds it: it is the one that writes."""
    step = step_of(folder) if folder is not None and world.rank == 0 else None
    found = world.exchange([step or 0])[0][0]
    return int(found) or None


def _checkpoint_of(step: int, place: Place, world: World) -> Path | None:
    assert place.checkpoint is not None
    root, run_id = place.checkpoint.path.parent, place.checkpoint.state["run_id"]
    paths = [p.path for p in published(root) if p.run_id == run_id and p.step == step]
    everywhere = all(each for (each,) in world.exchange([bool(paths)]))
    return paths[0] if everywhere else None
