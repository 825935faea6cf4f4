"""Settings as YAML: a file in, the resolved run out. What is printed reads back as the same run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.settings import BY_BARE_NAME, SECTIONS, SETTINGS, did_you_mean

# YAML 1.1 takes 1e-4 for a text; everybody who writes it means the number.
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Finds a key that stands twice, which YAML forbids and PyYAML ignores."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that `_Loader` would take for a number; keeps every value on one line."""


def _list_on_a_line(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


def _text_on_a_line(dumper: _Dumper, data: str) -> yaml.Node:
    # Any line break, the last character's too: unescaped, YAML folds or drops it.
    style = '"' if data.splitlines() not in ([], [data]) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(list, _list_on_a_line)
_Dumper.add_representer(str, _text_on_a_line)

for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load(path: Path, problems: list[str]) -> dict[str, object] | None:
    """The settings in a file, by `section.name`, unchecked; what is wrong is added to `problems`.

    None where the file cannot be read. A value equal to the default is left out, so that a printed
    configuration, which holds every setting, does not count as giving every setting (see
    `RunConfig.was_set`).
    """
    content = _parsed(path, problems)
    if content is None:
        return None
    found: dict[str, object] = {}
    for section, fields in _sections(path, content, problems):
        names = SECTIONS[section].model_fields
        for name, value in fields.items():
            if name not in names:
                near = did_you_mean(str(name), names)
                problems.append(f"{path}: {section} has no setting {name!r}.{near}")
            elif _says_something(f"{section}.{name}", value):
                found[f"{section}.{name}"] = value
    return found


def _sections(
    path: Path, content: dict[Any, Any], problems: list[str]
) -> list[tuple[str, dict[Any, Any]]]:
    found = []
    for section, fields in content.items():
        if section not in SECTIONS:
            problems.append(f"{path}: {section!r} is no section.{_place_of(str(section))}")
        elif fields is not None and not isinstance(fields, dict):
            problems.append(f"{path}: {section} is {fields!r}, but must be a mapping of settings.")
        else:
            found.append((section, fields or {}))
    return found


def _parsed(path: Path, problems: list[str]) -> dict[Any, Any] | None:
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
        if content is None or isinstance(content, dict):
            return content or {}
        problems.append(
            f"{path} is no mapping of sections: it has to look like what --print_config prints."
        )
    except FileNotFoundError:
        problems.append(f"--config is {str(path)!r}, and there is no such file.")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"--config is {str(path)!r}, which cannot be read: {error}.")
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problems.append(f"{path}{line}: not valid YAML: {error.problem}.")
    except (yaml.YAMLError, ValueError) as error:
        problems.append(f"{path}: not valid YAML: {error}.")
    return None


def _place_of(word: str) -> str:
    places = BY_BARE_NAME.get(word)
    if places:
        return f" {word} stands under {' or '.join(setting.section for setting in places)}."
    return did_you_mean(word, SECTIONS)


def _says_something(key: str, value: object) -> bool:
    setting = SETTINGS[key]
    # True equals 1, and still is another type: validation has to see it.
    same_type = isinstance(value, bool) == isinstance(setting.default, bool)
    return setting.has_open_default or value != setting.default or not same_type


def to_yaml(config: RunConfig) -> str:
    """Every setting of the run, one a line, in sections; `--config` reads it back as the same run.

    A setting that was not given and that the model limits is written as a comment, because naming
    its default there would be asking for it.
    """
    return "".join(_section_yaml(config, name) for name in SECTIONS)


def _section_yaml(config: RunConfig, section: str) -> str:
    given: Mapping[str, Any] = config.section(section).model_dump(mode="json")
    lines = []
    for name, value in given.items():
        key = f"{section}.{name}"
        line = yaml.dump({name: value}, Dumper=_Dumper, allow_unicode=True, width=10**9)
        if SETTINGS[key].has_open_default and not config.was_set(key):
            line = f"# {line.strip()}  ({SETTINGS[key].open_default_text})\n"
        lines.append(f"  {line}")
    return f"{section}:\n{''.join(lines)}" if lines else ""
