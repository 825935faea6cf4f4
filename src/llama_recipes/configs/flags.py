"""From argv and a YAML file to a RunConfig, with every problem found at once.

A flag wins over the file, the file over the default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llama_recipes.configs import rules
from llama_recipes.configs.parser import SETTINGS_OF, Occurrence, read_argv
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import Section
from llama_recipes.configs.settings import SECTIONS, SETTINGS, Setting
from llama_recipes.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ParsedCommand:
    config: RunConfig
    print_config: bool
    debug: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """`config` lacks what was wrong: `refused` names those settings, `problems` says why.

    is_whole: whether the file, if one was named, could be read.
    """

    config: RunConfig
    refused: set[str]
    problems: list[str]
    is_whole: bool
    print_config: bool
    debug: bool


@dataclass(frozen=True, slots=True)
class _Given:
    """A value, what its giver calls it, and why it cannot be read, if so."""

    value: object
    label: str
    problem: str = ""


def parse(argv: Sequence[str], *, prog: str) -> ParsedCommand:
    """The run that argv describes. Raises ConfigError with all problems; --help prints and exits.

    With --print_config a path may be missing: the printed file is where one writes it down.
    """
    reading = read(argv, prog=prog)
    problems = reading.problems + rules.contradictions(reading.config, refused=reading.refused)
    if reading.is_whole and not reading.print_config:
        problems += rules.missing(reading.config, refused=reading.refused)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return ParsedCommand(reading.config, print_config=reading.print_config, debug=reading.debug)


def read(argv: Sequence[str], *, prog: str, others: Sequence[str] = ()) -> Reading:
    """What argv and its file say, before anybody asks whether it can stand together.

    others: names of flags beside those of a run, which the caller has read already.
    """
    problems: list[str] = []
    occurrences = read_argv(argv, prog=prog, problems=problems, others=others)
    print_config = _is_on("print_config", occurrences, problems)
    debug = _is_on("debug", occurrences, problems)
    by_file = _given_by_file(occurrences, problems)
    given = (by_file or {}) | _given_by_flags(occurrences)
    config, refused = _validated(given, problems)
    return Reading(config, refused, problems, by_file is not None, print_config, debug)


def _is_on(name: str, occurrences: Sequence[Occurrence], problems: list[str]) -> bool:
    texts = [occurrence.text for occurrence in occurrences if occurrence.name == name]
    problems += [
        f"--{name} takes no value, but got {text!r}." for text in texts if text is not None
    ]
    return bool(texts)


def _given_by_file(
    occurrences: Sequence[Occurrence], problems: list[str]
) -> dict[str, _Given] | None:
    """What the file gives, nothing where no file is named; None where it cannot be read."""
    texts = {occurrence.text for occurrence in occurrences if occurrence.name == "config"}
    if not texts:
        return {}
    text = texts.pop()
    if not text or texts:
        problems.append("--config needs one value: the path of a YAML file.")
        return None
    from llama_recipes.configs.document import load  # YAML, which --help needs nothing of

    values = load(Path(text), problems)
    if values is None:
        return None
    return {key: _Given(value, f"{text}: {key}") for key, value in values.items()}


def _given_by_flags(occurrences: Sequence[Occurrence]) -> dict[str, _Given]:
    by_name: dict[str, list[Occurrence]] = defaultdict(list)
    for occurrence in occurrences:
        settings = SETTINGS_OF.get(occurrence.name, [])
        name = settings[0].key if len(settings) == 1 else occurrence.name
        by_name[name].append(occurrence)
    given: dict[str, _Given] = {}
    # A flag that names its section wins over one that sets several.
    for name in sorted(by_name, key=lambda name: "." in name):
        for setting in SETTINGS_OF.get(name, []):
            given[setting.key] = _one_of([_read(setting, each) for each in by_name[name]])
    return given


def _read(setting: Setting, occurrence: Occurrence) -> _Given:
    label, text = occurrence.label, occurrence.text
    if occurrence.negated:
        problem = "" if text is None else f"{label} takes no value, but got {text!r}."
        return _Given(False, label, problem)
    if text is not None:
        return _Given(setting.read(text), label)
    if setting.is_switch:
        return _Given(True, label)
    return _Given(None, label, f"{label} needs a value: {setting.rule}.")


def _one_of(given: list[_Given]) -> _Given:
    """The same flag given several times has to say the same each time."""
    first = given[0]
    for other in given[1:]:
        if other.value != first.value:
            said = f"{first.label} ({first.value!r}) and {other.label} ({other.value!r})"
            return _Given(None, first.label, f"{said} contradict each other: give one of them.")
    return first


def _validated(given: Mapping[str, _Given], problems: list[str]) -> tuple[RunConfig, set[str]]:
    """The run without the values that are wrong, and the settings they were for."""
    refused = {key for key, each in given.items() if each.problem}
    problems += [each.problem for each in given.values() if each.problem]
    by_section: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    for key in [key for key in given if key not in refused]:
        by_section[SETTINGS[key].section][SETTINGS[key].name] = given[key].value
    sections: dict[str, Any] = {}
    for section, values in by_section.items():
        sections[section], wrong = _valid_part(SECTIONS[section], values)
        for key in [f"{section}.{name}" for name in wrong]:
            problems.append(SETTINGS[key].complaint(given[key].label, given[key].value))
            refused.add(key)
    return RunConfig.model_construct(**sections), refused  # each of them is valid


def _valid_part(model: type[Section], values: dict[str, object]) -> tuple[Section, list[str]]:
    if not values:  # no validator is built then: --help and a mistyped flag need none
        return model.model_construct(), []
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        wrong = {str(each["loc"][0]) for each in error.errors()}
        rest = {name: value for name, value in values.items() if name not in wrong}
        return model.model_validate(rest), [name for name in values if name in wrong]
