"""Runs that are tracked, and what the trackers wrote, read back with readers of their own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from math import exp
from pathlib import Path
from statistics import fmean
from threading import Thread

import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llama_recipes import packages
from llama_recipes.cli.main import main as command
from llama_recipes.finetuning import main
from llama_recipes.monitoring.run_log import finite, read_metrics
from llama_recipes.monitoring.trackers import named
from llama_recipes.running import run as running
from llama_recipes.running import watching
from llama_recipes.training import loop
from llama_recipes.training.interruption import StopRequested
from support.tiny_folder import jsonl, sums, tiny_folder
from support.wandb_file import written_runs

OFFLINE = ("--use_wandb", "--wandb_config.mode=offline")
TRACKED = (*OFFLINE, "--use_tensorboard", "--save_metrics")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[str]:
    """Three steps in each of two epochs; an evaluation after steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = sums(14)
    return [
        *(f"--model_name={tiny_folder(folder / 'model')}", "--dataset=file_dataset"),
        f"--train_file={jsonl(folder / 'train.jsonl', rows[:12])}",
        f"--validation_file={jsonl(folder / 'validation.jsonl', rows[12:])}",
        *("--use_peft", "--batching_strategy=padding", "--context_length=128", "--lr=1e-2"),
        *("--num_epochs=2", "--eval_every=2", "--checkpoint_every=2"),
    ]


def rows_of(folder: Path) -> list[dict[str, float]]:
    """What every tracker has to have, from metrics.jsonl."""
    return [{"train/step": line["step"], **named(line)} for line in read_metrics(folder).lines]


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point that TensorBoard shows."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def assert_scalars_are_the_lines(folder: Path) -> None:
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in rows_of(folder):
        step = row.pop("train/step")
        for name, value in row.items():
            expected.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    assert scalars_of(folder) == expected


def assert_lists_are_the_lines(folder: Path) -> None:
    """The oracle: the loss of an epoch is the mean over its tokens, written out once more."""
    lines, results = read_metrics(folder).lines, json.loads((folder / "results.json").read_text())
    lists = json.loads(Path(results["metrics_filename"]).read_text())
    steps = [line for line in lines if "loss" in line]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert lists["train_step_loss"] == [line["loss"] for line in steps]
    assert lists["val_step_loss"] == losses
    assert lists["val_epoch_loss"] == [losses[0], losses[2]]  # after steps 2 and 6
    assert fmean(lists["train_epoch_loss"]) == results["avg_train_loss"]
    tokens = [
        after["supervised_tokens"] - before
        for before, after in zip(
            [0, *(line["supervised_tokens"] for line in steps)], steps, strict=False
        )
    ]
    weighted = [count * line["loss"] for count, line in zip(tokens, steps, strict=True)]
    assert lists["train_epoch_loss"] == [
        pytest.approx(sum(weighted[:3]) / sum(tokens[:3]), rel=1e-12),
        pytest.approx(sum(weighted[3:]) / sum(tokens[3:]), rel=1e-12),
    ]
    for name in ("train_step", "train_epoch", "val_step", "val_epoch"):
        expected = [pytest.approx(exp(loss)) for loss in lists.pop(f"{name}_loss")]
        assert lists.pop(f"{name}_perplexity") == expected
    assert lists == {}


# A run from its begin to its end


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "result"
    names = ("--wandb_config.tags=a,b", "--wandb_config.project=mine")
    assert main([*inputs, *TRACKED, *names, f"--output_dir={folder}"]) == 0
    return folder


def test_wandb_has_the_settings_every_line_and_the_results(whole):
    (run,) = written_runs(whole)
    assert run.exit_code == 0
    assert not run.preempting
    assert run.run_id == json.loads((whole / "wandb_run.json").read_text())["id"]
    assert run.given["project"] == "mine"
    assert run.given["tags"] == ["a", "b"]
    settings = yaml.safe_load((whole / "config.yaml").read_text())
    for section, values in settings.items():
        assert run.config[section].items() >= (values or {}).items()
    assert run.config["processes"] == 1
    assert run.config["data"]["training"]["documents"] == 12
    assert 0 < run.config["trained_parameters"] < run.config["parameters"]
    assert run.metrics["*"] == "train/step"
    assert run.rows == dict(enumerate(rows_of(whole)))
    assert [row["train/step"] for row in run.rows.values()] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    results = json.loads((whole / "results.json").read_text())
    known = {key: value for key, value in results.items() if value is not None}
    assert known["stop_reason"] == "all epochs are done"
    assert run.summary.items() >= known.items()


def test_tensorboard_has_every_line_and_the_settings(whole):
    assert_scalars_are_the_lines(whole)
    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    texts = {
        tag: event.tensor_proto.string_val[0].decode()
        for tag in ("settings/text_summary", "results/text_summary")
        for event in events.Tensors(tag)
    }
    assert "\n      lr: 0.01\n" in texts["settings/text_summary"]
    assert "    stop_reason: all epochs are done\n" in texts["results/text_summary"] + "\n"
    assert hparams_of(whole)["train_config.lr"].number_value == 0.01
    assert hparams_of(whole)["data.training.documents"].number_value == 12


def hparams_of(folder: Path):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    return HParamsPluginData.FromString(content).session_start_info.hparams


def test_the_file_of_all_losses_has_the_original_s_eight_lists(whole):
    assert_lists_are_the_lines(whole)
    (file,) = whole.glob("metrics_data_*.json")
    assert file.name.startswith("metrics_data_None-20")


def test_report_makes_the_file_of_losses_and_the_plots_anew(whole, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(whole, tmp_path / "copy")
    made = {path: path.read_bytes() for path in [*folder.glob("*.png"), *folder.glob("metrics_d*")]}
    assert len(made) == 5
    for path in made:
        path.write_bytes(b"damaged")
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 7, "lo')  # as a kill may leave it
    assert command(["report", str(folder)]) == 0
    assert {path: path.read_bytes() for path in made} == made
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert command(["report", str(folder)]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_the_four_plots_show_two_curves_each(whole):
    (file,) = whole.glob("metrics_data_*.json")
    names = [
        f"{file.stem}_train_and_validation_{measure}{per}.png"
        for measure in ("loss", "perplexity")
        for per in ("", "_by_step")
    ]
    assert sorted(path.name for path in whole.glob("*.png")) == sorted(names)
    for name in names:
        with Image.open(whole / name) as image:
            assert image.size == (1000, 600)
            colours = image.convert("RGB").getcolors(maxcolors=1 << 20)
        strong = {
            (red > green + 60, green > red + 60, blue > green + 60)
            for count, (red, green, blue) in colours
            if count > 50 and max(red, green, blue) - min(red, green, blue) > 60
        }
        assert len(strong) >= 2, f"{name} has not the colours of two curves: {strong}"


def test_the_end_names_what_the_run_took(whole):
    results = json.loads((whole / "results.json").read_text())
    lines = [line for line in read_metrics(whole).lines if "loss" in line]
    assert results["memory"].keys() == {"peak_resident_gib"}
    assert results["memory"]["peak_resident_gib"] >= lines[-1]["peak_memory_gib"] > 0.05
    assert results["total_time"] >= 2 * results["avg_epoch_time"]  # and the last checkpoint
    assert results["total_time"] > sum(line["step_seconds"] for line in lines)


# Runs that are stopped, and go on


def stop_in_evaluation(number: int, monkeypatch) -> None:
    evaluate, made = loop.evaluate, []

    def interrupted(*args, **kwargs):
        made.append(1)
        if len(made) == number:
            raise StopRequested("SIGTERM")
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(loop, "evaluate", interrupted)


def fail_in_step(number: int, monkeypatch) -> None:
    step, made = loop.train_step, []

    def failing(*args, **kwargs):
        made.append(1)
        if len(made) == number:
            raise RuntimeError("a cable was pulled")
        return step(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", failing)


def test_an_interrupted_run_goes_on_as_the_same_run_everywhere(inputs, tmp_path, monkeypatch):
    """Stopped between a step and its evaluation: the one is there, the other is to come."""
    flags = [*inputs, *TRACKED, f"--output_dir={tmp_path / 'result'}"]
    with monkeypatch.context() as patch:
        stop_in_evaluation(2, patch)
        assert main(flags) == 75
    folder = tmp_path / "result"
    before = next(folder.glob("metrics_data_*.json"))
    assert json.loads(before.read_text())["val_step_loss"] == [
        line["eval_loss"] for line in read_metrics(folder).lines if "eval_loss" in line
    ]
    assert main([*flags, "--resume=auto"]) == 0

    first, second = written_runs(folder)
    assert (first.exit_code, first.preempting) == (75, True)
    assert first.summary["stop_reason"] == "stopped by SIGTERM"
    assert (second.exit_code, second.preempting) == (0, False)
    assert first.run_id == second.run_id
    rows = dict(enumerate(rows_of(folder)))
    assert second.rows == rows  # its upload replaces that of the first part
    assert first.rows == {row: rows[row] for row in range(len(first.rows))}
    assert first.rows[len(first.rows) - 1]["train/step"] == 4
    assert_scalars_are_the_lines(folder)
    assert list(folder.glob("metrics_data_*.json")) == [before]
    assert_lists_are_the_lines(folder)


def test_steps_that_a_failure_lost_are_made_again_and_shown_once(inputs, tmp_path, monkeypatch):
    folder = tmp_path / "result"
    flags = [*inputs, *TRACKED, f"--output_dir={folder}", "--checkpoint_every=3"]
    flags.remove("--checkpoint_every=2")
    with monkeypatch.context() as patch:
        fail_in_step(6, patch)
        assert main(flags) == 1
    lost = rows_of(folder)[-1]
    assert main([*flags, "--resume=auto"]) == 0

    first, second = written_runs(folder)
    assert (first.exit_code, first.preempting) == (1, False)
    assert first.summary["stop_reason"] == "stopped by RuntimeError"
    assert first.run_id == second.run_id
    assert second.rows == dict(enumerate(rows_of(folder)))
    for row, content in first.rows.items():  # of step 5 too, which was made again
        assert losses_in(content) == losses_in(second.rows[row])
    assert first.rows[max(first.rows)] == lost
    assert_scalars_are_the_lines(folder)
    assert_lists_are_the_lines(folder)


def test_a_run_that_goes_on_elsewhere_is_a_new_one_with_all_that_was_before(
    inputs, whole, tmp_path
):
    checkpoint = whole / "checkpoints" / "step-00000004"
    folder = tmp_path / "other"
    flags = [*inputs, *TRACKED, f"--output_dir={folder}", f"--resume={checkpoint}"]
    assert main(flags) == 0
    (run,) = written_runs(folder)
    assert run.run_id != written_runs(whole)[0].run_id
    assert run.rows == dict(enumerate(rows_of(folder)))
    assert [row["train/step"] for row in run.rows.values()] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert_scalars_are_the_lines(folder)
    assert_lists_are_the_lines(folder)


def losses_in(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.endswith(("/step", "/loss"))}


class Spy:
    """A tracker that notes what there was when it was told of the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines, self.ends = folder, [], []

    def write(self, record) -> None:
        self.lines.append(finite(record))
        assert read_metrics(self.folder).lines[-1] == self.lines[-1]

    def finish(self, results) -> None:
        steps = sorted(path.name for path in self.folder.glob("checkpoints/step-*"))
        written = json.loads((self.folder / "results.json").read_text())
        self.ends.append((results, written, steps))
        assert (self.folder / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("stops", [True, False])
def test_trackers_hear_of_the_end_once_all_is_saved(inputs, stops, tmp_path, monkeypatch):
    folder = tmp_path / "result"
    spy = Spy(folder)
    monkeypatch.setattr(watching, "make_trackers", lambda *args, **kwargs: [spy])
    if stops:
        stop_in_evaluation(2, monkeypatch)
    assert main([*inputs, f"--output_dir={folder}"]) == (75 if stops else 0)
    ((results, written, steps),) = spy.ends
    assert results == written
    assert results["stop_reason"] == ("stopped by SIGTERM" if stops else "all epochs are done")
    assert steps[-1] == ("step-00000004" if stops else "step-00000006")
    assert spy.lines == read_metrics(folder).lines


def test_what_fails_between_start_and_training_ends_the_trackers_too(inputs, tmp_path, monkeypatch):
    def failing(*args, **kwargs):
        raise RuntimeError("no optimizer today")

    monkeypatch.setattr(running, "make_optimizer", failing)
    assert main([*inputs, *OFFLINE, f"--output_dir={tmp_path / 'result'}"]) == 1
    (run,) = written_runs(tmp_path / "result")
    assert run.exit_code == 1
    assert run.summary["stop_reason"] == "stopped by RuntimeError"


# Without a login, a folder or a network


def test_without_a_login_nothing_is_loaded_or_made(inputs, tmp_path, capsys):
    absent = "--model_name=no/model/here"
    folder = tmp_path / "result"
    assert main([*inputs[1:], absent, "--use_wandb", f"--output_dir={folder}"]) == 2
    assert capsys.readouterr().err.startswith("Error: --use_wandb needs a login at W&B")
    assert not folder.exists()


def test_offline_wandb_needs_neither_a_network_nor_an_output_dir(inputs, tmp_path):
    """In a process of its own, whose every address leads to a door that counts who knocks."""
    knocks = []

    def count(door: socket.socket) -> None:
        knock, address = door.accept()
        knock.close()
        knocks.append(address)

    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"http://127.0.0.1:{door.getsockname()[1]}"
        watch = Thread(target=count, args=[door], daemon=True)
        watch.start()
        names = ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        key = "0123456789" * 4
        code = (
            "import os, sys; os.environ |= dict.fromkeys(sys.argv[1].split(), sys.argv[2]);"
            f"os.environ['WANDB_API_KEY'] = '{key}';"
            "from llama_recipes.finetuning import main; sys.exit(main(sys.argv[3:]))"
        )
        flags = [*inputs, *OFFLINE, "--no_save_model", "--max_train_step=2"]
        done = subprocess.run(
            [sys.executable, "-c", code, " ".join(names), address, *flags],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["wandb"]
        (run,) = written_runs(tmp_path, patience_seconds=0)
        assert [row["train/step"] for row in run.rows.values()] == [1, 2, 2]
        assert run.exit_code == 0
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) > 3
        assert [path for path in files if key.encode() in path.read_bytes()] == []
        assert "wandb: " not in done.stdout + done.stderr
        assert "Tracked in W&B on this machine. Upload it with: wandb sync " in done.stdout
        assert knocks == []
        with socket.create_connection(door.getsockname()) as knock:  # who knocks is counted
            watch.join(timeout=10)
            assert knocks == [knock.getsockname()]
