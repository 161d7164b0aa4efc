"""Text from strangers as it may be shown: no character that steers a terminal, no secret."""

from __future__ import annotations

import os
import re

# C0 but for tab and newline, DEL and C1, changes of text direction, halves of surrogate pairs
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PICTURES = 0x2400  # of the C0 controls in Unicode, e.g. U+241B for ESC
_TOKENS = re.compile(
    r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"  # user:password of an address
    r"|(?<=Bearer )[^\s'\"]{8,}"
    r"|\b(hf_|sk-|gh[opsur]_|github_pat_|glpat-|xox[abp]-|AKIA|AIza)[\w-]{16,}"
)
_SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)\Z", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters; a shorter value of the environment would be found in any text


def printable(text: str) -> str:
    """The text with a visible character in place of each that would steer a terminal; tabs and newlines stay."""
    return _CONTROLS.sub(lambda match: _picture(ord(match[0])), text)


def _picture(code: int) -> str:
    return chr(_PICTURES + code) if code < 0x20 else "\ufffd"


def holds_secret(text: str) -> bool:
    """Whether it holds a password in an address, or a token of a known form."""
    return _TOKENS.search(text) is not None


def redacted(text: str, *secrets: str) -> str:
    """The text with *** in place of `secrets`, of what the environment's keys, tokens and passwords hold, and of
    whatever else looks like a secret (`holds_secret`)."""
    of_environment = [value.strip() for name, value in os.environ.items() if _SECRET_NAMES.search(name)]
    hidden = [*filter(None, secrets), *(value for value in of_environment if len(value) >= _SHORTEST_SECRET)]
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, "***")
    return _TOKENS.sub("***", text)
