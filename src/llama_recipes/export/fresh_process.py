"""The comparison of what was written with the trained model, in a process that holds neither."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from llama_recipes.errors import CheckpointError
from llama_recipes.export.compare import Comparison
from llama_recipes.export.encodings import Encoding
from llama_recipes.quantization.kept import Kept


def compare_afresh(
    name: str, base: str | None, result: Path, encoding: Encoding, *, kept: Kept | None = None
) -> Comparison:
    """`compare.compare` in a fresh process. Raises CheckpointError where that process fails.

    name, base, kept: what the trained model is found as. result: what was written.
    """
    arguments = {"name": name, "base": base, "result": str(result), "encoding": encoding}
    arguments["kept"] = None if kept is None else kept.text
    # -P: nothing is imported from the folder that the user happens to be in.
    command = [sys.executable, "-P", "-m", "llama_recipes.export.compare", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise CheckpointError(
            "What was written could not be compared with the trained model, so it was removed: the"
            f" comparing process was ended by signal {-done.returncode}, as it is where memory runs"
            " out (it holds both models). Make room, or go without the comparison: --no_compare."
        )
    if done.returncode:
        raise CheckpointError(
            "What was written could not be compared with the trained model, so it was removed:"
            f" {done.stderr.strip().removeprefix('Error: ') or f'exit {done.returncode}'}"
        )
    return Comparison(**json.loads(done.stdout.splitlines()[-1]))
