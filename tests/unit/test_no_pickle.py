"""Pickles, under every name that a model, adapter, checkpoint or data set may have, are never run.

Each file here touches a canary when it is unpickled.
"""

from __future__ import annotations

import json
import pickle
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch

from llama_recipes.errors import CheckpointError
from llama_recipes.finetuning import main
from llama_recipes.model.source import open_model
from support.tiny import tiny_llama
from support.tiny_folder import jsonl, sums, tiny_folder

MODEL = tiny_llama()


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "was-run"
    yield path
    assert not path.exists()


def plant(path: Path, canary: Path) -> Path:
    """A file of that name as those who make such files write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    elif path.suffix in (".pt", ".pth", ".distcp"):
        torch.save(Bomb(canary), path)
    else:
        path.write_bytes(pickle.dumps(Bomb(canary)))
    return path


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.npy"])
def test_what_is_planted_goes_off(tmp_path, name):
    file, canary = plant(tmp_path / name, tmp_path / "was-run"), tmp_path / "was-run"
    if name == "a.bin":
        pickle.loads(file.read_bytes())
    elif name == "a.pt":
        torch.load(file, weights_only=False)
    else:
        np.load(file, allow_pickle=True)
    assert canary.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pytorch_model.bin", r"pickles \(pytorch_model.bin\), which can run code"),
        ("consolidated.00.pth", r"pickles \(consolidated.00.pth\), which can run code"),
        ("model.pt", r"pickles \(model.pt\), which can run code"),
        ("model.ckpt", r"pickles \(model.ckpt\), which can run code"),
        ("__0_0.distcp", "distributed checkpoint of PyTorch .* metadata is a pickle"),
        ("model.npy", "holds no weights"),
        ("model.safetensors", "cannot be read as safetensors"),
        ("model.gguf", "is not a readable GGUF file"),
    ],
)
def test_a_model(tmp_path, canary, name, words):
    folder = tmp_path / "model"
    plant(folder / name, canary)
    plant(folder / ".metadata", canary)
    (folder / "config.json").write_text(json.dumps(MODEL.config.to_hf()))
    with pytest.raises(CheckpointError, match=words):
        open_model(str(folder))


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.distcp", "a.npy"])
def test_a_model_that_is_one_file(tmp_path, canary, name):
    with pytest.raises(CheckpointError, match=r"which can run code|GGUF"):
        open_model(str(plant(tmp_path / name, canary)))


@pytest.fixture
def flags(tmp_path):
    return [
        *(f"--model_name={tiny_folder(tmp_path / 'model')}", "--use_peft", "--context_length=64"),
        *("--dataset=file_dataset", f"--train_file={jsonl(tmp_path / 'train.jsonl', sums(6))}"),
        *(f"--output_dir={tmp_path / 'result'}", "--batch_size_training=1", "--num_epochs=1"),
        *("--checkpoint_every=2", "--batching_strategy=padding", "--report_samples=0"),
    ]


def test_an_adapter(flags, tmp_path, canary, capsys):
    plant(tmp_path / "adapter" / "adapter_model.bin", canary)
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert main([*flags, f"--from_peft_checkpoint={tmp_path / 'adapter'}"]) == 4
    assert "adapter_model.bin files are pickles and are not read" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt", ".pkl", ".bin"])
def test_data(flags, tmp_path, canary, ending, capsys):
    file = plant(tmp_path / f"data{ending}", canary)
    others = [flag for flag in flags if not flag.startswith("--train_file=")]
    code = main([*others, f"--train_file={file}"])
    said = capsys.readouterr().err
    assert f"{file}: the ending of the file is not known; those that are: .jsonl" in said
    assert code == 3


@pytest.fixture
def checkpoint(flags, tmp_path):
    """Of a run that has made two of its steps."""
    assert main([*flags, "--max_train_step=2"]) == 0
    (checkpoint,) = (tmp_path / "result" / "checkpoints").iterdir()
    return checkpoint


def test_files_of_a_checkpoint_that_nobody_wrote_are_not_opened(flags, checkpoint, canary):
    for name in ("optimizer.pt", "optimizer.bin", "random.npy", ".metadata", "__0_0.distcp"):
        plant(checkpoint / name, canary)
    assert main([*flags, "--resume=auto"]) == 0


def test_an_optimizer_that_was_exchanged_is_refused(flags, checkpoint, canary, capsys):
    plant(checkpoint / "optimizer.safetensors", canary)
    assert main([*flags, f"--resume={checkpoint}"]) == 4
    said = capsys.readouterr().err
    assert "is no whole checkpoint (optimizer.safetensors is not what was written)" in said


def test_an_optimizer_that_was_exchanged_with_its_checksum_is_refused(
    flags, checkpoint, canary, capsys
):
    manifest = checkpoint / "manifest.json"
    sums = json.loads(manifest.read_text())["blake2b"]
    bomb = plant(checkpoint / "optimizer.safetensors", canary).read_bytes()
    sums["optimizer.safetensors"] = blake2b(bomb, digest_size=32).hexdigest()
    manifest.write_text(json.dumps({"blake2b": sums}))
    assert main([*flags, f"--resume={checkpoint}"]) == 4
    assert "optimizer.safetensors is not what a checkpoint's file is" in capsys.readouterr().err


def test_a_checkpoint_of_pytorch_is_none_of_ours(flags, tmp_path, canary, capsys):
    folder = tmp_path / "step-00000002"
    for name in (".metadata", "__0_0.distcp", "optimizer.pt"):
        plant(folder / name, canary)
    assert main([*flags, f"--resume={folder}"]) == 4
    assert f"{folder} is no whole checkpoint" in capsys.readouterr().err


def test_a_tokenizer_beside_pickles(flags, tmp_path, canary):
    """What lies beside the files that are read stays unread."""
    for name in ("tokenizer.pkl", "special_tokens.pt", "training_args.bin", "scheduler.pt"):
        plant(tmp_path / "model" / name, canary)
    assert main([*flags, "--max_train_step=1"]) == 0
