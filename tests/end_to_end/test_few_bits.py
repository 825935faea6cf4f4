"""An adapter of a base in few bits: with it goes how, and where it does not, that is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llama_recipes.cli import evaluation
from llama_recipes.cli.main import main
from llama_recipes.parallel import device
from support.exported import SHAPE
from support.tiny_folder import jsonl, sums, tiny_folder

FP4 = ("--quantization=4bit", "--quantization_config.quant_type=fp4")
UNTOLD = "Nothing says how the base was kept when the adapter in"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _exactly(monkeypatch):
    """In fp32 and with PyTorch's operations, whatever this machine would choose."""
    monkeypatch.setattr(evaluation, "has_bf16", lambda device: False)
    monkeypatch.setattr(device, "has_bf16", lambda device: False)
    monkeypatch.setattr(evaluation.preflight, "use_kernels", lambda *args, **settings: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base, and an adapter that was trained on it in 4 bits (fp4)."""
    folder = tmp_path_factory.mktemp("few_bits")
    tiny_folder(folder / "base", **SHAPE)
    jsonl(folder / "train.jsonl", sums(24))
    assert main(["train", *flags(folder), *FP4, f"--output_dir={folder / 'run'}"]) == 0
    return folder


def flags(folder: Path, lr: str = "1e-2") -> list[str]:
    return [
        *(f"--model_name={folder / 'base'}", "--use_peft", "--target_modules=all-linear"),
        *("--dataset=file_dataset", f"--train_file={folder / 'train.jsonl'}", f"--lr={lr}"),
        *("--validation_fraction=0.25", "--num_epochs=1", "--no_mixed_precision"),
    ]


@pytest.fixture
def said(ran):
    """What a command writes, all of it, in one line."""

    def said(*argv: object, code: int = 0) -> str:
        output, errors = ran(*argv, code=code)
        return " ".join((errors if code else output + errors).split())

    return said


def copied(run: Path, to: Path, *, with_record: bool) -> Path:
    """The adapter and its tokenizer alone, as one hands them on; or as peft would have written."""
    to.mkdir()
    for path in run.iterdir():
        if path.name.startswith("adapter_") or "token" in path.name or "chat" in path.name:
            shutil.copy(path, to)
    if not with_record:
        save_file(load_file(to / WEIGHTS), to / WEIGHTS, metadata={"format": "pt"})
    return to


@pytest.fixture(scope="module")
def merged(folder) -> bytes:
    """The weights of the run's own merged model."""
    target = folder / "merged"
    assert main(["merge", str(folder / "run"), f"--output_dir={target}", "--no_compare"]) == 0
    return (target / "model.safetensors").read_bytes()


def test_an_adapter_without_its_run_is_merged_into_what_it_was_trained_on(
    said, folder, merged, tmp_path
):
    bare = copied(folder / "run", tmp_path / "bare", with_record=True)
    out = said("merge", bare, "--output_dir", tmp_path / "merged", "--no_compare")
    assert "The base was kept in 4 bits in training" in out
    assert UNTOLD not in out
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == merged


def test_an_adapter_that_does_not_tell_is_merged_as_the_flags_say(said, folder, merged, tmp_path):
    mute = copied(folder / "run", tmp_path / "mute", with_record=False)
    out = said("merge", mute, "--output_dir", tmp_path / "plain", "--no_compare")
    assert f"{UNTOLD} {mute} was trained: it is taken as it is, not quantised." in out
    assert "say so with --quantization" in out
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() != merged
    out = said("merge", mute, *FP4, "--output_dir", tmp_path / "right")
    assert UNTOLD not in out
    assert "6 of 6 answers are the same text" in out
    assert (tmp_path / "right" / "model.safetensors").read_bytes() == merged
    out = said("export", mute, "--no_quantization", "--output", tmp_path / "as", "--no_compare")
    assert UNTOLD not in out


def test_an_older_adapter_is_as_its_results_say(said, folder, merged, tmp_path):
    older = copied(folder / "run", tmp_path / "older", with_record=False)
    shutil.copy(folder / "run" / "results.json", older)
    out = said("merge", older, "--output_dir", tmp_path / "merged", "--no_compare")
    assert UNTOLD not in out
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == merged


@pytest.mark.parametrize("command", ["merge", "export", "chat", "evaluate"])
def test_another_base_than_that_of_the_record_is_refused(said, command, folder, tmp_path):
    more = {
        "merge": ["--output_dir", tmp_path / "new"],
        "export": ["--output", tmp_path / "new"],
        "chat": ["--prompt", "Hi"],
        "evaluate": [],
    }
    given = (folder / "run", *more[command])
    for other in (["--quantization"], ["--quantization", "4bit"], ["--quantization=False"]):
        err = said(command, *given, *other, code=2)
        assert f"the adapter in {folder / 'run'} was trained on one kept in 4 bits (fp4)" in err
        assert "give --quantization 4bit --quantization_config.quant_type fp4" in err
    err = said(command, *given, "--quant_type", "fp4", code=2)
    assert "--quant_type has no effect without --quantization 4bit: leave it out." in err
    assert not (tmp_path / "new").exists()


def test_only_an_adapter_s_base_is_exported_out_of_few_bits(said, folder, tmp_path):
    err = said(
        "export", folder / "base", "--quantization", "8bit", "--output", tmp_path / "x", code=2
    )
    assert "--quantization says how the base under an adapter was kept, but" in err


def test_chat_warns_where_nothing_tells_and_takes_the_flags(said, folder, tmp_path):
    mute = copied(folder / "run", tmp_path / "mute", with_record=False)
    asked = ("--prompt", "1 + 2 =", "--prompt_format", "prompt_completion", "--max_new_tokens", 4)
    right = said("chat", folder / "run", *asked)
    out = said("chat", mute, *asked)
    assert f"Warning: {UNTOLD} {mute} was trained: it is taken as it is, not quantised." in out
    assert said("chat", mute, *asked, "--quantization", "4bit", "--quant_type", "fp4") == right
    assert "Warning" not in said("chat", folder / "base", *asked, "--quantization", "8bit")


def losses(said, tmp_path, *argv: object) -> tuple[list[dict], str]:
    file = tmp_path / "figures.json"
    file.unlink(missing_ok=True)
    out = said("evaluate", *argv, "--no_generate", "--output_file", file)
    return json.loads(file.read_text())["models"], out


def test_a_base_is_measured_in_few_bits(said, folder, tmp_path):
    """Its loss is that of the plain model with the weights that the few bits stand for."""
    untrained = tmp_path / "untrained"
    assert main(["train", *flags(folder, "1e-30"), *FP4, f"--output_dir={untrained}"]) == 0
    said("merge", untrained, "--output_dir", tmp_path / "dense", "--dtype", "F32", "--no_compare")
    config = f"--config={folder / 'run' / 'config.yaml'}"
    (dense,), _ = losses(said, tmp_path, tmp_path / "dense", config)
    (few,), out = losses(said, tmp_path, folder / "base", config, *FP4)
    (plain,), _ = losses(said, tmp_path, folder / "base", config)
    assert few["loss"] == pytest.approx(dense["loss"], rel=1e-5)
    assert few["loss"] != pytest.approx(plain["loss"], rel=1e-4)
    assert few["quantization"]["quant_type"] == "fp4"
    assert plain["quantization"] is None
    assert f"{folder / 'base'}: the base was kept in 4 bits (fp4)." in out

    (base, tuned), _ = losses(said, tmp_path, folder / "run", "--compare_with=base", *FP4)
    assert base["loss"] == few["loss"]
    (as_it_is, again), _ = losses(said, tmp_path, folder / "run", "--compare_with=base")
    assert (as_it_is["loss"], again["loss"]) == (plain["loss"], tuned["loss"])
    (_, other), _ = losses(
        said, tmp_path, folder / "run", f"--compare_with={folder / 'base'}", *FP4
    )
    assert other["loss"] == few["loss"]


def test_evaluate_warns_where_nothing_tells(said, folder, tmp_path):
    mute = copied(folder / "run", tmp_path / "mute", with_record=False)
    config = f"--config={folder / 'run' / 'config.yaml'}"
    (right,), _ = losses(said, tmp_path, folder / "run")
    (plain,), out = losses(said, tmp_path, mute, config)
    assert f"Warning: {UNTOLD}" in out
    assert plain["loss"] != right["loss"]
    (told,), out = losses(said, tmp_path, mute, config, *FP4)
    assert "Warning" not in out
    assert told["loss"] == right["loss"]


def test_a_width_that_4_bits_cannot_be_cut_into_is_said_before_anything_is_measured(
    said, folder, tmp_path
):
    narrow = tiny_folder(tmp_path / "narrow")
    config = f"--config={folder / 'run' / 'config.yaml'}"
    given = (folder / "base", config, f"--compare_with={narrow}", "--quantization=4bit")
    err = said("evaluate", *given, "--no_generate", code=4)
    assert "it takes a multiple of 64" in err


# Going on with it


def test_going_on_takes_the_base_as_it_was(said, folder, tmp_path):
    going_on = [*flags(folder), f"--from_peft_checkpoint={folder / 'run'}"]
    out = said("train", *going_on, f"--output_dir={tmp_path / 'on'}")
    assert f"The base is kept in 4 bits (fp4), as when the adapter in {folder / 'run'} was" in out
    assert "Base: 4 bits (fp4); its frozen weights take" in out
    settings = (tmp_path / "on" / "config.yaml").read_text()
    assert "quantization: 4bit" in settings
    assert "quant_type: fp4" in settings
    out = said("train", *going_on, *FP4, f"--output_dir={tmp_path / 'same'}")
    assert "as when the adapter" not in out
    (one, other) = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("on", "same"))
    assert one == other


@pytest.mark.parametrize(
    ("other", "flag"),
    [
        (["--quantization"], "--quantization is True"),
        (["--quantization=False"], "--quantization is False"),
        (["--quantization=4bit", "--quant_type=nf4"], "--quantization_config.quant_type is nf4"),
        ([*FP4, "--use_double_quant"], "--quantization_config.use_double_quant is True"),
    ],
)
def test_going_on_with_another_base_is_refused(said, other, flag, folder, tmp_path):
    going_on = [*flags(folder), f"--from_peft_checkpoint={folder / 'run'}", *other]
    err = said("train", *going_on, f"--output_dir={tmp_path / 'on'}", code=2)
    assert (
        f"{flag}, but the adapter in {folder / 'run'} was trained on a base kept in 4 bits" in err
    )
    assert "Leave the flag out, give --quantization 4bit" in err
    assert not (tmp_path / "on").exists()


def test_going_on_where_nothing_tells_is_said(said, folder, tmp_path):
    mute = copied(folder / "run", tmp_path / "mute", with_record=False)
    going_on = [*flags(folder), f"--from_peft_checkpoint={mute}"]
    assert f"{UNTOLD} {mute}" in said("train", *going_on, f"--output_dir={tmp_path / 'plain'}")
    assert UNTOLD not in said("train", *going_on, *FP4, f"--output_dir={tmp_path / 'right'}")


# results.json


def test_a_damaged_results_json_leads_to_no_wrong_model(said, folder, tmp_path):
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    (run / "results.json").write_text("{")
    err = said("merge", run, "--output_dir", tmp_path / "merged", code=4)
    assert "results.json is not valid JSON" in err
    assert (
        "Put back the file that the run wrote, or remove it. Without it llama-recipes chat" in err
    )
    assert "--quantization" not in err
    mute = copied(run, tmp_path / "mute", with_record=False)
    (mute / "results.json").write_text("{")
    for command in (["merge", mute, "--output_dir", tmp_path / "merged"], ["evaluate", mute]):
        config = [f"--config={run / 'config.yaml'}"] if command[0] == "evaluate" else []
        err = said(*command, *config, code=4)
        assert "and every command --quantization, to keep the base as in training" in err
    going_on = [*flags(folder), f"--from_peft_checkpoint={mute}"]
    err = said("train", *going_on, f"--output_dir={tmp_path / 'on'}", code=4)
    assert "results.json is not valid JSON" in err
