"""What a run starts from: a folder that is its own, a checkpoint, a model, documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from llama_recipes.checkpoint.folder import Checkpoint
from llama_recipes.checkpoint.store import publish
from llama_recipes.configs.document import to_yaml
from llama_recipes.configs.peft import AdapterConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.data.splits import Splits
from llama_recipes.data.tokenizer import NAME_ANOTHER, Tokenizer, load_tokenizer
from llama_recipes.errors import writing
from llama_recipes.model.fingerprint import weights_fingerprint
from llama_recipes.model.source import ModelSource, open_model
from llama_recipes.monitoring import announce
from llama_recipes.monitoring.report.files import CONFIG_FILE
from llama_recipes.monitoring.screen import Screen
from llama_recipes.monitoring.tracking import check_trackers
from llama_recipes.parallel.world import World
from llama_recipes.running import folders, preflight
from llama_recipes.running.holding import Hold
from llama_recipes.running.parts import open_documents, tokenizer_path
from llama_recipes.running.resolve import (
    check_adapter_base,
    resolve,
    with_bits_of_adapter,
    with_tokens_of,
)
from llama_recipes.training.resuming import checkpoint_to_resume, identity, refuse_drift


@dataclass(frozen=True)
class Place:
    """Where a run writes, and what it goes on from.

    folder: of the result, root: of the checkpoints; None where there shall be none. earlier: the
    folder of the run that `checkpoint` is of.
    """

    folder: Path | None
    root: Path | None
    checkpoint: Checkpoint | None
    earlier: Path | None
    run_id: str

    @property
    def done(self) -> int:
        """Optimizer steps that are made already."""
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def metrics_bytes(self) -> int | None:
        """How much of metrics.jsonl is of these."""
        return self.checkpoint.state["metrics_bytes"] if self.checkpoint else None


def take_place(config: RunConfig, hold: Hold, world: World, screen: Screen) -> Place:
    """Keep others out of the run's folders, and refuse those that hold what would be lost.

    Raises ConfigError, CheckpointError.
    """
    folder, root = folders.output_path(config), folders.checkpoints_path(config)
    # Before what is there is looked at: another run might still change it.
    world.lead(lambda: hold.take(folders.written_to(config), screen.warn))
    checkpoint = checkpoint_to_resume(config, root, screen.warn, world)
    world.lead(lambda: folders.refuse_results(config, checkpoint))
    world.lead(lambda: folders.refuse_lost_metrics(folder, checkpoint))
    world.lead(lambda: check_trackers(config))
    world.lead(lambda: folders.make_profiler_folder(config.train_config))
    return Place(
        folder,
        root,
        checkpoint,
        earlier=folders.earlier_folder(checkpoint, folder),
        run_id=checkpoint.state["run_id"] if checkpoint else uuid4().hex,
    )


def make_place(place: Place, config: RunConfig, hold: Hold, world: World, screen: Screen) -> None:
    """The folders, once nothing speaks against the run any more; those that are new held too."""
    world.lead(lambda: folders.make_folders(config))
    world.lead(lambda: hold.take(folders.written_to(config), screen.warn))
    if place.folder is None and place.root is not None:
        announce.only_checkpoints(place.root, screen)


@dataclass(frozen=True)
class Base:
    """The model to start from, of which no weight is read yet, and what settings come to for it.

    fingerprint: of the model's weights.
    """

    config: RunConfig
    adapter: AdapterConfig | None
    source: ModelSource
    fingerprint: str
    tokenizer: Tokenizer
    tokenizer_folder: Path


def open_base(config: RunConfig, screen: Screen) -> Base:
    """Raises ConfigError, CheckpointError."""
    source = open_model(config.train_config.model_name)
    fingerprint = weights_fingerprint(source.tensors)
    check_adapter_base(config, source.tensors)
    config = with_bits_of_adapter(config, screen)
    tokenizer_folder = tokenizer_path(config.train_config, source)
    tokenizer = load_tokenizer(tokenizer_folder, or_else=NAME_ANOTHER)
    known_tokens = source.config.vocab_size
    source = with_tokens_of(tokenizer, source, config.train_config, screen)
    extended = source.config.vocab_size > known_tokens
    config, adapter = resolve(config, source.config, screen, extended=extended)
    return Base(config, adapter, source, fingerprint, tokenizer, tokenizer_folder)


@dataclass(frozen=True)
class Start:
    """All that is known of a run before a weight is read.

    identity: what a checkpoint has to be of, as `training.resuming` has it.
    """

    place: Place
    base: Base
    splits: Splits
    identity: dict[str, dict[str, Any]]

    @property
    def config(self) -> RunConfig:
        return self.base.config


def open_data(place: Place, base: Base, world: World, screen: Screen) -> Start:
    """The documents, and the first files of the run.

    Raises DataError, and CheckpointError where the checkpoint is of another run than this would be.
    """
    config = base.config
    splits = open_documents(config, base.tokenizer, screen, world)
    preflight.check_vocabulary(splits, base.tokenizer, base.source.config)
    itself = identity(
        config,
        model=base.fingerprint,
        tokenizer=base.tokenizer,
        tokenizer_path=base.tokenizer_folder,
        data=splits.train,
        processes=world.size,
    )
    if place.checkpoint is not None:
        allowed = config.train_config.resume_with_changes
        for change in refuse_drift(place.checkpoint, itself, allowed=allowed):
            screen.warn(change)
    world.lead(lambda: _begin(place, config))
    return Start(place, base, splits, itself)


def _begin(place: Place, config: RunConfig) -> None:
    if place.folder is not None:
        with writing(place.folder / CONFIG_FILE, "Make room, or give another --output_dir."):
            folders.take_over(place.folder, place.checkpoint)
            publish(place.folder / CONFIG_FILE, to_yaml(config).encode())
