"""The run: epochs of optimizer steps, with evaluations between them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.loader import Loader
from llama_recipes.errors import DataError, NonFiniteError
from llama_recipes.model.llama import Llama
from llama_recipes.monitoring.memory import peak_memory_gib
from llama_recipes.monitoring.run_log import RunLog, perplexity
from llama_recipes.monitoring.screen import Screen
from llama_recipes.training.evaluate import evaluate
from llama_recipes.training.optimizers import set_lr
from llama_recipes.training.schedule import Schedule
from llama_recipes.training.selection import Selection
from llama_recipes.training.step import StepResult, train_step
from llama_recipes.training.windows import Window, on_device, windows


@dataclass
class Progress:
    """How far a run is. Tokens count no padding; losses are nats per supervised token."""

    step: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    stop_reason: str = ""
    epoch_losses: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    eval_losses: list[float] = field(default_factory=list)


class Run:
    """Everything one run works with; `train` is called once."""

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
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.train_loader, self.eval_loader = train_loader, eval_loader
        self.config, self.selection = config, selection
        self.log, self.screen = log, screen
        self.device = model.head_weight.device
        self.scaler = GradScaler(self.device.type, enabled=config.use_fp16)
        self.progress = Progress()
        self._epoch_loss, self._epoch_tokens, self._epoch_started = 0.0, 0, 0.0
        self._step_started = 0.0

    def train(self) -> Progress:
        """Train to the end, to `max_train_step`, or until evaluations stop improving.

        Raises NonFiniteError, or the DataError of a user's collator, after the weights of the last
        good step were saved.
        """
        self.model.train()
        self._epoch_started = self._step_started = time.perf_counter()
        try:
            for window in windows(
                self.train_loader,
                epochs=self.config.num_epochs,
                accumulation=self.config.gradient_accumulation_steps,
            ):
                self._step(window)
                if self._evaluation_due(window):
                    self._evaluate()
                self.progress.stop_reason = self._stop_reason(window)
                if window.ends_epoch or self.progress.stop_reason:
                    self._end_epoch(window.epoch)
                if self.progress.stop_reason:
                    break
                self._step_started = time.perf_counter()  # a step's time includes its data's
        except (DataError, NonFiniteError, KeyboardInterrupt, torch.OutOfMemoryError):
            # The interrupted step was not made: the weights are those of the step before it.
            self.selection.keep_last(self.progress.step)
            raise
        self.selection.keep_last(self.progress.step)
        return self.progress

    def _step(self, window: Window) -> None:
        lr = self.schedule.at(self.progress.step, window.epoch)
        set_lr(self.optimizer, lr)
        clip_norm = self.config.gradient_clipping_threshold
        result = train_step(
            self.model,
            list(on_device(window.batches, self.device, self.model.dtype)),
            self.optimizer,
            clip_norm=clip_norm if self.config.gradient_clipping else None,
            scaler=self.scaler,
        )
        self.progress.step += 1
        if result is None:
            self.screen.warn(f"Step {self.progress.step} has no supervised token: nothing changed.")
        else:
            self._record(window.epoch, result, lr, time.perf_counter() - self._step_started)

    def _record(self, epoch: int, result: StepResult, lr: float, seconds: float) -> None:
        progress = self.progress
        progress.tokens += result.tokens
        progress.supervised_tokens += result.supervised_tokens
        self._epoch_loss += result.loss * result.supervised_tokens
        self._epoch_tokens += result.supervised_tokens
        tokens_per_second = result.tokens / seconds
        self.log.write(
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

    def _evaluation_due(self, window: Window) -> bool:
        if self.progress.step == self.schedule.total_steps:
            return True
        every = self.config.eval_every if self.eval_loader is not None else 0
        return self.progress.step % every == 0 if every else window.ends_epoch

    def _evaluate(self) -> None:
        """Offer the weights to the selection, with their evaluation loss where there is one."""
        step = self.progress.step
        if self.eval_loader is None:
            self.selection.offer(step, None)
            return
        batches = islice(self.eval_loader.batches(0), self.config.max_eval_step or None)
        result = evaluate(self.model, on_device(batches, self.device, self.model.dtype))
        self.progress.eval_losses.append(result.loss)
        self.log.write(
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

    def _stop_reason(self, window: Window) -> str:
        if self.selection.exhausted:
            patience = self.selection.patience
            return f"no better evaluation loss in {patience} evaluations (early stopping)"
        if self.progress.step < self.schedule.total_steps:
            return ""
        limit = self.config.max_train_step
        last = window.ends_epoch and window.epoch + 1 == self.config.num_epochs
        return "all epochs are done" if last else f"max_train_step={limit} is reached"

    def _end_epoch(self, epoch: int) -> None:
        seconds = time.perf_counter() - self._epoch_started
        loss = self._epoch_loss / self._epoch_tokens if self._epoch_tokens else math.nan
        self.progress.epoch_losses.append(loss)
        self.progress.epoch_seconds.append(seconds)
        self.screen.line(
            f"Epoch {epoch + 1}: train_perplexity={perplexity(loss):.4f},"
            f" train_epoch_loss={loss:.4f}, epoch time {seconds:.1f}s,"
            f" peak memory {peak_memory_gib(self.device):.2f} GiB"
        )
        self._epoch_loss, self._epoch_tokens = 0.0, 0
        self._epoch_started = time.perf_counter()
