"""`llama-recipes chat`: one answer, or a conversation, with the prompts of training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llama_recipes.cli.base_bits import BitsOfAny, DoubleQuant, QuantType, bits_problems, kept_as
from llama_recipes.cli.flags import no_model_named, read_flags
from llama_recipes.configs.section import Section
from llama_recipes.data.example import Format
from llama_recipes.errors import ConfigError, DataError, guard
from llama_recipes.parallel.ranks import share_processor

if TYPE_CHECKING:
    from llama_recipes.inference.load import Loaded

PROG = "llama-recipes chat"
_EPILOG = """\
Without --prompt and --prompt_file, a terminal gets a conversation: /reset begins a new one, /exit
or Ctrl-D leaves, Ctrl-C stops an answer; in formats other than chat, each line is a prompt of its
own. What is piped in instead is one prompt. A file's or a pipe's last line break is not part of
the prompt. The answer to a single prompt is all that is written to standard output."""


class ChatFlags(Section):
    """Talk to a base model, to the result of a fine-tuning run, or to an adapter."""

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
    prompt: str = Field(default="", description="Answer this and leave")
    prompt_file: str = Field(default="", description="Answer what is in this file and leave")
    system: str = Field(default="", description="System message, with the chat format")
    prompt_format: Literal["auto"] | Format = Field(
        default="auto",
        description="How a prompt is wrapped for the model; auto: as in its training, and for a "
        "base model chat where it has a chat template, else text",
    )
    max_new_tokens: int = Field(default=256, ge=1, description="Most tokens of an answer")
    temperature: float = Field(
        default=0.0, ge=0, description="0: always the likeliest token; above: drawn, the flatter"
    )
    top_k: int = Field(
        default=0, ge=0, description="Draw from so many of the likeliest tokens; 0: from all"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Draw from the likeliest that have this share together"
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Seed of the drawing")
    debug: bool = Field(default=False, description="Show the traceback of an error too")

    def problems(self) -> list[str]:
        problems = []
        if not self.model_name:
            problems.append(no_model_named(PROG))
        if {"prompt", "prompt_file"} <= self.model_fields_set:
            problems.append("--prompt and --prompt_file exclude each other: give one of them.")
        problems += bits_problems(self.quantization, self.model_fields_set)
        return problems

    def warnings(self) -> list[str]:
        if self.temperature:
            return []
        return [
            f"--{name} has no effect without a --temperature above 0."
            for name in ("top_k", "top_p", "seed")
            if name in self.model_fields_set
        ]


def main(argv: Sequence[str]) -> int:
    """Chat as the flags say; return the exit code."""
    return guard(lambda: _chat(argv), debug="--debug" in argv)


def _chat(argv: Sequence[str]) -> int:
    flags = read_flags(argv, ChatFlags, prog=PROG, positional="model_name", epilog=_EPILOG)
    if problems := flags.problems():
        raise ConfigError(*problems)
    for warning in flags.warnings():
        print(f"Warning: {warning}", file=sys.stderr)
    prompt = _single_prompt(flags)
    loaded = _load(flags)

    from llama_recipes.cli.conversation import Talker, converse

    talker = Talker(
        loaded,
        write=lambda text: print(text, end="", flush=True),
        system=flags.system,
        max_new_tokens=flags.max_new_tokens,
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        seed=flags.seed,
    )
    if prompt is None:
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() arrow keys and a history of lines
        converse(talker, read=lambda: input("> "))
    else:
        talker.answer(prompt)
        print()
    return 0


def _single_prompt(flags: ChatFlags) -> str | None:
    """The one prompt to answer; None for a conversation."""
    if "prompt" in flags.model_fields_set:
        return flags.prompt
    if flags.prompt_file:
        path = Path(flags.prompt_file).expanduser()
        try:
            return path.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 ({error})"
            raise DataError(
                f"--prompt_file {path} cannot be read: {reason}. Give a text file with the prompt."
            ) from error
    if sys.stdin.isatty():
        return None
    piped = sys.stdin.read().removesuffix("\n")
    if not piped:
        raise ConfigError(
            "There is no terminal to talk at, and nothing was piped in."
            " Give the prompt with --prompt or --prompt_file."
        )
    return piped


def _load(flags: ChatFlags) -> Loaded:
    share_processor()
    import torch

    from llama_recipes.inference.load import find, load
    from llama_recipes.parallel.device import choose_device, has_bf16

    device = choose_device()
    found = find(
        flags.model_name,
        base=flags.base_model or None,
        kept=kept_as(flags.quantization, flags.quant_type, flags.use_double_quant),
        say=lambda text: print(text, file=sys.stderr),
    )
    if found.warning:
        print(f"Warning: {found.warning}", file=sys.stderr)
    loaded = load(
        found,
        prompt_format=None if flags.prompt_format == "auto" else flags.prompt_format,
        device=device,
        dtype=torch.bfloat16 if has_bf16(device) else torch.float32,
    )
    if flags.system and loaded.prompt_format != "chat":
        raise ConfigError(
            f"--system is a message of the chat format, but prompts to {flags.model_name} are"
            f" written as {loaded.prompt_format}. Leave it away, or give --prompt_format chat."
        )
    return loaded
