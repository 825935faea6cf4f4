"""Text as its tokens come in, with no character shown before all of its bytes are there."""

from __future__ import annotations

from collections.abc import Callable

from llama_recipes.data.tokenizer import Tokenizer

_INCOMPLETE = "\ufffd"
"""What decoding puts in place of bytes that are no whole character."""


class TextStream:
    """Passes on to `write` what each token adds to the text; special tokens add nothing."""

    def __init__(self, tokenizer: Tokenizer, write: Callable[[str], None]) -> None:
        self._tokenizer, self._write = tokenizer, write
        self._ids: list[int] = []
        self._written = 0

    def add(self, token: int) -> None:
        self._ids.append(token)
        text = self.text
        if not text.endswith(_INCOMPLETE):
            self._pass_on(text)

    def finish(self) -> None:
        """Pass on what is left: nothing will complete it any more."""
        self._pass_on(self.text)

    @property
    def text(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special=True)

    def _pass_on(self, text: str) -> None:
        # All of it is decoded each time: how a token reads depends on the one before it.
        new = text[self._written :]
        self._written = max(self._written, len(text))
        if new:
            self._write(new)
