"""When a run is asked to save itself: what is written, and what of the older is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llama_recipes.checkpoint.background import Background
from llama_recipes.checkpoint.folder import Tensors, clear, write_checkpoint
from llama_recipes.checkpoint.pieces import Pieces
from llama_recipes.checkpoint.retention import next_part, prune, retire
from llama_recipes.configs.fsdp import StateDictType
from llama_recipes.monitoring.memory import GIB, available_memory_gib
from llama_recipes.parallel.ranks import local_world_size
from llama_recipes.parallel.world import World
from llama_recipes.training.loop import Run
from llama_recipes.training.snapshot import state_of, tensors_of

_SHARE = 0.25
"""Of the memory that is left on a host, what copies may take that are written while the training
goes on."""


class Checkpointer:
    """Saves `run` below `root`. For whoever goes on from what is saved:

    identity: of `resuming.identity`. run_id: the same in every part of a run. folder: the run's, as
    seen from `root`. layout: whether each process writes its own part. after: the step that this
    part of the run goes on from. made_of: of `running.saving`, for whoever makes a model of it.
    """

    def __init__(
        self,
        run: Run,
        root: Path,
        identity: Mapping[str, Any],
        *,
        keep: int,
        layout: StateDictType,
        run_id: str,
        folder: str | None,
        after: int,
        made_of: Mapping[str, Any],
    ) -> None:
        self._run, self._root, self._layout = run, root, layout
        self._identity, self._keep = identity, keep
        self._background, self._aside = Background(run.world), run.world.aside()
        self._run_id, self._folder, self._after = run_id, folder, after
        self._made_of, self.any = made_of, after > 0
        self._part = next_part(root) if run.world.rank == 0 else 0
        self._saved: tuple[Path, dict[str, Any]] | None = None

    def __call__(self) -> Path:
        """Save now, unless the last save was of this very state.

        Raises CheckpointError, with the checkpoints before intact.
        """
        self.wait()
        self.any = True
        state = self._state()
        if (path := self._saved_as(state)) is not None:
            return path
        tensors = tensors_of(self._run, self._layout)
        return self._write(state, tensors, self._run.selection.best_step, self._run.world)

    def beside(self) -> None:
        """Save what is now while the training goes on, where there is room for a copy of it.

        Raises CheckpointError for the checkpoint before.
        """
        self.any = True
        state, tensors = self._state(), tensors_of(self._run, self._layout)
        held = sum(p.rows.nbytes for pieces in tensors.values() for p in pieces.values()) / GIB
        available = available_memory_gib(torch.device("cpu"))
        share = _SHARE / local_world_size()  # all processes of a host copy at once
        fits = available is not None and held <= share * available
        if not all(each for (each,) in self._run.world.exchange([fits])):
            self()
            return
        best = self._run.selection.best_step
        copies = {name: _copied(pieces) for name, pieces in tensors.items()}
        self._background.start(lambda: self._write(state, copies, best, self._aside))

    def look(self) -> None:
        """Between steps: raise CheckpointError where the save beside the training has failed."""
        self._background.look()

    def wait(self) -> None:
        """Until nothing is being saved. Raises CheckpointError."""
        self._background.wait()

    def tidy(self) -> None:
        """Delete what the part before had no time to, where it was killed behind its last save."""
        if self._run.world.rank == 0:
            clear(self._root)
            self._prune(self._run.selection.best_step)

    def _state(self) -> dict[str, Any]:
        return {
            "step": self._run.progress.step,
            "run_id": self._run_id,
            "part": self._part,
            "output_dir": self._folder,
            "identity": self._identity,
            "made_of": self._made_of,
            **state_of(self._run),
        }

    def _saved_as(self, state: dict[str, Any]) -> Path | None:
        """Where this part of the run saved `state` last; None where that was another state.

        A signal in the step after a save asks for the same once more, when seconds may count.
        """
        saved = self._saved
        same = saved is not None and _decisive(state) == saved[1] and saved[0].is_dir()
        everywhere = all(each for (each,) in self._run.world.exchange([same]))
        return saved[0] if saved is not None and everywhere else None

    def _write(
        self, state: dict[str, Any], tensors: Tensors, best: int | None, world: World
    ) -> Path:
        path = write_checkpoint(self._root, state["step"], state, tensors, world=world)
        self._saved = path, _decisive(state)
        if world.rank == 0:
            retire(self._root, part=self._part, after=self._after, run_id=self._run_id)
            self._prune(best)
        return path

    def _prune(self, best: int | None) -> None:
        prune(self._root, keep=self._keep, never=best, run_id=self._run_id)


def _decisive(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a state decides how the run goes on, as it is now.

    Neither clocks nor which weights the run's folder holds do: what is there is written again.
    """
    no_matter = {"epoch_elapsed", "saved_step", "save_seconds"}
    parts = {
        part: {name: value for name, value in state[part].items() if name not in no_matter}
        for part in ("progress", "selection")
    }
    return {**state, **parts}


def _copied(pieces: Pieces) -> Pieces:
    return {
        key: replace(piece, rows=piece.rows.to("cpu", copy=True)) for key, piece in pieces.items()
    }
