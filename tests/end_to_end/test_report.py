"""The report of real runs: the same as the one made anew, and readable in a browser."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llama_recipes.cli.main import main
from llama_recipes.monitoring.report import tracker
from llama_recipes.monitoring.report.commands import recipes
from llama_recipes.monitoring.report.files import read_run
from llama_recipes.training import samples as asking
from llama_recipes.training.interruption import Interruption, StopRequested
from support.chromium import Browser, needs_chromium
from support.tiny_folder import jsonl, sums, tiny_folder

LORA = ("--use_peft", "--lora_dropout=0.2", "--lora_config.target_modules=all-linear")
TIMES = ("step_seconds", "tokens_per_second", "peak_memory_gib")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    rows = sums(120)
    return (
        "train",
        f"--model_name={tiny_folder(folder / 'model')}",
        "--dataset=file_dataset",
        f"--train_file={jsonl(folder / 'train.jsonl', rows[:100])}",
        f"--validation_file={jsonl(folder / 'validation.jsonl', rows[100:])}",
        *("--context_length=256", "--batch_size_training=1", "--num_epochs=7", "--lr=1e-2"),
        "--report_samples=2",
    )


def run(inputs, folder: Path, *flags: str) -> int:
    words = [*inputs, f"--output_dir={folder}", *flags]
    last = {word.partition("=")[0].removeprefix("--no_").removeprefix("--"): word for word in words}
    return main(list(last.values()))


def samples_of(folder: Path) -> dict:
    return json.loads((folder / "samples.json").read_text())


def result_of(folder: Path):
    """All that training decides."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    weights = load_file(folder / "adapter_model.safetensors")
    return metrics, {name: tensor.tolist() for name, tensor in weights.items()}


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory):
    """A run, and the reports that stood there after each evaluation."""
    folder = tmp_path_factory.mktemp("a run") / "result"
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        update = tracker.RunReport.update

        def noting(self):
            update(self)
            seen.append((self.folder / "report.html").read_text())

        patch.setattr(tracker.RunReport, "update", noting)
        patch.setattr(tracker, "_SHORT_SECONDS", 1e9)  # however busy the machine is
        assert run(inputs, folder, *LORA) == 0
    return folder, seen


def test_the_report_of_a_run_is_the_one_made_anew(done):
    folder, _ = done
    written = (folder / "report.html").read_bytes()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_bytes() == written


def test_it_is_there_from_the_start_and_grows_with_each_evaluation(done):
    folder, seen = done
    losses = [
        line["eval_loss"]
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if "eval_loss" in line
    ]
    assert len(seen) == 1 + len(losses) + 1  # the start, seven evaluations, the end
    for number, page in enumerate(seen[:-1]):
        assert "Going on</span>" in page
        dots = re.search(r'<path class="evaluation dots" d="(.*?)"', page)
        assert (dots[1].count("M") if dots else 0) == number
        if number:
            assert f"{min(losses[:number]):.4g}</dd>" in page
    assert "It came to its end: all epochs are done." in seen[-1]


def test_it_says_what_the_run_knew(done):
    folder, seen = done
    facts = json.loads((folder / "run.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    assert facts["data"]["training"]["documents"] == 100
    assert facts["data"]["validation"]["documents"] == 20
    assert facts["data"]["training"]["tokens"] * 7 == results["tokens"]
    assert facts["data"]["training"]["supervised_tokens"] * 7 == results["supervised_tokens"]
    assert facts["total_steps"] == results["steps"]
    assert facts["started"][0]["after_step"] == 0
    trained = load_file(folder / "adapter_model.safetensors")
    assert facts["trained_parameters"] == sum(map(torch.numel, trained.values()))
    assert f"{results['tokens']:,}</dd>" in seen[-1]


def test_the_answers_are_those_of_chat(done, capsys):
    """Before: those of the base model. After: those of the last step's weights."""
    folder, _ = done
    found = samples_of(folder)
    assert found["part"] == "validation"
    assert len(found["examples"]) == 2
    last = folder / "last" if (folder / "last").is_dir() else folder
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    for example in found["examples"]:
        prompt = example["prompt"].removeprefix("<|im_start|>")
        for name, model in (("before", base), ("after", last)):
            form = ["--prompt_format=text"] if name == "before" else []
            capsys.readouterr()
            asked = ["chat", str(model), f"--prompt={prompt}", "--max_new_tokens=64", *form]
            assert main(asked) == 0
            assert capsys.readouterr().out.strip() == example[name]
    assert found["after_step"] == json.loads((folder / "results.json").read_text())["steps"]


@pytest.mark.parametrize(
    "way",
    [
        ("--use_peft", "--peft_method=prefix"),
        ("--use_peft", "--peft_method=llama_adapter"),
        ("--use_peft", "--quantization=8bit", "--lora_dropout=0.3"),
    ],
    ids=" ".join,
)
def test_answering_changes_nothing(way, inputs, tmp_path):
    assert run(inputs, tmp_path / "asked", *way) == 0
    assert run(inputs, tmp_path / "silent", *way, "--report_samples=0") == 0
    examples = samples_of(tmp_path / "asked")["examples"]
    assert any(example["before"] != example["after"] for example in examples)
    assert not (tmp_path / "silent" / "samples.json").exists()
    assert result_of(tmp_path / "asked") == result_of(tmp_path / "silent")


def test_layers_whose_outputs_are_kept_answer_too(inputs, tmp_path):
    """A full run on frozen layers, whose outputs of documents are kept for the next epoch."""
    frozen = ("--freeze_layers", "--num_freeze_layers=1", "--lr=1e-3")
    for name, count in (("asked", 2), ("silent", 0)):
        assert run(inputs, tmp_path / name, *frozen, f"--report_samples={count}") == 0
    assert samples_of(tmp_path / "asked")["after_step"]
    asked, silent = (load_file(tmp_path / n / "model.safetensors") for n in ("asked", "silent"))
    assert all(torch.equal(asked[name], silent[name]) for name in silent)


def test_a_run_that_goes_on_keeps_its_first_answers(inputs, tmp_path, monkeypatch):
    folder = tmp_path / "result"
    assert run(inputs, folder, *LORA, "--max_train_step=30") == 0
    first = samples_of(folder)
    assert first["after_step"] == 30
    given = []
    answers = asking._answers

    def noting(*args, **more):
        given.append(answers(*args, **more))
        return given[-1]

    monkeypatch.setattr(asking, "_answers", noting)
    assert run(inputs, folder, *LORA, "--max_train_step=40", "--resume=auto") == 0
    again = samples_of(folder)
    assert len(given) == 1  # after, and not before
    assert [e["before"] for e in again["examples"]] == [e["before"] for e in first["examples"]]
    assert again["after_step"] == 40
    assert again["examples"][0]["after"] == given[0][0]
    assert run(inputs, folder, *LORA, "--max_train_step=40", "--resume=auto") == 0
    assert len(given) == 1  # there was nothing left to do
    starts = [
        start["after_step"] for start in json.loads((folder / "run.json").read_text())["started"]
    ]
    assert starts == [0, 30, 40]
    assert "resumed 2 times" in (folder / "report.html").read_text()

    (folder / "samples.json").unlink()  # the model as it was is loaded before what it learnt
    assert run(inputs, folder, *LORA, "--max_train_step=40", "--resume=auto") == 0
    assert samples_of(folder) == again


def test_a_signal_while_it_answers_at_the_end_loses_nothing(inputs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "result"
    answers = asking._answers

    def stopped(model, samples, tokenizer, check):
        if samples.before:
            os.kill(os.getpid(), signal.SIGTERM)
        return answers(model, samples, tokenizer, check)

    monkeypatch.setattr(asking, "_answers", stopped)
    assert run(inputs, folder, *LORA) == 0
    assert "The answers after the training are left out: SIGTERM." in capsys.readouterr().out
    assert samples_of(folder)["after_step"] is None
    results = json.loads((folder / "results.json").read_text())
    assert results["stop_reason"] == "all epochs are done"


def test_an_interrupted_run_has_a_report_with_what_there_is(inputs, tmp_path, monkeypatch):
    left = [40]

    def check(self):
        left[0] -= 1
        if left[0] == 0:
            raise StopRequested("SIGTERM")

    monkeypatch.setattr(Interruption, "check", check)
    assert run(inputs, tmp_path / "result", *LORA) == 75
    page = (tmp_path / "result" / "report.html").read_text()
    assert "It was stopped by SIGTERM." in page
    assert "--resume auto" in page
    assert "<h4>Before</h4>" in page
    assert "<h4>After</h4>" not in page


def test_why_nothing_is_asked_stands_in_the_report(inputs, tmp_path, capsys):
    assert run(inputs, tmp_path / "short", *LORA, "--max_train_step=1") == 0
    page = (tmp_path / "short" / "report.html").read_text()
    assert "more than 5% of it." in page
    said = capsys.readouterr().out
    assert "Warning: --report_samples has no effect in this run: they would take" in said
    lines = [{"text": row["prompt"] + row["completion"]} for row in sums(50)]
    texts = f"--train_file={jsonl(tmp_path / 'texts.jsonl', lines)}"
    assert run(inputs, tmp_path / "texts", *LORA, texts, "--no_run_validation") == 0
    why = "no document of the training part has anything before what is trained."
    assert samples_of(tmp_path / "texts")["left_out"] == why


CUSTOM = """
def get_custom_dataset(config, tokenizer, split):
    ids = list(range(10, 26))
    return [{"input_ids": ids, "labels": [-100] * 6 + ids[6:], "attention_mask": [1] * 16}] * 60
"""


def test_ready_made_ids_are_asked_by_what_is_not_trained(inputs, tmp_path):
    (tmp_path / "own.py").write_text(CUSTOM)
    flags = ("--dataset=custom_dataset", f"--custom_dataset.file={tmp_path / 'own.py'}")
    mine = [word for word in inputs if "_file=" not in word]
    assert run(mine, tmp_path / "result", *LORA, *flags, "--num_epochs=8") == 0
    (example, _) = samples_of(tmp_path / "result")["examples"]
    assert (len(example["prompt"]), len(example["reference"])) == (6, 10)


def test_the_commands_it_shows_work(done, capsys, tmp_path):
    folder, _ = done
    shown = {recipe.title: recipe.lines[0] for recipe in recipes(read_run(folder))}
    for title, more in (
        ("Talk to it", ["--prompt", "1 + 1 =", "--max_new_tokens", "3"]),
        ("Measure it", ["--max_samples", "2", "--max_new_tokens", "3"]),
        ("Merge it", ["--no_compare"]),
    ):
        program, *words = shlex.split(shown[title])
        assert program == "llama-recipes"
        assert main([*words, *more]) == 0, capsys.readouterr().err
    _, command, *words = shlex.split(shown["Run it in llama.cpp"])
    assert command == "export"  # whose tokenizers this tiny one is not among
    assert main([command, *words, "--no_compare"]) == 4
    assert "tokenizer cuts texts in a way that has no name in GGUF" in capsys.readouterr().err


COUNTED = {"model_tflops": 1.5, "flop_counter": {"total": 7}}


@pytest.fixture(scope="module")
def gone_on(inputs, tmp_path_factory):
    """A run, and in `second` one that went on from its checkpoint, with changes."""
    folder = tmp_path_factory.mktemp("gone on")
    first = folder / "first"
    assert run(inputs, first, *LORA, "--max_train_step=2") == 0
    results = json.loads((first / "results.json").read_text())
    (first / "results.json").write_text(json.dumps(results | COUNTED))
    checkpoint = first / "checkpoints" / "step-00000002"
    changed = ("--lr=2e-2", f"--resume={checkpoint}", "--resume_with_changes")
    assert run(inputs, folder / "second", *LORA, *changed, "--max_train_step=3") == 0
    return folder


def test_going_on_in_another_folder_takes_the_history_along(gone_on):
    first, second = read_run(gone_on / "first"), read_run(gone_on / "second")
    assert [line["step"] for line in second.steps] == [1, 2, 3]
    assert second.facts["started"][0] == first.facts["started"][0]
    assert [start["after_step"] for start in second.facts["started"]] == [0, 2]
    assert second.results.items() >= COUNTED.items()
    earlier, warnings = first.facts["warnings"], second.facts["warnings"]
    assert warnings[: len(earlier)] == earlier != []
    assert warnings[len(earlier)].startswith("--lr is 0.02, and was 0.01 in")


@pytest.mark.parametrize("name", ["first", "second"])
def test_its_command_trains_again_from_the_first_step(name, gone_on, capsys):
    (shown,) = [r for r in recipes(read_run(gone_on / name)) if r.title == "Train it again"]
    program, *words = shlex.split(shown.lines[0])
    assert program == "llama-recipes"
    assert main([*words, "--max_train_step", "1"]) == 0, capsys.readouterr().err
    again = read_run(gone_on / f"{name}-again")
    assert [line["step"] for line in again.steps] == [1]
    assert not again.setting("train_config.resume")
    assert not again.setting("train_config.resume_with_changes")
    assert again.setting("train_config.lr") == (1e-2 if name == "first" else 2e-2)


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_a_browser_shows_it_without_asking_anybody(width, scheme, done, browser, tmp_path):
    folder, _ = done
    browser.open(folder / "report.html", width=width, scheme=scheme)
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.wider() == []
    assert browser.value("document.querySelectorAll('svg').length") == 4
    assert browser.value("document.querySelector('h1').getBoundingClientRect().width") > width / 2
    assert browser.asked() == [(folder / "report.html").as_uri()]
    assert browser.complaints() == []
    colours, counts = np.unique(browser.pixels(tmp_path), return_counts=True)
    assert len(colours) > 50
    background = 0xF6F6F4 if scheme == "light" else 0x131518
    assert counts[colours == background].sum() > 0.05 * counts.sum()
