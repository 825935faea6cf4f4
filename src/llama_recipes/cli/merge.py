"""`llama-recipes merge`: an adapter's updates into the weights of its base model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from llama_recipes.cli.base_bits import Bits, DoubleQuant, QuantType, bits_problems, kept_as
from llama_recipes.cli.flags import read_flags
from llama_recipes.configs.section import Section
from llama_recipes.errors import ConfigError, guard
from llama_recipes.parallel.ranks import share_processor

PROG = "llama-recipes merge"
_EPILOG = """\
What was written is loaded again in a fresh process and compared with base and adapter as they were
trained: every weight, logits and greedy answers. A folder that fails is removed, and the exit code
is 4. The folder is complete or not there at all."""


class MergeFlags(Section):
    """Make one model, a folder that transformers loads as it is, of a base model and an adapter."""

    model_name: str = Field(
        default="",
        description="The adapter's folder, or a checkpoint of its run, as is a word without a flag",
    )
    output_dir: str = Field(default="", description="Folder for the model; new, or empty")
    base_model: str = Field(
        default="", description="The model under the adapter, where it is not the one it names"
    )
    quantization: Bits = None
    quant_type: QuantType = "nf4"
    use_double_quant: DoubleQuant = False
    dtype: Literal["auto", "F32", "F16", "BF16"] = Field(
        default="auto",
        description="What weights are rounded to; auto: what the base model is stored in, and F32 "
        "for one in fewer bits than 16",
    )
    compare: bool = Field(default=True, description="Compare what was written with the trained")
    debug: bool = Field(default=False, description="Show the traceback of an error too")

    def problems(self) -> list[str]:
        from llama_recipes.gguf_metadata import is_gguf  # not for --help, which has to be quick

        problems = []
        if not self.model_name:
            problems.append(f"No adapter is named. Write its folder: {PROG} ADAPTER.")
        if not self.output_dir:
            problems.append("--output_dir is not given: name a folder for the merged model.")
        elif is_gguf(Path(self.output_dir)):
            problems.append(
                f"--output_dir {self.output_dir} is named like a GGUF file, and merge writes a"
                " folder. Use llama-recipes export, which takes adapters too."
            )
        problems += bits_problems(self.quantization, self.model_fields_set)
        return problems


def main(argv: Sequence[str]) -> int:
    """Merge as the flags say; return the exit code."""
    return guard(lambda: _merge(argv), debug="--debug" in argv)


def _merge(argv: Sequence[str]) -> int:
    flags = read_flags(argv, MergeFlags, prog=PROG, positional="model_name", epilog=_EPILOG)
    if problems := flags.problems():
        raise ConfigError(*problems)
    target = Path(flags.output_dir).expanduser()
    share_processor()

    from llama_recipes.cli.writing import write_trained

    write_trained(
        flags.model_name,
        target,
        flag="--output_dir",
        base=flags.base_model or None,
        kept=kept_as(flags.quantization, flags.quant_type, flags.use_double_quant),
        dtype=flags.dtype,
        compared=flags.compare,
        only_adapters=True,
    )
    chat = shlex.join(["llama-recipes", "chat", str(target)])
    print(f"The model is in {target}. Talk to it: {chat}")
    return 0
