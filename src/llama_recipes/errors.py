"""Every error that is the user's to mend, and the exit code each ends the program with.

LlamaRecipesError                 1   (only its children are raised)
├── ConfigError                   2   settings or usage
├── DataError                     3   a data set, a row, the user's own dataset code
├── CheckpointError               4   a model, adapter or checkpoint that is unreadable or wrong
├── NonFiniteError                5   training stopped to protect the weights
├── ProcessLostError              1   another process of the run is gone or does not answer
├── FollowedError                     another process failed, and says why
└── Interrupted                  75   stopped from outside after the work was saved

Anything else that escapes is our bug and ends with 1. `guard` turns all of it into exit codes.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class LlamaRecipesError(Exception):
    """One or more problems, each a sentence that says what is wrong and what to do."""

    exit_code = 1

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class ConfigError(LlamaRecipesError):
    exit_code = 2


class DataError(LlamaRecipesError):
    exit_code = 3


class CheckpointError(LlamaRecipesError):
    exit_code = 4


class NonFiniteError(LlamaRecipesError):
    """documents: the numbers, in the store, of those that the step trained on."""

    exit_code = 5

    def __init__(self, *problems: str, documents: Sequence[int] = ()) -> None:
        self.documents = documents
        super().__init__(*problems)


class ProcessLostError(LlamaRecipesError):
    exit_code = 1


class FollowedError(LlamaRecipesError):
    """Ends this process with the exit code of the one that failed, without a word."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


class Interrupted(LlamaRecipesError):  # noqa: N818 - work was saved: no failure
    exit_code = 75


_GO_ON = "What was saved before is intact: make room, and go on with --resume auto."


@contextmanager
def writing(
    place: object, remedy: str = _GO_ON, *, kind: type[LlamaRecipesError] = CheckpointError
) -> Iterator[None]:
    """Let an OSError of the block, which writes `place`, be the user's to mend, by `remedy`."""
    try:
        yield
    except OSError as error:
        raise kind(unwritten(place, error, remedy)) from error


def unwritten(place: object, error: OSError, remedy: str = _GO_ON) -> str:
    """The sentences about a `place` that could not be written."""
    return f"{place} could not be written: {error.strerror or error}. {remedy}"


def guard(body: Callable[[], int], *, debug: bool) -> int:
    """Run a command's body; returns its exit code, with whatever went wrong said on stderr.

    A user's error is its sentences, with the traceback only where `debug`. Anything unforeseen is
    our bug and always shows it.
    """
    try:
        return body()
    except LlamaRecipesError as error:
        if debug:
            traceback.print_exc()
        if error.problems:
            print(_as_text(error.problems), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        print(
            "This is a bug in llama-recipes, not a mistake of yours. Please report it with the "
            "lines above and the command.",
            file=sys.stderr,
        )
        return 1


def _as_text(problems: tuple[str, ...]) -> str:
    if len(problems) == 1:
        return f"Error: {problems[0]}"
    return "\n  - ".join([f"{len(problems)} errors:", *problems])
