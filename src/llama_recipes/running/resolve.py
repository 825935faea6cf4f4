"""What a run's settings come to once its model, and an adapter that it goes on with, are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_recipes.adapters.lora import VOCABULARY_NAMES
from llama_recipes.adapters.peft_config import read_raw
from llama_recipes.adapters.peft_format import check_adapter, check_base, read_header
from llama_recipes.adapters.select import adapter_config, adapter_section
from llama_recipes.configs.peft import AdapterConfig, LlamaAdapterConfig, LoraConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import Section, flag_of, is_given
from llama_recipes.configs.training import TrainConfig
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.inference.record import kept_under, untold
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Llama
from llama_recipes.model.source import ModelSource
from llama_recipes.model.vocabulary import with_vocabulary
from llama_recipes.model.weights import TensorSource
from llama_recipes.monitoring.screen import Screen
from llama_recipes.quantization.kept import Kept
from llama_recipes.running.parts import quantization


def check_adapter_base(config: RunConfig, base: TensorSource) -> None:
    """Raises CheckpointError where the adapter to go on with was made on other weights."""
    train = config.train_config
    if is_given(train.from_peft_checkpoint):
        folder = Path(train.from_peft_checkpoint).expanduser()
        read_raw(folder)
        check_base(folder, base, name=train.model_name)


def with_bits_of_adapter(config: RunConfig, screen: Screen) -> RunConfig:
    """The base kept as when the adapter to go on with was trained, which made up for its rounding.

    Raises ConfigError where another way was asked for, CheckpointError where nobody could tell.
    """
    train = config.train_config
    if not is_given(train.from_peft_checkpoint):
        return config
    folder = Path(train.from_peft_checkpoint).expanduser()
    told, asked = kept_under(folder), Kept(quantization(config))
    if told is None:
        if not config.was_set("train_config.quantization"):
            screen.line(untold(folder))
        return config
    for key, value in told.settings.items():
        given = "8bit" if config.value(key) is True else config.value(key)
        if config.was_set(key) and given != value:
            raise ConfigError(
                f"{flag_of(key)} is {config.value(key)}, but the adapter in {folder} was trained on"
                f" a base kept {told.words}, and what it has learnt is right for that alone. Leave"
                f" the flag out, give {told.flags}, or start a new adapter."
            )
        section, name = key.split(".")
        config = _with(config, section, **{name: value})
    if asked != told:
        screen.line(f"The base is kept {told.words}, as when the adapter in {folder} was trained.")
    return config


def check_adapter_weights(config: RunConfig, model: Llama, adapter: AdapterConfig | None) -> None:
    """Raises CheckpointError where the adapter to go on with does not fit the model."""
    folder = config.train_config.from_peft_checkpoint
    if adapter is not None and is_given(folder):
        check_adapter(model, adapter, Path(folder).expanduser())


def with_tokens_of(
    tokenizer: Tokenizer, source: ModelSource, train: TrainConfig, screen: Screen
) -> ModelSource:
    """The model with rows for what a tokenizer named beside it, or an adapter's own, adds.

    A model's own tokenizer may have more ids than rows; as the model was trained so, they are not
    used. Raises CheckpointError where an adapter has rows for another number of tokens.
    """
    known, wanted = source.config.vocab_size, 0
    going_on = is_given(train.from_peft_checkpoint)
    if going_on:
        wanted = read_header(Path(train.from_peft_checkpoint).expanduser()).vocab_size
    if wanted and tokenizer.size > max(wanted, known):
        raise CheckpointError(
            f"The adapter in {train.from_peft_checkpoint} has rows for {wanted} tokens, and the"
            f" tokenizer has {tokenizer.size}. Name the tokenizer that the adapter was trained"
            " with, or start a new adapter."
        )
    if train.tokenizer_name is not None or wanted:
        wanted = max(wanted, tokenizer.size)
    if wanted > known:
        screen.line(
            f"The vocabulary grows from {known} to {wanted} tokens; each new row of the embedding"
            " starts as the mean of the others."
        )
    return with_vocabulary(source, wanted)


def resolve(
    config: RunConfig, model: LlamaConfig, screen: Screen, *, extended: bool = False
) -> tuple[RunConfig, AdapterConfig | None]:
    """Settle what depends on the model or on an adapter that is gone on with.

    extended: whether the model has rows for new tokens, which an adapter then has to train. Raises
    ConfigError where a context_length was asked for that the model does not have, or where the
    adapter is of a kind that cannot train new rows.
    """
    if extended and config.train_config.freeze_layers:
        screen.warn("--freeze_layers freezes the embedding: its new rows stay as they start.")
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
        _refuse_untrained_tokens(adapter, train.from_peft_checkpoint, extended=extended)
    elif extended:
        adapter = _with_trained_tokens(config, adapter, screen)
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


def _with_trained_tokens(
    config: RunConfig, adapter: AdapterConfig, screen: Screen
) -> AdapterConfig:
    """An adapter beside which embedding and head are trained whole, unless something else is said.

    Raises ConfigError for the kinds that have no place for them.
    """
    if not isinstance(adapter, LoraConfig):
        raise ConfigError(
            f"--tokenizer_name {config.train_config.tokenizer_name} has tokens that the model does"
            f" not know, and --peft_method {config.train_config.peft_method} cannot train them."
            " Use --peft_method lora, or leave --use_peft out."
        )
    if config.was_set("lora_config.modules_to_save"):
        _refuse_untrained_tokens(adapter, "--lora_config.modules_to_save", extended=True)
        return adapter
    screen.line("The embedding and the head are trained whole beside the adapter, for new tokens.")
    return adapter.model_copy(update={"modules_to_save": list(VOCABULARY_NAMES)})


def _refuse_untrained_tokens(adapter: AdapterConfig, where: str, *, extended: bool) -> None:
    """Raises ConfigError where rows for new tokens would be neither trained nor saved."""
    if extended and not (isinstance(adapter, LoraConfig) and adapter.modules_to_save):
        raise ConfigError(
            f"The tokenizer has tokens that the model does not know, and {where} has no place for"
            " them: they would be lost with the run. Start a new adapter with --peft_method lora"
            f" whose --lora_config.modules_to_save is {','.join(VOCABULARY_NAMES)}, or take the"
            " model's own tokenizer."
        )


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
