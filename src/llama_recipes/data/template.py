"""What a chat template writes around an answer, seen from a conversation that it renders."""

from __future__ import annotations

from dataclasses import dataclass

from llama_recipes.data.example import Message
from llama_recipes.data.tokenize import chat_pieces
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError

_ASKED, _ANSWERED = "Is this a question", "This is an answer"
_GENERATION_BLOCK = "generation %}"


@dataclass(frozen=True, slots=True)
class Template:
    """before: what is written in front of the first question. asks: between question and answer,
    given to the model when it has to answer. opens, closes: what is trained around the answer's own
    text. marks_answers: whether it names the answers itself ({% generation %}), which is not used.
    """

    before: str
    asks: str
    opens: str
    closes: str
    marks_answers: bool

    @property
    def has_generation_prompt(self) -> bool:
        """Whether an answer begins with its own text, as all before it is given."""
        return not self.opens.strip()


def look_at_template(tokenizer: Tokenizer) -> Template | None:
    """None where there is no template, or where it cannot be trained with: each row says why."""
    if tokenizer.chat_template is None:
        return None
    turns = (Message("user", _ASKED), Message("assistant", _ANSWERED))
    try:
        (asked, _), (answered, _) = chat_pieces(turns, tokenizer)
    except DataError:
        return None
    before, question, asks = asked.partition(_ASKED)
    opens, answer, closes = answered.partition(_ANSWERED)
    if not (question and answer):
        return None
    return Template(before, asks, opens, closes, _GENERATION_BLOCK in tokenizer.chat_template)
