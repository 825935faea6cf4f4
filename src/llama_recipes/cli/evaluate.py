"""`llama-recipes evaluate`: what a model makes of a data set, beside another model if need be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from llama_recipes.cli.base_bits import BitsOfAny, DoubleQuant, QuantType, bits_problems
from llama_recipes.cli.data_flags import Data, about_data, flags_taken, read_data
from llama_recipes.cli.flags import no_model_named, read_flags
from llama_recipes.cli.places import refuse_unwritable
from llama_recipes.configs.section import Section
from llama_recipes.data.example import Split
from llama_recipes.errors import ConfigError, guard
from llama_recipes.parallel.ranks import share_processor

PROG = "llama-recipes evaluate"
_EPILOG = f"""\
The data is named as for train: {flags_taken()}, and the settings of the data sets, as in
--file_dataset.validation_file FILE or --validation_file FILE (train --help lists them). Where
neither --dataset nor --config is given, it is the data of the run that wrote MODEL_NAME. The loss
is taken on all documents. A document is asked by what stands before its last trained answer; the
answer is the likeliest tokens, without a draw."""


class EvaluateFlags(Section):
    """Measure a base model, the result of a run or an adapter on a data set: loss, perplexity, and
    how near its own answers are to the references."""

    model_name: str = Field(
        default="",
        description="The model, as is a word without a flag: a folder that a run wrote, an "
        "adapter's folder, or anything that train takes as --model_name",
    )
    base_model: str = Field(
        default="", description="The model under an adapter, where it is not the one it names"
    )
    quantization: BitsOfAny = None
    quant_type: QuantType = "nf4"
    use_double_quant: DoubleQuant = False
    compare_with: str = Field(
        default="",
        description="Another model to measure and to show beside it; base: the one that it "
        "was trained from, as it is without --quantization (a folder of that name: ./base)",
    )
    split: Split = Field(default="validation", description="Part of the data set to measure on")
    generate: bool = Field(
        default=True,
        description="Let the model answer, and measure ROUGE and exact matches; --no_generate: "
        "loss and perplexity alone",
    )
    answer_pattern: str = Field(
        default="",
        description="Regular expression that finds the answer proper in a text, such as "
        "'#### (-?[0-9.,]+)': the last match, or the group in it, must be that of the reference",
    )
    max_samples: int = Field(
        default=100,
        ge=0,
        description="Documents to be answered, equally far apart in the data set; 0: all",
    )
    max_new_tokens: int = Field(default=256, ge=1, description="Most tokens of an answer")
    generation_batch_size: int = Field(
        default=8, ge=1, description="Documents that are answered at a time"
    )
    output_file: str = Field(
        default="", description="New JSON file for all figures, prompts, references and answers"
    )
    debug: bool = Field(default=False, description="Show the traceback of an error too")

    def problems(self) -> list[str]:
        problems = []
        if not self.model_name:
            problems.append(no_model_named(PROG))
        elif self.compare_with == self.model_name:
            problems.append(
                f"--compare_with is {self.compare_with}, the model itself: name another, or leave"
                " it away."
            )
        if self.answer_pattern and not self.generate:
            problems.append(
                "--answer_pattern and --no_generate exclude each other: without answers there is"
                " nothing to find; leave one of them out."
            )
        problems += bits_problems(self.quantization, self.model_fields_set)
        return problems

    def warnings(self) -> list[str]:
        if self.generate:
            return []
        return [
            f"--{name} has no effect with --no_generate."
            for name in ("max_samples", "max_new_tokens", "generation_batch_size")
            if name in self.model_fields_set
        ]


def main(argv: Sequence[str]) -> int:
    """Evaluate as the flags say; return the exit code."""
    return guard(lambda: _evaluate(argv), debug="--debug" in argv)


def _evaluate(argv: Sequence[str]) -> int:
    flags, data = _read(argv)
    if flags.output_file:
        check_output(Path(flags.output_file).expanduser())

    from llama_recipes.inference.metrics import check_rouge, read_pattern

    pattern = read_pattern(flags.answer_pattern) if flags.answer_pattern else None
    if flags.generate:
        check_rouge()
    share_processor()

    from llama_recipes.cli.evaluation import evaluate_models

    evaluate_models(flags, data, pattern)
    return 0


def _read(argv: Sequence[str]) -> tuple[EvaluateFlags, Data]:
    """The command's own flags, and those about the data. Raises ConfigError with all problems."""
    flags, rest, problems = None, list[str](), list[str]()
    try:
        flags = read_flags(
            argv, EvaluateFlags, prog=PROG, positional="model_name", epilog=_EPILOG, rest=rest
        )
        problems += flags.problems()
    except ConfigError as error:
        problems += error.problems
    words = about_data(rest, own=EvaluateFlags.model_fields, prog=PROG, problems=problems)
    if flags is None:
        raise ConfigError(*problems)
    data = read_data(
        words, split=flags.split, model_name=flags.model_name, prog=PROG, problems=problems
    )
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return flags, data


def check_output(path: Path) -> None:
    """Raises ConfigError where there is something already, or where nothing can be written."""
    if path.exists():
        raise ConfigError(
            f"--output_file {path} is there already, and results are not written over. Name a new"
            " file, or remove this one."
        )
    refuse_unwritable(path, "--output_file")
