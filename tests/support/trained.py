"""A run of the training loop over eight tiny documents, with everything that it left."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from rich.console import Console

from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.store import TokenStore
from llama_recipes.monitoring.run_log import METRICS_FILE, RunLog
from llama_recipes.monitoring.screen import Screen
from llama_recipes.training.loop import Run
from llama_recipes.training.optimizers import make_optimizer
from llama_recipes.training.progress import Progress
from llama_recipes.training.schedule import Schedule
from llama_recipes.training.selection import Selection
from llama_recipes.training.windows import count_steps
from support.documents import loader, random_documents, stored
from support.tiny import tiny_llama

LENGTHS = [9, 3, 20, 2, 14, 5, 31, 8]


class Trained:
    """One document a micro-batch; `settings` are those of TrainConfig."""

    def __init__(
        self,
        folder: Path,
        *,
        documents=None,
        evaluated=True,
        collator=None,
        eval_collator=None,
        lr_scheduler="constant",
        **settings,
    ) -> None:
        config = TrainConfig(lr_scheduler=lr_scheduler, lr=1e-2, **({"num_epochs": 1} | settings))
        made = random_documents(LENGTHS) if documents is None else documents
        self.store: TokenStore = stored(folder / "train", made)
        train = loader(self.store, strategy="padding", batch_size=1, collator=collator)
        held_out = stored(folder / "eval", random_documents([9, 12, 4], seed=5))
        self.evaluation = loader(held_out, batch_size=1, collator=eval_collator, strategy="padding")
        total = count_steps(
            train,
            epochs=config.num_epochs,
            accumulation=config.gradient_accumulation_steps,
            limit=config.max_train_step,
        )
        self.schedule = Schedule(
            kind=config.lr_scheduler,
            peak=config.lr,
            warmup_steps=config.warmup_steps,
            total_steps=total,
            gamma=config.gamma,
        )
        self.saved: list[tuple[str, dict[str, torch.Tensor]]] = []
        self.selection = Selection(self._save, patience=config.early_stopping_patience)
        self.model = tiny_llama()
        self.shown = io.StringIO()
        self.folder = folder
        self.run = Run(
            self.model,
            make_optimizer(self.model, lr=config.lr, weight_decay=0.0),
            self.schedule,
            train,
            self.evaluation if evaluated else None,
            config=config,
            selection=self.selection,
            log=RunLog(folder),
            screen=Screen(Console(file=self.shown, width=200)),
        )

    def _save(self, *, step: int, best: bool) -> None:
        weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.saved.append(("best" if best else "last", weights))

    def train(self) -> Progress:
        with self.run.log:
            return self.run.train()

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / METRICS_FILE).read_text().splitlines()]

    @property
    def steps(self) -> list[dict]:
        return [line for line in self.lines if "loss" in line]

    @property
    def evaluations(self) -> list[dict]:
        return [line for line in self.lines if "eval_loss" in line]
