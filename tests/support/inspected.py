"""`inspect` in this process: what it finds in a case, and the tiny models it is asked about."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llama_recipes.cli.inspect import InspectFlags
from llama_recipes.cli.inspection.facts import Inspection
from llama_recipes.cli.inspection.look import look
from llama_recipes.configs.flags import parse
from llama_recipes.monitoring.screen import Screen
from support.chat_tokenizers import hf_tokenizer
from support.planted import NO_END_OF_TURN, NO_GENERATION_PROMPT, Case
from support.tiny_folder import byte_tokenizer, jsonl, tiny_folder

STYLES = ("llama-3", "llama-2", "llama-2, sentencepiece", "no bos")
CONTEXT = 4096


def ascii_tokenizer() -> PreTrainedTokenizerFast:
    """Knows the characters of ASCII and no others."""
    special = ["<unk>", "<s>", "</s>"]
    letters = special + [chr(code) for code in range(32, 127)] + ["\n"]
    backend = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[], unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def make_models(folder: Path) -> Path:
    """A model in `folder`, and beside it a folder for each tokenizer."""
    tiny_folder(folder / "chatml", max_position_embeddings=CONTEXT)
    tokenizers = {
        "no generation prompt": byte_tokenizer(chat_template=NO_GENERATION_PROMPT),
        "no end of turn": byte_tokenizer(chat_template=NO_END_OF_TURN),
        "no eos": byte_tokenizer(eos_token=None, chat_template=None),
        "ascii": ascii_tokenizer(),
        **{style: hf_tokenizer(style) for style in STYLES},
    }
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(folder / name)
    return folder


def write_case(case: Case, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in case.files.items():
        if isinstance(content, str):
            (root / name).write_text(content, encoding="utf-8")
        else:
            jsonl(root / name, content)


def flags_of(case: Case, root: Path, made: Path) -> list[str]:
    given = [flag.replace("ROOT", str(root)) for flag in case.flags]
    last = {flag.partition("=")[0]: flag for flag in given}
    if case.tokenizer != "chatml":
        last["--tokenizer_name"] = f"--tokenizer_name={made / case.tokenizer}"
    return [f"--model_name={made / 'chatml'}", "--no_save_model", *last.values()]


def inspect_flags(flags: list[str], **own) -> Inspection:
    console = Console(file=io.StringIO(), width=100)
    config = parse(flags, prog="inspect").config
    return look(InspectFlags(**own), config, Screen(console))


def inspect_case(case: Case, root: Path, made: Path, **own) -> Inspection:
    write_case(case, root)
    return inspect_flags(flags_of(case, root, made), **{"samples": 0} | own)
