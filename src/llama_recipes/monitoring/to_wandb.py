"""A run in Weights & Biases, with --use_wandb."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_recipes.configs.wandb import WandbConfig
from llama_recipes.errors import ConfigError
from llama_recipes.monitoring.results import how_it_ended
from llama_recipes.monitoring.trackers import Publish, named

if TYPE_CHECKING:
    import wandb

RUN_FILE = "wandb_run.json"
"""In the run's folder: which run of W&B it is."""

_STEP = "train/step"
"""The optimizer step in every row, and the x axis of every chart."""
_EXIT_CODES = {"finished": 0, "interrupted": 75, "failed": 1}
_FINISH_SECONDS = 120.0
"""How long the end of a run waits for a network that is gone; `wandb sync` uploads the rest."""
_STAY_HERE = "or keep the run on this machine with --wandb_config.mode offline"


def check_login(config: WandbConfig) -> None:
    """Raises ConfigError where W&B is too old, nobody is logged in, or the server says no.

    Nobody is asked for a key: a run that nobody watches would wait for the answer for ever.
    """
    import wandb

    if "prompt" not in signature(wandb.login).parameters:
        raise ConfigError(
            f"--use_wandb needs wandb 0.30 or newer, and {wandb.__version__} is installed here."
            " Install a newer one: pip install --upgrade wandb"
        )
    # What it says beside warnings is in our own words on the screen.
    known = wandb.setup(wandb.Settings(show_info=False)).settings
    if (config.mode or known.mode) != "online":
        return
    if known.mode != "online":  # `wandb offline` or WANDB_MODE, which the setting overrules
        wandb.setup(wandb.Settings(mode="online"))
    try:
        logged_in = wandb.login(prompt=False, verify=True)
    except wandb.Error as error:
        raise ConfigError(
            f"The login at W&B could not be checked: {_sentence(error)} Mend that (`wandb login"
            f" --relogin` takes a new key), {_STAY_HERE}."
        ) from error
    if not logged_in:
        raise ConfigError(
            "--use_wandb needs a login at W&B, and there is no key. Log in with `wandb login`,"
            f" {_STAY_HERE}."
        )


def start_wandb(
    config: WandbConfig,
    folder: Path | None,
    *,
    described: Mapping[str, Any],
    earlier: Sequence[Mapping[str, Any]],
    resumed: bool,
    publish: Publish,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Wandb:
    """Begin a run of W&B, or go on with the one of `folder` where that was `resumed`.

    described: what W&B shows as the run's configuration. earlier: the lines of metrics.jsonl that
    the run goes on behind. Raises ConfigError where W&B refuses.
    """
    import wandb

    given = {name: value for name, value in config.model_dump().items() if value is not None}
    known = wandb.setup().settings
    offline = (config.mode or known.mode) != "online"
    run_id = _id_of(folder) if resumed else None
    if run_id and offline and _lacks_its_begin(earlier):
        warn(
            "metrics.jsonl lacks the run's first steps, so that this part is a run of its own in"
            " W&B: uploaded as the same, it would replace what was uploaded before."
        )
        run_id = None
    try:
        run = wandb.init(
            **given,
            dir=folder,
            id=run_id,
            # Offline there is nobody to ask whether the run exists: the same id is enough.
            resume="allow" if run_id and not offline else None,
            settings=wandb.Settings(
                quiet=True,
                show_info=False,
                finish_timeout=known.finish_timeout or _FINISH_SECONDS,
            ),
        )
    except (wandb.Error, OSError) as error:
        raise ConfigError(
            f"W&B did not begin the run: {_sentence(error)} Mend what it names, {_STAY_HERE}."
        ) from error
    settings: Any = run.config
    settings.update(dict(described), allow_val_change=True)
    run.define_metric("*", step_metric=_STEP)
    if folder is not None and not run.disabled:
        name = {"id": run.id, "project": run.project, "entity": run.entity}
        publish(folder / RUN_FILE, (json.dumps(name) + "\n").encode())
    if run.disabled:
        warn(_tracks_nothing(config))
    else:
        say(_where(run, offline=offline))
    return Wandb(run, earlier=earlier, there=run.starting_step, warn=warn)


class Wandb:
    """A tracker that sends each line of metrics.jsonl as the row of its number.

    So a row means the same however often a run was interrupted, killed and resumed: none is sent
    twice, and those that were lost on the way are sent again. Offline there is no telling what
    W&B's own process still wrote before a kill, and uploading a part of a run replaces what was
    uploaded of it before (github.com/wandb/wandb/issues/3841 and 5865): there each part holds all.

    there: how many rows the server has of this run, 0 offline. warn: hears when W&B fails, which
    ends no training.
    """

    def __init__(
        self,
        run: wandb.Run,
        *,
        earlier: Sequence[Mapping[str, Any]],
        there: int,
        warn: Callable[[str], None],
    ) -> None:
        self._run, self._there, self._warn = run, there, warn
        self._row, self._failed = 0, False
        if there and _lacks_its_begin(earlier):
            warn(
                "metrics.jsonl lacks the run's first steps, so that its lines cannot be held"
                f" against the {there:,} rows that W&B has: what comes now is sent behind those."
                " Steps that are made again stand there twice."
            )
            earlier, self._row = [], there
        for record in earlier:
            self.write(record)

    def write(self, record: Mapping[str, Any]) -> None:
        row, self._row = self._row, self._row + 1
        if row >= self._there:
            content = {_STEP: record["step"], **named(record)}
            self._try(lambda: self._run.log(content, step=row))

    def finish(self, results: Mapping[str, Any]) -> None:
        ending = how_it_ended(results["stop_reason"])
        summary = {key: value for key, value in results.items() if value is not None}
        self._try(lambda: self._run.summary.update(summary))
        if ending == "interrupted":  # "preempted" there, and not "failed": it goes on
            self._try(self._run.mark_preempting)
        self._try(lambda: self._run.finish(exit_code=_EXIT_CODES[ending]))

    def _try(self, send: Callable[[], object]) -> None:
        """W&B fails in many ways when its process or the network is gone; it is told once."""
        try:
            send()
        except Exception as error:
            if not self._failed:
                self._warn(
                    f"W&B does not take what the run writes ({_sentence(error)[:-1]}): from here on"
                    " it may miss some of it. metrics.jsonl has everything."
                )
            self._failed = True


def _tracks_nothing(config: WandbConfig) -> str:
    by = "--wandb_config.mode" if config.mode else "WANDB_MODE or `wandb disabled`"
    return (
        f"W&B is disabled, by {by}: --use_wandb tracks nothing. Give --wandb_config.mode online or"
        " offline to have the run tracked."
    )


def _where(run: wandb.Run, *, offline: bool) -> str:
    if not offline:
        return f"Tracked in W&B: {run.url}"
    folder = shlex.quote(str(run.settings.sync_dir))
    return f"Tracked in W&B on this machine. Upload it with: wandb sync {folder}"


def _lacks_its_begin(earlier: Sequence[Mapping[str, Any]]) -> bool:
    """Whether metrics.jsonl was removed since the run began, as a damaged one has to be."""
    return not earlier or earlier[0]["step"] > 1


def _id_of(folder: Path | None) -> str | None:
    path = folder / RUN_FILE if folder is not None else None
    return json.loads(path.read_text())["id"] if path is not None and path.is_file() else None


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
