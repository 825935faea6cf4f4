"""What can be done with what a run saved: commands to copy, with the paths of this very run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from llama_recipes.configs.places import CHECKPOINTS, saves_apart
from llama_recipes.monitoring.report.files import CONFIG_FILE, RunFiles
from llama_recipes.monitoring.report.summary import state
from llama_recipes.monitoring.results import LAST

_MERGEABLE = ("LORA",)
"""Kinds of adapters whose update is part of a weight; trained prompts are not."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """lines: of a shell, or of Python."""

    title: str
    lines: list[str]
    note: str = ""


def recipes(run: RunFiles) -> list[Recipe]:
    """In the order in which most people want them; none where nothing was saved."""
    if not {"adapter", "model"} & run.saved:
        return []
    folder = str(run.folder)
    found = [
        Recipe("Talk to it", [_shell("chat", folder)], _which_weights(run)),
        Recipe("Measure it", [_evaluate(run)], "Needs the package rouge-score."),
    ]
    if "adapter" not in run.saved:
        return [*found, *_of_full_model(folder), *_again(run)]
    if run.adapter.get("peft_type") in _MERGEABLE:
        merged = f"{folder}-merged"
        merge = [_shell("merge", folder, "--output_dir", merged)]
        note = "One model of base and adapter, for programs that take no adapters."
        found += [Recipe("Merge it", merge, note), *_gguf(folder), *_served(merged)]
    return [*found, *_with_peft(run), *_again(run)]


def _of_full_model(folder: str) -> list[Recipe]:
    load = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"model = AutoModelForCausalLM.from_pretrained({folder!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({folder!r})",
    ]
    return [*_gguf(folder), *_served(folder), Recipe("Load it in transformers", load)]


def _gguf(folder: str) -> list[Recipe]:
    file = f"{folder}.gguf"
    lines = [_shell("export", folder, "--output", file), shlex.join(["llama-server", "-m", file])]
    note = "--dtype Q8_0 makes a file of half the size or less. llama-server is llama.cpp's."
    return [Recipe("Run it in llama.cpp", lines, note)]


def _served(model: str) -> list[Recipe]:
    note = "vLLM answers on port 8000 as OpenAI's API does."
    return [Recipe("Serve it with vLLM", [shlex.join(["vllm", "serve", model])], note)]


def _with_peft(run: RunFiles) -> list[Recipe]:
    """Where peft finds the base by the name in the adapter."""
    base, folder = str(run.adapter.get("base_model_name_or_path") or ""), str(run.folder)
    if "/" not in base or Path(base).suffix == ".gguf":
        return []  # an alias, or a file that it cannot read
    load = [
        "from peft import AutoPeftModelForCausalLM",
        "from transformers import AutoTokenizer",
        f"model = AutoPeftModelForCausalLM.from_pretrained({folder!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({folder!r})",
    ]
    return [Recipe("Load it in peft", load)]


_WHERE = "in the folder where the run was started, if its settings name files from there."


def _again(run: RunFiles) -> list[Recipe]:
    note = f"The same settings into another folder; {_WHERE}"
    more = []
    if saves_apart(run.setting):
        begin = run.setting("train_config.dist_checkpoint_folder")
        more += ["--dist_checkpoint_folder", f"{begin}-again"]
    if run.setting("train_config.resume"):  # from the begin, and not from that checkpoint
        more += ["--resume", ""]
    if run.setting("train_config.resume_with_changes"):
        more += ["--no_resume_with_changes"]
    return [Recipe("Train it again", [_train(run, f"{run.folder}-again", *more)], note)]


def go_on(run: RunFiles) -> list[Recipe]:
    """How to go on with a run that has not come to its end; nothing for one that has."""
    kind, _ = state(run)
    if kind == "done" or CHECKPOINTS not in run.saved:
        return []
    # It may be alive, or killed before it could say so.
    when = "Once it has ended, and not before; " if kind == "going on" else "From where it was; "
    line = _train(run, str(run.folder), "--resume", "auto")
    return [Recipe("Go on with it", [line], when + _WHERE)]


def _train(run: RunFiles, folder: str, *more: str) -> str:
    words = ["--config", str(run.folder / CONFIG_FILE), "--output_dir", folder, *more]
    if not run.setting("train_config.enable_fsdp"):
        return _shell("train", *words)
    processes = str(run.facts.get("processes", 1))
    start = [
        "torchrun",
        "--standalone",
        "--nproc_per_node",
        processes,
        "-m",
        "llama_recipes.finetuning",
    ]
    return shlex.join([*start, *words])


def _evaluate(run: RunFiles) -> str:
    folder = str(run.folder)
    words = ["evaluate", folder]
    words += ["--compare_with", "base"] if "adapter" in run.saved else []
    if run.setting("train_config.dataset") == "custom_dataset":
        words += ["--config", str(run.folder / CONFIG_FILE)]  # whose code is not run unasked
    if not _can_validate(run):
        words += ["--split", "train"]
    return _shell(*words)


def _can_validate(run: RunFiles) -> bool:
    """Whether evaluate finds documents that were not trained on."""
    if "validation" in run.facts.get("data", {}):
        return True
    # Without run_validation it has not been opened, but may be there.
    dataset = run.setting("train_config.dataset")
    return dataset in ("stdlib_docstrings_dataset", "alpaca_dataset")


def _which_weights(run: RunFiles) -> str:
    if LAST not in run.saved:
        return ""
    return f"These are the weights of the best evaluation; those of the last step are in {LAST}/."


def _shell(*words: str) -> str:
    return shlex.join(["llama-recipes", *words])
