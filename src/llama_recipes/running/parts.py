"""What a run is made of, each made from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from llama_recipes.adapters.qera import hold_start, start_from_residual
from llama_recipes.adapters.select import adapt
from llama_recipes.configs.peft import AdapterConfig, LoraConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import is_given
from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.loader import Loader
from llama_recipes.data.prepare import Preparation
from llama_recipes.data.splits import Splits, open_splits
from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenizer import Tokenizer, holds_tokenizer
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.freezing import freeze_lowest
from llama_recipes.model.llama import Llama
from llama_recipes.model.source import TOKENIZER_FILES, ModelSource, locate
from llama_recipes.model.weights import TensorSource
from llama_recipes.monitoring import announce
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.world import World
from llama_recipes.quantization.select import Quantization, quantize
from llama_recipes.training import optimizers
from llama_recipes.training.precision import set_precision
from llama_recipes.training.schedule import Schedule
from llama_recipes.training.windows import count_steps

_SHOWN_TOKENS = 4096
"""Of the documents that show which inputs a layer gets."""


def shape_model(
    shape: LlamaConfig, config: RunConfig, adapter: AdapterConfig | None, dtype: torch.dtype
) -> tuple[Llama, set[str]]:
    """The model without its values, on meta, and the names of the adapter's parameters.

    What does not fit together is found here, before data is prepared or a weight is read.
    """
    with torch.device("meta"):
        model = Llama(shape, compute_dtype=dtype)
        adapter_names = adapt(model, adapter)
        pure_bf16 = config.fsdp_config.pure_bf16
        set_precision(model, dtype, torch.bfloat16 if pure_bf16 else torch.float32)
        quantize(model, quantization(config))
    if config.train_config.freeze_layers:
        freeze_lowest(model, config.train_config.num_freeze_layers)
    return model, adapter_names


def quantization(config: RunConfig) -> Quantization | None:
    return Quantization.asked_for(config.train_config.quantization, config.quantization_config)


def make_up_for_quantization(
    config: RunConfig,
    adapter: AdapterConfig,
    model: Llama,
    tensors: TensorSource,
    documents: TokenStore,
    screen: Screen,
    *,
    started: bool,
) -> None:
    """What `lora_config.init_lora_weights` asks for, on some of `documents`.

    started: the values come from a checkpoint.
    """
    train = config.train_config
    asked = isinstance(adapter, LoraConfig) and adapter.init_lora_weights == "qera"
    if not asked or train.quantization is False:
        return
    hold_start(model)
    if started:
        return
    order = np.random.default_rng(train.seed).permutation(len(documents))
    tokens_before = np.cumsum(documents.lengths[order]) - documents.lengths[order]
    chosen = order[tokens_before < _SHOWN_TOKENS]
    start_from_residual(
        model,
        tensors,
        [documents.document(index).input_ids.tolist() for index in chosen.tolist()],
        seed=train.seed,
    )
    screen.line(
        "Half of the update makes up for what quantisation took, as well as that goes on"
        f" {len(chosen)} documents; the other half is trained."
    )


def tokenizer_path(train: TrainConfig, source: ModelSource) -> Path:
    """The one that was named, else that of the adapter to go on with, else the model's own."""
    if train.tokenizer_name is None:
        adapter = Path(train.from_peft_checkpoint).expanduser()
        has_its_own = is_given(train.from_peft_checkpoint) and holds_tokenizer(adapter)
        return adapter if has_its_own else source.path
    return locate(train.tokenizer_name, what="tokenizer", hub_files=TOKENIZER_FILES)


def open_documents(config: RunConfig, tokenizer: Tokenizer, screen: Screen, world: World) -> Splits:
    train = config.train_config
    splits = open_splits(
        config.dataset,
        tokenizer,
        Preparation(train.context_length, train.truncation, train.train_on_prompt),
        validate=train.run_validation,
        seed=train.seed,
        notify=screen.line,
        once=world.once_a_host,
    )
    announce.documents("Training", splits.train, screen)
    if splits.validation is not None:
        announce.documents("Validation", splits.validation, screen)
    elif train.run_validation:
        screen.warn("This data set has no validation part: nothing is evaluated.")
    return splits


@dataclass(frozen=True)
class Course:
    """What is learnt from and evaluated on, micro-batch by micro-batch, and at which rates."""

    loader: Loader
    eval_loader: Loader | None
    schedule: Schedule


def make_loaders(
    train: TrainConfig,
    splits: Splits,
    tokenizer: Tokenizer,
    vocab_size: int,
    screen: Screen,
    world: World,
) -> tuple[Loader, Loader | None]:
    # A padding token of a tokenizer that has more ids than the model: as it is never seen, any do.
    pad_id = tokenizer.pad_id if tokenizer.pad_id < vocab_size else 0
    common: dict[str, Any] = {
        "strategy": train.batching_strategy,
        "context_length": train.context_length,
        "pad_id": pad_id,
        "vocab_size": vocab_size,
        "seed": train.seed,
        "workers": train.num_workers_dataloader,
        "collator": splits.collator,
        "rank": world.rank,
        "world_size": world.size,
    }
    loader = Loader(splits.train, batch_size=train.batch_size_training, **common)
    screen.line(f"--> Num of Training Set Batches loaded = {len(loader.plan(0))}")
    if splits.validation is None:
        return loader, None
    eval_loader = Loader(splits.validation, batch_size=train.val_batch_size, **common)
    screen.line(f"--> Num of Validation Set Batches loaded = {len(eval_loader.plan(0))}")
    return loader, eval_loader


def make_schedule(train: TrainConfig, loader: Loader, screen: Screen) -> Schedule:
    total_steps = count_steps(
        loader,
        epochs=train.num_epochs,
        accumulation=train.gradient_accumulation_steps,
        limit=train.max_train_step,
    )
    announce.steps(total_steps, train, screen)
    return Schedule(
        kind=train.lr_scheduler,
        peak=train.lr,
        warmup_steps=train.warmup_steps,
        total_steps=total_steps,
        gamma=train.gamma,
    )


def make_optimizer(model: Llama, config: RunConfig) -> Optimizer:
    fsdp, train = config.fsdp_config, config.train_config
    return optimizers.make_optimizer(
        model,
        lr=train.lr,
        weight_decay=train.weight_decay,
        kind=fsdp.optimizer,
        kahan=fsdp.use_kahan_summation,
    )
