"""The run: epochs of optimizer steps, with evaluations between them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Protocol

from torch.optim import Optimizer

from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.loader import Loader
from llama_recipes.errors import DataError, NonFiniteError
from llama_recipes.model.llama import Llama
from llama_recipes.monitoring.instruments import Instrument, Nothing
from llama_recipes.monitoring.memory import (
    in_words,
    memory_peaks,
    peak_memory_gib,
    ran_out,
)
from llama_recipes.monitoring.run_log import RunLog, perplexity
from llama_recipes.monitoring.screen import Screen
from llama_recipes.monitoring.trackers import Trackers
from llama_recipes.training.evaluate import evaluate
from llama_recipes.training.interruption import Interruption, StopRequested
from llama_recipes.training.loss_scale import LossScale
from llama_recipes.training.optimizers import set_lr
from llama_recipes.training.progress import Progress
from llama_recipes.training.random_state import RandomState
from llama_recipes.training.schedule import Schedule
from llama_recipes.training.selection import Selection
from llama_recipes.training.step import StepResult, train_step
from llama_recipes.training.windows import Window, on_device, windows


class Saves(Protocol):
    """Writes checkpoints: at once when called, `beside` the training, of which `look` tells.

    tidy: where none is written any more, do what the last one left to be done.
    any: whether there is one of this run, or one is being written.
    """

    any: bool

    def __call__(self) -> Path: ...
    def beside(self) -> None: ...
    def look(self) -> None: ...
    def wait(self) -> None: ...
    def tidy(self) -> None: ...


class Run:
    """Everything one run works with; `train` is called once.

    checkpoint: used where one is due. interruption: heeded between micro-batches, and it knows
    the processes that share the run.
    """

    def __init__(
        self,
        model: Llama,
        optimizer: Optimizer,
        schedule: Schedule,
        train_loader: Loader,
        eval_loader: Loader | None,
        *,
        config: TrainConfig,
        selection: Selection,
        log: RunLog,
        screen: Screen,
        trackers: Trackers | None = None,
        interruption: Interruption | None = None,
        checkpoint: Saves | None = None,
        instrument: Instrument | None = None,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.train_loader, self.eval_loader = train_loader, eval_loader
        self.config, self.selection = config, selection
        self.log, self.screen = log, screen
        self.trackers = trackers or Trackers(screen.warn)
        self.interruption = interruption or Interruption()
        self.checkpoint = checkpoint
        self.instrument = instrument or Nothing()
        self.world = self.interruption.world
        self.device = model.head_weight.device if self.world.size == 1 else self.world.device
        self.scale = LossScale(enabled=config.use_fp16)
        self.progress = Progress()
        self.random = RandomState.now(self.device)
        self._step_started = self._counted_until = time.perf_counter()

    def train(self) -> Progress:
        """Train to the end, to `max_train_step`, or until evaluations stop improving.

        Raises NonFiniteError, or the DataError of a user's collator, after the weights of the last
        good step were saved; StopRequested, with all as it was after the last step.
        """
        self.model.train()
        self.interruption.at_once = False
        self._counted_until = self._step_started = time.perf_counter()
        try:
            self._train()
        except StopRequested:
            self.optimizer.zero_grad()
            self.random.restore()
            raise
        except BaseException as error:
            # The interrupted step was not made: the weights are those of the step before it. What
            # fails on one of several processes alone cannot be saved by it alone.
            alone = self.world.size == 1 and (
                isinstance(error, DataError | KeyboardInterrupt) or ran_out(error)
            )
            if alone or isinstance(error, NonFiniteError):
                self.selection.keep_last(self.progress.step)
            raise
        finally:
            self.instrument.end()
        self.selection.keep_last(self.progress.step)
        return self.progress

    def _train(self) -> None:
        progress = self.progress
        if progress.stop_reason:  # it goes on from its end
            if self.selection.exhausted or progress.step >= self.schedule.total_steps:
                if self.checkpoint is not None:
                    self.checkpoint.tidy()
                return
            progress.stop_reason = ""
        if progress.unfinished and not self._finish_step():
            return
        for window in windows(
            self.train_loader,
            epochs=self.config.num_epochs,
            accumulation=self.config.gradient_accumulation_steps,
            first_epoch=progress.epoch,
            first_batch=progress.batch,
        ):
            self._step(window)
            progress.batch += len(window.batches) * self.world.size
            progress.unfinished, progress.ends_epoch = True, window.ends_epoch
            self.random = RandomState.now(self.device)
            if not self._finish_step():
                return
            self._step_started = time.perf_counter()  # a step's time includes its data's

    def _step(self, window: Window) -> None:
        lr = self.schedule.at(self.progress.step, window.epoch)
        set_lr(self.optimizer, lr)
        clip_norm = self.config.gradient_clipping_threshold
        with self.instrument.around(self.progress.step + 1):
            result = train_step(
                self.model,
                list(on_device(window.batches, self.model, self.device)),
                self.optimizer,
                clip_norm=clip_norm if self.config.gradient_clipping else None,
                scale=self.scale,
                check=self.interruption.check,
                world=self.world,
            )
        self.progress.step += 1
        if result is None:
            self.screen.warn(f"Step {self.progress.step} has no supervised token: nothing changed.")
        else:
            self._record(window.epoch, result, lr, time.perf_counter() - self._step_started)

    def _finish_step(self) -> bool:
        """Evaluation, the end of an epoch or of the run, and a checkpoint, where they are due.

        Whether the run goes on.
        """
        progress, ends_epoch = self.progress, self.progress.ends_epoch
        every = self.config.checkpoint_every
        due = progress.step % every == 0 if every else ends_epoch
        if self._evaluation_due(ends_epoch):
            # Weights are never written over but by the run that they are of: one that is killed
            # between its first evaluation and its first checkpoint goes on from here.
            if self.checkpoint is not None and not self.checkpoint.any:
                self.checkpoint()
            self._evaluate()
        progress.stop_reason = self._stop_reason(ends_epoch)
        if ends_epoch or progress.stop_reason:
            self._end_epoch(progress.epoch)
        if ends_epoch:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.unfinished = False
        if self.checkpoint is not None:
            self.checkpoint.look()
            if progress.stop_reason:
                self.checkpoint()
            elif due:
                self.checkpoint.beside()
        if progress.stop_reason:
            return False
        self.interruption.check()
        return True

    def _record(self, epoch: int, result: StepResult, lr: float, seconds: float) -> None:
        progress = self.progress
        progress.tokens += result.tokens
        progress.supervised_tokens += result.supervised_tokens
        progress.epoch_loss += result.loss * result.supervised_tokens
        progress.epoch_tokens += result.supervised_tokens
        tokens_per_second = result.tokens / seconds
        self._write(
            {
                "step": progress.step,
                "epoch": epoch + 1,
                "loss": result.loss,
                "lr": lr,
                "grad_norm": result.grad_norm,
                "tokens": progress.tokens,
                "supervised_tokens": progress.supervised_tokens,
                "tokens_per_second": tokens_per_second,
                "step_seconds": seconds,
                "peak_memory_gib": peak_memory_gib(self.device),
            }
        )
        self.screen.step(
            epoch=epoch + 1,
            epochs=self.config.num_epochs,
            step=progress.step,
            loss=result.loss,
            tokens_per_second=tokens_per_second,
        )
        self.instrument.made(progress.step, tokens=result.tokens, seconds=seconds)

    def _write(self, record: dict[str, Any]) -> None:
        self.log.write(record)
        self.trackers.write(record)

    def _evaluation_due(self, ends_epoch: bool) -> bool:
        if self.progress.step == self.schedule.total_steps:
            return True
        every = self.config.eval_every if self.eval_loader is not None else 0
        return self.progress.step % every == 0 if every else ends_epoch

    def _evaluate(self) -> None:
        """Offer the weights to the selection, with their evaluation loss where there is one."""
        step = self.progress.step
        if self.eval_loader is None:
            self.selection.offer(step, None)
            return
        batches = self.eval_loader.batches(0, stop=self.config.max_eval_step or None)
        parts = on_device(batches, self.model, self.device)
        result = evaluate(self.model, parts, check=self.interruption.check, world=self.world)
        self.progress.eval_losses.append(result.loss)
        self._write(
            {
                "step": step,
                "eval_loss": result.loss,
                "eval_perplexity": perplexity(result.loss),
                "eval_supervised_tokens": result.supervised_tokens,
            }
        )
        best = self.selection.offer(step, result.loss)
        self.screen.line(
            f"Step {step}: eval_ppl={perplexity(result.loss):.4f} eval_epoch_loss={result.loss:.4f}"
            + (", the best so far" if best else "")
        )

    def _stop_reason(self, ends_epoch: bool) -> str:
        if self.selection.exhausted:
            patience = self.selection.patience
            return f"no better evaluation loss in {patience} evaluations (early stopping)"
        if self.progress.step < self.schedule.total_steps:
            return ""
        limit = self.config.max_train_step
        last = ends_epoch and self.progress.epoch + 1 == self.config.num_epochs
        return "all epochs are done" if last else f"max_train_step={limit} is reached"

    def _end_epoch(self, epoch: int) -> None:
        self.count_time()
        progress, seconds = self.progress, self.progress.epoch_elapsed
        loss = progress.epoch_loss / progress.epoch_tokens if progress.epoch_tokens else math.nan
        progress.epoch_losses.append(loss)
        progress.epoch_seconds.append(seconds)
        self.screen.line(
            f"Epoch {epoch + 1}: train_perplexity={perplexity(loss):.4f},"
            f" train_epoch_loss={loss:.4f}, epoch time {seconds:.1f}s,"
            f" peak memory {in_words(memory_peaks(self.device))}"
        )
        progress.epoch_loss, progress.epoch_tokens, progress.epoch_elapsed = 0.0, 0, 0.0

    def count_time(self) -> None:
        """Add what has passed since the last call to the epoch's time."""
        now = time.perf_counter()
        self.progress.epoch_elapsed += now - self._counted_until
        self._counted_until = now
