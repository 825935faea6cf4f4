"""What is settled, and what is refused, before the first step is made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

import torch

from llama_recipes.checkpoint.folder import FOLDER, Checkpoint
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import is_given
from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.loader import Loader
from llama_recipes.data.splits import Splits
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.kernels import library
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Llama
from llama_recipes.monitoring.memory import GIB, available_memory_gib
from llama_recipes.monitoring.results import LAST, RESULTS_FILE, is_finished
from llama_recipes.monitoring.run_log import METRICS_FILE
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.device import has_bf16
from llama_recipes.parallel.recompute import recompute_layers
from llama_recipes.parallel.world import World
from llama_recipes.training import frozen_outputs
from llama_recipes.training.allocator import give_back_at_once
from llama_recipes.training.memory import step_bytes
from llama_recipes.training.windows import largest_slice


def refuse_results(config: RunConfig, checkpoint: Checkpoint | None) -> None:
    """Raises ConfigError where the run's folder holds results, which are never written over.

    checkpoint: what the run goes on from; its own folder's results are its to replace.
    """
    folder, root = output_path(config), checkpoints_path(config)
    if _is_of(checkpoint, root):
        return
    held = (
        []
        if folder is None
        else [
            str(path.relative_to(folder))
            for pattern in ("*.safetensors", f"{LAST}/*.safetensors", "config.json", RESULTS_FILE)
            for path in sorted(folder.glob(pattern))
            if path.name != RESULTS_FILE or is_finished(path)
        ]
    )
    if held:
        raise ConfigError(
            f"--output_dir {folder} already holds {', '.join(held[:3])}, the result of a run,"
            " which is not written over. Name another folder, or remove this one."
        )
    if root is not None and any(root.glob("step-*")):
        raise ConfigError(
            f"{root} holds checkpoints of a run that did not end. Go on with it with --resume auto,"
            " name another folder, or remove this one."
        )


def _is_of(checkpoint: Checkpoint | None, root: Path | None) -> bool:
    return (
        checkpoint is not None
        and root is not None
        and checkpoint.path.parent.resolve() == root.resolve()
    )


def make_output_folder(config: RunConfig, checkpoint: Checkpoint | None) -> None:
    """Make the run's folder where one was given. Raises ConfigError.

    What an unfinished run that saved nothing left there is replaced. A run that goes on from the
    checkpoint of another folder takes the metrics up to there along.
    """
    folder = output_path(config)
    if folder is None:
        return
    try:
        _make_writable(folder)
        if not _is_of(checkpoint, checkpoints_path(config)):
            (folder / METRICS_FILE).unlink(missing_ok=True)
            earlier = checkpoint and checkpoint.path.parent.parent / METRICS_FILE
            if earlier and earlier.is_file():
                shutil.copyfile(earlier, folder / METRICS_FILE)
    except OSError as error:
        raise ConfigError(
            f"--output_dir {folder} cannot be written to: {error.strerror or error}."
            " Name a folder that you may write to."
        ) from error


def make_profiler_folder(train: TrainConfig) -> None:
    """Make the folder of the trace where one is recorded. Raises ConfigError."""
    if not train.use_profiler:
        return
    try:
        _make_writable(Path(train.profiler_dir).expanduser())
    except OSError as error:
        raise ConfigError(
            f"--profiler_dir {train.profiler_dir} cannot be written to: {error.strerror or error}."
            " Name a folder that you may write to."
        ) from error


def _make_writable(folder: Path) -> None:
    """Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass


SAVE_MEMORY = (
    "Lower --context_length or --batch_size_training, train an adapter with --use_peft instead of"
    " all weights, or take a smaller model."
)


def output_path(config: RunConfig) -> Path | None:
    output_dir = config.train_config.output_dir
    # A shell leaves --output_dir=~/x as it is.
    return Path(output_dir).expanduser() if is_given(output_dir) else None


def checkpoints_path(config: RunConfig) -> Path | None:
    """Where this run's checkpoints stand; None where it saves none."""
    train, folder = config.train_config, output_path(config)
    if not train.save_model:
        return None
    if train.enable_fsdp and not train.use_peft:
        # As in the original, whose converter looks for them there.
        name = f"{train.dist_checkpoint_folder}-{Path(train.model_name).name}"
        return Path(train.dist_checkpoint_root_folder).expanduser() / name
    return folder / FOLDER if folder else None


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
    if config.fsdp_config.fsdp_cpu_offload and device.type == "cpu":
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
