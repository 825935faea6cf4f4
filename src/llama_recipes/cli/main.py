"""The console script: finds the subcommand and hands it the rest of the command line.

Each command is imported only when it is called, so that --help stays instant.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from llama_recipes import __version__
from llama_recipes.errors import ConfigError, guard

COMMANDS = {
    "train": ("llama_recipes.finetuning", "fine-tune a model"),
    "quickstart": ("llama_recipes.cli.quickstart", "fine-tune a small real model, start to end"),
    "chat": ("llama_recipes.cli.chat", "talk to a model or an adapter"),
    "merge": ("llama_recipes.cli.merge", "make one model of a base model and an adapter"),
    "export": ("llama_recipes.cli.export", "write a model or an adapter in another format"),
    "evaluate": ("llama_recipes.cli.evaluate", "measure a model or an adapter on a data set"),
    "inspect": ("llama_recipes.cli.inspect", "show what a run would train, before it does"),
    "report": ("llama_recipes.cli.report", "make the report of a run anew"),
}
"""Command → the module whose `main(argv) -> int` does it, and what it does."""


def run() -> None:
    """Entry point of the `llama-recipes` script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run the command named first in `argv` with the rest of it; returns the exit code."""
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    return guard(lambda: _dispatch(name, rest), debug="--debug" in rest)


def _dispatch(name: str, rest: list[str]) -> int:
    if name not in COMMANDS:
        near = get_close_matches(name, list(COMMANDS), n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(COMMANDS)}."
        raise ConfigError(f"llama-recipes has no command {name!r}. {hint}")
    module, _ = COMMANDS[name]
    code: int = import_module(module).main(rest)
    return code


def _help() -> str:
    commands = [f"  {name:<12}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: llama-recipes COMMAND [flags]",
            "",
            "Fine-tune Llama models: right, fast and clear.",
            "",
            *commands,
            "",
            "llama-recipes COMMAND --help lists the flags of a command.",
        ]
    )
