"""`llama-recipes report`: the report of a run, made anew from its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from llama_recipes.cli.flags import read_flags
from llama_recipes.configs.section import Section
from llama_recipes.errors import ConfigError, guard, writing

PROG = "llama-recipes report"
_EPILOG = """\
A run writes its report after each evaluation, more rarely where making it takes long, and at its
end; this makes the same of what is in the folder now, also while the run goes on, after a crash, or
in a copy of the folder elsewhere. No model is loaded. Where the run had --save_metrics, its file of
losses and its plots are made anew too; nothing else in the folder is changed."""


class ReportFlags(Section):
    """Write report.html of a run: its curves, its settings, its data, answers before and after, and
    what can be done with what it saved, as one file for a browser."""

    run_folder: str = Field(
        default="", description="The run's folder (its --output_dir), as is a word without a flag"
    )
    debug: bool = Field(default=False, description="Show the traceback of an error too")


def main(argv: Sequence[str]) -> int:
    """Make the report as the flags say; return the exit code."""
    return guard(lambda: _report(argv), debug="--debug" in argv)


def _report(argv: Sequence[str]) -> int:
    flags = read_flags(argv, ReportFlags, prog=PROG, positional="run_folder", epilog=_EPILOG)
    if not flags.run_folder:
        raise ConfigError(f"No run is named. Write its folder: {PROG} RUN_FOLDER.")
    folder = Path(flags.run_folder).expanduser()

    from llama_recipes.checkpoint.store import publish
    from llama_recipes.monitoring.metrics_file import rebuild
    from llama_recipes.monitoring.report.tracker import write_report

    remedy = "Make room, or give a copy of the folder that you may write to."
    with writing(f"The report in {folder}", remedy, kind=ConfigError):
        path = write_report(folder, publish)
    print(f"The report is {path.resolve()}", flush=True)
    with writing(f"What --save_metrics left in {folder}", remedy, kind=ConfigError):
        rebuild(folder, publish)
    return 0
