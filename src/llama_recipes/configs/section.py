"""What all sections of settings have in common."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

NOT_GIVEN: Final = "PATH/to/"
"""How the default of a path begins that has no sensible default (the original's habit)."""

OPEN_DEFAULT: Final = "open default"
"""Marks a setting whose default depends on the run, as one that shrinks to the model's own limit:
there "not given" is a value of its own, which `RunConfig.was_set` tells and a printed configuration
keeps."""


class Section(BaseModel):
    """Settings that belong together; each field carries its type, range, default and meaning.

    Strict, so that a value of another type is an error and never converted on the quiet.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        defer_build=True,  # --help needs no validators, and building them takes half its time
    )


def is_given(path: str) -> bool:
    """Whether a path was given: neither empty nor one of the `PATH/to/...` defaults."""
    return bool(path) and not path.startswith(NOT_GIVEN)


def flag_of(key: str) -> str:
    """`train_config.lr` → `--lr`, `lora_config.r` → `--lora_config.r`."""
    return "--" + key.removeprefix("train_config.")
