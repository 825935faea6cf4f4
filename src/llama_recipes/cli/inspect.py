"""`llama-recipes inspect`: what a run would train, before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from llama_recipes.cli.flags import read_flags
from llama_recipes.cli.inspection.files import MADE_BY, unwritable
from llama_recipes.configs import rules
from llama_recipes.configs.flags import read
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import Section
from llama_recipes.errors import ConfigError, guard
from llama_recipes.parallel.ranks import share_processor, world_size

PROG = MADE_BY
_EPILOG = """\
Beside these come the flags of the run, as for train (train --help lists them), in flags, with
--config FILE, or as the folder of a run. Nothing is trained and no weights are read; --output_dir
may be left out. A finding is something that ruins runs, with what to do about it; without --strict
findings do not change the exit code."""


class InspectFlags(Section):
    """Show what a run would train: its documents, tokens and labels, what is cut or left out,
    duplicates, steps, and samples from the very batches of the training."""

    run: str = Field(
        default="",
        description="Folder of a run, as is a word without a flag: its config.yaml is the run",
    )
    samples: int = Field(
        default=3, ge=0, description="Documents to show token by token, as they come in training"
    )
    html: str = Field(default="", description="File for a page with all of it; it needs no network")
    json_file: str = Field(
        default="", description="File for all figures, findings and samples; --json too"
    )
    strict: bool = Field(default=False, description="End with exit code 3 where there are findings")
    processes: int = Field(
        default=1, ge=1, description="Processes that the run would have, which share its batches"
    )
    debug: bool = Field(default=False, description="Show the traceback of an error too")


def main(argv: Sequence[str]) -> int:
    """Inspect as the flags say; return the exit code."""
    return guard(lambda: _inspect(argv), debug="--debug" in argv)


def _inspect(argv: Sequence[str]) -> int:
    if world_size() > 1:
        raise ConfigError(
            f"torchrun started {world_size()} processes, which would all show the same. Start"
            f" {PROG} without it, with --processes {world_size()}."
        )
    flags, config = _read(argv)
    if config is None:
        return 0
    share_processor()

    from llama_recipes.cli.inspection.look import inspect_run

    inspect_run(flags, config)
    return 0


def _read(argv: Sequence[str]) -> tuple[InspectFlags, RunConfig | None]:
    """The command's own flags, and the run's; no run where its settings were asked for and shown.

    Raises ConfigError with all problems.
    """
    flags, rest, problems = None, list[str](), list[str]()
    try:
        flags = read_flags(
            _renamed(argv), InspectFlags, prog=PROG, positional="run", epilog=_EPILOG, rest=rest
        )
    except ConfigError as error:
        problems += error.problems
    run_file = str(Path(flags.run).expanduser() / "config.yaml") if flags and flags.run else ""
    if run_file and any(word.partition("=")[0] == "--config" for word in rest):
        problems.append(f"{flags and flags.run} and --config both name a run: give one of them.")
        run_file = ""
    if run_file and not Path(run_file).is_file():
        problems.append(f"There is no {run_file}: name the folder of a run, or write --FLAG VALUE.")
        raise ConfigError(*problems)
    words = [*rest, *([f"--config={run_file}"] if run_file else [])]
    reading = read(words, prog=PROG, others=["json", *InspectFlags.model_fields])
    config = reading.config
    problems += reading.problems + rules.contradictions(config, refused=reading.refused)
    if run_file and config.train_config.dataset == "custom_dataset":
        problems.append(
            f"{run_file} names code of a data set, {config.custom_dataset.file}, which is not run"
            f" unasked. If you trust it, give --config {run_file}."
        )
    if reading.is_whole and not reading.print_config:
        problems += rules.missing(_without_results(config), refused=reading.refused)
    for flag, path in (("html", flags.html), ("json", flags.json_file)) if flags else ():
        problems += unwritable(flag, path)
    if flags and flags.html and flags.html == flags.json_file:
        problems.append(f"--html and --json are both {flags.html}: name two files.")
    if problems or flags is None:
        raise ConfigError(*dict.fromkeys(problems))
    if reading.print_config:
        from llama_recipes.configs.document import to_yaml

        print(to_yaml(config), end="")
        return flags, None
    return flags, config


def _renamed(argv: Sequence[str]) -> list[str]:
    """--json for json_file: a field of the shorter name would hide one of pydantic's."""
    return [re.sub("^--json(?==|$)", "--json_file", word) for word in argv]


def _without_results(config: RunConfig) -> RunConfig:
    """The run as one that writes nothing, and so needs no place for it."""
    train = config.train_config.model_copy(update={"save_model": False, "use_profiler": False})
    return config.model_copy(update={"train_config": train})
