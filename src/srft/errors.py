"""The one exception family: what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from srft.safe_text import printable, redacted


class SrftError(Exception):
    """An error that the user can correct. Its text may be shown: see `srft.safe_text`.

    Args:
        what: what is wrong, in one sentence.
        where: the file, row, key or option that it concerns.
        fix: what to do.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = (printable(redacted(text)) for text in (what, where, fix))
        first = f"{self.where}: {self.what}" if where else self.what
        super().__init__("\n".join(part for part in (first, self.fix) if part))


def reason(error: BaseException) -> str:
    """What another library's error says, in a line: its first one, with the error's name where that says too little."""
    lines, name = str(error).strip().splitlines(), type(error).__name__
    if isinstance(error, LookupError) or not lines:
        return " ".join([name, *lines[:1]])
    return lines[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known word, in whatever case, as advice, else the list of them."""
    known = sorted(known)
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"Did you mean '{lower[near[0]]}'?" if near else f"Known: {', '.join(known)}."
