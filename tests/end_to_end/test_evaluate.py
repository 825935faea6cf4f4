"""`llama-recipes evaluate` on tiny models: its figures by other libraries, and what it refuses."""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
from pathlib import Path

import peft
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llama_recipes import packages
from llama_recipes.cli import evaluation, evaluation_table, measuring
from llama_recipes.cli.data_flags import ABOUT_DATA
from llama_recipes.cli.evaluate import EvaluateFlags
from llama_recipes.cli.main import main
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.errors import DataError
from llama_recipes.export.hf import save_adapter
from llama_recipes.finetuning import main as finetune
from llama_recipes.quantization.kept import Kept
from support.adapted import lora
from support.tiny_folder import VOCABULARY, byte_tokenizer, jsonl, sums, tiny_folder

LORA = LoraConfig(r=4)
NEW_TOKENS = 8
ROWS = sums(52)[40:]
CUSTOM = """
def get_custom_dataset(config, tokenizer, split):
    def sample(number):
        prompt, answer = tokenizer(f"{number} =").input_ids, tokenizer(f" {number}").input_ids
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    return [sample(number) for number in range({"train": 6, "validation": 3}[split])]
"""


@pytest.fixture(autouse=True)
def _exactly(monkeypatch):
    """In fp32 and with PyTorch's operations, whatever this machine would choose."""
    monkeypatch.setattr(evaluation, "has_bf16", lambda device: False)
    monkeypatch.setattr(evaluation.preflight, "use_kernels", lambda *args, **settings: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, an adapter on it, and rows."""
    folder = tmp_path_factory.mktemp("evaluated")
    tiny_folder(folder / "model")
    save_adapter(
        lora(LORA, vocab_size=VOCABULARY),
        folder / "adapter",
        config=LORA,
        base_model=str(folder / "model"),
    )
    byte_tokenizer().save_pretrained(folder / "adapter")
    jsonl(folder / "rows.jsonl", ROWS)
    jsonl(folder / "text.jsonl", [{"text": "Hello world"}, {"text": "Good-bye"}])
    (folder / "own.py").write_text(CUSTOM)
    return folder


@pytest.fixture
def on_rows(folder) -> list[str]:
    return ["--dataset=file_dataset", f"--validation_file={folder / 'rows.jsonl'}"]


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Evaluates with these flags; returns what the JSON holds and what was shown."""

    def evaluate(model: Path, *flags: str, code: int = 0) -> tuple[dict, str]:
        file = tmp_path / "figures.json"
        file.unlink(missing_ok=True)
        more = [f"--output_file={file}"]
        if not any("max_new_tokens" in flag or flag == "--no_generate" for flag in flags):
            more.append(f"--max_new_tokens={NEW_TOKENS}")
        assert main(["evaluate", str(model), *flags, *more]) == code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        if code:
            assert not file.exists()
            return {}, said.err
        return json.loads(file.read_text(), parse_constant=pytest.fail), said.out

    return evaluate


def row_of(shown: str, name: str) -> list[str]:
    """The figures of a row of the table."""
    (line,) = (line for line in shown.splitlines() if line.startswith(f"│ {name} "))
    return [cell.strip() for cell in line.split("│")[2:-1]]


# The figures


def theirs(folder: Path, *, tuned: bool):
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    return peft.PeftModel.from_pretrained(model, folder / "adapter") if tuned else model


def as_ids(row: dict[str, str]) -> tuple[list[int], list[int]]:
    """Prompt with BOS, and completion with EOS."""
    tokenizer = byte_tokenizer()
    prompt, answer = (
        tokenizer(row[name], add_special_tokens=False).input_ids
        for name in ("prompt", "completion")
    )
    return [tokenizer.bos_token_id, *prompt], [*answer, tokenizer.eos_token_id]


@torch.no_grad()
def loss_by_transformers(model, rows) -> tuple[float, int]:
    """Nats per token, and the tokens."""
    total, tokens = 0.0, 0
    for prompt, answer in map(as_ids, rows):
        ids, labels = torch.tensor([prompt + answer]), [-100] * len(prompt) + answer
        total += model(ids, labels=torch.tensor([labels])).loss.item() * len(answer)
        tokens += len(answer)
    return total / tokens, tokens


def answers_by_transformers(model, rows) -> list[str]:
    tokenizer, texts = byte_tokenizer(), []
    for prompt, _ in map(as_ids, rows):
        output = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        said = output[0, len(prompt) :]
        texts.append(tokenizer.decode(said, skip_special_tokens=True).strip())
    return texts


@pytest.mark.parametrize("name", ["model", "adapter"])
def test_every_figure_is_that_of_the_reference_libraries(name, folder, on_rows, evaluate):
    found, shown = evaluate(folder / name, *on_rows, "--answer_pattern=([0-9])")
    (figures,) = found["models"]
    model = theirs(folder, tuned=name == "adapter")
    loss, tokens = loss_by_transformers(model, ROWS)
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert figures["supervised_tokens"] == tokens
    assert figures["documents"] == len(ROWS) == found["counts"]["asked"]

    answers = answers_by_transformers(model, ROWS)
    title = str(folder / name)
    assert [sample["answers"] for sample in found["samples"]] == [{title: a} for a in answers]
    references = [row["completion"].strip() for row in ROWS]
    assert [sample["reference"] for sample in found["samples"]] == references
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = list(zip(references, answers, strict=True))
    for kind in ("rouge1", "rouge2", "rougeL"):
        expected = [scorer.score(*pair)[kind].fmeasure for pair in pairs]
        assert figures[kind] == pytest.approx(sum(expected) / len(pairs))
    digits = [[re.findall("[0-9]", text)[-1:] for text in pair] for pair in pairs]
    assert figures["exact_match"] == sum(a == b for a, b in pairs) / len(pairs)
    assert figures["answer_match"] == sum(a == b for a, b in digits) / len(pairs)

    assert row_of(shown, "loss, nats per token") == [f"{figures['loss']:.4f}"]
    assert row_of(shown, "perplexity") == [f"{figures['perplexity']:.4f}"]
    assert row_of(shown, "answer match") == [f"{figures['answer_match']:.4f}"]
    assert f"The loss is that of {tokens} trained tokens in 12 documents. 12 documents" in shown


def test_the_base_and_what_was_made_of_it_stand_in_one_table(folder, on_rows, evaluate):
    both, shown = evaluate(folder / "adapter", *on_rows, "--compare_with=base")
    base, tuned = both["models"]
    assert (base["title"], tuned["title"]) == ("base", "tuned")
    assert (base["name"], tuned["name"]) == (str(folder / "model"), str(folder / "adapter"))
    assert base["loss"] != tuned["loss"]
    assert row_of(shown, "loss, nats per token") == [f"{m['loss']:.4f}" for m in (base, tuned)]
    for figures, name in ((base, "model"), (tuned, "adapter")):
        alone, _ = evaluate(folder / name, *on_rows)
        assert alone["models"] == [figures | {"title": str(folder / name)}]
        assert [list(sample["answers"].values()) for sample in alone["samples"]] == [
            [sample["answers"][figures["title"]]] for sample in both["samples"]
        ]
    named, _ = evaluate(folder / "adapter", *on_rows, f"--compare_with={folder / 'model'}")
    assert [m["loss"] for m in named["models"]] == [tuned["loss"], base["loss"]]
    said, _ = evaluate(
        folder / "adapter", *on_rows, "--compare_with=base", f"--base_model={folder / 'model'}"
    )
    assert said["models"] == both["models"]


@pytest.mark.parametrize("asked", [0, 5])
def test_the_documents_that_are_answered_are_spread_over_all(asked, folder, on_rows, evaluate):
    all_of_them, _ = evaluate(folder / "model", *on_rows)
    found, shown = evaluate(
        folder / "model", *on_rows, f"--max_samples={asked}", "--generation_batch_size=3"
    )
    wanted = [index * 12 // 5 for index in range(5)] if asked else range(12)
    assert found["samples"] == [all_of_them["samples"][index] for index in wanted]
    assert found["models"][0]["loss"] == all_of_them["models"][0]["loss"]
    assert f"{len(wanted)} documents of them, equally far apart, were answered." in shown


def test_how_the_documents_are_batched_changes_no_figure(folder, on_rows, evaluate):
    packed, _ = evaluate(folder / "model", *on_rows, "--no_generate")
    padded, _ = evaluate(
        folder / "model", *on_rows, "--no_generate", "--batching_strategy=padding",
        "--val-batch-size", "5",
    )  # fmt: skip
    assert padded["models"][0]["loss"] == pytest.approx(packed["models"][0]["loss"], rel=1e-6)
    assert packed["models"][0]["rouge1"] is None
    assert packed["samples"] == []


def test_what_has_to_be_known_about_the_figures_is_said(folder, evaluate, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": said}]}
        for said in ("#### 4", "none at all, and this is a long one", "#### 6")
    ]
    file = jsonl(tmp_path / "chat.jsonl", rows)
    found, shown = evaluate(
        folder / "model", "--dataset=file_dataset", f"--validation_file={file}",
        "--answer_pattern=#### ([0-9])", "--context_length=40", "--max_new_tokens=250",
    )  # fmt: skip
    assert found["counts"] == {
        "asked": 3,
        "documents_without_prompt": 0,
        "references_cut": 1,
        "references_without_match": 1,
    }
    assert "(1 cut to context_length)" in shown
    assert "1 reference cut to --context_length." in shown
    assert "1 reference in which --answer_pattern finds nothing: not counted in" in shown
    assert found["models"][0]["prompts_short_of_room"] == 3
    assert f"{folder / 'model'}: 3 prompts with less room than --max_new_tokens up to" in shown
    unfinished = found["models"][0]["answers_unfinished"]
    assert unfinished > 0
    assert f"{unfinished} answer" in shown


# The data


def test_without_flags_the_data_is_that_of_the_run(folder, evaluate, tmp_path, capsys):
    result = tmp_path / "result"
    train = jsonl(tmp_path / "train.jsonl", sums(40))
    flags = [f"--model_name={folder / 'model'}", f"--output_dir={result}", "--use_peft"]
    flags += ["--dataset=file_dataset", f"--train_file={train}", "--validation_fraction=0.2"]
    flags += ["--lr=1e-2", "--seed=7", "--num_epochs=1", "--no_mixed_precision"]
    assert finetune(flags) == 0
    best = json.loads((result / "results.json").read_text())["best_eval_loss"]
    capsys.readouterr()

    found, shown = evaluate(result, "--compare_with=base")
    base, tuned = found["models"]
    assert f"The data is that of the run: {result / 'config.yaml'}" in shown
    assert tuned["loss"] == pytest.approx(best, rel=1e-5)
    assert tuned["loss"] < base["loss"]
    assert found["data"]["file_dataset"]["train_file"] == str(train)
    assert tuned["documents"] == 8
    held_out = {sample["prompt"] for sample in found["samples"]}
    trained, _ = evaluate(result, "--split=train", "--max_samples=0", "--max_new_tokens=1")
    assert trained["models"][0]["documents"] == 32
    assert not held_out & {sample["prompt"] for sample in trained["samples"]}

    shutil.copytree(result, tmp_path / "copy" / "last")
    (tmp_path / "copy" / "last" / "config.yaml").rename(tmp_path / "copy" / "config.yaml")
    last, shown = evaluate(tmp_path / "copy" / "last", "--no_generate")
    assert f"The data is that of the run: {tmp_path / 'copy' / 'config.yaml'}" in shown
    assert last["models"][0]["loss"] == tuned["loss"]

    named, shown = evaluate(folder / "adapter", f"--config={result / 'config.yaml'}", "--seed=8")
    assert "The data is that of the run" not in shown
    assert named["data"]["seed"] == 8
    assert {sample["prompt"] for sample in named["samples"]} != held_out


def test_a_model_that_was_trained_whole_is_compared_with_what_it_was_made_from(
    folder, evaluate, tmp_path
):
    result, train = tmp_path / "result", jsonl(tmp_path / "train.jsonl", sums(12))
    flags = [f"--model_name={folder / 'model'}", f"--output_dir={result}", "--num_epochs=1"]
    flags += ["--dataset=file_dataset", f"--train_file={train}", "--validation_fraction=0.25"]
    assert finetune(flags) == 0
    found, _ = evaluate(result, "--compare_with=base", "--no_generate")
    base, tuned = found["models"]
    assert (base["name"], tuned["name"]) == (str(folder / "model"), str(result))
    assert base["loss"] != tuned["loss"]
    alone, _ = evaluate(folder / "model", f"--config={result / 'config.yaml'}", "--no_generate")
    assert alone["models"][0]["loss"] == base["loss"]


def test_documents_that_may_have_been_trained_on_are_warned_of(folder, evaluate, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder / "adapter", run)
    train = jsonl(tmp_path / "train.jsonl", sums(20))
    run_file = run / "config.yaml"
    run_file.write_text(
        "train_config: {dataset: file_dataset}\n"
        f"file_dataset: {{train_file: {train}, validation_fraction: 0.25}}\n"
    )

    def warned(*flags: str) -> str:
        _, shown = evaluate(run, *flags, "--no_generate")
        return " ".join(shown.split()) if "Other documents are measured" in shown else ""

    assert "--file_dataset.validation_fraction is 0.5 instead of 0.25. Leave such flags out" in (
        warned("--validation_fraction=0.5")
    )
    assert f"those that the run in {run_file} held out, and {run} may" in warned("--seed=7")
    assert "--seed is 7 instead of 42." in warned("--seed=7", f"--config={run_file}")
    assert "--truncation is drop instead of end" in warned("--truncation=drop")
    other = jsonl(tmp_path / "other.jsonl", sums(9))
    assert f"--file_dataset.train_file is {other}" in warned(f"--train_file={other}")
    assert not warned()
    assert not warned("--validation_fraction=0.1")  # a part of what was held out
    assert not warned("--split=train", "--seed=7")
    assert not warned("--context_length=32")
    apart = ("--validation_fraction=0", f"--validation_file={folder / 'rows.jsonl'}")
    assert not warned(*apart, "--seed=7")
    run_file.write_text(run_file.read_text().replace("0.25", "0"))
    assert "is 0.1 instead of 0" in warned("--validation_fraction=0.1")  # all was trained


def test_a_run_that_left_validation_out_held_nothing_back(folder, evaluate, tmp_path):
    train = jsonl(tmp_path / "train.jsonl", sums(10))
    config = tmp_path / "run.yaml"
    config.write_text(
        "train_config: {dataset: file_dataset, run_validation: false, lr: 0.5, use_peft: true}\n"
        f"file_dataset: {{train_file: {train}, validation_fraction: 0.5}}\n"
    )
    _, said = evaluate(folder / "model", f"--config={config}", code=2)
    assert "was made with --no_run_validation, and trained on all of its train_file" in said
    whole, _ = evaluate(folder / "model", f"--config={config}", "--split=train", "--no_generate")
    assert whole["models"][0]["documents"] == 10


def test_a_custom_data_set_is_measured_and_asked(folder, evaluate):
    own = ["--dataset=custom_dataset", f"--file={folder / 'own.py'}"]
    found, shown = evaluate(folder / "model", *own, "--train_on_prompt", "--split=train")
    assert [sample["prompt"] for sample in found["samples"]] == [f"{i} =" for i in range(6)]
    assert [sample["reference"] for sample in found["samples"]] == [str(i) for i in range(6)]
    assert "Warning: --train_on_prompt has no effect" in shown
    found, _ = evaluate(folder / "model", *own, "--no_generate")
    assert found["models"][0]["documents"] == 3


def test_plain_text_has_a_loss_and_no_questions(folder, evaluate):
    text = ["--dataset=file_dataset", f"--validation_file={folder / 'text.jsonl'}"]
    found, shown = evaluate(folder / "model", *text)
    assert "Warning: Nothing is asked, for no document has a prompt" in shown
    assert found["models"][0]["supervised_tokens"] == len("Hello worldGood-bye") + 2
    assert found["samples"] == []
    _, said = evaluate(folder / "model", *text, "--answer_pattern=x", code=3)
    assert "--answer_pattern needs answers, but no document has a prompt" in said


def test_flags_without_effect_are_named(folder, on_rows, evaluate):
    _, shown = evaluate(
        folder / "model", *on_rows, "--train_file=x", "--samsum_dataset.data_path=y",
        "--no_generate", "--max_samples=3",
    )  # fmt: skip
    assert "Warning: --max_samples has no effect with --no_generate." in shown
    assert "Warning: --train_file has no effect with --split validation." in shown
    assert (
        "Warning: --samsum_dataset.data_path has no effect without --dataset samsum_dataset."
        in shown
    )
    _, shown = evaluate(
        folder / "model", "--dataset=file_dataset", f"--train_file={folder / 'rows.jsonl'}",
        "--validation_file=x", "--split=train", "--no_generate", "--on_bad_row=skip",
    )  # fmt: skip
    assert shown.count("has no effect") == 1
    assert "Warning: --validation_file has no effect with --split train." in shown


# What is refused


def refused(capsys, code: int, *flags: object) -> str:
    assert main(["evaluate", *map(str, flags)]) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.err


def test_all_wrong_flags_are_listed_whomever_they_belong_to(capsys):
    said = refused(
        capsys, 2, "--modle_name=x", "--lr=1", "--no_use_peft", "--validation_fil", "x",
        "--max_new_tokens=0", "--truncation=no", "--no_seed", "--print_config",
    )  # fmt: skip
    assert "--modle_name is no flag of llama-recipes evaluate. Did you mean --model_name?" in said
    assert "--lr has no effect in llama-recipes evaluate, which takes from a run what" in said
    assert "--no_use_peft has no effect in llama-recipes evaluate" in said
    assert "--validation_fil is no flag of" in said
    assert "Did you mean --validation_file?" in said
    assert "--max_new_tokens is 0, but must be a whole number, at least 1." in said
    assert "--no_seed is no flag of" in said
    assert "--print_config is no flag of" in said
    said = refused(capsys, 2, "m", "--truncation=no", "--val_batch_size=0", "--split=test")
    assert "--split is 'test', but must be" in said
    said = refused(capsys, 2, "m", "--truncation=no", "--val_batch_size=0", "--compare_with=m")
    assert "--truncation is 'no', but must be one of error, drop, end." in said
    assert "--val_batch_size is 0, but must be a whole number, at least 1." in said
    assert "--compare_with is m, the model itself" in said
    assert "No data set is named. m holds no config.yaml of a run that would tell." in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "No data set is named. Give one, as with --dataset file_dataset"),
        (["--dataset=samsum_dataset"], "--samsum_dataset.data_path is not given"),
        (["--dataset=alpaca_dataset"], "--alpaca_dataset.data_path is not given"),
        (["--dataset=custom_dataset"], "--custom_dataset.file is not given"),
        (["--dataset=grammar_dataset"], "or leave validation out with --split train."),
        (["--dataset=grammar_dataset", "--split=train"], "--grammar_dataset.train_split is not"),
        (
            ["--dataset=file_dataset"],
            "There is no validation part. Give rows that were not trained on",
        ),
        (["--dataset=file_dataset", "--validation_fraction=0.1"], "--file_dataset.train_file is"),
        (["--dataset=file_dataset", "--split=train"], "--file_dataset.train_file is not given"),
        (
            ["--dataset=file_dataset", "--validation_fraction=0.1", "--validation_file=x"],
            "exclude each other",
        ),
        (["--config=nowhere.yaml"], "--config is 'nowhere.yaml', and there is no such file."),
        (["--answer_pattern=x", "--no_generate"], "exclude each other: without answers there is"),
    ],
)
def test_what_is_missing_or_cannot_stand_together(flags, words, capsys):
    assert words in refused(capsys, 2, *flags)


def test_settings_are_refused_before_a_model_is_sought(on_rows, capsys, tmp_path, monkeypatch):
    there = tmp_path / "there.json"
    there.touch()
    usual = ("no-such-model", *on_rows)
    said = refused(capsys, 2, *usual, f"--output_file={there}")
    assert "is there already, and results are not written over" in said
    said = refused(capsys, 2, *usual, f"--output_file={tmp_path / 'none' / 'x.json'}")
    assert "x.json cannot be written: No such file or directory." in said
    said = refused(capsys, 2, *usual, "--answer_pattern=(a)(b)")
    assert "has 2 groups" in said
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert "pip install rouge-score" in refused(capsys, 2, *usual)
    assert "There is no model at no-such-model" in refused(capsys, 4, *usual, "--no_generate")


def test_a_disk_that_is_full_at_the_end_leaves_the_figures_on_the_screen(
    folder, on_rows, evaluate, monkeypatch
):
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluation, "publish", full)
    _, said = evaluate(folder / "model", *on_rows, "--no_generate", code=2)
    assert "figures.json could not be written: No space left on device. The figures are" in said


def test_models_that_do_not_go_together(folder, on_rows, evaluate, tmp_path):
    _, said = evaluate(folder / "model", *on_rows, "--compare_with=base", code=2)
    assert "--compare_with is base, but" in said
    assert "is no adapter, and there is no config.yaml of a run beside it" in said
    _, said = evaluate(folder / "model", *on_rows, "--base_model=x", code=2)
    assert "is no adapter: it holds no adapter_config.json" in said

    shutil.copytree(folder / "model", tmp_path / "other")
    byte_tokenizer(eos_token="<|pad|>").save_pretrained(tmp_path / "other")
    _, said = evaluate(folder / "model", *on_rows, f"--compare_with={tmp_path / 'other'}", code=4)
    assert "have different tokenizers: they would see other tokens" in said

    shutil.copytree(folder / "model", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    kept = {key: t for key, t in load_file(weights).items() if key != "model.norm.weight"}
    save_file(kept, weights)
    _, said = evaluate(folder / "model", *on_rows, f"--compare_with={tmp_path / 'cut'}", code=4)
    assert "The checkpoint lacks model.norm.weight" in said
    assert "the loss on" not in said  # nothing was measured for nothing

    shutil.copytree(folder / "adapter", tmp_path / "lost")
    settings = tmp_path / "lost" / "adapter_config.json"
    nameless = json.loads(settings.read_text()) | {"base_model_name_or_path": ""}
    settings.write_text(json.dumps(nameless))
    _, said = evaluate(tmp_path / "lost", *on_rows, "--compare_with=base", code=2)
    assert "does not say which model it belongs to" in said


def test_what_the_model_cannot_take(folder, on_rows, evaluate, tmp_path):
    _, said = evaluate(folder / "model", *on_rows, "--context_length=300", code=2)
    assert "--context_length is 300, but the model was made for at most 256 tokens." in said
    tiny_folder(tmp_path / "small", vocab_size=50)
    _, said = evaluate(tmp_path / "small", *on_rows, code=4)
    assert "The data holds the id" in said
    assert "has only 50 rows" in said


def test_a_pattern_that_fits_no_reference(folder, on_rows, evaluate):
    _, said = evaluate(folder / "model", *on_rows, "--answer_pattern=####", code=3)
    first = ROWS[0]["completion"].strip()
    assert (
        "--answer_pattern '####' finds nothing in any of the 12 references. The first is"
        f" {first!r}." in said
    )


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_when_the_memory_runs_out(kind, folder, on_rows, evaluate, monkeypatch):
    def full(*args, **settings):
        raise kind("full.")

    monkeypatch.setattr(measuring, "answer", full)
    _, said = evaluate(folder / "model", *on_rows, code=2)
    assert "The memory ran out: full. Lower --val_batch_size, --generation_batch_size" in said


def test_a_split_that_is_not_there_is_said(tmp_path):
    from llama_recipes.configs.datasets import FileDataset
    from llama_recipes.data.prepare import Preparation
    from llama_recipes.data.splits import open_part
    from llama_recipes.data.tokenizer import Tokenizer

    section = FileDataset(train_file=str(jsonl(tmp_path / "train.jsonl", ROWS)))
    how = Preparation(64, "end", False)
    using = Tokenizer(byte_tokenizer())
    with pytest.raises(DataError, match="This data set has no validation part"):
        open_part(section, "validation", using, how, seed=0, notify=lambda text: None)


# What is shown and kept


def test_what_overflows_is_null_in_json():
    figures = {"title": "a", "name": "b", "supervised_tokens": 1, "documents": 1, "scores": {}}
    figures |= {"answers": [], "unfinished": 0, "short_of_room": 0, "kept": Kept(None)}
    models = [measuring.Measured(loss=loss, **figures) for loss in (1e5, math.nan)]
    content = evaluation_table.as_json(
        models, measuring.Questions([]), RunConfig(), EvaluateFlags()
    )
    json.dumps(content, allow_nan=False)
    assert [model["perplexity"] for model in content["models"]] == [None, None]
    assert [model["loss"] for model in content["models"]] == [1e5, None]


def test_the_kernels_of_a_run_are_used(folder, on_rows, evaluate, monkeypatch):
    asked = []
    monkeypatch.setattr(
        evaluation.preflight,
        "use_kernels",
        lambda world, dtype, *, required, screen: asked.append((world.device.type, required)),
    )
    evaluate(folder / "model", *on_rows, "--no_generate")
    assert asked == [(evaluation.choose_device().type, False)]


def test_code_beside_a_model_is_not_run_unasked(folder, tmp_path, capsys):
    theirs = tmp_path / "theirs"
    shutil.copytree(folder / "model", theirs)
    code = tmp_path / "own.py"
    code.write_text("raise SystemExit('this was run')")
    (theirs / "config.yaml").write_text(
        f"train_config:\n  dataset: custom_dataset\ncustom_dataset:\n  file: {code}\n"
    )
    assert main(["evaluate", str(theirs)]) == 2
    err = capsys.readouterr().err
    assert f"names code of a data set, {code}, which is not run unasked" in err
    assert f"If you trust it, give --config {theirs / 'config.yaml'}." in err


def test_the_help_names_every_flag_and_those_of_a_run(capsys):
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "--help"])
    assert left.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, field in EvaluateFlags.model_fields.items():
        assert f"--{name} " in said
        assert str(field.description) in said
    for key in ABOUT_DATA:
        section, name = key.split(".")
        assert section != "train_config" or f"--{name}," in said
    assert "--config" in said
