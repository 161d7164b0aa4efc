"""The one exception family: what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SrftError(Exception):
    """An error that the user can correct.

    Args:
        what: what is wrong, in one sentence.
        where: the file, row, key or option that it concerns.
        fix: what to do.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__("\n".join(part for part in (f"{where}: {what}" if where else what, fix) if part))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known word, in whatever case, as advice, else the list of them."""
    known = sorted(known)
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"Did you mean '{lower[near[0]]}'?" if near else f"Known: {', '.join(known)}."
