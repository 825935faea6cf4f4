"""A model ready to answer: a base model, the result of a run, or an adapter on its base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from llama_recipes.adapters.peft_config import is_adapter, read_raw
from llama_recipes.adapters.peft_format import check_base, read_header
from llama_recipes.adapters.saved import SavedAdapter, check_saved, load_saved, saved_config
from llama_recipes.adapters.select import adapt, start_adapter
from llama_recipes.checkpoint.folder import Checkpoint
from llama_recipes.configs.peft import AdapterConfig
from llama_recipes.data.example import Format
from llama_recipes.data.tokenizer import Tokenizer, holds_tokenizer, load_tokenizer
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.inference.checkpoint import Say, checkpoint_at, held
from llama_recipes.inference.prompts import default_format
from llama_recipes.inference.record import (
    format_in,
    format_of,
    refuse_another,
    settled,
    untold,
)
from llama_recipes.model.llama import Llama
from llama_recipes.model.source import ModelSource, open_model
from llama_recipes.model.vocabulary import with_vocabulary
from llama_recipes.model.weights import check_weights, load_weights
from llama_recipes.quantization.kept import Kept
from llama_recipes.quantization.select import Quantization, quantize


@dataclass(frozen=True, slots=True)
class Found:
    """A model that was found; none of its weights has been read.

    name: what the user calls it.
    source: the base model, with rows for the tokens that the adapter adds.
    adapter: the one on it, if there is one: a folder, or a part of a checkpoint.
    quantization: how the base is kept: under an adapter, as when that was trained.
    warning: a sentence where nothing tells how that was; else empty.
    """

    name: str
    source: ModelSource
    adapter: SavedAdapter | None
    tokenizer: Tokenizer
    quantization: Quantization | None
    prompt_format: Format
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """prompt_format: how a prompt stood before its answer when the model was trained."""

    model: Llama
    tokenizer: Tokenizer
    prompt_format: Format
    name: str


def _unsaid(_: str) -> None:
    """For who does not want to hear it."""


def load_for_inference(
    name: str,
    *,
    base: str | None = None,
    prompt_format: Format | None = None,
    device: torch.device,
    dtype: torch.dtype,
) -> Loaded:
    """Find what `name` says, and load it.

    base: the model that an adapter is put on, where it is not the one that the adapter names.
    prompt_format: where prompts are not to be written as in training.
    Raises CheckpointError and ConfigError.
    """
    found = find(name, base=base)
    return load(found, prompt_format=prompt_format, device=device, dtype=dtype)


def load(
    found: Found,
    *,
    prompt_format: Format | None = None,
    device: torch.device,
    dtype: torch.dtype,
    stored: torch.dtype | None = None,
) -> Loaded:
    """Read the weights of a model; everything is computed in `dtype`.

    stored: what weights are kept in, where not in `dtype`.
    An adapter stays beside its base's weights: added to them, it would be rounded with them, and
    answers would not be those of training; for the same reason a base that was quantised then is
    quantised now. Raises CheckpointError and ConfigError.
    """
    return Loaded(
        model=_build(found, device=device, dtype=dtype, stored=stored or dtype),
        tokenizer=found.tokenizer,
        prompt_format=prompt_format or found.prompt_format,
        name=found.name,
    )


def find(
    name: str, *, base: str | None = None, kept: Kept | None = None, say: Say = _unsaid
) -> Found:
    """What `name` says: anything that `open_model` takes, an adapter's folder, a checkpoint of a
    run, or the folder of its checkpoints.

    base: as for `load_for_inference`, also the model that a checkpoint was trained from. kept: how
    the base is to be kept; None: as under the adapter in training, else as it is. say: is told
    which of several checkpoints is taken. Raises CheckpointError, ConfigError.
    """
    folder = Path(name).expanduser()
    adapter: Path | None = None
    if is_adapter(folder) and not (folder / "config.json").exists():
        adapter = folder
        source = base_of(folder, base)
    elif (checkpoint := checkpoint_at(folder, say)) is not None:
        return _found_in(checkpoint, base, kept)
    elif base is not None:
        raise ConfigError(
            f"--base_model is {base}, but {name} is no adapter: it holds no adapter_config.json."
            " Leave --base_model away, or give the adapter's folder as the model."
        )
    else:
        source = open_model(name)
    has_its_own = adapter is not None and holds_tokenizer(folder)
    told = kept if adapter is None else settled(adapter, kept)
    tokenizer = load_tokenizer(folder if has_its_own else source.path)
    return Found(
        name=name,
        source=source,
        adapter=adapter,
        tokenizer=tokenizer,
        quantization=None if told is None else told.how,
        prompt_format=format_of(folder) or default_format(tokenizer),
        warning=untold(adapter) if adapter is not None and told is None else "",
    )


def _found_in(checkpoint: Checkpoint, base: str | None, kept: Kept | None) -> Found:
    parts = held(checkpoint, base)
    how = parts.quantization
    if parts.adapter is not None:
        refuse_another(Kept(how), kept, checkpoint.path)
    elif kept is not None:
        how = kept.how
    told = format_in(parts.facts)
    if told is None and parts.run_folder is not None:
        told = format_of(parts.run_folder)  # before checkpoints said it, only the results did
    return Found(
        name=str(checkpoint.path),
        source=parts.source,
        adapter=parts.adapter,
        tokenizer=parts.tokenizer,
        quantization=how,
        prompt_format=told or default_format(parts.tokenizer),
    )


def check(found: Found) -> None:
    """Raises CheckpointError where `load` would for what is in the files; reads no weight."""
    with torch.device("meta"):
        model = Llama(found.source.config)
        settings = None if found.adapter is None else saved_config(found.adapter)
        names = adapt(model, settings)
        _quantize(model, found, settings)
    check_weights(model, found.source.tensors, skip=names)
    if found.adapter is not None:
        check_saved(model, found.adapter)


def base_of(folder: Path, base: str | None = None) -> ModelSource:
    """The model under the adapter in `folder`, with rows for the tokens that the adapter adds.

    base: where it is, if not where the adapter says. Raises CheckpointError and ConfigError, also
    for another model than the one that the adapter was trained on.
    """
    source = _named_base(folder, base)
    check_base(folder, source.tensors, name=base or source.name)
    return with_vocabulary(source, read_header(folder).vocab_size)


def _named_base(folder: Path, base: str | None) -> ModelSource:
    if base is not None:
        return open_model(base)
    named = read_raw(folder).get("base_model_name_or_path")
    if not named:
        raise ConfigError(
            f"{folder} is an adapter that does not say which model it belongs to."
            " Name that model with --base_model."
        )
    try:
        return open_model(str(named))
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} is an adapter of {named}, which cannot be opened: {error}"
            " If it is elsewhere now, say where with --base_model."
        ) from error


def _build(found: Found, *, device: torch.device, dtype: torch.dtype, stored: torch.dtype) -> Llama:
    adapter = found.adapter
    settings = None if adapter is None else saved_config(adapter)
    with torch.device("meta"):
        model = Llama(found.source.config, compute_dtype=dtype)
        names = adapt(model, settings)
        model.to(stored)
        for parameter in model.parameters():
            if settings is not None and parameter.requires_grad:  # the adapter's
                parameter.data = parameter.data.to(dtype)
        _quantize(model, found, settings)
    load_weights(model, found.source.tensors, device=device, skip=names)
    if adapter is not None and settings is not None:
        start_adapter(model, settings, checkpoint="", seed=0, device=device)
        load_saved(model, adapter)
    return model.requires_grad_(False).eval()


def _quantize(model: Llama, found: Found, settings: AdapterConfig | None) -> None:
    if settings is None:
        model.requires_grad_(False)  # what trains is never quantised, and here nothing does
    quantize(model, found.quantization)
