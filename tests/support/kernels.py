"""The C++ kernels in tests: each instruction set in turn, and both paths."""

from __future__ import annotations

import pytest

from llama_recipes.kernels import library
from llama_recipes.kernels.build import (
    EMULATED,
    INSTRUCTION_SETS,
    supported_instruction_sets,
)

EACH_SET = pytest.mark.parametrize("instruction_set", [*INSTRUCTION_SETS, *EMULATED])


def enable(instruction_set: str | None = None) -> None:
    """Use the kernels in this test; skipped where the processor or a compiler is missing."""
    supported = [*supported_instruction_sets(), *EMULATED]
    if instruction_set is not None and instruction_set not in supported:
        pytest.skip(f"this processor does not have {instruction_set}")
    if instruction_set in EMULATED and "avx2" not in supported:
        pytest.skip("what is emulated is compiled for processors with avx2")
    reason = library.enable(instruction_set)
    if reason is not None:
        pytest.skip(f"there are no kernels here: {reason}")
