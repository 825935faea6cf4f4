"""Bad input: each gets its exit code and a sentence with the fix, and leaves no half result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llama_recipes.cli.main import main as llama_recipes
from llama_recipes.finetuning import main
from support.tiny_folder import byte_tokenizer, jsonl, sums, tiny_folder


@pytest.fixture(scope="module")
def good_model(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(good_model, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(good_model, tmp_path / "model"))


@pytest.fixture
def data(tmp_path) -> Path:
    return jsonl(tmp_path / "train.jsonl", sums(12))


@pytest.fixture
def said(model, data, tmp_path, capsys):
    """What a run with these flags, changed from those of a good one, ends with and says."""

    def said(*flags: str, code: int) -> str:
        usual = (
            *(f"--model_name={model}", f"--output_dir={tmp_path / 'result'}", "--use_peft"),
            *("--dataset=file_dataset", f"--train_file={data}", "--context_length=128"),
        )
        last = {flag.partition("=")[0]: flag for flag in (*usual, *flags)}
        assert main([flag for flag in last.values() if not flag.endswith("=")]) == code
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert message.startswith(("Error: ", "2 errors:", "3 errors:"))
        return message

    return said


def test_the_run_that_is_broken_below_is_a_good_one(model, data, tmp_path):
    flags = [f"--model_name={model}", f"--output_dir={tmp_path / 'result'}", "--use_peft"]
    flags += ["--dataset=file_dataset", f"--train_file={data}", "--context_length=128"]
    assert main(flags) == 0


# The model: 4


def test_a_model_that_is_not_there(said, model):
    message = said(f"--model_name={model}s", code=4)
    assert f"There is no model at {model}s. Did you mean {model}?" in message
    assert "There is no model at /no/model.gguf" in said("--model_name=/no/model.gguf", code=4)


def test_a_folder_without_weights(said, model):
    (model / "model.safetensors").unlink()
    message = said(code=4)
    assert f"{model} holds no weights: there is no .safetensors and no .gguf file" in message
    assert "Give the folder of a complete model." in message


def test_weights_that_are_pickles(said, model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    message = said(code=4)
    assert "are pickles (pytorch_model.bin), which can run code" in message
    assert "save_pretrained" in message


def test_a_model_of_another_kind(said, model):
    edit(model / "config.json", model_type="mistral")
    assert "The model's type is 'mistral'; the types known here are llama." in said(code=4)


def test_weights_that_do_not_fit_their_configuration_are_listed_at_once(said, model):
    tensors = load_file(model / "model.safetensors")
    tensors["model.extra.weight"] = tensors.pop("model.norm.weight")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :5].contiguous()
    save_file(tensors, model / "model.safetensors")
    done = said(code=4)
    assert "lacks model.norm.weight" in done
    assert "no place for: model.extra.weight" in done
    assert "lm_head.weight is 259×5 and should be 259×32" in done


def test_a_damaged_file(said, model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert "cannot be read as safetensors" in said(code=4)


def test_a_model_without_a_tokenizer(said, model):
    (model / "tokenizer.json").unlink()
    assert f"{model} holds no tokenizer" in said(code=4)
    assert "--tokenizer_name" in said(code=4)


def test_a_model_s_own_tokenizer_with_more_ids_than_the_embedding_has_rows(said, model, data):
    byte_tokenizer(additional_special_tokens=["<|new|>"]).save_pretrained(model)
    jsonl(data, [{"prompt": "a", "completion": "b<|new|>c"}])
    message = said(code=4)
    assert "The tokenizer gives the id 259 ('<|new|>'), but the model's embedding has only 259" in (
        message
    )
    assert "Use the tokenizer that belongs to the model, or name one with new tokens" in message


def test_an_adapter_that_does_not_fit(said, tmp_path, data, capsys):
    other = tiny_folder(tmp_path / "other", num_hidden_layers=3)
    flags = [f"--model_name={other}", "--use_peft", "--dataset=file_dataset", "--num_epochs=1"]
    flags += [f"--train_file={data}", f"--output_dir={tmp_path / 'adapter'}"]
    assert main(flags) == 0
    capsys.readouterr()
    message = said(f"--from_peft_checkpoint={tmp_path / 'adapter'}", code=4)
    assert "was trained on other weights than those of" in message
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(load_file(weights), weights)  # as peft writes it, which knows of no fingerprint
    message = said(f"--from_peft_checkpoint={tmp_path / 'adapter'}", code=4)
    assert "does not fit this model:\n  extra: base_model.model.model.layers.2" in message
    assert "Give the base model that the adapter was made for." in message


def test_an_adapter_with_a_lost_tensor_on_its_own_base(said, model, tmp_path, data, capsys):
    """The base is known to be right, by its fingerprint: it is the file that is not."""
    adapter = tmp_path / "adapter"
    flags = [f"--model_name={model}", "--use_peft", "--dataset=file_dataset", "--num_epochs=1"]
    assert main([*flags, f"--train_file={data}", f"--output_dir={adapter}"]) == 0
    weights = adapter / "adapter_model.safetensors"
    with safe_open(weights, "pt") as file:
        told = file.metadata()
    tensors = load_file(weights)
    lost = next(iter(tensors))
    save_file({key: t for key, t in tensors.items() if key != lost}, weights, metadata=told)
    capsys.readouterr()
    message = said(f"--from_peft_checkpoint={adapter}", code=4)
    assert f"does not fit this model:\n  missing: {lost}\n" in message
    assert "The base model is the one that it was trained on" in message
    assert "copy them again from where they were saved, or save the adapter again." in message
    assert "Give the base model" not in message
    assert llama_recipes(["merge", str(adapter), f"--output_dir={tmp_path / 'merged'}"]) == 4
    assert "save the adapter again." in capsys.readouterr().err


# Settings: 2


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--dataset=samsum"], "--dataset is 'samsum'"),
        (["--dataset=sumsam_dataset"], "Did you mean samsum_dataset?"),
        (["--samsun_dataset.train_split=x"], "--samsun_dataset"),
        (["--lora_config.rr=3"], "--lora_config.rr is no setting."),
        (["--train_file="], "--file_dataset.train_file is not given"),
    ],
)
def test_an_unknown_data_set_section_or_setting(said, flags, problem):
    assert problem in said(*flags, code=2)


def test_kernels_that_are_not_made_for_fp16(said):
    message = said("--use_fp16", "--use_fast_kernels", code=2)
    assert "they are made for fp32 and bf16, and --use_fp16 was given" in message


def test_a_context_longer_than_the_model_s(said):
    message = said("--context_length=257", code=2)
    assert "--context_length is 257, but the model was made for at most 256 tokens." in message
    assert "Give at most 256." in message


def test_a_context_that_was_not_given_is_cut_to_the_model_s(model, data, tmp_path, capsys):
    flags = [f"--model_name={model}", f"--output_dir={tmp_path / 'result'}", "--use_peft"]
    assert main([*flags, "--dataset=file_dataset", f"--train_file={data}", "--num_epochs=1"]) == 0
    assert "context_length is 256, the model's own limit." in capsys.readouterr().out
    assert "  context_length: 256\n" in (tmp_path / "result" / "config.yaml").read_text()


@pytest.mark.parametrize("place", ["file/result", "/proc/result", "/dev/null"])
def test_a_folder_that_cannot_be_written_to(said, place, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / place  # an absolute place stays what it is
    message = said(f"--output_dir={folder}", code=2)
    assert f"--output_dir {folder} cannot be written to: " in message
    assert "Name a folder that you may write to." in message


def test_a_result_is_not_written_over(said, model, data, tmp_path):
    flags = [f"--model_name={model}", "--use_peft", "--dataset=file_dataset", "--num_epochs=1"]
    flags += [f"--train_file={data}", f"--output_dir={tmp_path / 'result'}"]
    assert main(flags) == 0
    before = contents(tmp_path / "result")
    message = said(code=2)
    assert "already holds adapter_model.safetensors, results.json, the result of a run" in message
    assert "Name another folder, or remove this one." in message
    assert contents(tmp_path / "result") == before


def test_a_model_s_own_folder_is_not_written_over(said, model):
    before = contents(model)
    assert "already holds model.safetensors, config.json" in said(f"--output_dir={model}", code=2)
    assert contents(model) == before


def test_a_step_that_does_not_fit_is_said_before_it_is_made(said, monkeypatch, tmp_path):
    monkeypatch.setattr("llama_recipes.running.preflight.available_memory_gib", lambda device: 1e-4)
    message = said(code=2)
    assert "A step needs about 0." in message
    assert "0.0 GiB are left on this device. Lower --context_length" in message
    assert not (tmp_path / "result" / "metrics.jsonl").exists()


# Data: 3


def test_a_data_file_that_is_not_there(said, data):
    message = said(f"--train_file={data.with_name('tran.jsonl')}", code=3)
    assert "no such file or folder; did you mean " in message


def test_an_empty_data_set(said, data):
    data.write_text("")
    assert "train.jsonl holds no rows." in said(code=3)
    data.write_text("\n\n")
    assert "train.jsonl holds no rows." in said(code=3)


def test_a_set_with_no_supervised_token_left(said, data):
    jsonl(data, [{"prompt": "long " * 30, "completion": "x"}] * 3)
    message = said("--context_length=64", code=3)
    assert "no supervised token is left in any of its 3 rows (3 no supervised token)" in message
    assert "Raise --context_length, or check that the rows have answers." in message


def test_a_bad_row_is_named(said, data):
    data.write_text(json.dumps(sums(1)[0]) + "\nnonsense\n")
    message = said(code=3)
    assert "train.jsonl, line 2: not valid JSON" in message
    assert "--on_bad_row skip" in message


def custom(folder: Path, text: str) -> list[str]:
    file = folder / "mine.py"
    file.write_text(text)
    return ["--dataset=custom_dataset", f"--custom_dataset.file={file}", "--train_file="]


def test_a_custom_file_without_the_function(said, tmp_path):
    flags = custom(tmp_path, "def get_dataset(config, tokenizer, split):\n    return []\n")
    message = said(*flags, code=3)
    assert "mine.py has no function get_custom_dataset (it has get_dataset)" in message
    assert "Define it, or name another" in message


def test_a_custom_file_that_is_not_there(said, tmp_path):
    flags = custom(tmp_path, "")
    (tmp_path / "mine.py").unlink()
    assert "mine.py: no such file or folder" in said(*flags, code=3)


def test_an_error_in_the_user_s_function_is_theirs_with_its_line(said, tmp_path):
    text = "def get_custom_dataset(config, tokenizer, split):\n    rows = []\n    return rows[1]\n"
    message = said(*custom(tmp_path, text), code=3)
    assert f"Your file {tmp_path / 'mine.py'}, line 3, in get_custom_dataset: IndexError" in message
    assert "(the line is: return rows[1])" in message


def test_an_error_in_the_user_s_collator_is_theirs_too(said, tmp_path):
    text = (
        "def get_custom_dataset(config, tokenizer, split):\n"
        "    return [{'input_ids': [1, 2], 'labels': [1, 2]}]\n"
        "def get_data_collator(tokenizer):\n"
        "    return lambda samples: samples['input_ids']\n"
    )
    message = said(*custom(tmp_path, text), code=3)
    assert f"Your file {tmp_path / 'mine.py'}, line 4, in <lambda>: TypeError" in message


def test_a_custom_set_that_is_empty_or_has_no_labels(said, tmp_path):
    text = "def get_custom_dataset(config, tokenizer, split):\n    return {}\n"
    empty = text.format("[]")
    assert "the data set is empty" in said(*custom(tmp_path, empty), code=3)
    rows = "[{'input_ids': [1, 2], 'labels': [-100, -100]}]"
    assert "no supervised token is left" in said(*custom(tmp_path, text.format(rows)), code=3)


# Numbers: 5


def test_weights_that_are_not_finite(said, model, tmp_path):
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    message = said(code=5)
    assert "the step was not made and the weights are those of the step before" in message
    first = [f"train.jsonl, line {number}" for number in range(1, 11)]
    assert message.endswith(f"of this step. These are {'; '.join(first)}; and 2 more.\n")
    assert "Lower --lr, switch on --gradient_clipping" in message
    assert not (tmp_path / "result" / "adapter_model.safetensors").exists()


def test_a_rate_that_is_far_too_high_leaves_finite_weights(said, tmp_path):
    flags = ("--lr=1e30", "--num_epochs=20", "--batching_strategy=padding", "--lora_dropout=0")
    message = said(*flags, "--no_mixed_precision", code=5)
    assert "The loss is " in message
    saved = load_file(tmp_path / "result" / "adapter_model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


# What `--debug` adds


def test_debug_shows_the_traceback_too(model, data, tmp_path, capsys):
    flags = [f"--model_name={model}s", f"--output_dir={tmp_path / 'result'}", "--debug"]
    assert main([*flags, "--dataset=file_dataset", f"--train_file={data}"]) == 4
    message = capsys.readouterr().err
    assert message.startswith("Traceback")
    assert "Error: There is no model at " in message


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
