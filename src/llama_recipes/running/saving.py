"""What a run leaves: its result, and checkpoints to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_recipes.export.result import ResultWriter
from llama_recipes.model.llama import Llama
from llama_recipes.parallel.world import World
from llama_recipes.quantization.kept import Kept
from llama_recipes.running import folders
from llama_recipes.running.parts import quantization
from llama_recipes.running.start import Start
from llama_recipes.training.checkpointer import Checkpointer
from llama_recipes.training.loop import Run


def result_writer(model: Llama, start: Start, world: World) -> ResultWriter | None:
    """None where nothing shall be kept."""
    base, folder = start.base, start.place.folder
    if folder is None or not start.config.train_config.save_model:
        return None
    return ResultWriter(
        folder,
        model,
        base.tokenizer,
        adapter=base.adapter,
        base_model=base.source.name,
        base_fingerprint=base.fingerprint,
        kept=Kept(quantization(start.config)),
        generation_config=base.source.generation_config,
        world=world,
    )


def checkpointer(run: Run, start: Start) -> Checkpointer | None:
    """None where the run has no folder for checkpoints."""
    place, config = start.place, start.config
    if place.root is None:
        return None
    return Checkpointer(
        run,
        place.root,
        start.identity,
        keep=config.train_config.keep_checkpoints,
        layout=config.fsdp_config.checkpoint_type,
        run_id=place.run_id,
        folder=folders.seen_from(place.root, place.folder),
        after=place.done,
        made_of=_made_of(start),
    )


def _made_of(start: Start) -> dict[str, Any]:
    """What `inference.checkpoint` needs for a model beside a checkpoint's tensors and settings.

    Names as they find the same things from anywhere; tokenizer: None for the model's own.
    """
    base = start.base
    name = start.config.train_config.tokenizer_name
    on_hub = name is not None and not Path(name).expanduser().exists()
    is_own = base.tokenizer_folder == base.source.path
    return {
        "base_model": base.source.name,
        "tokenizer": name if on_hub else None if is_own else str(base.tokenizer_folder.absolute()),
        "vocab_size": base.source.config.vocab_size,
        "prompt_format": start.splits.format,
    }
