"""What a run holds before it computes anything, `python -m benchmarks.held JSON`.

The libraries are measured, in a process that does no more than import them; weights and what
training adds to each of them are counted.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from typing import Any

_TRAINED_COPIES = 3
"""Of a trained weight: its gradient and AdamW's two moments, in its own precision."""


def libraries(*, ours: bool, four_bit: bool) -> float:
    """GiB of a process once all is imported that a run imports."""
    if ours:
        import llama_recipes.running.run  # noqa: F401
    else:
        import peft  # noqa: F401
        import trl.trainer.sft_trainer  # noqa: F401
    if four_bit:
        import bitsandbytes  # noqa: F401 - registers its operators, for either side
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30


def weights(flags: Sequence[str]) -> dict[str, float]:
    """GiB of the model's and the adapter's weights in a run of ours, and of what training adds."""
    from llama_recipes.configs.flags import parse
    from llama_recipes.model.source import open_model
    from llama_recipes.monitoring.screen import Screen
    from llama_recipes.parallel.device import choose_device
    from llama_recipes.running.parts import shape_model
    from llama_recipes.running.preflight import compute_dtype

    config = parse(flags, prog="").config
    train = config.train_config
    dtype = compute_dtype(choose_device(), train, Screen())
    adapter = config.lora_config if train.use_peft else None
    model, _ = shape_model(open_model(train.model_name).config, config, adapter, dtype)
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.nbytes
    return {
        "weights_gib": sum(sizes.values()) / 2**30,
        "training_gib": _TRAINED_COPIES * sizes[True] / 2**30,
    }


def _main(job: dict[str, Any]) -> dict[str, float]:
    found = {"libraries_gib": libraries(ours=job["ours"], four_bit=job["four_bit"])}
    return found | weights(job["flags"]) if job["ours"] else found


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
