"""The page of a report: whatever a run left, in words, escaped, and from its files alone."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from llama_recipes import packages
from llama_recipes.checkpoint.store import publish
from llama_recipes.cli.main import main
from llama_recipes.monitoring.report import tracker
from llama_recipes.monitoring.report.commands import recipes
from llama_recipes.monitoring.report.files import read_run
from llama_recipes.monitoring.report.summary import figures, state
from llama_recipes.monitoring.report.tracker import RunReport, write_report
from llama_recipes.monitoring.run_facts import EarlierParts, earlier_parts
from llama_recipes.monitoring.screen import Screen
from support.run_folder import evaluation, page_of, run_folder, step

HOSTILE = "</pre><script>alert(1)</script>\"'&<!-- \x00\x1b[31m"


class Tags(HTMLParser):
    """Every tag, with what is not closed in its order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def text_of(page: str) -> str:
    """What is read of a page, on one line."""
    body = re.sub(r"<(title|style)>.*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


SAMPLES = {
    "part": "validation",
    "left_out": "",
    "max_new_tokens": 64,
    "after_step": 3,
    "figures": [{"name": "Loss of all", "before": 3.25, "after": 1.5, "note": "nats"}],
    "examples": [{"prompt": "2 + 2 =", "reference": "4", "before": "fish", "after": "four"}],
}


def test_whatever_a_run_holds_is_text_and_no_markup(tmp_path):
    name = tmp_path / "a <b>&'folder"
    folder = run_folder(
        name,
        step(1, 2.0),
        flags=("--use_peft", f"--wandb_config.notes={HOSTILE.replace(chr(0), '')}",
               "--tokenizer_name=<i>model</i>"),
        samples=SAMPLES | {
            "examples": [dict.fromkeys(("prompt", "reference", "before", "after"), HOSTILE)],
            "note": HOSTILE,
        },
        results={"stop_reason": HOSTILE, "a <key>": HOSTILE},
        run={"warnings": [HOSTILE], "device": HOSTILE, "started": [{"at": HOSTILE}]},
        adapter_config={"peft_type": "LORA", "base_model_name_or_path": f"a/{HOSTILE}"},
    )  # fmt: skip
    page = page_of(folder)
    tags = Tags(page)
    assert tags.open == []
    assert not {"script", "i", "b", "img", "link", "iframe"} & set(tags.seen)
    assert page.count(html.escape(HOSTILE.partition("<!--")[0])) >= 8
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", page)
    page.encode("utf-8")


def test_the_page_asks_nobody_for_anything(tmp_path):
    page = page_of(run_folder(tmp_path, step(1, 2.0), samples=SAMPLES))
    named = [a for a in Tags(page).attributes if a[1] in ("src", "href", "action", "srcset")]
    assert named == []
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    ("reason", "word", "said"),
    [
        ("", "going on", "Going on It is going on, or was ended before it could say why."),
        ("all epochs are done", "done", "Done It came to its end: all epochs are done."),
        ("stopped by SIGTERM", "interrupted", "Interrupted It was stopped by SIGTERM."),
        ("stopped by KeyboardInterrupt", "interrupted", "Interrupted It was stopped by Keyboard"),
        ("stopped by NonFiniteError", "failed", "Failed It was ended by an error: NonFiniteError."),
    ],
)
def test_how_it_ended_is_said(reason, word, said, tmp_path):
    folder = run_folder(tmp_path, step(1, 2.0), results={"stop_reason": reason})
    (folder / "checkpoints").mkdir()
    assert state(read_run(folder))[0] == word
    page = text_of(page_of(folder))
    assert said in page
    assert ("--resume auto" in page) == (word != "done")
    assert ("Once it has ended, and not before;" in page) == (word == "going on")


def test_why_it_failed_is_said_below(tmp_path):
    said = "Row 3 is <bad>. Mend it.\nSo is row 4."
    results = {"stop_reason": "stopped by DataError", "stop_message": said}
    page = page_of(run_folder(tmp_path, step(1, 2.0), results=results))
    assert f'<p class="why">{html.escape(said)}</p></header>' in page
    assert text_of(page).count("Row 3") == 1
    long = page_of(
        run_folder(tmp_path, step(1, 2.0), results=results | {"stop_message": "x" * 9999})
    )
    assert "x" * 2500 + " …</p>" in long
    assert 'class="why"' not in page_of(run_folder(tmp_path / "b", step(1, 2.0)))


COUNTED = {
    "model_tflops": 0.5,
    "flop_counter": {
        "step": 4, "tokens": 4096, "model_tflop": 12.5, "recomputed_tflop": 3.25, "devices": 2,
        "matrix_tflops": 2.0, "matrix_tflops_from": "measured with products of 512 x 512",
        "share_of_matrix_rate": 0.25, "tflop_by_module": {"Llama": {"forward": 1.0}},
    },
}  # fmt: skip


def test_what_was_counted_is_said_in_words(tmp_path):
    whole = text_of(page_of(run_folder(tmp_path / "a", step(1, 2.0), results=COUNTED)))
    cost = whole.partition("Machine and cost ")[2].partition("All figures of")[0]
    assert cost.strip() == (
        "Operations of a step 12.5 TFLOP for the 4,096 tokens of step 4, of 2 devices together"
        " Recomputed beside them 3.25 TFLOP Operations a second 0.5 TFLOP/s per device"
        " Share of the matrix rate 25%"
        " Matrix rate 2 TFLOP/s, measured with products of 512 x 512"
    )
    short = {"model_tflops": None, "flop_counter": {"step": 1, "tokens": 9, "model_tflop": 1e-5}}
    page = text_of(page_of(run_folder(tmp_path / "b", step(1, 2.0), results=short)))
    assert "Operations of a step 1e-05 TFLOP for the 9 tokens of step 1 All" in page
    assert "Operations a second" not in page
    for odd in (None, 7, {}, {"model_tflop": "much"}):
        results = {"flop_counter": odd, "steps": 3}
        page = page_of(run_folder(tmp_path / "c", step(1, 2.0), results=results))
        assert "Operations of a step" not in page


def test_how_to_go_on_where_checkpoints_stand_apart(tmp_path):
    """Those of a sharded full fine-tune, whose folder the settings name."""
    flags = (f"--dist_checkpoint_root_folder={tmp_path / 'sharded'}", "--enable_fsdp")
    stopped = {"results": {"stop_reason": "stopped by SIGTERM"}, "run": {"processes": 2}}
    folder = run_folder(tmp_path / "run", flags=flags, **stopped)
    assert "Go on with it" not in page_of(folder)
    (tmp_path / "sharded" / "fine-tuned-a-model").mkdir(parents=True)
    page = text_of(page_of(folder))
    assert "Go on with it torchrun --standalone --nproc_per_node 2 " in page
    assert f"--config {folder}/config.yaml --output_dir {folder} --resume auto From" in page


def test_the_figures_are_those_of_the_files(tmp_path):
    lines = [
        step(n, 4.0 - n, tokens=100 * n, supervised_tokens=10 * n, step_seconds=float(n),
             tokens_per_second=100 / n, peak_memory_gib=n / 2)
        for n in (1, 2, 3)
    ]  # fmt: skip
    evaluations = [evaluation(1, 2.5), evaluation(2, 1.25), evaluation(3, 1.75)]
    folder = run_folder(
        tmp_path, *lines, *evaluations, samples=SAMPLES, run={"total_steps": 9},
        results={"model_tflops": 0.5, "flops_share": 0.25},
    )  # fmt: skip
    run = read_run(folder)
    assert [(f.name, f.before, f.value) for f in figures(run)] == [
        ("Loss of all", "3.25", "1.5"),
        ("Best evaluation loss", "", "1.25"),
        ("Training loss", "3", "1"),
        ("Steps", "", "3 of 9"),
        ("Tokens", "", "300"),
        ("Time", "", "0:06"),
        ("Speed", "", "50"),
        ("Peak memory", "", "1.50 GiB"),
        ("Model speed", "", "0.5"),
    ]
    page = text_of(page_of(folder))
    assert "perplexity 3.49, after step 2, first 2.5" in page
    assert "flops_share 0.25" in page


def test_a_perplexity_beyond_all_numbers_is_a_dash(tmp_path):
    page = text_of(page_of(run_folder(tmp_path, step(1, 800.0), evaluation(1, 710.0))))
    assert "Best evaluation loss 710 perplexity –, after step 1" in page


def test_when_it_began_and_ended(tmp_path):
    began = {"started": [{"at": "2026-11-24T09:05:00+00:00"}] * 2}
    for end, said in (
        (None, "begun on 24 November 2026, 09:05 UTC, resumed 1 time."),
        ("2026-11-25T01:00:00+00:00", "resumed 1 time; ended on 25 November 2026, 01:00 UTC."),
    ):
        assert said in text_of(page_of(run_folder(tmp_path, run=began | {"ended": end})))


def test_settings_that_differ_stand_before_the_rest(tmp_path):
    flags = ("--use_peft", "--lr=2e-3", "--lora_config.target_modules=[k_proj]")
    page = page_of(run_folder(tmp_path, flags=flags))
    differ, rest = page.split("<summary>All settings")
    assert "LoRA of rank 8 on k_proj" in text_of(page)
    assert "--lr 0.002 0.0001 Learning rate at its highest" in text_of(differ)
    assert "--lora_config.target_modules k_proj q_proj,v_proj" in text_of(differ)
    assert "--num_epochs" not in differ
    assert "num_epochs 3" in text_of(rest)
    assert "context_length not given: at most the model's own limit" in text_of(rest)


def test_what_the_data_was_and_what_was_left_out(tmp_path):
    part = {
        "documents": 1200, "tokens": 40_000, "supervised_tokens": 10_000,
        "lengths": {"shortest": 3, "median": 30, "longest": 512},
        "counts": {"rows": 1300, "truncated": 7, "bad_rows": 0},
    }  # fmt: skip
    page = text_of(page_of(run_folder(tmp_path, run={"data": {"training": part}})))
    for words in (
        "Documents 1,200",
        "Trained tokens 10,000 (25%)",
        "Longest document 512 tokens",
        "Cut to context_length 7",
        "A step is 4 rows; documents are packed side by side",
    ):
        assert words in page
    assert "Bad rows" not in page


def test_answers_are_shown_or_why_not(tmp_path):
    page = text_of(page_of(run_folder(tmp_path / "a", samples=SAMPLES)))
    assert "Document 1 2 + 2 = Reference 4 Before fish After four" in page
    assert "After: with the weights of the last step, 3." in page
    (tmp_path / "a" / "last").mkdir()
    assert "of the last step, 3, which are in last/." in text_of(page_of(tmp_path / "a"))
    before = SAMPLES | {"after_step": None, "examples": [SAMPLES["examples"][0] | {"after": None}]}
    page = text_of(page_of(run_folder(tmp_path / "b", samples=before)))
    assert "Before fish" in page
    assert "After four" not in page
    left_out = {"left_out": "there are none.", "examples": []}
    assert "Left out: there are none." in page_of(run_folder(tmp_path / "c", samples=left_out))
    none = run_folder(tmp_path / "d", flags=("--report_samples=0",))
    assert "Left out: report_samples is 0." in page_of(none)
    many = SAMPLES | {"examples": SAMPLES["examples"] * 30}
    page = text_of(page_of(run_folder(tmp_path / "e", samples=many)))
    assert "10 more are in samples.json." in page
    long = SAMPLES["examples"][0] | {"prompt": "x" * 10_000}
    page = page_of(run_folder(tmp_path / "f", samples=SAMPLES | {"examples": [long]}))
    assert "… 7,500 characters more" in page


def titles(folder) -> list[str]:
    return [recipe.title for recipe in recipes(read_run(folder))]


def test_what_can_be_done_depends_on_what_was_saved(tmp_path):
    assert titles(run_folder(tmp_path / "nothing")) == []
    lora = {"peft_type": "LORA", "base_model_name_or_path": "org/model"}
    adapter = run_folder(tmp_path / "an adapter", adapter_config=lora)
    assert titles(adapter) == [
        "Talk to it", "Measure it", "Merge it", "Run it in llama.cpp", "Serve it with vLLM",
        "Load it in peft", "Train it again",
    ]  # fmt: skip
    commands = [line for recipe in recipes(read_run(adapter)) for line in recipe.lines]
    assert f"llama-recipes merge '{adapter}' --output_dir '{adapter}-merged'" in commands
    prefix = lora | {"peft_type": "PREFIX_TUNING", "base_model_name_or_path": "an-alias"}
    assert "Merge it" not in titles(run_folder(tmp_path / "prefix", adapter_config=prefix))
    assert "Load it in peft" not in titles(tmp_path / "prefix")
    full = run_folder(tmp_path / "full", flags=(), config={})
    (full / "last").mkdir()
    assert "Load it in transformers" in titles(full)
    assert recipes(read_run(full))[0].note.endswith("those of the last step are in last/.")


def test_a_line_that_a_kill_cut_is_left_out_and_said(tmp_path):
    folder = run_folder(tmp_path, step(1, 2.0))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert "A kill left the last line of metrics.jsonl unfinished" in page_of(folder)
    assert len(read_run(folder).steps) == 1


@pytest.mark.parametrize(
    ("file", "content", "code", "said"),
    [
        ("metrics.jsonl", "{}\n", 4, "metrics.jsonl is damaged: line 1 is no line of metrics."),
        ("metrics.jsonl", '{"step": 1}\nx\n', 4, "line 2 is no line of metrics. Remove the"),
        ("metrics.jsonl", b"\xff\n", 4, "metrics.jsonl is damaged: it is not UTF-8"),
        ("metrics.jsonl", '{"step": 1, "loss": "x"}\n', 4, "line 1 is no line of metrics"),
        ("metrics.jsonl", '{"step": 1, "loss": 2.0}\n', 4, "line 1 is no line of metrics"),
        ("results.json", "{", 4, "results.json is damaged: it is not valid JSON"),
        ("run.json", "[]", 4, "run.json is damaged: it holds no JSON object. Remove it"),
        ("samples.json", '{"examples": [1]}', 4, "examples is not what a run writes. Remove it"),
        ("run.json", '{"data": {"a": 1}}', 4, "data is not what a run writes"),
        (
            "config.yaml",
            "train_config: {nothing: 1}",
            4,
            "config.yaml is damaged: train_config has",
        ),
        ("config.yaml", None, 2, "holds no config.yaml, so no run wrote it. Name the folder"),
    ],
)
def test_what_is_damaged_is_named_in_a_sentence(file, content, code, said, tmp_path, capsys):
    folder = run_folder(tmp_path, step(1, 2.0))
    path = folder / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["report", str(folder)]) == code
    message = capsys.readouterr().err
    assert said in message
    assert message.startswith("Error: ")
    assert len(message.splitlines()) == 1
    assert not (folder / "report.html").exists()


def test_what_is_no_run_or_cannot_be_written(tmp_path, capsys):
    assert main(["report"]) == 2
    assert "No run is named. Write its folder: llama-recipes report RUN_FOLDER." in (
        capsys.readouterr().err
    )
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "none is no folder. Name the one that a run wrote" in capsys.readouterr().err
    folder = run_folder(tmp_path / "run")
    (folder / "report.html").mkdir()
    assert main(["report", str(folder)]) == 2
    assert f"The report in {folder} could not be written: " in capsys.readouterr().err


def test_plots_that_cannot_be_made_hide_no_report(tmp_path, capsys, monkeypatch):
    """It is there by then, and the lists need no matplotlib."""
    folder = run_folder(tmp_path / "run", step(1, 2.0))
    lists = folder / "metrics_data_0.json"
    lists.write_text("{}")
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert main(["report", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == f"The report is {folder / 'report.html'}\n"
    assert said.err == (
        "Error: The plots of --save_metrics were left out: they are drawn with the package"
        " matplotlib, which is not installed here. Install it: pip install matplotlib\n"
    )
    assert json.loads(lists.read_text())["train_step_loss"] == [2.0]
    lists.unlink()
    lists.mkdir()
    assert main(["report", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == f"The report is {folder / 'report.html'}\n"
    assert said.err.startswith(
        f"Error: What --save_metrics left in {folder} could not be written: "
    )


def test_the_command_says_where_it_is_and_changes_nothing_else(tmp_path, capsys, monkeypatch):
    folder = run_folder(tmp_path / "run", step(1, 2.0))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.chdir(tmp_path)
    assert main(["report", "run"]) == 0
    assert capsys.readouterr().out == f"The report is {folder / 'report.html'}\n"
    page = (folder / "report.html").read_bytes()
    assert main(["report", "--run_folder", str(folder)]) == 0
    assert (folder / "report.html").read_bytes() == page
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before | {"report.html": page}


def reporting(folder, **more) -> tuple[RunReport, Screen]:
    screen = Screen(Console(quiet=True))
    return RunReport(folder, {"started": []}, screen, **({"publish": publish} | more)), screen


def test_a_tracker_writes_it_after_each_evaluation_and_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tracker, "_SHORT_SECONDS", 1e9)  # however busy the machine is
    folder = run_folder(tmp_path, step(1, 2.0))
    report, screen = reporting(folder)
    report.write(step(1, 2.0))
    assert not (folder / "report.html").exists()
    for loss in (1.5, 1.25):
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(evaluation(1, loss)) + "\n")
        report.write(evaluation(1, loss))
        assert f'value">{loss}</dd>' in (folder / "report.html").read_text()
    screen.warn("Mind the gap.")
    (folder / "results.json").write_text('{"stop_reason": "all epochs are done"}')
    report.finish({})
    page = (folder / "report.html").read_text()
    assert "all epochs are done" in page
    assert "Mind the gap." in page
    assert json.loads((folder / "run.json").read_text())["ended"]
    assert write_report(folder, publish).read_text() == page


def test_warnings_of_earlier_parts_of_the_run_stay_and_none_stands_twice(tmp_path):
    folder = run_folder(tmp_path)
    for said in (["Mind the gap.", "Rain."], ["Snow.", "Rain."]):
        report, screen = reporting(folder, warnings=earlier_parts(folder).warnings)
        for warning in said:
            screen.warn(warning)
        report.finish({})
    assert earlier_parts(folder).warnings == ["Mind the gap.", "Rain.", "Snow."]
    assert text_of(page_of(folder)).count("Rain.") == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"started": 1}', '{"warnings": "x", "run_id": 1}'])
def test_a_damaged_history_is_none(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    assert earlier_parts(tmp_path).started == []
    assert earlier_parts(None) == EarlierParts()


def test_what_goes_wrong_with_it_is_a_warning_once(tmp_path, monkeypatch):
    def full_disk(path, content):
        raise OSError(28, "No space left on device")

    folder = run_folder(tmp_path / "a run", step(1, 2.0))
    report, screen = reporting(folder, publish=full_disk)
    for _ in range(3):
        report.write(evaluation(1, 1.0))
    report.finish({})
    (warning,) = screen.warnings
    assert warning.startswith(f"{folder / 'report.html'} could not be written: No space left")
    assert f"llama-recipes report '{folder}'." in warning

    report, screen = reporting(folder)
    monkeypatch.setattr(tracker, "report_page", lambda run: 1 / 0)
    report.finish({})
    assert len(screen.warnings) == 1


def test_a_report_that_takes_long_is_made_less_often(tmp_path, monkeypatch):
    clock = iter([0, 100, 110, 120, 1000, 5000, 5010, 5020])
    monkeypatch.setattr(tracker.time, "monotonic", lambda: next(clock))
    made = []
    report, _ = reporting(run_folder(tmp_path), publish=lambda path, content: made.append(path))
    report.write(evaluation(1, 1.0))  # asked at 0, from 100 to 110
    report.write(evaluation(2, 1.0))  # asked at 120: ten seconds each ten are too much
    assert len(made) == 2
    report.write(evaluation(3, 1.0))  # asked at 1000
    assert len(made) == 4
