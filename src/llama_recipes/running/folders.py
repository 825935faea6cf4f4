"""The folders of a run: where they are, what is never written over, and what is taken along."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile

from llama_recipes.checkpoint.folder import Checkpoint, has_ended
from llama_recipes.configs.places import checkpoints_place, saves_apart
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import is_given
from llama_recipes.configs.training import TrainConfig
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.monitoring.report.files import SAMPLES_FILE
from llama_recipes.monitoring.results import LAST, RESULTS_FILE, STOPPED_BY, ending_in
from llama_recipes.monitoring.run_facts import earlier_parts
from llama_recipes.monitoring.run_log import METRICS_FILE
from llama_recipes.monitoring.to_wandb import RUN_FILE as WANDB_FILE


def output_path(config: RunConfig) -> Path | None:
    output_dir = config.train_config.output_dir
    # A shell leaves --output_dir=~/x as it is.
    return Path(output_dir).expanduser() if is_given(output_dir) else None


def checkpoints_path(config: RunConfig) -> Path | None:
    """Where this run's checkpoints stand; None where it saves none."""
    return checkpoints_place(config.value, output_path(config))


def written_to(config: RunConfig) -> list[Path]:
    """The folders that are a run's own: --output_dir, and that of checkpoints that stand apart."""
    root = checkpoints_path(config) if saves_apart(config.value) else None
    return [folder for folder in (output_path(config), root) if folder is not None]


def seen_from(root: Path, folder: Path | None) -> str | None:
    """The way from a run's checkpoints to its folder, which holds after both were moved."""
    # By names: what is a link to another disk here may be a link to a third one there.
    return None if folder is None else os.path.relpath(folder.absolute(), root.absolute())


def earlier_folder(checkpoint: Checkpoint | None, own: Path | None = None) -> Path | None:
    """The folder of the run that saved `checkpoint`: its --output_dir, or where that was moved to.

    own: the folder of the run that goes on, which is that one where it holds the same run,
    whichever way led to the checkpoint. It may be gone. None where there was none, or where another
    run has it by now.
    """
    if checkpoint is None:
        return None
    way, run_id = checkpoint.state.get("output_dir", ".."), checkpoint.state["run_id"]
    if own is not None and earlier_parts(own).run_id == run_id:
        return own
    if way is None:
        return None
    folder = Path(os.path.normpath(checkpoint.path.parent.absolute() / way))
    return folder if earlier_parts(folder).run_id in ("", run_id) else None


def refuse_results(config: RunConfig, checkpoint: Checkpoint | None) -> None:
    """Raises ConfigError where the run's folder holds results, which are never written over.

    checkpoint: what the run goes on from; the results in the folder of the run that saved it are
    its to replace, and so are the checkpoints beside it. Of a run that left no weights, `--resume
    auto` replaces what it says of itself where it did not come to its end.
    """
    folder, root = output_path(config), checkpoints_path(config)
    starts_again = checkpoint is None and config.train_config.resume == "auto"
    own = root is not None and _same(folder, earlier_folder(checkpoint, folder))
    if folder is not None and not own:
        _refuse_result(folder, starts_again=starts_again)
    if not _same(root, checkpoint.path.parent if checkpoint else None):
        _refuse_checkpoints(root, "--dist_checkpoint_folder" if saves_apart(config.value) else "")


def _refuse_result(folder: Path, *, starts_again: bool) -> None:
    patterns = ("*.safetensors", f"{LAST}/*.safetensors", "config.json")
    held = [
        str(path.relative_to(folder))
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
    ]
    if (results := folder / RESULTS_FILE).exists():
        ending = ending_in(results)
        is_open = ending == "" or (starts_again and str(ending).startswith(STOPPED_BY))
        held += [] if is_open else [RESULTS_FILE]
    if held:
        raise ConfigError(
            f"--output_dir {folder} already holds {', '.join(held[:3])}, the result of a run,"
            " which is not written over. Name another folder, or remove this one."
        )


def _refuse_checkpoints(root: Path | None, flag: str) -> None:
    """flag: that names their folder, where it is another one than the run's."""
    if root is None or not any(root.glob("step-*")):
        return
    other = f"name another folder{f' with {flag}' if flag else ''}, or remove this one."
    if has_ended(root):
        raise ConfigError(
            f"{root} holds checkpoints of a run that came to its end, which are not written over:"
            f" {other}"
        )
    raise ConfigError(
        f"{root} holds checkpoints of a run that did not end. Go on with it with --resume auto,"
        f" {other}"
    )


def refuse_lost_metrics(folder: Path | None, checkpoint: Checkpoint | None) -> None:
    """Raises CheckpointError where `folder` has less metrics of its run than `checkpoint` tells of.

    They would have a gap. Where there are none at all they were removed on purpose.
    """
    if (
        folder is None
        or checkpoint is None
        or not _same(folder, earlier_folder(checkpoint, folder))
    ):
        return
    path, known = folder / METRICS_FILE, checkpoint.state["metrics_bytes"]
    held = path.stat().st_size if path.is_file() else 0
    if held and not _ends_line(path, known):
        raise CheckpointError(
            f"{path} no longer holds all that was measured until {checkpoint.path} was saved: since"
            " then the run went on from an earlier checkpoint, or lines were removed. Go on from"
            f" that checkpoint with --resume FOLDER, or remove {path} to go on without its lines."
        )


def _ends_line(path: Path, end: int) -> bool:
    """Whether the first `end` bytes of a file are whole lines of it."""
    with path.open("rb") as file:
        file.seek(max(end - 1, 0))
        return end == 0 or file.read(1) == b"\n"


def _same(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and one.resolve() == other.resolve()


def make_folders(config: RunConfig) -> None:
    """Make the run's folders where it has some. Raises ConfigError."""
    for folder in written_to(config):
        said = f"--output_dir {folder}"
        if folder != output_path(config):
            said = f"--dist_checkpoint_root_folder {folder.parent}"
        _make_writable(folder, said)


def take_over(folder: Path, checkpoint: Checkpoint | None) -> None:
    """Replace what an unfinished run that saved nothing left in `folder`.

    A run that goes on from the checkpoint of another folder takes the metrics up to there along.
    Raises OSError.
    """
    earlier = earlier_folder(checkpoint, folder)
    if _same(folder, earlier):
        return
    for name in (METRICS_FILE, SAMPLES_FILE, WANDB_FILE):
        (folder / name).unlink(missing_ok=True)
    if earlier is not None and (earlier / METRICS_FILE).is_file():
        shutil.copyfile(earlier / METRICS_FILE, folder / METRICS_FILE)


def make_profiler_folder(train: TrainConfig) -> None:
    """Make the folder of the trace where one is recorded. Raises ConfigError."""
    if train.use_profiler:
        _make_writable(
            Path(train.profiler_dir).expanduser(), f"--profiler_dir {train.profiler_dir}"
        )


def _make_writable(folder: Path, said: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{said} cannot be written to: {error.strerror or error}."
            " Name a folder that you may write to."
        ) from error
