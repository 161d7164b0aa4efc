"""Chats as messages of `role` and `content`, from TRL's columns, verl's and ShareGPT's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srft.errors import SrftError

Messages = tuple[Mapping[str, str], ...]
ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's, by the role that they have everywhere else
KNOWN_ROLES = ("system", "user", "assistant", "tool")


def read_messages(value: Any, column: str, where: str) -> Messages:
    """A list of messages with `role` and `content`, or ShareGPT's `from` and `value`. The assistant's last may be
    empty.

    Raises:
        SrftError: it is no such list, or holds what is not text.
    """
    if not isinstance(value, list | tuple) or not value:
        what = "an empty list" if value in ([], ()) else f"{type(value).__name__} {str(value)[:60]!r}"
        raise SrftError(f"column '{column}' is {what}", where=where, fix="Give text, or a list of messages.")
    messages = tuple(_message(item, column, where) for item in value)
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    if not all(message["content"].strip() for message in asked):
        raise SrftError(f"column '{column}' has an empty message", where=where, fix="Fill or remove it.")
    return messages


def _message(item: Any, column: str, where: str) -> Mapping[str, str]:
    if not isinstance(item, Mapping) or not ("role" in item or "from" in item):
        fix = "A message has a role and a content, or ShareGPT's from and value."
        raise SrftError(f"column '{column}' holds {str(item)[:80]!r}", where=where, fix=fix)
    name = str(item["role"] if "role" in item else item["from"])
    role = ROLES.get(name, name)
    if role not in KNOWN_ROLES:
        fix = f"Known: {', '.join([*KNOWN_ROLES, *ROLES])}."
        raise SrftError(f"column '{column}' has a message of the role '{name}'", where=where, fix=fix)
    return {"role": role, "content": _content(item.get("content", item.get("value")), column, where)}


def _content(content: Any, column: str, where: str) -> str:
    """The text of a message; parts of type text are put together."""
    if isinstance(content, str) or content is None:
        return content or ""
    parts = content if isinstance(content, list | tuple) else [content]
    kinds = [str(part.get("type", "text")) if isinstance(part, Mapping) else type(part).__name__ for part in parts]
    texts = [str(part["text"]) for part in parts if isinstance(part, Mapping) and "text" in part]
    if {*kinds} != {"text"} or len(texts) < len(parts):
        what = f"column '{column}' holds a message of {', '.join(dict.fromkeys(kinds)) or 'nothing'}"
        raise SrftError(what, where=where, fix="Only text is trained on: leave images, audio and the like out.")
    return "".join(texts)


def has_user(messages: Sequence[Mapping[str, str]]) -> bool:
    """Somebody asks something."""
    return any(message["role"] == "user" for message in messages)
