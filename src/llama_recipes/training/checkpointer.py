"""When a run is asked to save itself: what is written, and what of the older is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from llama_recipes.checkpoint.folder import Checkpoint, prune, write_checkpoint
from llama_recipes.configs.fsdp import StateDictType
from llama_recipes.training.loop import Run
from llama_recipes.training.snapshot import state_of, tensors_of


class Checkpointer:
    """Saves `run` below `root`. resumed: the checkpoint that it goes on from, if any.

    identity: of `resuming.identity`, for whoever goes on from what is saved. layout: whether each
    process writes its own part.
    """

    def __init__(
        self,
        run: Run,
        root: Path,
        identity: Mapping[str, Any],
        *,
        keep: int,
        layout: StateDictType,
        resumed: Checkpoint | None,
    ) -> None:
        self._run, self._root, self._layout = run, root, layout
        self._identity, self._keep = identity, keep
        self._run_id: str = resumed.state["run_id"] if resumed else uuid4().hex

    def __call__(self) -> Path:
        """Raises CheckpointError, with the checkpoints before intact."""
        run = self._run
        state = {"run_id": self._run_id, "identity": self._identity, **state_of(run)}
        tensors = tensors_of(run, self._layout)
        path = write_checkpoint(self._root, run.progress.step, state, tensors, world=run.world)
        if run.world.rank == 0:
            prune(self._root, keep=self._keep, never=run.selection.best_step, run_id=self._run_id)
        return path
