"""`llama-recipes export`: a model, an adapter or a checkpoint as a folder or one GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from llama_recipes.cli.base_bits import Bits, DoubleQuant, QuantType, bits_problems, kept_as
from llama_recipes.cli.flags import no_model_named, read_flags
from llama_recipes.configs.section import Section
from llama_recipes.errors import ConfigError, guard
from llama_recipes.export.encodings import Encoding
from llama_recipes.parallel.ranks import share_processor

PROG = "llama-recipes export"
_EPILOG = """\
An adapter is merged into its base model on the way. A GGUF file holds the tokenizer and the chat
template too, and runs in llama.cpp and what is built on it. What was written is loaded again in a
fresh process and compared with the model as it was trained: every weight, logits, greedy answers,
tokenizer and template. What fails is removed, and the exit code is 4."""


class ExportFlags(Section):
    """Write a model, the result of a run, a checkpoint of it, or an adapter in another format."""

    model_name: str = Field(
        default="",
        description="The model, the adapter's folder, a checkpoint (a folder step-…, whole or "
        "sharded) or the folder of several, as is a word without a flag",
    )
    output: str = Field(
        default="",
        description="A file that ends in .gguf, or else a folder for transformers; new, or empty",
    )
    base_model: str = Field(
        default="",
        description="The model under an adapter or a checkpoint, where it is not the one it names",
    )
    quantization: Bits = None
    quant_type: QuantType = "nf4"
    use_double_quant: DoubleQuant = False
    dtype: Literal["auto"] | Encoding = Field(
        default="auto",
        description="What matrices are stored in, Q8_0 in a .gguf alone; auto: as they are stored "
        "now, and F32 where that is fewer bits than 16",
    )
    compare: bool = Field(default=True, description="Compare what was written with the trained")
    debug: bool = Field(default=False, description="Show the traceback of an error too")

    def problems(self) -> list[str]:
        from llama_recipes.gguf_metadata import is_gguf  # not for --help, which has to be quick

        problems = []
        if not self.model_name:
            problems.append(no_model_named(PROG))
        if not self.output:
            problems.append("--output is not given: name a .gguf file, or a folder.")
        elif self.dtype == "Q8_0" and not is_gguf(Path(self.output)):
            problems.append(
                f"--dtype Q8_0 is an encoding of GGUF, but --output {self.output} does not end in"
                " .gguf. Name a .gguf file, or another --dtype."
            )
        problems += bits_problems(self.quantization, self.model_fields_set)
        return problems


def main(argv: Sequence[str]) -> int:
    """Export as the flags say; return the exit code."""
    return guard(lambda: _export(argv), debug="--debug" in argv)


def _export(argv: Sequence[str]) -> int:
    flags = read_flags(argv, ExportFlags, prog=PROG, positional="model_name", epilog=_EPILOG)
    if problems := flags.problems():
        raise ConfigError(*problems)
    target = Path(flags.output).expanduser()
    share_processor()

    from llama_recipes.cli.writing import write_trained

    write_trained(
        flags.model_name,
        target,
        flag="--output",
        base=flags.base_model or None,
        kept=kept_as(flags.quantization, flags.quant_type, flags.use_double_quant),
        dtype=flags.dtype,
        compared=flags.compare,
    )
    print(f"The model is in {target}.")
    return 0
