"""The flags as argparse knows them: their declaration, their help, and how argv is cut."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llama_recipes.configs.settings import (
    BY_BARE_NAME,
    SECTIONS,
    SETTINGS,
    Setting,
    did_you_mean,
)

COMMAND_FLAGS = {
    "config": "YAML file with settings; a flag given beside it wins",
    "print_config": "Print all settings of this run as YAML and stop; --config reads them back",
    "debug": "Show the traceback of an error too",
}
"""Flags that are no settings of the run."""

SETTINGS_OF: Mapping[str, list[Setting]] = {
    **BY_BARE_NAME,
    **{setting.key: [setting] for setting in SETTINGS.values()},
}
"""What a flag sets, by its name with or without that of a section."""

_HOW_TO_WRITE = """\
A flag without its section's name sets every section that has it: --r, --mixed_precision. One with
it wins over one without. Hyphens may stand for underscores. A setting that is True or False:
--use_peft, --use_peft False, --no_use_peft. A list: --target_modules q_proj,k_proj."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One flag as it stood in argv: `--no_use_peft` is use_peft, negated, without a text."""

    name: str
    text: str | None
    negated: bool

    @property
    def label(self) -> str:
        return f"--no_{self.name}" if self.negated else f"--{self.name}"


def read_argv(
    argv: Sequence[str], *, prog: str, problems: list[str], others: Sequence[str] = ()
) -> list[Occurrence]:
    """The known flags in argv; the rest is added to `problems`. Prints and exits for --help.

    others: flags of the command itself, which a mistyped one may be meant for.
    """
    known, rest = build_parser(prog).parse_known_args(
        _joined(argv), argparse.Namespace(occurrences=[])
    )
    problems += [_unknown(word, others) for word in rest]
    occurrences: list[Occurrence] = known.occurrences
    return occurrences


@cache
def build_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [--SETTING VALUE ...]",
        description="Fine-tune a Llama model.",
        epilog=_HOW_TO_WRITE,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    for name, meaning in COMMAND_FLAGS.items():
        metavar = "FILE" if name == "config" else ""
        parser.add_argument(f"--{name}", action=_Record, metavar=metavar, help=meaning)
    for section, model in SECTIONS.items():
        group = parser.add_argument_group(section, model.__doc__)
        for name in model.model_fields:
            _declare(group, SETTINGS[f"{section}.{name}"])
    for name, settings in SETTINGS_OF.items():
        hidden = [f"--{name}"] if f"--{name}" != settings[0].flag else []
        hidden += [f"--no_{name}"] if settings[0].is_switch else []
        if hidden:
            parser.add_argument(*hidden, action=_Record, help=argparse.SUPPRESS)
    return parser


def _declare(group: argparse._ArgumentGroup, setting: Setting) -> None:
    group.add_argument(
        setting.flag,
        action=_Record,
        metavar=f"[{setting.metavar}]" if setting.is_switch else setting.metavar,
        help=f"{setting.meaning} (default: {setting.default_text})".replace("%", "%%"),
    )


class _Record(argparse.Action):
    """Keeps every occurrence with its text: what it means is read later, all of it at once."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs="?", **kwargs)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        assert option_string is not None
        assert values is None or isinstance(values, str)
        name = option_string.removeprefix("--")
        negated = name not in SETTINGS_OF and name.startswith("no_")
        name = name.removeprefix("no_") if negated else name
        namespace.occurrences.append(Occurrence(name, values, negated))


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        # Every flag is declared as one that may stand alone, and argparse would bracket them all.
        return str(action.metavar)


def _joined(argv: Sequence[str]) -> list[str]:
    """`--a-b x` as `--a_b=x`: one spelling of a name, and a value that may begin with a dash."""
    joined: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            joined.append(word)
            continue
        name, equals, text = word.removeprefix("--").partition("=")
        if not equals and words and not words[0].startswith("--") and words[0] != "-h":
            equals, text = "=", words.pop(0)
        joined.append(f"--{name.replace('-', '_')}{equals}{text}")
    return joined


def _unknown(word: str, others: Sequence[str]) -> str:
    if not word.startswith("--"):
        return (
            f"{word!r} belongs to no flag: write every setting with its name, as in "
            "--model_name FOLDER, and a list with commas, as in a,b."
        )
    name = word.removeprefix("--").partition("=")[0]
    near = did_you_mean(name, [*others, *SETTINGS_OF, *COMMAND_FLAGS]).replace("mean ", "mean --")
    elsewhere = " --help and llama-recipes train --help list them all." if others else ""
    near = near or elsewhere or " --help lists them all."
    return f"--{name} is no setting.{near}"
