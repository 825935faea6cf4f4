"""One rank that runs several jobs one after the other: importing takes longer than any of them.

python -m support.rank_worker JOBS.json, with torchrun's variables in the environment. Each job is
its flags, a port of its own, and the name of the file that takes its output.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from llama_recipes.finetuning import main


def run(path: Path) -> None:
    rank = os.environ["RANK"]
    torch.set_num_threads(1)
    for number, job in enumerate(json.loads(path.read_text())):
        os.environ["MASTER_PORT"] = str(job["port"])
        output = path.with_name(f"{number}-{rank}.log")
        with output.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
            code = main(job["flags"])
        path.with_name(f"{number}-{rank}.code").write_text(str(code))
        if code and code != job.get("code"):  # the others may be waiting for this one
            sys.exit(f"job {number} ended with {code}")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
