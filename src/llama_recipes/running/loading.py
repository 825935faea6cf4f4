"""The values of a model that is on meta, cut among the processes and streamed in."""

from __future__ import annotations

import torch

from llama_recipes.adapters.select import start_adapter
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import load_weights
from llama_recipes.monitoring import announce
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.shards import own_rows
from llama_recipes.parallel.world import World
from llama_recipes.running import preflight
from llama_recipes.running.parts import make_up_for_quantization
from llama_recipes.running.start import Start


def load(
    model: Llama,
    adapter_names: set[str],
    start: Start,
    world: World,
    screen: Screen,
    *,
    dtype: torch.dtype,
) -> None:
    """adapter_names: parameters that the base has not. dtype: of the computation.

    Raises CheckpointError.
    """
    config, base, train = start.config, start.base, start.config.train_config
    device = preflight.kept_on(config, world.device)
    tensors = base.source.tensors
    preflight.recompute(config, model, world.device, screen)
    world.shard(model, gathered_in=preflight.gathered_in(config, dtype))
    load_weights(
        model,
        world.read_by_one(tensors) if train.low_cpu_fsdp else tensors,
        device=device,
        skip=adapter_names,
        own=own_rows,
        every_row=train.low_cpu_fsdp,
    )
    if base.adapter is not None:
        start_adapter(
            model,
            base.adapter,
            checkpoint=train.from_peft_checkpoint,
            seed=train.seed,
            device=device,
            own=own_rows,
        )
        make_up_for_quantization(
            config,
            base.adapter,
            model,
            tensors,
            start.splits.train,
            screen,
            started=start.place.checkpoint is not None,
        )
    announce.model(model, train.model_name, screen)
