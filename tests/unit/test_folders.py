"""Which folder a run that is gone on with wrote to, told by its checkpoint."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from llama_recipes.checkpoint.folder import Checkpoint
from llama_recipes.errors import ConfigError
from llama_recipes.running.folders import earlier_folder, refuse_results, seen_from, take_over
from support.settings import configured


def checkpoint(root: Path, folder: Path | None, seen_by: Path | None = None) -> Checkpoint:
    """Of a run in `folder`, saved below `root`, or below `seen_by`, which was moved there since."""
    state = {"run_id": "mine", "output_dir": seen_from(seen_by or root, folder)}
    return Checkpoint(root / "step-00000004", 4, state)


def test_it_is_found_after_both_were_moved(tmp_path):
    saved = checkpoint(tmp_path / "new/sharded", tmp_path / "old/run", tmp_path / "old/sharded")
    assert earlier_folder(saved) == tmp_path / "new" / "run"
    saved = checkpoint(tmp_path / "b/checkpoints", tmp_path / "a", tmp_path / "a/checkpoints")
    assert earlier_folder(saved) == tmp_path / "b"


def test_there_may_be_none(tmp_path):
    assert earlier_folder(None) is None
    assert earlier_folder(checkpoint(tmp_path / "root", None)) is None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The --output_dir of `configured`, with weights in it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a-folder"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    return folder


@pytest.mark.parametrize(("run_id", "is_its_own"), [("mine", True), ("", True), ("other", False)])
def test_a_folder_that_another_run_has_by_now_is_no_longer_its_own(run_id, is_its_own, folder):
    (folder / "run.json").write_text(json.dumps({"run_id": run_id}))
    saved = checkpoint(folder.parent / "sharded" / "fine-tuned-a-model", folder)
    assert earlier_folder(saved) == (folder if is_its_own else None)
    config = configured("--enable_fsdp", "--dist_checkpoint_root_folder=sharded")
    refused = pytest.raises(ConfigError, match=r"a-folder already holds model\.safetensors, the")
    with nullcontext() if is_its_own else refused:
        refuse_results(config, saved)


def test_a_run_that_saves_nothing_leaves_even_its_own_result(folder):
    """Its metrics would be of other steps than the weights beside them."""
    saved = checkpoint(folder / "checkpoints", folder)
    refuse_results(configured(), saved)
    with pytest.raises(ConfigError, match=r"a-folder already holds model\.safetensors, the"):
        refuse_results(configured("--no_save_model"), saved)


def test_its_own_folder_is_known_whichever_way_leads_to_the_checkpoints(folder):
    """As where `checkpoints` is a link to another disk, and the place there is named."""
    (folder / "run.json").write_text(json.dumps({"run_id": "mine"}))
    (folder / "metrics.jsonl").write_text("kept")
    state = checkpoint(folder / "checkpoints", folder).state
    elsewhere = Checkpoint(folder.parent / "scratch" / "ck" / "step-00000004", 4, state)
    assert earlier_folder(elsewhere, folder) == folder
    take_over(folder, elsewhere)
    assert (folder / "metrics.jsonl").read_text() == "kept"


def test_what_an_abandoned_run_left_is_no_part_of_one_that_goes_on_there(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("mine")
    for name in ("metrics.jsonl", "samples.json", "wandb_run.json"):
        (folder / name).write_text("another's")
    take_over(folder, checkpoint(tmp_path / "run" / "checkpoints", tmp_path / "run"))
    assert (folder / "metrics.jsonl").read_text() == "mine"
    assert not (folder / "samples.json").exists()
    assert not (folder / "wandb_run.json").exists()


ENDS = ("", "stopped by RuntimeError", "stopped by SIGTERM", "all epochs are done")


@pytest.mark.parametrize("reason", ENDS)
@pytest.mark.parametrize("flags", [[], ["--resume=auto"]], ids=["anew", "auto"])
def test_weights_without_a_checkpoint_are_never_written_over(flags, reason, folder):
    """Killed behind its first evaluation and before its first checkpoint, too."""
    (folder / "results.json").write_text(json.dumps({"stop_reason": reason}))
    with pytest.raises(ConfigError, match=r"a-folder already holds model\.safetensors"):
        refuse_results(configured(*flags), None)


@pytest.mark.parametrize(
    ("flags", "open_ends"), [([], ENDS[:1]), (["--resume=auto"], ENDS[:3])], ids=["anew", "auto"]
)
@pytest.mark.parametrize("reason", ENDS)
def test_a_run_that_left_no_weights_starts_again(flags, open_ends, reason, folder):
    """As where one of several processes is killed in the first save."""
    (folder / "model.safetensors").unlink()
    (folder / "results.json").write_text(json.dumps({"stop_reason": reason}))
    refused = pytest.raises(ConfigError, match=r"a-folder already holds results\.json")
    with nullcontext() if reason in open_ends else refused:
        refuse_results(configured(*flags), None)


def test_results_of_somebody_else_are_kept(folder):
    (folder / "model.safetensors").unlink()
    (folder / "results.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"a-folder already holds results\.json"):
        refuse_results(configured("--resume=auto"), None)
