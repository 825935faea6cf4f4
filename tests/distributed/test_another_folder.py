"""A sharded full fine-tune, whose checkpoints stand apart, and the folders that it writes to."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from llama_recipes.monitoring.report.commands import recipes
from llama_recipes.monitoring.report.files import read_run
from support.ranks import run_jobs
from support.tiny_folder import jsonl, sums, tiny_folder

RESULT = ("model.safetensors", "metrics.jsonl")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the jobs left; one process is enough for what is decided before the first step."""
    folder = tmp_path_factory.mktemp("runs")
    model, rows = tiny_folder(folder / "model"), jsonl(folder / "train.jsonl", sums(9))

    def job(name: str, *extra: str, root: str = "a", steps: int = 2, code: int = 0) -> dict:
        flags = [
            *("--enable_fsdp", f"--model_name={model}", "--dataset=file_dataset"),
            *(f"--train_file={rows}", "--no_run_validation", "--context_length=64"),
            *("--batch_size_training=1", f"--max_train_step={steps}"),
            *(f"--output_dir={folder / name}", f"--dist_checkpoint_folder={root}"),
            f"--dist_checkpoint_root_folder={folder / 'sharded'}",
        ]
        return {"flags": [*flags, *extra], "code": code}

    resume, first = "--resume=auto", folder / "first"
    again = ["--config", f"{first}/config.yaml", "--output_dir", f"{first}-again"]
    again += ["--dist_checkpoint_folder", "a-again", "--resume", ""]
    (folder / "other").mkdir()
    for name in RESULT:
        (folder / "other" / name).write_text("of another run")
    jobs = [
        job("first"),
        job("other", resume, steps=3, code=2),
        job("new", steps=3, code=2),
        job("first", resume, steps=3),
        {"flags": again},
        job("moved", resume, steps=4),
    ]
    run_jobs(folder / "logs", jobs, size=1)
    return folder


def said(made: Path, job: int) -> str:
    return (made / "logs" / f"{job}-0.log").read_text()


def lines(folder: Path) -> list[int]:
    texts = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(text)["step"] for text in texts]


def test_a_run_that_goes_on_does_not_write_over_another_ones_result(made):
    assert f"--output_dir {made}/other already holds model.safetensors" in said(made, 1)
    assert {path.name: path.read_text() for path in (made / "other").iterdir()} == dict.fromkeys(
        RESULT, "of another run"
    )


def test_its_own_result_is_its_own_to_replace(made):
    assert "Going on after step 2" in said(made, 3)
    assert lines(made / "first") == [1, 2, 3]


def test_checkpoints_of_a_run_that_ended_are_called_that(made):
    words = "a-model holds checkpoints of a run that came to its end, which are not written over:"
    assert f"{words} name another folder with --dist_checkpoint_folder, or" in said(made, 2)


def test_the_report_s_command_trains_it_again(made):
    (shown,) = [r.lines[0] for r in recipes(read_run(made / "first")) if r.title.endswith("again")]
    words = json.loads((made / "logs" / "jobs.json").read_text())[4]["flags"]
    assert shlex.split(shown)[-len(words) :] == words
    assert lines(made / "first-again") == [1, 2, 3]
    assert (made / "sharded" / "a-again-model" / "step-00000003").is_dir()


def test_another_folder_takes_the_history_along(made):
    assert "Going on after step 3" in said(made, 5)
    assert lines(made / "moved") == [1, 2, 3, 4]
    facts, earlier = (json.loads((made / n / "run.json").read_text()) for n in ("moved", "first"))
    assert [start["after_step"] for start in facts["started"]] == [0, 2, 3]
    assert facts["started"][:2] == earlier["started"]
