"""Which world a process belongs to: torchrun's, or none but its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from llama_recipes.configs.run import RunConfig
from llama_recipes.errors import ConfigError, FollowedError, LlamaRecipesError, ProcessLostError
from llama_recipes.parallel import ranks
from llama_recipes.parallel.device import choose_device
from llama_recipes.parallel.world import OneProcess, World


@contextmanager
def joined(config: RunConfig) -> Iterator[World]:
    """Train with the processes that torchrun started, where `enable_fsdp` says so.

    What goes wrong in the same way on several processes is said by one of them. Raises ConfigError
    where the setting and the way that this process was started do not go together.
    """
    sharded = config.train_config.enable_fsdp
    _check(sharded=sharded)
    ranks.end_with_launcher()
    device = choose_device(ranks.local_rank())
    if not sharded:
        yield OneProcess(device)
        return
    from llama_recipes.parallel.processes import ManyProcesses

    world = ManyProcesses(config.fsdp_config, device)
    try:
        with world.watched():
            world.join()
            yield world
    except (FollowedError, ProcessLostError):
        raise
    except LlamaRecipesError as error:
        if not world.is_first_to_say(str(error)):
            world.leave()
            raise FollowedError(error.exit_code) from error
        world.leave()
        raise
    world.leave()


def _check(*, sharded: bool) -> None:
    processes, here = ranks.world_size(), ranks.local_world_size()
    if sharded and not ranks.is_launched():
        raise ConfigError(
            "--enable_fsdp shares the model among several processes, and there is this one alone."
            " Start them with torchrun --nproc_per_node N -m llama_recipes.finetuning"
            " --enable_fsdp …, or leave --enable_fsdp out."
        )
    if processes > 1 and not sharded:
        raise ConfigError(
            f"torchrun started {processes} processes, which would all train the same. Let them"
            " share the work with --enable_fsdp, or start one: python -m llama_recipes.finetuning."
        )
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started {here} processes here, but there are {torch.cuda.device_count()}"
            f" GPUs: give --nproc_per_node {torch.cuda.device_count()}."
        )
