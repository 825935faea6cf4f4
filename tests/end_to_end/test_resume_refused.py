"""Resuming refuses what is not the same run, names it, and says what to do; a signal is heeded."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

import pytest

from llama_recipes.errors import CheckpointError
from llama_recipes.finetuning import main
from llama_recipes.training import checkpointer
from support.chat_tokenizers import CHATML
from support.tiny_folder import byte_tokenizer, jsonl, sums, tiny_folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny_folder(folder / "model")
    tiny_folder(folder / "other_model", seed=3)
    byte_tokenizer(eos_token="<|pad|>").save_pretrained(folder / "other_tokenizer")
    byte_tokenizer(chat_template=CHATML + "!").save_pretrained(folder / "other_template")
    byte_tokenizer(chat_template=None).save_pretrained(folder / "no_template")
    jsonl(folder / "train.jsonl", sums(12))
    jsonl(folder / "other.jsonl", sums(12)[1:])
    return folder


def usual(inputs: Path, folder: Path) -> list[str]:
    flags = f"--model_name={inputs / 'model'} --dataset=file_dataset --context_length=128"
    flags += f" --train_file={inputs / 'train.jsonl'} --batch_size_training=2 --use_peft"
    flags += f" --batching_strategy=padding --checkpoint_every=2 --output_dir={folder}"
    return flags.split()


@pytest.fixture
def started(inputs, tmp_path):
    """The folder of a run that has made four steps."""
    assert main([*usual(inputs, tmp_path / "result"), "--max_train_step=4"]) == 0
    return tmp_path / "result"


@pytest.fixture
def said(inputs, started, capsys):
    def said(*flags: str, code: int = 2) -> str:
        given = [flag.format(inputs=inputs) for flag in flags]
        words = [*usual(inputs, started), "--resume=auto", *given]
        last = {word.partition("=")[0]: word for word in words}
        capsys.readouterr()
        assert main(list(last.values())) == code
        output = capsys.readouterr()
        return output.err if code else output.out

    return said


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--lr=3e-4", "--lr is 0.0003, and was 0.0001 in"),
        ("--batch_size_training=3", "--batch_size_training is 3, and was 2 in"),
        ("--context_length=64", "--context_length is 64, and was 128 in"),
        ("--seed=7", "--seed is 7, and was 42 in"),
        ("--lora_config.r=4", "--lora_config.r is 4, and was 8 in"),
        ("--quantization=8bit", "--quantization is 8bit, and was False in"),
    ],
)
def test_drift_is_named_and_refused(said, started, flag, words):
    def held():
        return {name: (started / name).read_bytes() for name in ("config.yaml", "metrics.jsonl")}

    before = held()
    message = said(flag)
    assert words in message
    assert held() == before  # the report's command goes on with config.yaml
    assert "--resume_with_changes to go on all the same" in message


ID = r"[0-9a-f]{8}"


@pytest.mark.parametrize(
    ("flag", "what", "now", "then"),
    [
        (
            "--train_file={inputs}/other.jsonl",
            "training data",
            rf"{ID} \(11 documents of {{inputs}}/other\.jsonl\)",
            rf"{ID} \(12 documents of {{inputs}}/train\.jsonl\)",
        ),
        (
            "--model_name={inputs}/other_model",
            "model",
            rf"{ID} \({{inputs}}/other_model\)",
            rf"{ID} \({{inputs}}/model\)",
        ),
        (
            "--tokenizer_name={inputs}/other_tokenizer",
            "tokenizer",
            rf"{ID} \({{inputs}}/other_tokenizer\)",
            rf"{ID} \({{inputs}}/model\)",
        ),
        (
            "--tokenizer_name={inputs}/other_template",
            "chat template",
            rf"{ID} \({{inputs}}/other_template\)",
            rf"{ID} \({{inputs}}/model\)",
        ),
        (
            "--tokenizer_name={inputs}/no_template",
            "chat template",
            r"none \({inputs}/no_template\)",
            rf"{ID} \({{inputs}}/model\)",
        ),
    ],
)
def test_an_input_that_is_another_is_named_with_what_it_was(
    said, inputs, started, flag, what, now, then
):
    message = said(flag)
    words = rf"The {what} is {now}, and was {then} in ".replace("{inputs}", re.escape(str(inputs)))
    assert re.search(words + re.escape(str(started)), message), message
    # A template is told apart from its tokenizer, of which another one makes other data too.
    named = set(re.findall(r"The ([a-z ]+) is \S+ \(", message))
    assert named == {what} | ({"training data"} if what == "tokenizer" else set())
    assert "--resume_with_changes to go on all the same" in message


def test_a_checkpoint_of_an_older_version_is_read(said, started, inputs):
    """It does not say where inputs came from, and knows fewer settings."""
    for path in started.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())
        was = state["identity"]["inputs"]
        was["tokenizer"]["id"] = was["tokenizer"]["with template"]
        del was["chat template"]
        state["identity"]["inputs"] = {name: one["id"] for name, one in was.items()}
        del state["identity"]["settings"]["train_config.truncation"]
        path.write_text(json.dumps(state))
        manifest = path.with_name("manifest.json")
        sums = json.loads(manifest.read_text())
        sums["blake2b"]["state.json"] = blake2b(path.read_bytes(), digest_size=32).hexdigest()
        manifest.write_text(json.dumps(sums))
    drift = said(f"--tokenizer_name={inputs / 'other_template'}", "--max_train_step=6")
    assert re.search(rf"The tokenizer is {ID} \(.*\), and was {ID} in", drift)
    assert "--truncation is drop, and was end in" in said("--truncation=drop")
    assert "Going on after step 4" in said("--max_train_step=6", code=0)


def test_an_optimizer_s_state_of_some_weights_alone_is_refused(
    inputs, tmp_path, monkeypatch, capsys
):
    def without_one(*arguments):
        tensors = tensors_of(*arguments)
        missing.append(min(tensors["optimizer"]).partition("|")[0])
        moments = tensors["optimizer"].items()
        rest = {key: piece for key, piece in moments if not key.startswith(missing[0])}
        return tensors | {"optimizer": rest}

    missing, tensors_of = [], checkpointer.tensors_of
    flags = usual(inputs, tmp_path / "result")
    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "tensors_of", without_one)
        assert main([*flags, "--max_train_step=4"]) == 0
    assert main([*flags, "--resume=auto", "--max_train_step=6"]) == CheckpointError.exit_code
    refused = capsys.readouterr().err
    assert f"no optimizer's state of 1 trained weights ({missing[0]})" in refused


def test_who_means_it_goes_on(said):
    out = said("--lr=3e-4", "--resume_with_changes", "--max_train_step=6", code=0)
    assert "Warning: --lr is 0.0003, and was 0.0001" in out
    assert "Going on after step 4" in out


def test_a_new_run_does_not_write_over_checkpoints(inputs, started, capsys):
    for path in started.iterdir():
        if path.is_file():
            path.unlink()
    assert main(usual(inputs, started)) == 2
    said = "holds checkpoints of a run that came to its end, which are not written over: name"
    assert said in capsys.readouterr().err
    shutil.rmtree(started / "checkpoints" / "step-00000004")
    assert main(usual(inputs, started)) == 2
    said = "holds checkpoints of a run that did not end. Go on with it with --resume auto, name"
    assert said in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there(said):
    assert "--resume is '/no/where', which is no folder." in said("--resume=/no/where")


def test_nothing_whole_to_go_on_from(said, started):
    for manifest in started.rglob("manifest.json"):
        manifest.unlink()
    message = said(code=4)
    assert "None of the checkpoints in" in message
    assert "Remove them to start anew." in message


def test_auto_starts_anew_where_there_is_nothing(inputs, tmp_path):
    flags = [*usual(inputs, tmp_path / "new"), "--resume=auto", "--max_train_step=2"]
    assert main(flags) == 0
    assert (tmp_path / "new" / "checkpoints" / "step-00000002").is_dir()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_saves_and_ends_with_75(name, inputs, tmp_path):
    folder = tmp_path / "result"
    flags = [*usual(inputs, folder), "--num_epochs=1000", "--checkpoint_every=100000"]
    last = {flag.partition("=")[0]: flag for flag in flags}
    command = [sys.executable, "-m", "llama_recipes.finetuning", *last.values()]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not (metrics.exists() and metrics.read_text().count("\n") > 2):
            assert run.poll() is None, run.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(run.pid, getattr(signal, name))
        _, error = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 75
    assert f"Stopped by {name} after step" in error
    assert "Run the same command again with --resume auto." in error
    assert "Traceback" not in error
    (checkpoint,) = (folder / "checkpoints").iterdir()
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert int(checkpoint.name.removeprefix("step-")) == steps[-1]
    assert json.loads((folder / "results.json").read_text())["stop_reason"] == f"stopped by {name}"
