"""What is settled, and what is refused, before the first step is made."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from llama_recipes.adapters.select import adapter_config, adapter_section
from llama_recipes.configs.peft import AdapterConfig, LlamaAdapterConfig, LoraConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import Section, is_given
from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.loader import Loader
from llama_recipes.data.splits import Splits
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.export.result import LAST
from llama_recipes.kernels import library
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Llama
from llama_recipes.monitoring.memory import GIB, available_memory_gib
from llama_recipes.monitoring.results import RESULTS_FILE, is_finished
from llama_recipes.monitoring.run_log import METRICS_FILE
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.device import has_bf16
from llama_recipes.parallel.ranks import world_size
from llama_recipes.parallel.recompute import recompute_layers
from llama_recipes.training.memory import step_bytes
from llama_recipes.training.windows import largest_slice


def refuse_several_processes() -> None:
    """Raises ConfigError under torchrun: every process would train the same into one folder."""
    if world_size() > 1:
        raise ConfigError(
            f"torchrun started {world_size()} processes, but training on several is not part of"
            " this version yet: start one, with python -m llama_recipes.finetuning."
        )


def refuse_results(config: RunConfig) -> None:
    """Raises ConfigError where the run's folder holds results, which are never written over."""
    folder = _output_path(config)
    if folder is None:
        return
    held = [
        str(path.relative_to(folder))
        for pattern in ("*.safetensors", f"{LAST}/*.safetensors", "config.json", RESULTS_FILE)
        for path in sorted(folder.glob(pattern))
        if path.name != RESULTS_FILE or is_finished(path)
    ]
    if held:
        raise ConfigError(
            f"--output_dir {folder} already holds {', '.join(held[:3])}, the result of a run,"
            " which is not written over. Name another folder, or remove this one."
        )


def output_folder(config: RunConfig) -> Path | None:
    """Make the run's folder; None where none was given. Raises ConfigError.

    What an unfinished run that saved nothing left there is replaced.
    """
    folder = _output_path(config)
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        (folder / METRICS_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output_dir {folder} cannot be written to: {error.strerror or error}."
            " Name a folder that you may write to."
        ) from error
    return folder


SAVE_MEMORY = (
    "Lower --context_length or --batch_size_training, train an adapter with --use_peft instead of"
    " all weights, or take a smaller model."
)


def _output_path(config: RunConfig) -> Path | None:
    output_dir = config.train_config.output_dir
    # A shell leaves --output_dir=~/x as it is.
    return Path(output_dir).expanduser() if is_given(output_dir) else None


def resolve(
    config: RunConfig, model: LlamaConfig, screen: Screen
) -> tuple[RunConfig, AdapterConfig | None]:
    """Settle what depends on the model or on an adapter that is gone on with.

    Raises ConfigError where a context_length was asked for that the model does not have.
    """
    train, limit = config.train_config, model.max_position_embeddings
    if train.context_length > limit:
        if config.was_set("train_config.context_length"):
            raise ConfigError(
                f"--context_length is {train.context_length}, but the model was made for at most"
                f" {limit} tokens. Give at most {limit}."
            )
        screen.line(f"context_length is {limit}, the model's own limit.")
        config = _with(config, "train_config", context_length=limit)
    adapter = adapter_config(config)
    if adapter is None:
        return config, None
    section = adapter_section(adapter)
    if is_given(train.from_peft_checkpoint):
        adapter = _with_new_dropout(config, adapter)
        _refuse_other_settings(config, adapter, section)
        config = _with(config, "train_config", peft_method=section.removesuffix("_config"))
    layers = model.num_hidden_layers
    if (
        isinstance(adapter, LlamaAdapterConfig)
        and adapter.adapter_layers > layers
        and not config.was_set("llama_adapter_config.adapter_layers")
    ):
        screen.line(f"adapter_layers is {layers}, all decoder layers of the model.")
        adapter = adapter.model_copy(update={"adapter_layers": layers})
    if is_given(train.from_peft_checkpoint) and adapter != config.section(section):
        said = ", ".join(f"{name}={value}" for name, value in adapter.model_dump().items())
        screen.line(f"The adapter of {train.from_peft_checkpoint} has its own settings: {said}.")
    return config.model_copy(update={section: adapter}), adapter


def _with_new_dropout(config: RunConfig, adapter: AdapterConfig) -> AdapterConfig:
    """Dropout belongs to the training, not to the adapter: a given one holds."""
    if not isinstance(adapter, LoraConfig) or not config.was_set("lora_config.lora_dropout"):
        return adapter
    return adapter.model_copy(update={"lora_dropout": config.lora_config.lora_dropout})


def _refuse_other_settings(config: RunConfig, adapter: AdapterConfig, section: str) -> None:
    """Raises ConfigError where settings were given that the adapter to go on with does not have."""
    folder = config.train_config.from_peft_checkpoint
    method = section.removesuffix("_config")
    if config.was_set("train_config.peft_method") and config.train_config.peft_method != method:
        raise ConfigError(
            f"--peft_method is {config.train_config.peft_method}, but the adapter in {folder} is of"
            f" the kind {method}. Leave the flag out, or start a new adapter."
        )
    problems = [
        f"--{key} is {config.value(key)}, but the adapter in {folder} was made with {value}."
        " Leave the flag out, or start a new adapter."
        for name, value in adapter.model_dump().items()
        if config.was_set(key := f"{section}.{name}") and config.value(key) != value
    ]
    if problems:
        raise ConfigError(*problems)


def _with(config: RunConfig, section: str, **values: Any) -> RunConfig:
    changed: Section = config.section(section).model_copy(update=values)
    return config.model_copy(update={section: changed})


def check_vocabulary(splits: Splits, tokenizer: Tokenizer, model: LlamaConfig) -> None:
    """Raises CheckpointError where an id of the data has no row in the embedding."""
    stores = [splits.train, *([splits.validation] if splits.validation else [])]
    highest = max(store.highest_id for store in stores)
    if highest >= model.vocab_size:
        raise CheckpointError(
            f"The tokenizer gives the id {highest} ({tokenizer.decode([highest])!r}), but the"
            f" model's embedding has only {model.vocab_size} rows. Use the tokenizer that belongs"
            " to the model."
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


def recompute(config: RunConfig, model: Llama, screen: Screen) -> None:
    """Keep few activations where that was asked for: on one device it is not the default."""
    name = "fsdp_config.fsdp_activation_checkpointing"
    if config.was_set(name) and config.value(name):
        recompute_layers(model)
        screen.line("Activations are computed again in the backward pass, on this one device too.")


def use_kernels(device: torch.device, *, required: bool, screen: Screen) -> None:
    """Compute with our own kernels on a processor; say so where they cannot be had.

    required: raise ConfigError there instead.
    """
    if device.type != "cpu":
        return
    reason = library.enable()
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
    needed = step_bytes(model, largest_slice(loader, device, model.dtype)) / GIB
    if needed > available:
        raise ConfigError(
            f"A step needs about {needed:.1f} GiB beside the weights, and {available:.1f} GiB are"
            f" left on this device. {SAVE_MEMORY}"
        )
