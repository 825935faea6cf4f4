"""What a command waits for before it works: no library that it does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMPILER = "torch._dynamo"
"""Its import takes as long as PyTorch's own."""


@pytest.mark.parametrize(
    "module",
    ["cli.conversation", "cli.evaluation", "export.compare", "export.convert", "running.run"],
)
def test_the_compiler_is_not_read(module):
    code = f"import sys, llama_recipes.{module}; sys.exit({COMPILER!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 0, f"llama_recipes.{module} imports {COMPILER}"
