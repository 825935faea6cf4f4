"""Records a trace of three optimizer steps with PyTorch's profiler, for TensorBoard or Perfetto."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import (
    ProfilerActivity,
    profile,
    record_function,
    schedule,
    tensorboard_trace_handler,
)

from llama_recipes.kernels import library
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.ranks import silence_kineto

WAIT, WARMUP, ACTIVE = 1, 2, 3
"""The original's schedule, in optimizer steps: nothing, recorded and thrown away, recorded."""
STEPS = WAIT + WARMUP + ACTIVE

_ROWS = 15


class Profiler:
    """Records steps 4 to 6 of this process into `folder`; rank 0 shows what took the time."""

    def __init__(self, folder: Path, *, rank: int, device: torch.device, screen: Screen) -> None:
        self.folder, self.rank, self.device, self.screen = folder, rank, device, screen
        self._profile: profile | None = None
        self._made = 0
        self._recorded = False

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        if self._made == 0:
            self._start()
        yield
        if self._profile is not None:
            self._made += 1
            self._profile.step()
            if self._made == STEPS:
                self._stop()

    def made(self, step: int, *, tokens: int, seconds: float) -> None:
        pass

    def end(self) -> None:
        """A run that was shorter leaves what was recorded of it."""
        if self._profile is None:
            return
        self._stop()
        recorded = max(0, self._made - WAIT - WARMUP)
        self.screen.warn(
            f"The run ended after {self._made} of the {STEPS} steps that --use_profiler needs:"
            + (f" the trace holds {recorded}." if recorded else " nothing was recorded.")
        )

    def figures(self) -> dict[str, Any]:
        return {}

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        else:  # on a GPU it may have to say why it is not allowed to look
            silence_kineto()
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=WAIT, warmup=WARMUP, active=ACTIVE, repeat=1),
            on_trace_ready=self._save,
            record_shapes=True,
            profile_memory=True,
            with_stack=False,
            with_flops=True,
        )
        library.watch(_named)
        self._profile.start()

    def _stop(self) -> None:
        assert self._profile is not None
        self._profile.stop()
        self._profile = None
        library.watch(None)

    def _save(self, recorded: profile) -> None:
        if self._made <= WAIT + WARMUP:
            return  # it was stopped in its warm-up
        if self.rank == 0:
            self._show(recorded)
        try:
            tensorboard_trace_handler(str(self.folder), f"rank{self.rank}")(recorded)
        except (OSError, RuntimeError) as error:  # no reason to lose the run
            self.screen.warn(f"The trace could not be written to {self.folder}: {error}.")
            return
        self.screen.line(
            f"The trace is in {self.folder}: open it with tensorboard --logdir"
            f" {shlex.quote(str(self.folder))} (and torch-tb-profiler), or the file itself at"
            " https://ui.perfetto.dev."
        )

    def _show(self, recorded: profile) -> None:
        order = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=order, row_limit=_ROWS)
        self.screen.line(f"--> Where the time of the recorded steps went:\n{table}")


def _named(name: str, arguments: tuple[Any, ...]) -> AbstractContextManager[object]:
    return record_function(f"llama_recipes::{name}")
