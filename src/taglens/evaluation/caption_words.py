"""A caption's words, as the metrics of the field count them.

Knows the Penn Treebank rules that captions meet, and which tokens COCO's evaluation drops. Refuses to know what a
word means (`taglens.language.tokens` splits captions for the parser, by other rules). In COCO's evaluation a Java
program does this; here no Java is needed.
"""

from __future__ import annotations

import re

# Of COCO's list what can be a token here: longer marks ("--", "...") come as several. Words that are nothing but full
# stops and double quotation marks go too: see `words`.
_DROPPED = frozenset("?!,:-;`'")
_PLAIN = str.maketrans(
    {
        "’": "'",
        "‘": "`",
        "“": "``",
        "”": "''",
        "…": "...",
        "–": "--",
        "—": "--",
        "£": "#",
        "€": "$",
        "½": "1/2",
        "¼": "1/4",
        "¾": "3/4",
    }
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_ENTITY = re.compile("|".join(_ENTITIES))
# In lower case, as the program writes them: COCO's list, which drops them in capitals, lets these pass.
_BRACKETS = dict(zip("()[]{}", ["-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"], strict=True))
_TWO_WORDS = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
}
_TOKEN = re.compile(
    r"""
      (?:[^\W\d_]\.){2,}                                    # u.s.
    | \b(?:mrs?|ms|dr|st|jr|sr|prof|gen|rev|gov|sen|rep|co|inc|corp|ltd|vs|etc|no|ave|blvd|rd|mt|ft)\.
    | \d+(?:[.,:/]\d+)+(?:[^\W_]+)?                         # 1,000 5:30 3/4
    | '\d\ds\b                                              # '50s
    | '(?:s|re|ve|ll|d|m|n|em)\b'?                          # a clitic that stands alone
    | [:;]['-]?[()]
    | \b[^\W\d_]\.(?=\s+\w)                                 # an initial
    | [^\W_]+(?:[-'&./_](?=[^\W_])[^\W_]+)*                 # t-shirt, man's, at&t
    | \S
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(.+?)(n't|'(?:s|re|ve|ll|d|m))$")


def words(caption: str) -> list[str]:
    """Lower-case words without punctuation; "can't" is two, "t-shirt" is one. Linear in the text's length."""
    text = _ENTITY.sub(lambda found: _ENTITIES[found[0]], caption.lower()).translate(_PLAIN)
    return [
        word
        for token in _TOKEN.findall(text)
        for word in _parts(token)
        if word not in _DROPPED and word.strip('."')
    ]


def _parts(token: str) -> tuple[str, ...]:
    if (clitic := _CLITIC.match(token)) is not None:
        return clitic[1], clitic[2]
    if token[-1] in _BRACKETS:
        return (token[:-1] + _BRACKETS[token[-1]],)
    return _TWO_WORDS.get(token, (token,))
