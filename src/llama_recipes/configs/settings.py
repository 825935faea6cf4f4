"""Every setting, with what follows from its declaration: flags, rule in words, reading of text.

Flags, help, error messages, the printed YAML and docs/settings.md all come from here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo

from llama_recipes.configs.kinds import Kind, kinds, read_switch
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import NOT_GIVEN, OPEN_DEFAULT, Section, flag_of

_NEAR = 0.66  # lets batch_size find batch_size_training, and lerning_rate nothing
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of one section."""

    section: str
    name: str
    field: FieldInfo
    kinds: list[Kind]

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def flag(self) -> str:
        """The shortest flag that sets this and nothing of another section's own."""
        return flag_of(self.key)

    @property
    def default(self) -> Any:
        return self.field.get_default(call_default_factory=True)

    @property
    def default_text(self) -> str:
        """The default as one would write it, or in words where there is none."""
        if self.default in ("", []) or str(self.default).startswith(NOT_GIVEN):
            return "not given"
        return ",".join(self.default) if isinstance(self.default, list) else str(self.default)

    @property
    def meaning(self) -> str:
        assert self.field.description, f"{self.key} has no description"
        return self.field.description

    @property
    def has_open_default(self) -> bool:
        return OPEN_DEFAULT in self.field.metadata

    @property
    def open_default_text(self) -> str:
        """What a setting with an open default comes to where it is not given, in words."""
        what = "on with enable_fsdp alone" if self.is_switch else "at most the model's own limit"
        return f"not given: {what}"

    @property
    def is_switch(self) -> bool:
        """Whether `--name` alone means True and `--no_name` False."""
        return any(kind.read is read_switch for kind in self.kinds)

    @property
    def metavar(self) -> str:
        """Its type, short: `int`, `all-linear|list`, `None|text`."""
        return "|".join(kind.metavar for kind in self.kinds)

    @property
    def rule(self) -> str:
        """What a value has to be: `a whole number, at least 1`."""
        bounds = [
            f"{words} {getattr(limit, bound)}"
            for limit in self.field.metadata
            for bound, words in _BOUNDS.items()
            if hasattr(limit, bound)
        ]
        what = " or ".join(kind.rule for kind in self.kinds)
        return f"{what}, {' and '.join(bounds)}" if bounds else what

    def read(self, text: str) -> object:
        """What `text` means here; where it means nothing, itself, for validation to find."""
        for kind in self.kinds:
            try:
                return kind.read(text)
            except ValueError:
                continue
        return text

    def complaint(self, label: str, value: object) -> str:
        """The sentence about a value of the wrong type or out of its range."""
        hint = did_you_mean(str(value), [word for kind in self.kinds for word in kind.words])
        if not isinstance(value, str) and any(kind.read is str for kind in self.kinds):
            hint = " Quotes make it text."
        return f"{label} is {value!r}, but must be {self.rule}.{hint}"


def _declared() -> Iterable[Setting]:
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            yield Setting(section, name, field, kinds(field.annotation))


def _sections() -> Mapping[str, type[Section]]:
    found = {}
    for name, field in RunConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Section)
        found[name] = field.annotation
    return found


SECTIONS: Mapping[str, type[Section]] = _sections()
SETTINGS: Mapping[str, Setting] = {setting.key: setting for setting in _declared()}
"""By `section.name`, in the order of their declaration."""


def _by_bare_name() -> Mapping[str, list[Setting]]:
    found: dict[str, list[Setting]] = defaultdict(list)
    for setting in SETTINGS.values():
        found[setting.name].append(setting)
    return dict(found)


BY_BARE_NAME: Mapping[str, list[Setting]] = _by_bare_name()
"""The settings that a flag without its section's name sets."""


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """` Did you mean X?` with the nearest valid word, or nothing where none is near."""
    by_lower = {candidate.lower(): candidate for candidate in valid}
    near = get_close_matches(word.lower(), list(by_lower), n=1, cutoff=_NEAR)
    return f" Did you mean {by_lower[near[0]]}?" if near else ""
