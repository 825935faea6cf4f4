"""A whole run from flags to files, on a tiny model: what the contract says is there afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_recipes.finetuning import main
from support.tiny_folder import byte_tokenizer, jsonl, sums, tiny_folder

STEP_KEYS = [
    *("step", "epoch", "loss", "lr", "grad_norm", "tokens", "supervised_tokens"),
    *("tokens_per_second", "step_seconds", "peak_memory_gib"),
]
EVAL_KEYS = ["step", "eval_loss", "eval_perplexity", "eval_supervised_tokens"]
ORIGINAL_RESULTS = {
    *("avg_train_prep", "avg_train_loss", "avg_eval_prep", "avg_eval_loss", "avg_epoch_time"),
    *("avg_checkpoint_time", "model_tflops", "metrics_filename"),
}
TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    train = jsonl(folder / "train.jsonl", sums(40))
    validation = jsonl(folder / "validation.jsonl", sums(52)[40:])
    return [f"--train_file={train}", f"--validation_file={validation}", "--dataset=file_dataset"]


RECORD = {
    *("config.yaml", "metrics.jsonl", "results.json", "run.json", "samples.json", "report.html")
}
"""What every run leaves that has a folder."""


class Result:
    """What a run left in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {
            str(p.relative_to(folder))
            for p in folder.rglob("*")
            if p.is_file() and "checkpoints" not in p.parts
        } - TOKENIZER_FILES - {"chat_template.jinja"}  # fmt: skip
        metrics = (folder / "metrics.jsonl").read_text().splitlines()
        self.lines = [json.loads(line) for line in metrics]
        self.steps = [line for line in self.lines if "loss" in line]
        self.evaluations = [line for line in self.lines if "eval_loss" in line]
        self.results = json.loads((folder / "results.json").read_text())
        self.config = yaml.safe_load((folder / "config.yaml").read_text())

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.steps]


@pytest.fixture
def run(model, data, tmp_path, capsys):
    """Runs with those of the tiny model and data, changed by these flags; returns what it left."""

    def run(*flags: str, name: str = "result") -> Result:
        folder = tmp_path / name
        usual = (
            *(f"--model_name={model}", *data, f"--output_dir={folder}"),
            *("--context_length=128", "--lr=1e-2", "--num_epochs=2"),
        )
        last = {flag.partition("=")[0]: flag for flag in (*usual, *flags)}
        code = main([flag for flag in last.values() if not flag.endswith("=")])
        assert code == 0, capsys.readouterr().err
        return Result(folder)

    return run


LORA = ("--use_peft", "--target_modules=all-linear")


# The two kinds of result


def test_lora_leaves_the_files_of_the_contract(run, model, capsys):
    result = run(*LORA)
    said = capsys.readouterr().out
    assert result.files == {
        *RECORD,
        *("adapter_config.json", "adapter_model.safetensors"),
    }
    assert {path.name for path in result.folder.iterdir()} >= TOKENIZER_FILES
    assert all(list(line) == STEP_KEYS for line in result.steps)
    assert all(list(line) == EVAL_KEYS for line in result.evaluations)
    assert len(result.evaluations) == 2  # after each epoch
    kept = {path.name for path in (result.folder / "checkpoints").iterdir()}
    assert kept == {f"step-{line['step']:08}" for line in result.evaluations}
    assert result.results.keys() >= ORIGINAL_RESULTS
    assert result.results["stop_reason"] == "all epochs are done"
    assert result.results["steps"] == len(result.steps)
    assert result.results["prompt_format"] == "prompt_completion"
    assert result.losses()[-1] < result.losses()[0]
    assert "trainable params: " in said
    assert f"--> {model} has 0." in said
    assert "--> Training Set Length = 40" in said
    assert "--> Validation Set Length = 12" in said
    assert "--> Num of Training Set Batches loaded = " in said
    assert "Epoch 2: train_perplexity=" in said
    assert "best eval loss on step " in said
    assert f"The result is saved in {result.folder}" in said


def test_the_adapter_loads_in_peft_and_learnt_what_the_log_says(run, model, data):
    result = run(*LORA, "--no_mixed_precision", "--batching_strategy=padding")
    base = AutoModelForCausalLM.from_pretrained(model)
    tuned = peft.PeftModel.from_pretrained(base, result.folder)
    validation = Path(data[1].partition("=")[2])
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    total, tokens = 0.0, 0
    for row in map(json.loads, validation.read_text().splitlines()):
        prompt, answer = (
            tokenizer(row[name], add_special_tokens=False).input_ids
            for name in ("prompt", "completion")
        )
        answer = [*answer, tokenizer.eos_token_id]
        ids = torch.tensor([[tokenizer.bos_token_id, *prompt, *answer]])
        labels = torch.tensor([[-100] * (1 + len(prompt)) + answer])
        with torch.no_grad():
            total += tuned(ids, labels=labels).loss.item() * len(answer)
        tokens += len(answer)
    best = min(result.evaluations, key=lambda line: line["eval_loss"])
    assert tokens == best["eval_supervised_tokens"]
    assert total / tokens == pytest.approx(best["eval_loss"], rel=1e-5)


def test_a_full_run_leaves_a_model_that_transformers_loads(run):
    result = run("--lr=1e-3", "--no_mixed_precision")
    assert result.files == {
        *RECORD,
        *("config.json", "generation_config.json", "model.safetensors"),
    }
    assert result.losses()[-1] < result.losses()[0]
    theirs = AutoModelForCausalLM.from_pretrained(result.folder)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    ids = tokenizer("7 + 11 =", return_tensors="pt").input_ids
    assert torch.isfinite(theirs(ids).logits).all()
    assert tokenizer.get_vocab() == byte_tokenizer().get_vocab()


def test_the_result_of_a_full_run_is_a_model_to_go_on_from(run, model):
    first = run("--lr=1e-3", "--num_epochs=1", "--no_mixed_precision", name="first")
    second = run(f"--model_name={first.folder}", "--lr=1e-30", "--num_epochs=1",
                 "--no_mixed_precision", name="second")  # fmt: skip
    assert second.evaluations[-1]["eval_loss"] == pytest.approx(
        first.evaluations[-1]["eval_loss"], rel=1e-6
    )


def test_an_adapter_goes_on_from_another_with_its_settings(run, capsys):
    first = run("--use_peft", "--r=3", "--lora_alpha=6", "--no_mixed_precision", name="first")
    second = run("--use_peft", f"--from_peft_checkpoint={first.folder}", "--lr=1e-30",
                 "--no_mixed_precision", name="second")  # fmt: skip
    assert "has its own settings: r=3, lora_alpha=6" in capsys.readouterr().out
    assert second.config["lora_config"]["r"] == 3
    assert second.evaluations[0]["eval_loss"] == pytest.approx(
        first.evaluations[-1]["eval_loss"], rel=1e-6
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--r=4"], "--lora_config.r is 4, but the adapter in {} was made with 3."),
        (["--peft_method=prefix"], "--peft_method is prefix, but the adapter in {} is of the kind"),
        (["--model_name={other}"], "The adapter in {} was trained on other weights than those"),
    ],
)
def test_an_adapter_that_contradicts_the_flags_is_refused(run, data, flags, said, tmp_path, capsys):
    first = run("--use_peft", "--r=3", "--lora_alpha=6", name="first")
    other = tiny_folder(tmp_path / "other", num_hidden_layers=3)
    usual = [f"--model_name={first.config['train_config']['model_name']}", *data, "--use_peft"]
    usual += [f"--from_peft_checkpoint={first.folder}", f"--output_dir={tmp_path / 'second'}"]
    last = {flag.partition("=")[0]: flag.format(other=other) for flag in (*usual, *flags)}
    capsys.readouterr()
    assert main(list(last.values())) == (4 if "weights" in said else 2)
    assert said.format(first.folder) in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("second/*.safetensors"))


def test_a_tilde_is_the_home_folder(run, monkeypatch, tmp_path):
    """A shell leaves it as it is where it stands behind an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    run(*LORA, "--num_epochs=1", name="first")
    flags = (*LORA, "--num_epochs=1", "--from_peft_checkpoint=~/first")
    monkeypatch.chdir(tmp_path)
    run(*flags, "--output_dir=~/second", name="second")
    assert not (tmp_path / "~").exists()


# What is the same, and what is not


@pytest.mark.parametrize("flags", [LORA, ("--lr=1e-3",)], ids=["lora", "full"])
def test_config_yaml_fed_back_gives_the_same_bytes(run, flags, tmp_path, capsys):
    first = run(*flags, "--lr_scheduler=cosine", name="first")
    again = tmp_path / "again"
    code = main([f"--config={first.folder / 'config.yaml'}", f"--output_dir={again}"])
    assert code == 0, capsys.readouterr().err
    name = "adapter_model.safetensors" if flags is LORA else "model.safetensors"
    assert (again / name).read_bytes() == (first.folder / name).read_bytes()
    assert Result(again).losses() == first.losses()
    first.config["train_config"]["output_dir"] = str(again)
    assert Result(again).config == first.config


@pytest.mark.parametrize("flags", [("--seed=7",), ("--lora_dropout=0.5",)])
def test_the_seed_and_the_dropout_change_the_run(run, flags):
    assert run(*LORA).losses() != run(*LORA, *flags, name="other").losses()


def test_workers_change_nothing(run):
    losses = [run(*LORA, f"--num_workers_dataloader={n}", name=f"{n}").losses() for n in (0, 3)]
    assert losses[0] == losses[1]


def test_packing_and_padding_give_one_loss_where_a_step_is_the_whole_set(run):
    """In fp32, and within rounding: the same documents, laid out in another way."""
    flags = (*LORA, "--lora_dropout=0", "--no_mixed_precision", "--batch_size_training=64")
    packed, padded = (
        run(*flags, f"--batching_strategy={name}", name=name) for name in ("packing", "padding")
    )
    assert packed.losses() == pytest.approx(padded.losses(), rel=1e-5)
    assert [line["tokens"] for line in packed.steps] == [line["tokens"] for line in padded.steps]
    assert packed.evaluations[-1]["eval_loss"] == pytest.approx(
        padded.evaluations[-1]["eval_loss"], rel=1e-5
    )


def test_mixed_precision_is_near_fp32_and_its_trained_weights_are_fp32(run):
    flags = (*LORA, "--lora_dropout=0")
    mixed, exact = run(*flags), run(*flags, "--no_mixed_precision", name="fp32")
    assert mixed.losses() == pytest.approx(exact.losses(), rel=0.05)
    tensors = load_file(mixed.folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_accumulation_makes_fewer_steps_of_the_same_tokens(run):
    flags = (*LORA, "--batching_strategy=padding", "--batch_size_training=4")
    ten, four = run(*flags), run(*flags, "--gradient_accumulation_steps=3", name="three")
    assert (len(ten.steps), len(four.steps)) == (20, 8)
    assert ten.steps[-1]["tokens"] == four.steps[-1]["tokens"]


# When it evaluates, stops and saves


def test_eval_every_and_max_train_step(run):
    result = run(*LORA, "--eval_every=2", "--max_train_step=5", "--batching_strategy=padding")
    assert [line["step"] for line in result.evaluations] == [2, 4, 5]
    assert result.results["stop_reason"] == "max_train_step=5 is reached"
    assert result.results["steps"] == 5


def test_the_best_stands_in_the_folder_and_the_last_beside_it(run, model, data):
    """A rate so high that the loss rises again."""
    result = run(
        *(*LORA, "--lr=0.3", "--num_epochs=30", "--eval_every=1", "--early_stopping_patience=2"),
        *("--no_mixed_precision", "--lora_dropout=0"),
    )
    evaluated = {line["step"]: line["eval_loss"] for line in result.evaluations}
    best = min(evaluated, key=evaluated.get)
    assert result.results["best_step"] == best
    assert result.results["best_eval_loss"] == evaluated[best]
    assert result.results["stop_reason"].endswith("(early stopping)")
    assert result.results["steps"] == best + 2
    assert "last/adapter_model.safetensors" in result.files
    for folder, step in ((result.folder, best), (result.folder / "last", best + 2)):
        again = run("--use_peft", f"--from_peft_checkpoint={folder}", "--lr=1e-30",
                    "--max_train_step=1", "--no_mixed_precision", name=f"step-{step}")  # fmt: skip
        assert again.evaluations[0]["eval_loss"] == pytest.approx(evaluated[step], rel=1e-5)


def test_without_saving_only_the_record_is_left(run):
    result = run(*LORA, "--no_save_model")
    assert result.files == RECORD
    assert {path.name for path in result.folder.iterdir()}.isdisjoint(TOKENIZER_FILES)
    assert result.results["avg_checkpoint_time"] is None


def test_without_a_folder_nothing_is_left(model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([f"--model_name={model}", *data, *LORA, "--no_save_model", "--num_epochs=1"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_without_validation_the_last_weights_are_the_result(run):
    result = run(*LORA, "--no_run_validation")
    assert result.evaluations == []
    assert "adapter_model.safetensors" in result.files
    assert not any(name.startswith("last/") for name in result.files)
    assert result.results["avg_eval_loss"] is None


def test_a_share_of_the_training_file_can_be_held_out(run, data, tmp_path, capsys):
    result = run(*LORA, "--validation_file=", "--validation_fraction=0.25")
    said = capsys.readouterr().out
    assert "--> Training Set Length = 30" in said
    assert "--> Validation Set Length = 10" in said
    assert len(result.evaluations) == 2


# A data set of one's own

CUSTOM = """
def get_custom_dataset(config, tokenizer, split):
    texts = [f"{i} is {i}" for i in range(12 if split == "train" else 4)]
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    return [{"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)} for ids in rows]


def get_data_collator(tokenizer):
    def collate(samples):
        longest = max(len(sample["input_ids"]) for sample in samples)

        def filled(name, fill):
            return [s[name] + [fill] * (longest - len(s[name])) for s in samples]

        labels = filled("labels", -100)
        return {
            "input_ids": filled("input_ids", tokenizer.pad_token_id),
            # Only the last token of each row is left to be learnt.
            "labels": [
                [l if i == len(s["labels"]) - 1 else -100 for i, l in enumerate(row)]
                for s, row in zip(samples, labels)
            ],
            "attention_mask": filled("attention_mask", 0),
        }

    return collate
"""


@pytest.mark.parametrize("strategy", ["packing", "padding"])
def test_a_custom_data_set_with_a_collator(run, tmp_path, strategy):
    file = tmp_path / "mine.py"
    file.write_text(CUSTOM)
    result = run(
        *(*LORA, "--dataset=custom_dataset", f"--custom_dataset.file={file}"),
        f"--batching_strategy={strategy}",
    )
    assert result.steps[-1]["supervised_tokens"] == 2 * 12
    assert result.evaluations[-1]["eval_supervised_tokens"] == 4
    assert result.losses()[-1] < result.losses()[0]
    assert result.results["prompt_format"] == "tokens"


def test_outputs_of_frozen_layers_are_kept_and_change_nothing(run, capsys, monkeypatch):
    flags = ("--freeze_layers", "--num_freeze_layers=1", "--no_mixed_precision")
    kept = run(*flags, name="kept")
    assert "The outputs of the 1 frozen layers are kept for the next epochs" in (
        capsys.readouterr().out
    )
    monkeypatch.setattr(
        "llama_recipes.training.frozen_outputs.fits", lambda needed, available: False
    )
    anew = run(*flags, name="anew")
    assert "they are computed anew in every epoch" in capsys.readouterr().out
    assert kept.losses() == anew.losses()
    assert kept.evaluations == anew.evaluations
    run(*flags, "--num_epochs=1", name="once")
    assert "frozen layers" not in capsys.readouterr().out
