"""merge and export as commands: what they leave, what they say, and what they refuse."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_recipes.adapters.merged import MergedTensors
from llama_recipes.configs.peft import LlamaAdapterConfig, LoraConfig
from support.exported import copied, save_base, save_trained_adapter
from support.tiny_folders import save_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base):
    return save_trained_adapter(base.parent / "adapter", base)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_merged_model_is_one_that_transformers_and_chat_load(said, adapter, tmp_path):
    out = said("merge", adapter, "--output_dir", tmp_path / "merged", "--dtype", "BF16")
    assert "weights    21 tensors" in out
    assert "updates    14 layers" in out
    assert f"llama-recipes chat {tmp_path / 'merged'}" in out
    assert files(tmp_path) == {"merged"}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert theirs.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    results = json.loads((tmp_path / "merged" / "results.json").read_text())
    assert results == {"prompt_format": "chat"}
    assert said("chat", tmp_path / "merged", "--prompt", "Hi", "--max_new_tokens", 3).strip()


def test_an_adapter_as_gguf(said, adapter, tmp_path):
    target = tmp_path / "new" / "model.gguf"
    out = said("export", adapter, f"--output={target}", "--dtype=Q8_0")
    assert "answers are the same text" in out
    assert files(target.parent) == {"model.gguf"}
    assert said("chat", target, "--prompt", "Hi", "--max_new_tokens", 3).strip()


def test_a_gguf_file_may_be_called_in_capitals(said, base, tmp_path):
    said("export", base, "--output", tmp_path / "MODEL.GGUF", "--dtype", "Q8_0")
    for name in (tmp_path, tmp_path / "MODEL.GGUF"):
        assert said("chat", name, "--prompt", "Hi", "--max_new_tokens", 3).strip()


def test_a_full_model_without_a_comparison(said, base, tmp_path):
    out = said("export", base, f"--output={tmp_path / 'half'}", "--dtype=F16", "--no_compare")
    assert "fresh process" not in out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.float16


def test_a_fault_in_the_writer_is_found_and_nothing_stays(said, adapter, tmp_path, monkeypatch):
    """The process that compares is another one, which the fault is not planted in."""

    def unscaled(self, *args: object, **kwargs: object) -> torch.Tensor:
        self._scale = 1.0
        return read(self, *args, **kwargs)

    read = MergedTensors.read
    monkeypatch.setattr(MergedTensors, "read", unscaled)
    err = said("merge", adapter, "--output_dir", tmp_path / "merged", code=4)
    assert "14 tensors are not the trained ones, rounded to F32" in err
    assert "What was written is not the trained model, and was removed." in err
    assert files(tmp_path) == set()


def test_the_folder_that_one_is_in_has_no_say(said, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inspect.py").write_text("raise SystemExit('this was run')")
    said("export", base, "--output", "model")
    assert (tmp_path / "model" / "config.json").is_file()


def test_the_present_folder_where_it_is_empty(said, base, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said("export", base, "--output", ".", "--no_compare")
    assert "config.json" in files(tmp_path / "here")


def test_a_limit_on_files_is_a_full_disk_to_safetensors(base, tmp_path):
    """It says so with an error of its own, which is no bug of ours either."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        " import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        " from llama_recipes.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["export", str(base), "--output", str(tmp_path / "model"), "--no_compare"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "could not be written" in done.stderr
    assert files(tmp_path) == set()


@pytest.mark.parametrize("target", ["model.gguf", "model"])
def test_a_full_disk_leaves_nothing_half_written(said, base, target, tmp_path, monkeypatch):
    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = "write_gguf" if target.endswith("gguf") else "save_shape"
    monkeypatch.setattr(f"llama_recipes.export.convert.{writer}", full)
    err = said("export", base, "--output", tmp_path / target, code=4)
    assert f"{tmp_path / target} could not be written: No space left on device." in err
    assert "Nothing was left there. Make room" in err
    assert files(tmp_path) == set()


def test_what_a_killed_export_left_is_replaced(said, base, tmp_path):
    left = copied(base, tmp_path / ".draft-999999999-model")
    assert left.is_dir()
    said("export", base, "--output", tmp_path / "model", "--no_compare")
    assert files(tmp_path) == {"model"}


def test_a_place_that_cannot_be_written_to_is_refused_at_once(said, tmp_path):
    (tmp_path / "file").touch()
    for name in ("model", "new/model.gguf"):
        target = tmp_path / "file" / name
        err = said("export", "no-such-model", "--output", target, code=2)
        assert f"--output {target} cannot be written: Not a directory. Name a place" in err


def test_an_export_that_is_asked_to_end_leaves_nothing(said, base, tmp_path, monkeypatch):
    def asked_to_end(*arguments: object, **more: object) -> None:
        assert len(files(tmp_path)) == 1
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("llama_recipes.export.convert.compare_afresh", asked_to_end)
    before = signal.getsignal(signal.SIGTERM)
    assert "Interrupted." in said("export", base, "--output", tmp_path / "model", code=130)
    assert files(tmp_path) == set()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_link_that_leads_nowhere_is_somebody_s(said, base, tmp_path):
    (tmp_path / "model.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    assert "is a link" in said("export", base, "--output", tmp_path / "model.gguf", code=2)
    assert not (tmp_path / "elsewhere.gguf").exists()


def test_a_link_to_an_empty_folder_is_refused_at_once(said, base, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "empty")
    assert "is a link" in said("export", base, "--output", tmp_path / "model", code=2)
    assert files(tmp_path / "empty") == set()


def test_a_comparison_that_fails_by_itself_is_said(said, base, tmp_path, monkeypatch):
    def failing(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 4, stdout="", stderr="Error: The reason.")

    monkeypatch.setattr("llama_recipes.export.fresh_process.subprocess.run", failing)
    err = said("export", base, "--output", tmp_path / "model", code=4)
    assert "could not be compared with the trained model, so it was removed: The reason." in err
    assert files(tmp_path) == set()


def test_a_comparison_that_is_killed_names_the_way_without_it(said, base, tmp_path, monkeypatch):
    def killed(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], -9, stdout="", stderr="")

    monkeypatch.setattr("llama_recipes.export.fresh_process.subprocess.run", killed)
    err = said("export", base, "--output", tmp_path / "model", code=4)
    assert "was ended by signal 9, as it is where memory runs out" in err
    assert "--no_compare" in err
    assert files(tmp_path) == set()


@pytest.mark.parametrize("command", ["merge", "export"])
def test_another_model_is_never_written_over(said, command, adapter, base, tmp_path):
    target = copied(base, tmp_path / "taken")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    flag = "--output_dir" if command == "merge" else "--output"
    err = said(command, adapter, flag, target, code=2)
    assert f"{flag} {target} is not empty, and nothing is written over." in err
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert files(tmp_path) == {"taken"}


def test_an_existing_file_is_never_written_over(said, base, tmp_path):
    target = tmp_path / "model.gguf"
    target.write_text("mine")
    assert "is there already" in said("export", base, "--output", target, code=2)
    assert target.read_text() == "mine"


def test_a_model_that_the_adapter_was_not_made_for(said, adapter, tmp_path):
    """Of the same shape: what tells it is its weights."""
    other = save_base(tmp_path / "other", seed=5)
    err = said("merge", adapter, "--base_model", other, "--output_dir", tmp_path / "merged", code=4)
    assert f"was trained on other weights than those of {other}" in err
    save_tiny_model(tmp_path / "wider", hidden_size=96, intermediate_size=96, head_dim=16)
    saved = copied(adapter, tmp_path / "anonymous")
    _forget_base(saved)
    err = said(
        *("merge", saved, "--base_model", tmp_path / "wider"),
        *("--output_dir", tmp_path / "merged"),
        code=4,
    )
    assert "does not fit this model" in err
    assert not (tmp_path / "merged").exists()


def _forget_base(adapter: Path) -> None:
    """As peft writes it, which knows of no fingerprint."""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})


def test_what_cannot_be_merged(said, base, tmp_path):
    prompts = save_trained_adapter(
        tmp_path / "prompts", base, LlamaAdapterConfig(adapter_len=4, adapter_layers=2)
    )
    target = tmp_path / "merged"
    err = said("merge", prompts, "--output_dir", target, code=4)
    assert "adds prompts to the attention, which no weight of a plain model can hold" in err
    assert "is no adapter: there is nothing to merge" in said(
        "merge", base, "--output_dir", target, code=2
    )
    assert not target.exists()


def test_a_tokenizer_that_is_missing_names_no_flag_of_training(said, base, tmp_path):
    bare = copied(base, tmp_path / "bare")
    for path in bare.glob("tokenizer*"):
        path.unlink()
    err = said("export", bare, "--output", tmp_path / "new", code=4)
    assert "Fetch the tokenizer's files from where the model comes from." in err
    assert "--tokenizer_name" not in err


def test_numbers_beyond_fp16(said, base, tmp_path):
    large = save_trained_adapter(tmp_path / "large", base, LoraConfig(r=1, lora_alpha=2**30))
    err = said("merge", large, "--output_dir", tmp_path / "merged", "--dtype", "F16", code=4)
    assert "holds values beyond the range of float16. Choose --dtype BF16 or F32." in err
    assert files(tmp_path) == {"large"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("consolidated.00.pth", "the weights are pickles (consolidated.00.pth)"),
        ("pytorch_model.bin", "the weights are pickles"),
        ("__0_0.distcp", "is a distributed checkpoint of PyTorch (1 .distcp files)"),
    ],
)
def test_pickles_are_refused_with_the_reason(said, name, words, tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / name).write_bytes(b"\x80\x04.")
    (folder / ".metadata").write_bytes(b"\x80\x04.")
    err = said("export", folder, "--output", tmp_path / "new", code=4)
    assert words in err
    assert "can run code when" in err
    assert "save_pretrained" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["merge"], "No adapter is named."),
        (["merge", "x"], "--output_dir is not given"),
        (["merge", "x", "--output_dir", "y.gguf"], "Use llama-recipes export"),
        (["merge", "x", "--dtype", "Q8_0"], "--dtype is 'Q8_0', but must be one of auto, F32,"),
        (["export"], "No model is named."),
        (["export", "x"], "--output is not given"),
        (["export", "x", "--output", "y", "--dtype", "Q8_0"], "Q8_0 is an encoding of GGUF"),
        (["export", "x", "--outputs", "y"], "Did you mean --output?"),
        (["export", "/no/model", "--output", "y"], "There is no model at /no/model"),
    ],
)
def test_flags_that_are_wrong(said, argv, words):
    assert words in said(*argv, code=4 if "/no/model" in argv else 2)
