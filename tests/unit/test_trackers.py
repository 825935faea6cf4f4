"""What trackers do where something is missing, refused, or breaks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.errors import AuthenticationError, CommError

from llama_recipes import packages
from llama_recipes.checkpoint.store import publish
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.training import TrainConfig
from llama_recipes.configs.wandb import WandbConfig
from llama_recipes.errors import CheckpointError, ConfigError, Interrupted
from llama_recipes.monitoring.results import how_it_ended, reason_of
from llama_recipes.monitoring.run_log import METRICS_FILE, read_metrics
from llama_recipes.monitoring.to_tensorboard import TensorBoard
from llama_recipes.monitoring.to_wandb import RUN_FILE, Wandb, start_wandb
from llama_recipes.monitoring.trackers import Trackers, named
from llama_recipes.monitoring.tracking import check_trackers
from llama_recipes.running.ending import finishing
from llama_recipes.training.interruption import StopRequested

LINES = [
    {"step": 1, "epoch": 1, "loss": 3.0, "grad_norm": math.inf},
    {"step": 2, "epoch": 1, "loss": 2.0, "grad_norm": 1.0},
    {"step": 2, "eval_loss": 2.5, "eval_perplexity": None},
    {"step": 3, "epoch": 2, "loss": 1.0, "grad_norm": 1.0},
]


def asking(**train) -> RunConfig:
    return RunConfig(train_config=TrainConfig(**train))


# The seam


def test_a_line_has_its_names_and_nothing_that_is_not_finite():
    assert named(LINES[0]) == {"train/epoch": 1, "train/loss": 3.0}
    assert named(LINES[2]) == {"eval/loss": 2.5}


def test_all_hear_in_order_and_of_the_end_once():
    heard = []

    def tracker(name):
        return SimpleNamespace(
            write=lambda record: heard.append((name, record)),
            finish=lambda results: heard.append((name, results)),
        )

    trackers = Trackers(pytest.fail)
    trackers.write({"step": 0})
    trackers.add([tracker("a"), tracker("b")])
    trackers.write({"step": 1})
    trackers.finish({"stop_reason": "first"})
    trackers.finish({"stop_reason": "second"})
    assert heard == [
        *(("a", {"step": 1}), ("b", {"step": 1})),
        *(("a", {"stop_reason": "first"}), ("b", {"stop_reason": "first"})),
    ]


class Failing:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def finish(self, results):
        raise self.error


def test_who_fails_at_the_end_silences_nobody_and_hides_no_error():
    heard, warned = [], []
    trackers = Trackers(warned.append)
    errors = [OSError(28, "No space left on device"), ValueError("a mistake of ours")]
    trackers.add([*map(Failing, errors), SimpleNamespace(finish=heard.append)])
    with pytest.raises(Interrupted), finishing(trackers):
        raise Interrupted("All is saved.")
    assert heard == [{"stop_reason": "stopped by Interrupted"}]
    assert warned == [
        f"Failing did not take the end of the run: {reason}. metrics.jsonl and results.json have"
        " everything."
        for reason in ("No space left on device", "a mistake of ours")
    ]


def test_a_second_signal_while_a_tracker_ends_is_heeded():
    trackers = Trackers(pytest.fail)
    trackers.add([Failing(KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        trackers.finish({"stop_reason": ""})


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("all epochs are done", "finished"),
        ("max_train_step=3 is reached", "finished"),
        ("no better evaluation loss in 2 evaluations (early stopping)", "finished"),
        ("stopped by SIGTERM", "interrupted"),
        ("stopped by KeyboardInterrupt", "interrupted"),
        ("stopped by NonFiniteError", "failed"),
    ],
)
def test_how_a_run_ended_is_told_from_its_reason(reason, ending):
    assert how_it_ended(reason) == ending


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (CheckpointError("It is broken. Mend it.", "So is this."),
         "It is broken. Mend it.\nSo is this."),
        (IndexError("list index out of range\n  in a line that nobody needs"),
         "list index out of range"),
        (AssertionError(), ""),
        (StopRequested("SIGTERM"), ""),
        (KeyboardInterrupt(), ""),
        (OSError("https://me:pass@hub.example/x says no to hf_abcdefghijklmnopqrstuv"),
         "https://…@hub.example/x says no to …"),
        (ConfigError(f"W&B says no to {'0123456789' * 4}."), "W&B says no to …."),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_of_an_error_its_sentences_are_kept_and_no_key(error, kept):
    assert reason_of(error) == kept


def test_lines_are_read_back(tmp_path):
    assert read_metrics(None) == read_metrics(tmp_path) == ([], 0)
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{"step": 2}\n')
    assert read_metrics(tmp_path).lines == [{"step": 1}, {"step": 2}]
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 3, "lo')  # as a kill may leave it
    assert read_metrics(tmp_path) == ([{"step": 1}, {"step": 2}], 1)
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{"st\n')
    with pytest.raises(CheckpointError, match="line 2 is no line of metrics"):
        read_metrics(tmp_path)


# What is missing is said before anything begins


@pytest.mark.parametrize(
    ("setting", "package"),
    [("use_wandb", "wandb"), ("use_tensorboard", "tensorboard"), ("save_metrics", "matplotlib")],
)
@pytest.mark.parametrize("found", [None, SimpleNamespace(origin=None)], ids=["nothing", "folder"])
def test_a_missing_package_is_named_with_the_command(setting, package, found, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: found)
    with pytest.raises(ConfigError, match=f"--{setting} .* pip install {package}$") as raised:
        check_trackers(asking(**{setting: True}))
    assert len(raised.value.problems) == 1
    check_trackers(asking())


def test_without_a_login_the_ways_out_are_named():
    """The tests run without one. Nobody is asked for a key: that would wait for ever."""
    with pytest.raises(ConfigError, match="needs a login at W&B, and there is no key") as raised:
        check_trackers(asking(use_wandb=True))
    assert "`wandb login`, or keep the run on this machine with" in str(raised.value)
    assert str(raised.value).endswith("--wandb_config.mode offline.")
    check_trackers(
        RunConfig(
            train_config=TrainConfig(use_wandb=True), wandb_config=WandbConfig(mode="offline")
        )
    )


def test_a_login_is_checked_without_asking_for_a_key(monkeypatch):
    asked = []

    def login(*, prompt, verify):
        asked.append((prompt, verify))
        return True

    monkeypatch.setattr(wandb, "login", login)
    check_trackers(asking(use_wandb=True))
    assert asked == [(False, True)]


def test_a_wandb_that_would_ask_for_a_key_is_too_old(monkeypatch):
    monkeypatch.setattr(wandb, "login", lambda *, verify: True)
    monkeypatch.setattr(wandb, "__version__", "0.22.1")
    with pytest.raises(ConfigError, match=r"needs wandb 0\.30 or newer, and 0\.22\.1 is installed"):
        check_trackers(asking(use_wandb=True))


def test_a_login_that_is_refused_is_said_in_one_sentence(monkeypatch):
    def refuse(*, prompt, verify):
        raise AuthenticationError("Failed to authenticate with https://api.wandb.ai:\n 401")

    monkeypatch.setattr(wandb, "login", refuse)
    with pytest.raises(ConfigError, match=r"could not be checked: .*wandb.ai: 401\. Mend"):
        check_trackers(asking(use_wandb=True))


# TensorBoard


def tensorboard(folder: Path, earlier=()) -> TensorBoard:
    return TensorBoard(folder, settings="a: 1\n", hparams={"lr": 1.0}, earlier=earlier)


def losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in ("train/loss", "eval/loss") if tag in events.Tags()["scalars"]]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def test_a_line_is_on_the_disk_before_the_next_step(tmp_path):
    tracker = tensorboard(tmp_path)
    for line in LINES[:2]:
        tracker.write(line)
    assert losses(tmp_path) == {"train/loss": [(1, 3.0), (2, 2.0)]}
    tracker.finish({"stop_reason": "", "steps": 2})


@pytest.mark.parametrize("kept", [0, 2, 3])
def test_what_a_killed_run_showed_after_its_checkpoint_is_hidden(kept, tmp_path):
    """Nobody told the tracker of the end. The lines are made again, here with other losses."""
    killed = tensorboard(tmp_path)
    for line in LINES:
        killed.write(line)
    again = [line if "eval_loss" in line else line | {"loss": 9.0} for line in LINES[kept:]]
    tracker = tensorboard(tmp_path, LINES[:kept])
    for line in again:
        tracker.write(line)
    tracker.finish({"stop_reason": "all epochs are done", "steps": 3})
    trained = [(1, 3.0), (2, 2.0)][:kept] + [(1, 9.0), (2, 9.0), (3, 9.0)][kept and 2 :]
    assert losses(tmp_path) == {"train/loss": trained, "eval/loss": [(2, 2.5)]}


def test_tracking_that_begins_late_shows_what_was_before(tmp_path):
    tensorboard(tmp_path, LINES[:3]).write(LINES[3])
    assert losses(tmp_path)["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]


# W&B, behind what it offers: a run that takes rows


class Run:
    """What W&B gives back, with everything that was done to it. fails: log raises."""

    id, project, entity, url, disabled = "r1", "p", "us", "https://wandb.ai/us/p/runs/r1", False

    def __init__(self, *, starting_step: int = 0, fails: bool = False) -> None:
        self.starting_step, self.fails = starting_step, fails
        self.rows, self.summary, self.ends = {}, {}, []
        self.config = SimpleNamespace(update=lambda values, **how: None)
        self.settings = SimpleNamespace(sync_dir="here")

    def define_metric(self, name, *, step_metric):
        assert (name, step_metric) == ("*", "train/step")

    def log(self, content, *, step):
        if self.fails:
            raise ConnectionError("the service process\nis gone")
        assert step not in self.rows
        self.rows[step] = content

    def mark_preempting(self):
        self.ends.append("preempting")

    def finish(self, *, exit_code):
        self.ends.append(exit_code)


def begin(
    run: Run, folder: Path | None, monkeypatch, *, resumed=False, earlier=LINES[:2], **options
):
    """The tracker, what wandb.init was given, and what was said and warned of."""
    given, said = {}, []

    def init(**how):
        given.update(how)
        return run

    monkeypatch.setattr(wandb, "init", init)
    tracker = start_wandb(
        WandbConfig(**options),
        folder,
        described={},
        earlier=earlier,
        resumed=resumed,
        publish=publish,
        say=said.append,
        warn=said.append,
    )
    return tracker, given, said


def test_only_what_was_given_is_handed_on(tmp_path, monkeypatch):
    _, given, said = begin(Run(), tmp_path, monkeypatch, mode="online", group="g")
    settings = given.pop("settings")
    assert (settings.quiet, settings.show_info, settings.finish_timeout) == (True, False, 120.0)
    assert given == {
        **{"project": "llama_recipes", "mode": "online", "group": "g"},
        **{"dir": tmp_path, "id": None, "resume": None},
    }
    assert said == ["Tracked in W&B: https://wandb.ai/us/p/runs/r1"]
    kept = json.loads((tmp_path / RUN_FILE).read_text())
    assert kept == {"id": "r1", "project": "p", "entity": "us"}


@pytest.mark.parametrize(("there", "sent"), [(0, [0, 1, 2, 3]), (1, [1, 2, 3]), (3, [3])])
def test_online_the_server_s_rows_are_not_sent_again_and_lost_ones_are(
    there, sent, tmp_path, monkeypatch
):
    (tmp_path / RUN_FILE).write_text('{"id": "r1"}')
    run = Run(starting_step=there)
    tracker, given, _ = begin(run, tmp_path, monkeypatch, resumed=True, mode="online")
    assert (given["id"], given["resume"]) == ("r1", "allow")
    for line in LINES[2:]:
        tracker.write(line)
    assert list(run.rows) == sent
    assert all(run.rows[row] == {"train/step": LINES[row]["step"], **named(LINES[row])}
               for row in sent)  # fmt: skip


@pytest.mark.parametrize("earlier", [[], LINES[3:]], ids=["removed", "since then"])
def test_rows_behind_a_file_that_was_removed_are_not_lost(earlier, tmp_path, monkeypatch):
    (tmp_path / RUN_FILE).write_text('{"id": "r1"}')
    run = Run(starting_step=40)
    tracker, _, said = begin(
        run, tmp_path, monkeypatch, resumed=True, earlier=earlier, mode="online"
    )
    for line in LINES[2:]:
        tracker.write(line)
    assert list(run.rows) == [40, 41]
    assert run.rows[41] == {"train/step": 3, **named(LINES[3])}
    assert said[1:] == [
        "metrics.jsonl lacks the run's first steps, so that its lines cannot be held against the 40"
        " rows that W&B has: what comes now is sent behind those. Steps that are made again stand"
        " there twice."
    ]


def test_offline_such_a_part_replaces_nothing(tmp_path, monkeypatch):
    (tmp_path / RUN_FILE).write_text('{"id": "r0"}')
    _, given, said = begin(
        Run(), tmp_path, monkeypatch, resumed=True, earlier=LINES[3:], mode="offline"
    )
    assert given["id"] is None
    assert "this part is a run of its own in W&B: uploaded as the same, it would" in said[0]


def test_offline_a_part_that_goes_on_has_the_same_id_and_every_row(tmp_path, monkeypatch):
    """Uploading it replaces what was uploaded of the run before."""
    (tmp_path / RUN_FILE).write_text('{"id": "r1"}')
    run = Run()
    tracker, given, said = begin(run, tmp_path, monkeypatch, resumed=True, mode="offline")
    assert (given["id"], given["resume"]) == ("r1", None)
    tracker.write(LINES[2])
    assert list(run.rows) == [0, 1, 2]
    assert said == ["Tracked in W&B on this machine. Upload it with: wandb sync here"]


def test_a_run_that_begins_anew_is_another_run(tmp_path, monkeypatch):
    (tmp_path / RUN_FILE).write_text('{"id": "of a run that was killed"}')
    _, given, _ = begin(Run(), tmp_path, monkeypatch, mode="online")
    assert given["id"] is None


def test_where_wandb_is_disabled_nothing_is_tracked_or_written_and_that_is_said(tmp_path):
    said = []
    tracker = start_wandb(
        WandbConfig(mode="disabled"),
        tmp_path,
        described={"a": 1},
        earlier=LINES[:2],
        resumed=False,
        publish=publish,
        say=said.append,
        warn=said.append,
    )
    tracker.write(LINES[2])
    tracker.finish({"stop_reason": "stopped by SIGTERM"})
    assert said == [
        "W&B is disabled, by --wandb_config.mode: --use_wandb tracks nothing. Give"
        " --wandb_config.mode online or offline to have the run tracked."
    ]
    assert list(tmp_path.iterdir()) == []


def test_what_disables_wandb_outside_of_the_settings_is_named(tmp_path, monkeypatch):
    known = SimpleNamespace(mode="disabled", finish_timeout=None)
    monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=known))
    run = Run()
    run.disabled = True
    _, _, said = begin(run, tmp_path, monkeypatch)
    (sentence,) = said
    assert sentence.startswith("W&B is disabled, by WANDB_MODE or `wandb disabled`: --use_wandb")


def test_the_command_that_uploads_holds_a_path_with_a_space(tmp_path, monkeypatch):
    run = Run()
    run.settings.sync_dir = "my runs/wandb"
    _, _, said = begin(run, tmp_path, monkeypatch, mode="offline")
    assert said[0].endswith("Upload it with: wandb sync 'my runs/wandb'")


def test_what_wandb_refuses_is_the_user_s_to_mend(tmp_path, monkeypatch):
    def refuse(**how):
        raise CommError("Error uploading run: returned error 403: permission denied")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"did not begin the run: .* permission denied\. Mend"):
        start_wandb(
            WandbConfig(mode="online"),
            tmp_path,
            described={},
            earlier=[],
            resumed=False,
            publish=publish,
            say=print,
            warn=print,
        )
    assert not (tmp_path / RUN_FILE).exists()


def test_a_network_that_breaks_ends_no_training_and_is_named_once(capsys):
    run, warned = Run(fails=True), []
    tracker = Wandb(run, earlier=[], there=0, warn=warned.append)
    for line in LINES:
        tracker.write(line)
    tracker.finish({"stop_reason": "all epochs are done"})
    assert warned == [
        "W&B does not take what the run writes (the service process is gone): from here on it may"
        " miss some of it. metrics.jsonl has everything."
    ]
    assert run.ends == [0]


@pytest.mark.parametrize(
    ("reason", "ends"),
    [
        ("all epochs are done", [0]),
        ("stopped by SIGUSR1", ["preempting", 75]),
        ("stopped by OutOfMemoryError", [1]),
    ],
)
def test_the_end_is_marked_as_what_it_is(reason, ends):
    run = Run()
    tracker = Wandb(run, earlier=[], there=0, warn=print)
    tracker.finish({"stop_reason": reason, "best_step": None, "steps": 3})
    assert run.ends == ends
    assert run.summary == {"stop_reason": reason, "steps": 3}
