"""What is settled, and what is refused, before the first step is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.loader import Loader
from llama_recipes.data.splits import Splits
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.kernels import library
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Llama
from llama_recipes.monitoring.memory import GIB, available_memory_gib
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.device import has_bf16
from llama_recipes.parallel.recompute import recompute_layers
from llama_recipes.parallel.world import World
from llama_recipes.training import frozen_outputs
from llama_recipes.training.allocator import give_back_at_once
from llama_recipes.training.memory import step_bytes
from llama_recipes.training.windows import largest_slice

SAVE_MEMORY = (
    "Lower --context_length or --batch_size_training, train an adapter with --use_peft instead of"
    " all weights, or take a smaller model."
)


def check_vocabulary(splits: Splits, tokenizer: Tokenizer, model: LlamaConfig) -> None:
    """Raises CheckpointError where an id of the data has no row in the embedding."""
    stores = [splits.train, *([splits.validation] if splits.validation else [])]
    highest = max(store.highest_id for store in stores)
    if highest >= model.vocab_size:
        raise CheckpointError(
            f"The tokenizer gives the id {highest} ({tokenizer.decode([highest])!r}), but the"
            f" model's embedding has only {model.vocab_size} rows. Use the tokenizer that belongs"
            " to the model, or name one with new tokens with --tokenizer_name: the embedding grows"
            " to hold them."
        )


def say_what_offloading_does(config: RunConfig, device: torch.device, screen: Screen) -> None:
    offloads = config.train_config.enable_fsdp and config.fsdp_config.fsdp_cpu_offload
    if offloads and device.type == "cpu":
        screen.warn(
            "--fsdp_cpu_offload has no effect in this run: on a processor weights are in the host's"
            " memory already."
        )


def compute_dtype(device: torch.device, train: TrainConfig, screen: Screen) -> torch.dtype:
    """fp16 where it was asked for; bf16 where it was, and the device has it."""
    if train.use_fp16:
        return torch.float16
    if not train.mixed_precision:
        return torch.float32
    if not has_bf16(device):
        screen.line("This device has no bf16 arithmetic: everything is computed in fp32.")
        return torch.float32
    return torch.bfloat16


def gathered_in(config: RunConfig, dtype: torch.dtype) -> torch.dtype | None:
    """What weights are sent in between processes; None: what they are kept in.

    What explains quantised weights is never rounded.
    """
    fsdp = config.fsdp_config
    rounds = fsdp.use_fp16 if dtype == torch.float16 else fsdp.mixed_precision
    wanted = rounds and not config.train_config.quantization
    return dtype if wanted and dtype != torch.float32 else None


def kept_on(config: RunConfig, device: torch.device) -> torch.device:
    """Where weights and the optimizer's state are between uses."""
    offloads = config.train_config.enable_fsdp and config.fsdp_config.fsdp_cpu_offload
    return torch.device("cpu") if offloads else device


def recompute(config: RunConfig, model: Llama, device: torch.device, screen: Screen) -> None:
    """Keep few activations where that was asked for: on one device it is not the default."""
    name, train = "fsdp_config.fsdp_activation_checkpointing", config.train_config
    sharded = train.enable_fsdp
    if config.value(name) and (sharded or config.was_set(name)):
        recompute_layers(model)
        # Who asks for this wants memory, and gives time for it: where gradients of all weights, or
        # weights out of their 4 bits, come and go, a fifth of it is what the C library keeps.
        if device.type == "cpu" and (not train.use_peft or train.quantization):
            give_back_at_once()
        where = "" if sharded else ", on this one device too"
        screen.line(f"Activations are computed again in the backward pass{where}.")


def keep_frozen_outputs(
    config: RunConfig, model: Llama, loaders: Sequence[Loader], steps: int, screen: Screen
) -> None:
    """Compute frozen layers once for each document, where there is a second time and room for it.

    loaders: of training and, if there is one, of validation. Only on a processor, where what is
    kept takes no scarce memory, and for packed rows: padding makes other documents every epoch.
    """
    train, layers = config.train_config, frozen_outputs.frozen_layers(model)
    batches = len(loaders[0].plan(0))
    again = steps * train.gradient_accumulation_steps > batches
    on_processor = model.head_weight.device.type == "cpu"
    packed = train.batching_strategy == "packing"
    if train.use_peft or train.enable_fsdp or not (layers and again and packed and on_processor):
        return
    needed = frozen_outputs.output_bytes(model, [loader.store for loader in loaders]) / GIB
    available = available_memory_gib(model.head_weight.device)
    if not frozen_outputs.fits(needed, available):
        screen.line(
            f"The outputs of the {layers} frozen layers would take {needed:.2f} GiB, too much of"
            " the memory that is left: they are computed anew in every epoch."
        )
        return
    screen.line(
        f"The outputs of the {layers} frozen layers are kept for the next epochs: {needed:.2f} GiB."
    )
    frozen_outputs.keep(model, layers)


def use_kernels(world: World, dtype: torch.dtype, *, required: bool, screen: Screen) -> None:
    """Compute with our own kernels on a processor; say so where they cannot be had.

    required: raise ConfigError there instead.
    """
    if world.device.type != "cpu":
        return
    world.once_a_host(lambda: library.enable() or "")  # which compiles them, the first time
    reason = library.enable()
    if dtype == torch.float16:
        reason = "they are made for fp32 and bf16, and --use_fp16 was given"
    if reason is None:
        return
    if required:
        raise ConfigError(
            f"--use_fast_kernels was asked for, but there are none: {reason}. Mend that, or leave"
            " the flag out to compute with PyTorch's own operations, which are slower."
        )
    screen.line(
        f"Computing with PyTorch's own operations, which are slower than our kernels: {reason}."
    )


def check_memory(model: Llama, loader: Loader, device: torch.device) -> None:
    """Raises ConfigError where the first step would not fit in the memory that is left."""
    available = available_memory_gib(device)
    if available is None:
        return
    needed = step_bytes(model, largest_slice(loader, model, device)) / GIB
    if needed > available:
        raise ConfigError(
            f"A step needs about {needed:.1f} GiB beside the weights, and {available:.1f} GiB are"
            f" left on this device. {SAVE_MEMORY}"
        )
