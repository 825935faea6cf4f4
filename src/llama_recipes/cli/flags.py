"""The flags of a command beside `train`: written as those of a run, read into one section."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

from llama_recipes.cli.base_bits import SECTION
from llama_recipes.configs.kinds import kinds
from llama_recipes.configs.section import Section
from llama_recipes.configs.settings import Setting, did_you_mean
from llama_recipes.errors import ConfigError

Flags = TypeVar("Flags", bound=Section)


def read_flags(
    argv: Sequence[str],
    model: type[Flags],
    *,
    prog: str,
    positional: str = "",
    epilog: str = "",
    rest: list[str] | None = None,
) -> Flags:
    """What argv says. Raises ConfigError with all problems; --help prints and exits.

    `positional` is the field that a word without a flag is for. `rest` takes the flags that are
    none of this command, each as `--name=value`, for another to read; without it they are refused.
    The section's docstring says in --help what the command does.
    """
    settings = {
        name: Setting(prog, name, field, kinds(field.annotation))
        for name, field in model.model_fields.items()
    }
    words = list(argv)
    if "-h" in words or "--help" in words:
        print(_help(model, settings, prog=prog, positional=positional, epilog=epilog), end="")
        raise SystemExit(0)
    given: dict[str, object] = {}
    problems: list[str] = []
    while words:
        name, value = _take(words, settings, positional, prog, problems, rest)
        if name and given.setdefault(name, value) != value:
            said = f"{given[name]!r} and {value!r}"
            problems.append(
                f"{prog} takes one {name}, and {said} are two: name one."
                if name == positional and f"--{name}" not in " ".join(argv)
                else f"--{name} is {said}, which contradict each other: give one."
            )
    flags = _validated(model, given, settings, problems)
    if flags is None or problems:
        raise ConfigError(*dict.fromkeys(problems))
    return flags


def _take(
    words: list[str],
    settings: Mapping[str, Setting],
    positional: str,
    prog: str,
    problems: list[str],
    rest: list[str] | None,
) -> tuple[str, object]:
    """The next flag and its value, taken from `words`; no name where it is not for this command."""
    word = words.pop(0)
    if not word.startswith("--"):
        if not positional:
            problems.append(f"{word!r} belongs to no flag of {prog}.")
        return positional, word
    label, equals, text = word.partition("=")
    name = label.removeprefix("--").replace("-", "_").removeprefix(f"{SECTION}.")
    negated = name not in settings and name.startswith("no_")
    setting = settings.get(name.removeprefix("no_") if negated else name)
    is_switch = setting is not None and setting.is_switch
    has_word = not equals and words and not words[0].startswith("--")
    if has_word and (setting is None or not setting.is_switch or _is_value(words[0], setting)):
        equals, text = "=", words.pop(0)
    if setting is None or (negated and not is_switch):
        if rest is None:
            problems.append(no_flag(name, settings, prog=prog))
        else:
            rest.append(f"{label}{equals}{text}")
        return "", None
    if is_switch and not equals:
        return setting.name, not negated
    if not equals or negated:
        what = "takes no value" if negated else f"needs a value: {setting.rule}"
        problems.append(f"--{name} {what}.")
        return "", None
    return name, setting.read(text)


def _is_value(word: str, switch: Setting) -> bool:
    """Whether the word behind a switch is for it: a folder may be called anything else."""
    return word in ("True", "False") or any(word in kind.words for kind in switch.kinds)


def no_model_named(prog: str) -> str:
    """The sentence about a command that a model's name is missing from."""
    return f"No model is named. Write its folder or name: {prog} MODEL_NAME."


def no_flag(name: str, known: Iterable[str], *, prog: str) -> str:
    """The sentence about a flag that nobody knows, with the nearest of those that are known."""
    near = did_you_mean(name, known).replace("mean ", "mean --")
    return f"--{name} is no flag of {prog}.{near or ' --help lists them all.'}"


def _validated(
    model: type[Flags],
    given: Mapping[str, object],
    settings: Mapping[str, Setting],
    problems: list[str],
) -> Flags | None:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = [str(each["loc"][0]) for each in error.errors()]
        problems += [settings[name].complaint(f"--{name}", given[name]) for name in wrong]
        return None


def _help(
    model: type[Section],
    settings: Mapping[str, Setting],
    *,
    prog: str,
    positional: str,
    epilog: str,
) -> str:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"%(prog)s {f'{positional.upper()} ' if positional else ''}[--FLAG VALUE ...]",
        description=model.__doc__,
        epilog=epilog,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
    )
    for name, setting in settings.items():
        parser.add_argument(
            f"--{name}",
            nargs="?" if setting.is_switch else None,
            metavar=setting.metavar,
            help=f"{setting.field.description} (default: {setting.default_text})",
        )
    return parser.format_help()
