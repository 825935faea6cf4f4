"""The results of a run as folders that transformers and peft load as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import StateDictSplit, split_torch_state_dict_into_shards
from torch import Tensor

from llama_recipes.adapters.peft_config import CONFIG_FILE, adapter_config_file
from llama_recipes.adapters.peft_format import WEIGHTS_FILE, adapter_tensors, write_adapter
from llama_recipes.checkpoint.store import drafted, publish
from llama_recipes.configs.peft import AdapterConfig
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Llama
from llama_recipes.model.safetensors_folder import save_tensors
from llama_recipes.parallel.shards import whole
from llama_recipes.parallel.world import CPU_ALONE, World
from llama_recipes.quantization.kept import Kept

_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SHARD_BYTES = 5 * 10**9
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
NOTHING: Mapping[str, str] = MappingProxyType({})


def save_adapter(
    model: Llama,
    folder: Path,
    *,
    config: AdapterConfig,
    base_model: str,
    base_fingerprint: str | None = None,
    kept: Kept | None = None,
    metadata: Mapping[str, str] = NOTHING,
    world: World = CPU_ALONE,
) -> None:
    """The adapter's weights in float32 and the settings that peft needs to load them.

    base_fingerprint: the `weights_fingerprint` of the base, and kept: how it was kept, which the
    file then tells, with `metadata`. world: the processes that share the model, all of which call
    this; one writes.
    """
    tensors = adapter_tensors(model, config, whole=whole)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        publish(folder / CONFIG_FILE, adapter_config_file(config, base_model, model.config))
        with drafted(folder / WEIGHTS_FILE) as draft:
            write_adapter(tensors, draft, base=base_fingerprint, kept=kept, metadata=metadata)

    world.lead(write)


def save_model(
    model: Llama,
    folder: Path,
    *,
    generation_config: Mapping[str, Any],
    shard_bytes: int = _SHARD_BYTES,
    metadata: Mapping[str, str] = NOTHING,
    world: World = CPU_ALONE,
) -> None:
    """All weights in the dtype that they were trained in, sharded above `shard_bytes`.

    What stood there before stays valid until the new file, or the new index, replaces it. metadata:
    what each file tells. world: the processes that share the model, all of which call this; one
    writes.
    """
    tensors = dict(model.named_parameters())
    outline = {
        key: torch.empty(value.shape, dtype=value.dtype, device="meta")
        for key, value in tensors.items()
    }
    if world.rank:  # what the first process asks for has to be given by all, in the same order
        for keys in _split(outline, folder, shard_bytes).filename_to_tensors.values():
            for key in keys:
                whole(tensors[key])
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_shape(model.config, model.head_weight.dtype, folder, generation_config)
    save_weights(
        outline,
        lambda key: whole(tensors[key]),
        folder,
        shard_bytes=shard_bytes,
        metadata=metadata,
    )


def save_shape(
    config: LlamaConfig, dtype: torch.dtype, folder: Path, generation_config: Mapping[str, Any]
) -> None:
    name = str(dtype).removeprefix("torch.")
    ends = {key: generation_config[key] for key in _ENDS if key in generation_config}
    publish(folder / "config.json", _json(config.to_hf() | ends | {"dtype": name}))
    publish(folder / "generation_config.json", _json(generation_config))


def save_weights(
    outline: Mapping[str, Tensor],
    value: Callable[[str], Tensor],
    folder: Path,
    *,
    shard_bytes: int = _SHARD_BYTES,
    metadata: Mapping[str, str] = NOTHING,
) -> None:
    """Write the tensors that `outline` describes, which are on meta; `value` makes each.

    No more of them than one file holds are in memory at once.
    """
    split, told = _split(outline, folder, shard_bytes), {"format": "pt", **metadata}
    if not split.is_sharded:
        with drafted(folder / _SINGLE) as draft:
            keys = next(iter(split.filename_to_tensors.values()))
            save_tensors({key: value(key) for key in keys}, draft, told)
        return
    for name, keys in split.filename_to_tensors.items():
        with drafted(folder / name) as draft:
            save_tensors({key: value(key) for key in keys}, draft, told)
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    publish(folder / _INDEX, _json(index))
    for old in folder.glob("model*-of-*.safetensors"):
        if old.name not in split.filename_to_tensors:
            old.unlink()


def _split(outline: Mapping[str, Tensor], folder: Path, shard_bytes: int) -> StateDictSplit:
    return split_torch_state_dict_into_shards(
        dict(outline), filename_pattern=_fresh_pattern(folder), max_shard_size=shard_bytes
    )


def generation_settings(base: Mapping[str, Any] | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The base model's generation_config.json, beginning and ending where the tokenizer says.

    What ends an answer can have changed with the tokenizer that was trained with.
    """
    ends = (tokenizer.bos_id, list(tokenizer.stop_ids), tokenizer.pad_id)
    return {**(base or {}), **dict(zip(_ENDS, ends, strict=True))}


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as temporary:
        tokenizer.save(Path(temporary))
        for file in sorted(Path(temporary).iterdir()):
            publish(folder / file.name, file.read_bytes())


def _fresh_pattern(folder: Path) -> str:
    """Shards never overwrite those that the present index names: the index is what switches."""
    index = folder / _INDEX
    in_use = json.loads(index.read_text())["weight_map"].values() if index.is_file() else ()
    plain = any(name.startswith("model-0") for name in in_use)
    return "model-next{suffix}.safetensors" if plain else "model{suffix}.safetensors"


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
