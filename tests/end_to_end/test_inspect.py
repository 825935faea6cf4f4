"""`llama-recipes inspect`: it shows what a run trains, of every kind of run, and trains nothing."""

from __future__ import annotations

import errno
import json
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from llama_recipes.cli.inspection import files, look
from llama_recipes.cli.inspection.files import MADE_BY
from llama_recipes.cli.main import main
from llama_recipes.data.spread import spread
from llama_recipes.data.tokenize import IGNORE
from llama_recipes.finetuning import main as finetune
from llama_recipes.model.safetensors_folder import SafetensorsFolder
from llama_recipes.training import loop
from support.chromium import Browser, needs_chromium
from support.planted import BY_ID, CUSTOM, answered, rows
from support.tiny import tiny_llama
from support.tiny_folder import VOCABULARY, jsonl, tiny_folder
from support.tiny_gguf import write_gguf
from support.tiny_tokenizers import byte_level, parts

NASTY = '</span><script>alert("x")</script> & <b>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    tiny_folder(folder / "model", max_position_embeddings=1024)
    jsonl(folder / "chat.jsonl", [answered(row, lambda text: text + NASTY) for row in rows("chat")])
    jsonl(folder / "rows.jsonl", rows("completion"))
    jsonl(folder / "held_out.jsonl", rows("completion", 100, 6))
    jsonl(folder / "bad.jsonl", [*rows("completion"), {"prompt": 1}])
    (folder / "own.py").write_text(CUSTOM.format(change="pass") + BY_ID)
    return folder


@pytest.fixture
def base(folder) -> list[str]:
    return [
        f"--model_name={folder / 'model'}",
        "--dataset=file_dataset",
        f"--train_file={folder / 'rows.jsonl'}",
    ]


@pytest.fixture
def inspect(tmp_path, capsys, monkeypatch):
    """Inspects with these flags; returns the JSON and what was shown. No weight may be read."""

    def refuse(*args, **settings):
        raise AssertionError("a weight was read")

    def inspect(*flags: str, code: int = 0) -> tuple[dict, str]:
        file = tmp_path / "inspected.json"
        file.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(SafetensorsFolder, "read", refuse)
            assert main(["inspect", *flags, f"--json={file}"]) == code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        held = json.loads(file.read_text(), parse_constant=pytest.fail) if file.exists() else {}
        return held, said.out + said.err

    return inspect


def data_flags(folder: Path, data: str) -> list[str]:
    model = f"--model_name={folder / 'model'}"
    if data == "custom":
        return [model, "--dataset=custom_dataset", f"--custom_dataset.file={folder / 'own.py'}",
                "--no_run_validation"]  # fmt: skip
    return [model, "--dataset=file_dataset", f"--train_file={folder / f'{data}.jsonl'}"]


# What is shown is what is trained


@pytest.mark.parametrize("strategy", ["packing", "padding"])
@pytest.mark.parametrize("data", ["chat", "rows", "custom"])
def test_it_shows_what_the_steps_train(folder, inspect, tmp_path, monkeypatch, data, strategy):
    """Step by step: the same documents in the same order, each with the same trained tokens."""
    trained: list[list[tuple]] = []
    real = loop.train_step

    def watched(model, batches, *args, **settings):
        trained.append([each for batch in batches for each in documents(batch)])
        return real(model, batches, *args, **settings)

    monkeypatch.setattr(loop, "train_step", watched)
    flags = [
        *data_flags(folder, data), f"--batching_strategy={strategy}", "--batch_size_training=3",
        "--gradient_accumulation_steps=2", "--context_length=400", "--num_epochs=2", "--seed=7",
    ]  # fmt: skip
    run = tmp_path / "run"
    assert finetune([*flags, f"--output_dir={run}"]) == 0
    shown, _ = inspect(*flags, "--samples=1000")
    steps = [
        [
            (sample["document"], sample["ids"], sample["labels"])
            for sample in shown["samples"]
            if sample["step"] == number
        ]
        for number in range(1, shown["steps"]["steps"] + 1)
    ]
    assert steps == trained[: len(steps)]
    assert len(shown["samples"]) == shown["parts"]["training"]["documents"]

    results = json.loads((run / "results.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = [line for line in lines if line.get("epoch") == 1 and "loss" in line]
    assert shown["steps"]["total_steps"] == results["steps"]
    assert shown["steps"]["steps"] == len(first)
    for name, counted in (("tokens", "tokens_of_steps"),
                          ("supervised_tokens", "supervised_of_steps")):  # fmt: skip
        totals = [0, *(line[name] for line in first)]
        of_steps = spread(np.array([after - before for before, after in pairwise(totals)]))
        assert shown["steps"][counted]["total"] == of_steps.total == totals[-1]
        assert shown["steps"][counted]["median"] == of_steps.median
        assert shown["steps"][counted]["counts"] == list(of_steps.counts)
    assert shown["parts"]["training"]["tokens"] == first[-1]["tokens"]
    assert shown["parts"]["training"]["supervised_tokens"] == first[-1]["supervised_tokens"]


def documents(batch) -> list[tuple]:
    """Number, ids and labels of the documents of a part of a batch, as train_step gets it."""
    targets = dict(zip(batch.supervised.tolist(), batch.targets.tolist(), strict=True))
    found, start = [], 0
    for number, span, length in zip(batch.documents, batch.spans, batch.lengths, strict=True):
        ids = batch.tokens[start : start + length].tolist()
        labels = [IGNORE, *(targets.get(start + at, IGNORE) for at in range(length - 1))]
        found.append((number, ids, labels))
        start += span
    return found


def test_several_processes_take_turns(base, inspect):
    flags = [*base, "--batching_strategy=padding", "--batch_size_training=4", "--enable_fsdp"]
    alone, _ = inspect(*flags)
    shared, said = inspect(*flags, "--processes=3", "--samples=40")
    assert alone["steps"]["steps"] == 10
    assert shared["steps"]["steps"] == 4
    assert shared["steps"]["total_steps"] == 12
    turns = [(s["micro_batch"], s["step"], s["process"]) for s in shared["samples"]]
    assert set(turns) == {(n, (n - 1) // 3 + 1, (n - 1) % 3 + 1) for n in range(1, 11)}
    assert "3 processes" in said


def test_the_places_of_rows_are_named(base, inspect, folder):
    shown, said = inspect(*base, f"--validation_file={folder / 'held_out.jsonl'}")
    lines = (folder / "rows.jsonl").read_text().splitlines()
    assert len(shown["samples"]) == 3
    for sample in shown["samples"]:
        line = re.fullmatch(r"rows\.jsonl, line (\d+)", sample["place_of_row"])[1]
        prompt = json.loads(lines[int(line) - 1])["prompt"]
        assert prompt.strip() in said
        assert sample["place_of_row"] in said


def test_a_gguf_file_will_do(inspect, folder, tmp_path):
    tokens, merges = parts(byte_level("gpt-2"))
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    path = tmp_path / "model.gguf"
    write_gguf(path, tiny_llama(vocab_size=len(tokens)), metadata=metadata)
    shown, _ = inspect(
        f"--model_name={path}", "--dataset=file_dataset", f"--train_file={folder / 'rows.jsonl'}"
    )
    assert shown["parts"]["training"]["documents"] == 40


def test_the_folder_of_a_run_names_its_settings(base, inspect, tmp_path):
    run = tmp_path / "run"
    assert finetune([*base, "--max_train_step=1", "--seed=9", f"--output_dir={run}"]) == 0
    ours, _ = inspect(*base, "--max_train_step=1", "--seed=9")
    assert inspect(str(run))[0] == ours
    assert inspect(f"--config={run / 'config.yaml'}")[0] == ours
    assert inspect(str(run), "--seed=10")[0]["samples"] != ours["samples"]


# The page


def test_the_page_needs_nothing_else_and_holds_no_markup_of_the_data(folder, inspect, tmp_path):
    file = tmp_path / "page.html"
    flags = data_flags(folder, "chat")
    shown, said = inspect(*flags, f"--html={file}", "--samples=2")
    page = file.read_text(encoding="utf-8")
    assert MADE_BY in page[:400]
    assert not re.search(r"<script|<link|<img|<iframe|src=|url\(|https?://|@import", page)
    text = re.sub(r"<[^>]*>", "", page)
    assert text.count("&lt;/span&gt;&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;") == 2
    assert len(re.findall(r'<span class="t[^"]*" title="\d+: trained', page)) == sum(
        label != IGNORE for sample in shown["samples"] for label in sample["labels"]
    )
    for name in ("trained tokens", "padding token", "optimizer steps in all"):
        assert name in page
        assert name in said


def test_trained_text_stands_in_marks_without_colours(base, inspect):
    shown, said = inspect(*base, "--samples=1")
    assert "\x1b" not in said
    (sample,) = shown["samples"]
    bytes_ = [id_ for id_, label in zip(sample["ids"], sample["labels"], strict=True) if label >= 0]
    (trained,) = re.findall(r"⟦(.*?)⟧", said.split("Step 1,")[1], re.DOTALL)
    assert trained.endswith("<|im_end|>")
    assert len(trained.removesuffix("<|im_end|>")) == len(bytes_) - 1


def test_a_long_text_is_shortened_on_the_screen_alone(inspect, folder, tmp_path):
    jsonl(tmp_path / "long.jsonl", [{"text": f"Begin{'x' * 300}End{n}."} for n in range(3)])
    flags = [f"--model_name={folder / 'model'}", "--dataset=file_dataset"]
    page = tmp_path / "page.html"
    _, said = inspect(
        *flags, f"--train_file={tmp_path / 'long.jsonl'}", "--samples=1", f"--html={page}"
    )
    assert re.search(r"⟦Begin(x|\n)+ … \d+ tokens … (x|\n)+End\d\.", said)
    assert re.sub(r"<[^>]*>", "", page.read_text()).count("x" * 300) == 1


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


def colours(browser: Browser, selector: str) -> set[str]:
    """The backgrounds of all elements that a selector finds."""
    found = browser.value(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        ".map(e => getComputedStyle(e).backgroundColor)"
    )
    assert found, selector
    return set(found)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_a_browser_shows_tokens_in_the_colours_that_the_legend_explains(
    width, scheme, base, inspect, browser, tmp_path
):
    page = tmp_path / "page.html"
    inspect(
        *base,
        f"--html={page}",
        "--samples=40",
        "--batching_strategy=padding",
        "--batch_size_training=40",
    )
    browser.open(page, width=width, scheme=scheme)
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.wider() == []
    legend = browser.value("document.querySelector('.key').innerText")
    assert legend == "trained masked control token padding ⏎ a line's end"
    kinds = {"trained": ".t", "padding": ".p", "masked": "span:not(.t):not(.p)"}
    shown = {name: colours(browser, f".text:not(.key) {kind}") for name, kind in kinds.items()}
    for name, kind in kinds.items():
        assert colours(browser, f".key {kind}") <= shown[name]
        others = [shown[other] for other in kinds if other != name]
        assert not shown[name] & set.union(*others)
    seen = set(browser.pixels(tmp_path).tolist())
    trained = 0xB7E4C0 if scheme == "light" else 0x1F5A2F
    assert trained in seen
    assert (0xFFFFFF if scheme == "light" else 0x16181B) in seen
    assert browser.asked() == [page.as_uri()]
    assert browser.complaints() == []


# Exit codes


def test_findings_end_with_3_once_all_is_shown_where_that_was_asked_for(base, inspect):
    shown, said = inspect(*base)
    assert [finding["name"] for finding in shown["findings"]] == ["few_steps"]
    strict, also_said = inspect(*base, "--strict", code=3)
    assert strict == shown
    assert also_said.startswith(said)
    assert "--strict: there are findings (few_steps)" in also_said
    clean = ["--batch_size_training=1", "--batching_strategy=padding", "--strict"]
    assert inspect(*base, *clean)[0]["findings"] == []


def test_what_the_run_would_refuse_is_shown_and_refused(folder, inspect, capsys):
    flags = data_flags(folder, "bad")
    assert finetune([*flags, "--no_save_model"]) == 3
    refusal = capsys.readouterr().err
    shown, said = inspect(*flags, code=3)
    assert said.endswith(refusal)
    assert shown["parts"]["training"]["documents"] == 40
    assert shown["findings"][0]["name"] == "run_refused"
    assert shown["refused"] in refusal


def test_data_that_cannot_be_read_at_all_is_refused_as_in_training(folder, inspect):
    shown, said = inspect(*data_flags(folder, "nothing"), code=3)
    assert not shown
    assert "no such file or folder" in said


def test_everything_that_is_wrong_with_the_flags_is_one_list(folder, inspect, tmp_path):
    (tmp_path / "mine.html").write_text("<p>not yours</p>")
    shown, said = inspect(
        "--sampels=3", "--lr=high", "--num_epochs=0", "--dataset=file_dataset",
        f"--html={tmp_path / 'mine.html'}", code=2,
    )  # fmt: skip
    assert not shown
    for problem in (
        "--sampels", "--lr is 'high'", "--num_epochs is 0", "--model_name is not given",
        "--file_dataset.train_file is not given", "was not written by llama-recipes inspect",
    ):  # fmt: skip
        assert said.count(problem) == 1
    assert "output_dir" not in said
    assert (tmp_path / "mine.html").read_text() == "<p>not yours</p>"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--strickt", "--strickt is no setting. Did you mean --strict?"),
        ("--sample=3", "--sample is no setting. Did you mean --samples?"),
        ("--jsn=x", "--jsn is no setting. Did you mean --json?"),
        ("--lora_r=3", "--lora_r is no setting. Did you mean --"),
        ("--zzz", "--zzz is no setting. --help and llama-recipes train --help list them all."),
    ],
)
def test_of_a_mistyped_flag_the_nearest_of_both_kinds_is_named(base, inspect, flag, said):
    _, told = inspect(*base, flag, code=2)
    assert told.startswith(f"Error: {said}")


def test_where_nothing_can_be_written_is_said_first(base, inspect, tmp_path):
    for path in (tmp_path / "no" / "page.html", tmp_path):
        _, said = inspect(*base, f"--html={path}", code=2)
        assert f"--html {path} is no file in a folder that is there" in said


def test_two_files_of_one_name_and_a_pipe_are_refused(base, inspect, tmp_path):
    page = tmp_path / "inspected.json"  # which `inspect` names as --json
    _, said = inspect(*base, f"--html={page}", code=2)
    assert f"--html and --json are both {page}: name two files." in said
    os.mkfifo(tmp_path / "pipe")
    _, said = inspect(*base, f"--html={tmp_path / 'pipe'}", code=2)
    assert "is there already, and was not written by" in said


def test_a_folder_that_is_no_run_s_is_the_only_problem(inspect, tmp_path):
    _, said = inspect(str(tmp_path / "none"), code=2)
    assert said.startswith(f"Error: There is no {tmp_path / 'none' / 'config.yaml'}: name")
    _, said = inspect("one", "two", code=2)
    assert "llama-recipes inspect takes one run, and 'one' and 'two' are two: name one." in said


def test_a_folder_that_may_not_be_written_to_is_named(base, inspect, tmp_path, monkeypatch):
    def refused(**where):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "TemporaryFile", refused)
    _, said = inspect(*base, code=2)
    assert f"--json {tmp_path / 'inspected.json'} cannot be written: Permission denied." in said


def test_a_full_disk_is_the_user_s_to_mend(base, inspect, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(look, "publish", full)
    _, said = inspect(*base, f"--html={tmp_path / 'page.html'}", code=2)
    assert "page.html could not be written: No space left on device. Make room, or name" in said


def test_its_own_files_are_written_anew(base, inspect, tmp_path):
    page = tmp_path / "page.html"
    inspect(*base, f"--html={page}", "--samples=0")
    before = page.read_text()
    inspect(*base, f"--html={page}", "--samples=2")
    assert len(page.read_text()) > len(before)


def test_a_folder_that_is_no_run_is_named(base, inspect, tmp_path, folder):
    _, said = inspect(str(tmp_path), code=2)
    assert f"There is no {tmp_path / 'config.yaml'}" in said
    (tmp_path / "config.yaml").write_text("train_config: {}\n")
    _, said = inspect(str(tmp_path), "--config=x.yaml", code=2)
    assert "both name a run" in said


def test_code_in_the_settings_of_a_run_is_not_run_unasked(folder, inspect, tmp_path):
    (tmp_path / "config.yaml").write_text(
        f"train_config:\n  model_name: {folder / 'model'}\n  dataset: custom_dataset\n"
        f"custom_dataset:\n  file: {folder / 'own.py'}\n"
    )
    _, said = inspect(str(tmp_path), code=2)
    assert "which is not run unasked" in said
    inspect(f"--config={tmp_path / 'config.yaml'}", "--no_run_validation")


def test_one_process_is_enough(base, inspect, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    _, said = inspect(*base, code=2)
    assert "Start llama-recipes inspect without it, with --processes 2." in said


def test_the_settings_can_be_printed(base, capsys):
    assert main(["inspect", *base, "--print_config"]) == 0
    assert capsys.readouterr().out.startswith("train_config:")


def test_an_id_that_the_model_does_not_have_is_refused_as_in_training(inspect, folder, tmp_path):
    tiny_folder(tmp_path / "small", vocab_size=VOCABULARY - 3)
    _, said = inspect(
        f"--model_name={tmp_path / 'small'}", "--dataset=file_dataset",
        f"--train_file={folder / 'rows.jsonl'}", code=4,
    )  # fmt: skip
    assert "the model's embedding has only" in said
