"""Every error that is the user's to mend, and the exit code each ends the program with.

LlamaRecipesError                 1   (only its children are raised)
├── ConfigError                   2   settings or usage
├── DataError                     3   a data set, a row, the user's own dataset code
├── CheckpointError               4   a model, adapter or checkpoint that is unreadable or wrong
├── NonFiniteError                5   training stopped to protect the weights
└── Interrupted                  75   stopped from outside after the work was saved

Anything else that escapes is our bug and ends with 1.
"""

from __future__ import annotations


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
    exit_code = 5


class Interrupted(LlamaRecipesError):
    exit_code = 75
