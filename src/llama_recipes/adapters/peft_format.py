"""adapter_model.safetensors: an adapter's weights under the keys of the peft library.

These are our parameter names behind `base_model.model.`, but for prefix tuning, which is one tensor
of all layers.

Shapes: P virtual tokens, K key/value heads, d head dimension, L decoder layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from llama_recipes.adapters.llama_adapter import AdaptedAttention
from llama_recipes.adapters.lora import lora_biases, lora_layers, whole_weights
from llama_recipes.adapters.modules import modules_of
from llama_recipes.adapters.prefix import PrefixAttention
from llama_recipes.configs.peft import AdapterConfig, LoraConfig
from llama_recipes.errors import CheckpointError
from llama_recipes.model.fingerprint import weights_fingerprint
from llama_recipes.model.llama import Llama
from llama_recipes.model.safetensors_folder import save_tensors
from llama_recipes.model.weights import EMBEDDING, HEAD, OwnRows, TensorSource, all_rows, copy_rows
from llama_recipes.quantization.kept import Kept

WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PROMPTS = "prompt_embeddings"
_PLACES = {"embed_tokens": EMBEDDING, "lm_head": HEAD}
_BASE, _KEPT = "base_fingerprint", "base_quantization"


@dataclass(frozen=True, slots=True)
class AdapterHeader:
    """What adapter_model.safetensors says before any weight is read.

    shapes: of every tensor, by its key. base: the `weights_fingerprint` of the model it was made
    for, and kept: how that was kept meanwhile, where the file was written here.
    """

    shapes: dict[str, tuple[int, ...]]
    base: str | None
    kept: Kept | None

    @property
    def vocab_size(self) -> int:
        """Tokens that the adapter holds rows for; 0 where it leaves the vocabulary alone."""
        return max((shape[0] for _, shape in self._whole()), default=0)

    @property
    def modules_to_save(self) -> list[str]:
        """Names of the embedding and the head, where they are in the file."""
        return [name for name, _ in self._whole()]

    def _whole(self) -> list[tuple[str, tuple[int, ...]]]:
        keys = {name: f"{_PREFIX}{place}" for name, place in _PLACES.items()}
        return [(name, self.shapes[key]) for name, key in keys.items() if key in self.shapes]


def read_header(folder: Path) -> AdapterHeader:
    """Raises CheckpointError where the file is missing or damaged."""
    path = _weights_file(folder)
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            told = file.metadata() or {}
            return AdapterHeader(shapes, told.get(_BASE), Kept.read(told.get(_KEPT)))
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def check_base(folder: Path, base: TensorSource, *, name: str) -> None:
    """Raises CheckpointError where the adapter was made for other weights than those of `base`.

    name: what the user calls that model. An adapter that peft wrote does not tell.
    """
    made_for = read_header(folder).base
    if made_for is not None and made_for != weights_fingerprint(base):
        raise CheckpointError(
            f"The adapter in {folder} was trained on other weights than those of {name}: together"
            " they would be neither model. Give the very model that it was trained on."
        )


def write_adapter(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    base: str | None,
    kept: Kept | None,
    metadata: Mapping[str, str],
) -> None:
    """Write what `adapter_tensors` gives.

    base: `weights_fingerprint` of the model under it. kept: how that model was kept, without which
    nobody could put the adapter on the weights that it was trained on. metadata: what else the
    file tells.
    """
    told = {"format": "pt", **metadata} | ({_BASE: base} if base else {})
    if kept is not None:
        told[_KEPT] = kept.text
    save_tensors(tensors, path, told)


def adapter_tensors(
    model: Llama, config: AdapterConfig, *, whole: Callable[[Tensor], Tensor] = Tensor.detach
) -> dict[str, Tensor]:
    """Every weight of the adapter under peft's key, in float32 on the CPU.

    whole: a parameter → all its rows, for one that several processes share.
    """
    tensors = {key: whole(p) for key, p in _parameters(model, config).items()}
    layers = [whole(layer.prefix) for _, layer in modules_of(model, PrefixAttention)]
    if layers:
        tensors[_PROMPTS] = torch.stack(layers, dim=1).flatten(1)  # [P, L, 2, K, d]
    # A copy each: safetensors refuses two keys of one weight.
    return {key: torch.empty(tensor.shape).copy_(tensor) for key, tensor in tensors.items()}


def _parameters(model: Llama, config: AdapterConfig) -> dict[str, Tensor]:
    """The parameters that stand in the file as they are."""
    found: dict[str, Tensor] = {}
    for name, layer in lora_layers(model):
        for part in "lora_A", "lora_B":
            weight = layer.get_submodule(part).get_parameter("weight")
            found[f"{_PREFIX}{name}.{part}.weight"] = weight
    trained_biases = config.bias if isinstance(config, LoraConfig) else "none"
    whole = config.modules_to_save if isinstance(config, LoraConfig) else []
    for name, parameter in whole_weights(model, whole):
        found[f"{_PREFIX}{name}"] = parameter
    for name, parameter in lora_biases(model, trained_biases):
        found[f"{_PREFIX}{name.replace('.base.', '.base_layer.')}"] = parameter
    for name, module in modules_of(model, AdaptedAttention):
        found[f"{_PREFIX}{name}.adaption_prompt"] = module.adaption_prompt
        found[f"{_PREFIX}{name}.adaption_gate"] = module.adaption_gate
    return found


def read_tensors(model: Llama, config: AdapterConfig, folder: Path) -> dict[str, Tensor]:
    """An adapter's tensors by the names of the base model's checkpoint.

    `X.lora_A.weight` and `X.lora_B.weight` stand beside the layer X; a bias, embedding or head that
    was trained itself has its own key. model: rewritten by `adapt`, its values do not matter.
    Raises CheckpointError as `load_adapter_weights` does.
    """
    return {
        key.removeprefix(_PREFIX).replace(".base_layer.", "."): tensor
        for key, tensor in _fitting(model, config, folder).items()
    }


@torch.no_grad()
def load_adapter_weights(
    model: Llama, config: AdapterConfig, folder: Path, *, own: OwnRows = all_rows
) -> None:
    """Copy an adapter's weights into a model that `adapt` has rewritten with its settings.

    own: what this process keeps of a parameter.

    Raises CheckpointError that lists every missing, extra or misshapen tensor.
    """
    stored = _fitting(model, config, folder)
    parameters = _parameters(model, config)
    for key, parameter in parameters.items():
        copy_rows(*own(parameter), stored[key], 0)
    prefixes = [layer for _, layer in modules_of(model, PrefixAttention)]
    if prefixes:
        for layer, values in zip(prefixes, stored[_PROMPTS].chunk(len(prefixes), 1), strict=True):
            copy_rows(*own(layer.prefix), values.reshape(layer.prefix.shape), 0)


def _fitting(model: Llama, config: AdapterConfig, folder: Path) -> dict[str, Tensor]:
    check_adapter(model, config, folder)
    stored = _read(folder)
    _refuse_untied(_parameters(model, config), stored, folder)
    return stored


def check_adapter(model: Llama, config: AdapterConfig, folder: Path) -> None:
    """Raises CheckpointError that lists every missing, extra or misshapen tensor; reads none."""
    shapes = {key: tuple(p.shape) for key, p in _parameters(model, config).items()}
    prefixes = [layer for _, layer in modules_of(model, PrefixAttention)]
    if prefixes:
        tokens, *rest = prefixes[0].prefix.shape
        shapes[_PROMPTS] = (tokens, len(prefixes) * torch.Size(rest).numel())
    header = read_header(folder)
    remedy = _INCOMPLETE if header.base else ANOTHER_BASE
    refuse_differences(header.shapes, shapes, folder, remedy=remedy)


def _refuse_untied(
    parameters: Mapping[str, Tensor], stored: Mapping[str, Tensor], folder: Path
) -> None:
    """Two keys of one weight must say the same; peft can train them apart."""
    first: dict[int, str] = {}
    for key, parameter in parameters.items():
        other = first.setdefault(id(parameter), key)
        if not torch.equal(stored[other], stored[key]):
            raise CheckpointError(
                f"The adapter in {folder} holds an embedding and a head that differ, but its base"
                " model has one weight for both. Merge it with peft, which separates them."
            )


def _read(folder: Path) -> dict[str, Tensor]:
    path = _weights_file(folder)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read: {error}. Save the adapter again.")


def _weights_file(folder: Path) -> Path:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {WEIGHTS_FILE}."
            " Older adapter_model.bin files are pickles and are not read: load the adapter with"
            " peft and save it again with safe_serialization=True."
        )
    return path


ANOTHER_BASE = "Give the base model that the adapter was made for."
_INCOMPLETE = (
    "The base model is the one that it was trained on, so that the adapter's own files are"
    " incomplete or do not belong together: copy them again from where they were saved, or save"
    " the adapter again."
)
"""For an adapter that tells its base, which `check_base` compares before."""


def refuse_differences(
    stored: dict[str, tuple[int, ...]],
    shapes: dict[str, tuple[int, ...]],
    folder: Path,
    *,
    remedy: str = ANOTHER_BASE,
) -> None:
    """Raises CheckpointError that lists where what is stored is not what the model has."""
    problems = [f"missing: {key}" for key in sorted(shapes.keys() - stored.keys())]
    problems += [f"extra: {key}" for key in sorted(stored.keys() - shapes.keys())]
    problems += [
        f"shape of {key}: {stored[key]} in the file, {shapes[key]} here"
        for key in sorted(shapes.keys() & stored.keys())
        if stored[key] != shapes[key]
    ]
    if problems:
        shown = problems[:20] + ([f"… and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise CheckpointError(
            f"The adapter in {folder} does not fit this model:\n  "
            + "\n  ".join(shown)
            + f"\n{remedy}"
        )
