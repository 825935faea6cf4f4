"""The one file of the user that is run as code; what goes wrong in it is shown as theirs."""

from __future__ import annotations

import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from llama_recipes.errors import DataError, LlamaRecipesError

T = TypeVar("T")


def load(file: Path) -> ModuleType:
    """The module in `file`, run anew at every call. Raises DataError with the line at fault."""
    name = f"llama_recipes_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise DataError(f"{file} is no Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickled workers look their module up by name.
    sys.modules[name] = module
    guarded(file, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


def function(module: ModuleType, name: str, file: Path) -> Callable[..., object]:
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    there = [
        other
        for other, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    has = f"it has {', '.join(there)}" if there else "it has no functions"
    raise DataError(
        f"{file} has no function {name} ({has}). Define it, or name another: "
        f"--custom_dataset.file {file}:FUNCTION."
    )


def guarded(file: Path, call: Callable[[], T]) -> T:
    """`call()`, with any exception turned into a DataError that points into the user's file.

    The original exception is the cause, for --debug. Our own errors pass: an interruption may
    arrive while the user's code runs.
    """
    try:
        return call()
    except LlamaRecipesError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(_theirs(file, error)) from error


def _theirs(file: Path, error: BaseException) -> str:
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename == str(file):
        source = (error.text or "").strip()
        return (
            f"Your file {file}, line {error.lineno}: {type(error).__name__}: {error.msg}: {source}"
        )
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    if not frames:
        return f"Your file {file} led to an error outside of it: {what}"
    last = frames[-1]
    place = "at its top level" if last.name == "<module>" else f"in {last.name}"
    source = linecache.getline(str(file), last.lineno or 0).strip()
    return f"Your file {file}, line {last.lineno}, {place}: {what} (the line is: {source})"
