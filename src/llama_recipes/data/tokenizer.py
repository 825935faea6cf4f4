"""Text to token ids and back: a thin layer over transformers' fast tokenizers.

Only `data/tokenizer*.py` imports transformers or tokenizers, inside functions: importing them
takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_recipes.data.example import Message
from llama_recipes.data.tokenizer_border import Border, find_borders
from llama_recipes.errors import CheckpointError, DataError
from llama_recipes.gguf_metadata import is_gguf

END_OF_TURN = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
)
"""Special tokens after which an answer is over, where a vocabulary has them."""

_TODAY = datetime(2024, 7, 26)
"""What a template is told that asks for the date: Llama 3.1's own answer where it knows none."""
_CALENDAR = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('%{code}', '{_TODAY:%{code}}')" for code in "aAbBdHIjmMpSyY")
    + " }}{% endmacro %}"
)
"""Put before a template: transformers' own strftime_now, which it hides, looks at the clock."""

_PROBE = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
_PROBES = (_PROBE, (Message("system", "d"), *_PROBE))
"""The second alone would not do: a template may refuse system messages."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class Tokenizer:
    """A fast tokenizer that adds nothing of its own: who wants BOS or EOS puts them there.

    hf: the transformers tokenizer underneath.
    size: highest id + 1, added tokens included.
    pad_id: the tokenizer's own padding token, else EOS, else 0; padding is never trained.
    stop_ids: EOS and the end-of-turn tokens; generation ends at any of them.
    special_ids: ids of control tokens, which are not text.
    unknown_id: what stands for text that the vocabulary does not have, and for nothing else.
    fingerprint: changes whenever any text could get other ids, or any chat another text.
    """

    def __init__(self, hf: Any) -> None:
        self.hf = hf
        self._backend = hf.backend_tokenizer
        # Left on by some published files, they would cut and fill what is encoded here.
        self._backend.no_truncation()
        self._backend.no_padding()
        added = self._backend.get_added_tokens_decoder()
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.size: int = max(vocabulary.values()) + 1
        self.bos_id: int | None = hf.bos_token_id
        self.eos_id: int | None = hf.eos_token_id
        self.pad_id: int = next(
            (id_ for id_ in (hf.pad_token_id, self.eos_id) if id_ is not None), 0
        )
        self.special_ids: frozenset[int] = frozenset(hf.all_special_ids) | {
            id_ for id_, token in added.items() if token.special
        }
        ends = [vocabulary[text] for text in END_OF_TURN if text in vocabulary]
        stops = [self.eos_id, *(id_ for id_ in ends if id_ in self.special_ids)]
        self.stop_ids: tuple[int, ...] = tuple(
            dict.fromkeys(id_ for id_ in stops if id_ is not None)
        )
        meant_so = {self.bos_id, self.pad_id, *self.stop_ids}
        self.unknown_id: int | None = None if hf.unk_token_id in meant_so else hf.unk_token_id
        self.chat_template: str | None = _default_template(hf.chat_template)
        self.fingerprint: str = self._fingerprint(self.chat_template)
        self._borders = find_borders(self._backend)

    def encode_batch(self, texts: list[str], continues: Sequence[bool] = ()) -> list[list[int]]:
        """The ids of each text, without BOS or EOS, on all cores.

        continues: for each text, whether it goes on with the one before it, so that no space of
        the tokenizer's own belongs between them; empty: none does.
        """
        borders: list[Border | None] = [None] * len(texts)
        if self._borders is not None and any(continues):
            before = ""
            for index, (text, goes_on) in enumerate(zip(texts, continues, strict=True)):
                borders[index] = self._borders.after(before) if goes_on else None
                before = text or (before if goes_on else "")
        encodings = self._backend.encode_batch_fast(
            [
                border.text + text if border else text
                for border, text in zip(borders, texts, strict=True)
            ],
            add_special_tokens=False,
        )
        return [
            border.cut(encoding.ids) if border else encoding.ids
            for border, encoding in zip(borders, encodings, strict=True)
        ]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def render_chat(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The conversation as the model's own template writes it.

        A template that asks for today's date is told 26 July 2024, or the same settings would give
        other tokens tomorrow. Raises DataError where there is no template, or where it refuses the
        conversation.
        """
        from jinja2 import TemplateError

        if self.chat_template is None:
            raise DataError(
                "The tokenizer has no chat template, so chat messages cannot be written for this"
                " model. Use an instruct model, or data in another format, such as"
                " prompt/completion."
            )
        conversation = [{"role": m.role, "content": m.content} for m in messages]
        try:
            text: str = self.hf.apply_chat_template(
                conversation,
                chat_template=_CALENDAR + self.chat_template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                date_string=f"{_TODAY:%d %b %Y}",
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message.role for message in messages)
            raise DataError(
                f"The model's chat template refuses this conversation ({roles}): {error}."
                " Mend the conversation, or give data that fits the template."
            ) from error
        return text

    @cached_property
    def turn_borders(self) -> re.Pattern[str]:
        """Finds in a text what the model would read as the end or the beginning of a turn.

        BOS, EOS, the stop tokens and the control tokens that the chat template writes. The other
        control tokens (<filename>, of models for code) are harmless, and common in plain text.
        """
        always = {self.bos_id, self.eos_id, *self.stop_ids} - {None}
        borders = set(self._written(always))
        control = _any_of(self._written(self.special_ids))
        for probe in _PROBES:
            with suppress(DataError):  # it will be said of each such conversation
                borders.update(control.findall(self.render_chat(probe, add_generation_prompt=True)))
        return _any_of(borders)

    def _written(self, ids: Iterable[int | None]) -> list[str]:
        tokens: list[str] = self.hf.convert_ids_to_tokens(list(ids))
        return tokens

    def save(self, folder: Path) -> None:
        """Write the files that transformers loads a tokenizer from."""
        self.hf.save_pretrained(str(folder))

    @cached_property
    def text_fingerprint(self) -> str:
        """As `fingerprint`, but for the chat template: of what a text becomes."""
        return self._fingerprint(None)

    @property
    def template_fingerprint(self) -> str:
        """Of the chat template alone."""
        return _digest(self.chat_template) if self.chat_template else "none"

    def _fingerprint(self, template: str | None) -> str:
        parts = [
            self._backend.to_str(),
            template,
            self.bos_id,
            self.eos_id,
            self.pad_id,
            self.stop_ids,
            sorted(self.special_ids),
        ]
        return _digest(json.dumps(parts))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of the texts; of none, nothing."""
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


NAME_ANOTHER = ", or name a folder that holds it with --tokenizer_name"
"""What else mends a missing or damaged tokenizer, for commands that have the flag."""


def load_tokenizer(path: Path, *, or_else: str = "") -> Tokenizer:
    """The tokenizer of a Hugging Face folder or inside a GGUF file.

    Never downloads and never runs code from the folder. or_else: NAME_ANOTHER, where the command
    has that flag. Raises CheckpointError.
    """
    if is_gguf(path):
        from llama_recipes.data.tokenizer_gguf import gguf_tokenizer

        return Tokenizer(gguf_tokenizer(path, or_else=or_else))
    return Tokenizer(_from_folder(path, or_else))


def holds_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in _TOKENIZER_FILES)


def _from_folder(folder: Path, or_else: str) -> Any:
    if not holds_tokenizer(folder):
        raise CheckpointError(
            f"{folder} holds no tokenizer ({', '.join(_TOKENIZER_FILES)}: none is there)."
            f" Fetch the tokenizer's files from where the model comes from{or_else}."
        )
    _refuse_code(folder)
    from transformers import AutoTokenizer

    try:
        hf = AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # tokenizers raises bare Exceptions for a file it cannot read
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"The tokenizer in {folder} cannot be read: {reason}. Fetch its files again{or_else}."
        ) from error
    if not hf.is_fast:
        raise CheckpointError(
            f"The tokenizer in {folder} ({type(hf).__name__}) has no fast form, which is needed"
            " here. Give one with a tokenizer.json."
        )
    return hf


def _refuse_code(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Fetch it again.") from error
    if isinstance(settings, dict) and "auto_map" in settings:
        raise CheckpointError(
            f"{path} asks to run code of its own (auto_map), which is never done."
            " Give a tokenizer without it."
        )


def _default_template(template: Any) -> str | None:
    """Some tokenizers carry several templates by name."""
    return template.get("default") if isinstance(template, dict) else template
