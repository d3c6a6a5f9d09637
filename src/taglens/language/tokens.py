"""Captions as lower-case tokens, and numbers as words.

Knows spelling, entities and clitics; refuses to know what a word means or which part it plays.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

_NUMBER_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty
"""
NUMBERS: Mapping[str, int] = {
    **{word: number for number, word in enumerate(_NUMBER_WORDS.split())},
    "dozen": 12,
}

_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:[-‐‑'’][^\W_]+)*|[^\w\s]|_+")
_CLITIC = re.compile(r"(n['’]t|['’](?:s|re|ve|ll|d|m))$")
_BARE_CLITICS = frozenset(("s", "m", "re", "ve", "ll"))


def tokenize(text: str) -> list[str]:
    """Lower-case tokens: words (hyphens kept, "'s" split off), numbers ("1,000") and single punctuation marks.

    HTML entities are resolved first. Linear in the text's length. What stands between two spaces gives the
    same tokens wherever it stands, unless it holds an apostrophe or an ampersand.
    """
    if "&" in text:
        text = _unescaped(text)
    tokens: list[str] = _TOKEN.findall(text.lower())
    if "'" not in text and "’" not in text:
        return tokens
    split: list[str] = []
    for token in tokens:
        if ("'" in token or "’" in token) and len(token) > 2 and (clitic := _CLITIC.search(token[-3:])):
            if start := token[: len(token) - len(clitic[0])]:
                split.append(start)
            split.append(clitic[0].replace("’", "'"))
        elif split and token in _BARE_CLITICS and split[-1] in ("'", "’"):
            split[-1] = "'" + token
        else:
            split.append(token)
    return split


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # a character number of more digits than Python turns into one
        return text
