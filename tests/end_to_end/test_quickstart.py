"""The quickstart from end to end on the real model, with few steps and few functions."""

from __future__ import annotations

import html
import io
import json
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from llama_recipes import packages
from llama_recipes.cli import quickstart
from llama_recipes.cli.main import main
from llama_recipes.errors import ConfigError
from llama_recipes.inference.answers import spread
from support.real import needs_model

MEASURED, ASKED = 8, 6


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a run of three steps, into a name that was taken, and what it showed."""
    wanted = tmp_path_factory.mktemp("quick start") / "output"
    wanted.mkdir()
    (wanted / "something").touch()
    screen = io.StringIO()
    console = Console(file=screen, width=100, highlight=False)
    folder = quickstart.quickstart(wanted, steps=3, measured=MEASURED, asked=ASKED, console=console)
    return folder, screen.getvalue()


@pytest.mark.real_model
@needs_model
def test_it_shows_what_changed_and_where_everything_is(done):
    folder, shown = done
    assert folder.name == "output-2"
    assert f"output is taken: everything goes to {folder}." in shown
    measured = json.loads((folder / "before_after.json").read_text())
    before, after = measured["before"], measured["after"]
    assert after["loss"] < before["loss"]
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    for name, key in (
        ("loss on all, nats per token", "loss"),
        (f"ROUGE-L on {ASKED} of them (F1, 0 to 1)", "rouge_l"),
    ):
        assert f"│ {name} │ {before[key]:.3f} │ {after[key]:.3f} │" in rows
    assert measured["held_out_functions"] == MEASURED
    assert measured["asked_functions"] == len(measured["examples"]) == ASKED
    for name in ("adapter_model.safetensors", "config.yaml", "metrics.jsonl", "results.json"):
        assert (folder / name).exists()
    assert max(len(line) for line in table_lines(shown)) == 100
    for example in spread(measured["examples"], 5):
        assert example["reference"].split()[0] in shown


@pytest.mark.real_model
@needs_model
def test_its_last_line_is_the_report_with_what_was_measured(done, capsys):
    folder, shown = done
    report = Path(shown.splitlines()[-1].strip())
    assert report == folder.resolve() / "report.html"
    page = report.read_text(encoding="utf-8")
    measured = json.loads((folder / "before_after.json").read_text())
    for key in ("loss", "rouge_l"):
        before, after = (f"{measured[when][key]:.4g}" for when in ("before", "after"))
        arrow = '<span aria-hidden="true"> → </span>'
        assert f'<span class="before">{before}{arrow}</span>{after}</dd>' in page
    for example in spread(measured["examples"], 5):
        assert html.escape(example["reference"]) in page
        assert html.escape(example["after"]) in page
    assert main(["report", str(folder)]) == 0
    assert report.read_text(encoding="utf-8") == page


def table_lines(shown):
    return [line for line in shown.splitlines() if line[:1] in "┏┡├└│┃"]


@pytest.mark.real_model
@needs_model
def test_the_command_that_it_shows_asks_the_result(done, capsys):
    folder, shown = done
    program, *command = shlex.split(shown.splitlines()[-3])
    assert program == "llama-recipes"
    assert main([*command, "--max_new_tokens=40"]) == 0
    first = json.loads((folder / "before_after.json").read_text())["examples"][0]
    assert (folder / "example_prompt.txt").read_text() == first["prompt"] + "\n"
    answer = capsys.readouterr().out.strip()
    # In bf16 another batch is another rounding, so only the beginning has to be the same.
    assert answer.split()[:2] == first["after"].split()[:2]


def test_a_free_name_is_found(tmp_path, monkeypatch):
    wanted = tmp_path / "out"
    assert quickstart.free_folder(wanted) == wanted
    wanted.mkdir()
    assert quickstart.free_folder(wanted) == wanted
    (wanted / "x").touch()
    (tmp_path / "out-2").touch()
    assert quickstart.free_folder(wanted) == tmp_path / "out-3"
    monkeypatch.chdir(wanted)
    assert quickstart.free_folder(Path()) == tmp_path / "out-3"
    assert quickstart.free_folder(Path("..")) == tmp_path.with_name(f"{tmp_path.name}-2")
    with pytest.raises(ConfigError, match="Name a new folder in it"):
        quickstart.free_folder(Path("/"))


def test_a_missing_rouge_score_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install rouge-score"):
        quickstart.quickstart(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_examples_are_spread_over_all():
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread(range(3), 5) == [0, 1, 2]


def test_a_wrong_flag(capsys):
    assert main(["quickstart", "--output=x"]) == 2
    assert "Did you mean --output_dir?" in capsys.readouterr().err
