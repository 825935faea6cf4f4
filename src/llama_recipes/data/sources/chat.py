"""Conversations: from the messages of a row to a Chat whose roles are in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from llama_recipes.data.example import Chat, Message, Role
from llama_recipes.data.sources.rows import UnusableError, checked_text, kind

_ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "human": "user",  # the names of ShareGPT
    "gpt": "assistant",
}
# These change what is said or what is trained; leaving them out would train something else.
_UNSUPPORTED = ("tool_calls", "function_call", "tool_call_id", "weight")


def chat_from(row: Mapping[str, object], fields: Sequence[str]) -> Chat:
    """The messages in these list fields, one after the other. Raises UnusableError."""
    messages: list[Message] = []
    for field in fields:
        if field not in row:
            raise UnusableError(f"the field `{field}` is missing")
        value = row[field]
        if not isinstance(value, list):
            what = "null" if value is None else f"{kind(value)}, a list of messages is needed"
            raise UnusableError(f"the field `{field}` is {what}")
        if not value:
            raise UnusableError(f"the field `{field}` is an empty list")
        for message in value:
            messages.append(_message(message, len(messages) + 1))
    _check_order(messages)
    return Chat(tuple(messages))


def _message(value: object, number: int) -> Message:
    """One message, as `{"role", "content"}` or in ShareGPT's form `{"from", "value"}`."""
    if not isinstance(value, Mapping):
        raise UnusableError(f"message {number} is {kind(value)}, an object is needed")
    for field in _UNSUPPORTED:
        if value.get(field) not in (None, [], 1):
            raise UnusableError(f"message {number} has `{field}`, which is not supported")
    role_field, text_field = ("from", "value") if "from" in value else ("role", "content")
    for field in (role_field, text_field):
        if field not in value:
            raise UnusableError(f"message {number} has no `{field}`")
    role = value[role_field]
    if not isinstance(role, str) or role not in _ROLES:
        shown = f"`{role}`" if isinstance(role, str) else kind(role)
        raise UnusableError(
            f"the role of message {number} is {shown}; known are {', '.join(_ROLES)}"
        )
    return Message(
        _ROLES[role], checked_text(value[text_field], f"{text_field} of message {number}")
    )


def _check_order(messages: list[Message]) -> None:
    roles = [message.role for message in messages]
    if "system" in roles[1:]:
        raise UnusableError(f"system message not first (message {roles.index('system', 1) + 1})")
    if "assistant" not in roles:
        raise UnusableError("no assistant turn")
    first = 1 if roles[0] == "system" else 0
    if roles[first] != "user":
        raise UnusableError("begins with an assistant turn, a user turn is needed before it")
    for number, (before, role) in enumerate(pairwise(roles), start=2):
        if role == before:
            raise UnusableError(f"two {role} turns in a row (message {number})")
    if roles[-1] != "assistant":
        raise UnusableError("ends without an assistant turn")
    for number, message in enumerate(messages, start=1):
        if message.role == "assistant" and not message.content.strip():
            raise UnusableError(f"empty answer (message {number})")
