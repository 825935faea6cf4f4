"""Talking to a loaded model: what has been said, and the next answer to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from llama_recipes.data.example import Message
from llama_recipes.errors import LlamaRecipesError
from llama_recipes.inference.generate import generate
from llama_recipes.inference.load import Loaded
from llama_recipes.inference.prompts import check_prompt, encode_conversation, encode_prompt
from llama_recipes.inference.stream import TextStream


class Talker:
    """Answers prompts, in the chat format with what was said before them.

    `write` gets the text of an answer as it comes; `sampling` is handed to `generate`.
    """

    def __init__(
        self, loaded: Loaded, *, write: Callable[[str], None], system: str = "", **sampling: Any
    ) -> None:
        self.loaded, self.write, self.sampling = loaded, write, sampling
        self._beginning = [Message("system", system)] if system else []
        self.said = list(self._beginning)

    @property
    def is_chat(self) -> bool:
        return self.loaded.prompt_format == "chat"

    def reset(self) -> None:
        self.said = list(self._beginning)

    def answer(self, prompt: str) -> None:
        """Write the answer. One that is interrupted still counts as said, as far as it came."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        asked = [*self.said, Message("user", prompt)]
        if self.is_chat:
            ids = encode_conversation(asked, tokenizer)
        else:
            ids = encode_prompt(prompt, self.loaded.prompt_format, tokenizer)
        check_prompt(ids, tokenizer, model.config)
        stream = TextStream(tokenizer, self.write)
        try:
            generate(
                model,
                [ids],
                stop_ids=tokenizer.stop_ids,
                on_token=lambda _, token: stream.add(token),
                **self.sampling,
            )
        finally:
            stream.finish()
            if self.is_chat and stream.text:
                self.said = [*asked, Message("assistant", stream.text)]


def converse(talker: Talker, *, read: Callable[[], str], console: Console | None = None) -> None:
    """Answer what `read` returns until it raises EOFError or returns /exit."""
    console = console or Console(highlight=False)
    loaded = talker.loaded
    reset = "/reset begins anew, " if talker.is_chat else ""
    console.print(
        f"{loaded.name}; prompts are written as in the format {loaded.prompt_format}."
        f" {reset}/exit or Ctrl-D leaves, Ctrl-C stops an answer.",
        style="dim",
        markup=False,
    )
    while True:
        try:
            line = read().strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print()
            continue
        if line == "/exit":
            return
        if line == "/reset" and talker.is_chat:
            talker.reset()
            console.print("The conversation begins anew.", style="dim")
        elif line:
            _answer(talker, line, console)


def _answer(talker: Talker, line: str, console: Console) -> None:
    try:
        talker.answer(line)
        console.print()
    except KeyboardInterrupt:
        console.print("\nStopped.", style="dim")
    except LlamaRecipesError as error:
        console.print(f"Error: {error}", style="red", markup=False)
        if talker.said:
            console.print("/reset begins the conversation anew.", style="dim")
