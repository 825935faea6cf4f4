"""What a text is encoded behind where it goes on with another, and does not begin anew.

SentencePiece tokenizers put a space, ▁, in front of every text they are given, and some of them
behind every control token, too. In the middle of a conversation the first would be a token that
nobody wrote, and that the whole text does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_CANDIDATES = ("\n", "\u241e")


@dataclass(frozen=True, slots=True)
class Border:
    """A text whose `ids` stand unchanged before those of whatever follows it."""

    text: str
    ids: list[int]

    def cut(self, ids: list[int]) -> list[int]:
        """What is left of the ids of `text` + another text: those of the other."""
        count = len(self.ids)
        assert ids[:count] == self.ids
        return ids[count:]


@dataclass(frozen=True, slots=True)
class Borders:
    """The one that stands for any text, and those that are added tokens, longest first."""

    usual: Border
    tokens: list[Border]

    def after(self, text: str) -> Border | None:
        """None: nothing is before the next text, so it begins anew."""
        if not text:
            return None
        ends = (token for token in self.tokens if text.endswith(token.text))
        return next(ends, self.usual)


def find_borders(backend: Any) -> Borders | None:
    """None where nothing is put in front of a text, or no border is safe with this vocabulary."""
    added = {token.content: id_ for id_, token in backend.get_added_tokens_decoder().items()}
    for text in _CANDIDATES:
        border = Border(text, _ids(backend, text))
        if _ids(backend, f"{text}a") == border.ids + _ids(backend, "a"):
            return None
        if _is_safe(backend, border, list(added)):
            tokens = [
                Border(content, [id_])
                for content, id_ in sorted(added.items(), key=lambda item: -len(item[0]))
                # Not so where a token is looked for in the text with its space in front.
                if _ids(backend, f"{content}a")[:1] == [id_]
            ]
            return Borders(border, tokens)
    return None


def _is_safe(backend: Any, border: Border, added: list[str]) -> bool:
    """Whether it can be read back, merges with nothing and is swallowed by no added token."""
    if border.text not in backend.decode(border.ids, skip_special_tokens=False):
        return False
    end = backend.id_to_token(border.ids[-1])
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if any(end in token[: -len(end)] for token in vocabulary):
        return False
    return all(
        _ids(backend, border.text + follower)[: len(border.ids)] == border.ids
        for follower in ["a", " ", border.text, *added]
    )


def _ids(backend: Any, text: str) -> list[int]:
    ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    return ids
