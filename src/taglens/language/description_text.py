"""What a language model answered, to descriptions that can be used; and why the rest cannot.

Knows the forms in which models answer (a sentence, lines, lists with marks or numbers, JSON, thoughts before it) and
the checks a description has to pass. Refuses to know what was asked, and repairs nothing but form: marks of lists,
quotation marks, white space, an unfinished last sentence. Everything that an answer holds is either kept or counted
under the reason for which it was not.

The check of the subject is a cheap one: a description must name its tag, by its name, a synonym or its English name,
in any form of the words. That catches answers about something else, remarks and obeyed instructions. It does not
catch a text that names the tag and tells untruths about it, or describes another meaning of the same word.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from taglens.language.chat import Reply
from taglens.language.clip_pieces import LONGEST
from taglens.language.clip_pieces import words as clip_words
from taglens.language.mentioned import Text

Reason = Literal[
    "refusal", "malformed", "cut", "remark", "unnamed", "too_short", "too_long", "repeated", "beyond"
]
REASONS: dict[Reason, str] = {
    "refusal": "the model or a filter before it would not answer",
    "malformed": "neither text nor a list of texts, or characters that no file can hold",
    "cut": "ended by the limit of tokens before its first sentence did",
    "remark": "words to the reader, about the task or about itself",
    "unnamed": "does not name the tag",
    "too_short": "fewer words than a description needs",
    "too_long": "its first sentence alone is longer than the text encoder reads",
    "repeated": "said before about this tag, but for case, spaces, accents and punctuation",
    "beyond": "more than was asked for",
}

_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THINKS = re.compile(r"\A\s*<think(?:ing)?>", re.IGNORECASE)
_FENCE = re.compile(r"\A\s*```[\w-]*[ \t]*\n(.*?)(?:\n?\s*```\s*)?\Z", re.DOTALL)
_MARK = re.compile(r"\A(?:[-*•·–—+>#]+\s+|\(?\d{1,4}[.):]\s+|[-•·])")
_NUMBERED = re.compile(r"(?:\A|\s)\(?(\d{1,3})[.)]\s+")
_EMPHASIS = re.compile(r"[*`]|__+")
_DOUBLE_QUOTES = re.compile('["“”„‟«»]')
# "e.g." and "i.e." end no sentence.
_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?:[.!?…]+['’)\]]*(?=\s|\Z)|[。！？])")
_LEAD_IN = re.compile(
    r"\A(?:sure|certainly|of course|absolutely|okay|ok|yes|here (?:is|are)|here['’]s)\b[^:\n]{0,160}:\s*(?=\S)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\A(?:i['’]?m sorry|i am sorry|sorry\b|(?:unfortunately,? )?i (?:cannot|can['’]?t|can not|won['’]?t|will not|"
    r"am (?:not able|unable)|do not feel|must decline)|as an ai\b|as a (?:large )?language model|"
    r"i['’]?m (?:not able|unable|just an ai))",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"\A(?:sure|certainly|of course|absolutely|okay|ok|great|yes|no problem|got it|understood|thanks|thank you)[,.!]|"
    r"\Ahere(?:['’]s| is| are)\b|\Aplease\b|\blet me know\b|\bas requested\b|\blanguage model\b|\bas an ai\b|"
    r"\bi(?:['’]m|['’]ll|['’]ve|['’]d| am| hope| can| cannot| can['’]t| will| would| could| have| do| think| need)\b",
    re.IGNORECASE,
)
# About the word instead of the thing; a tag that is itself one of these may be spoken of.
_ABOUT_WORDS = re.compile(
    r"\A(?:the|this|these) (label|tag|word|term|description|list|answer)s?\b", re.IGNORECASE
)
# Scripts that put no spaces between words: each character counts as one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
# Characters of an answer and of one item of it; far beyond what any description takes.
_MOST_READ, _MOST_OF_ITEM = 200_000, 4_000
_MOST_TRIED = 100  # items of an answer for each that was wanted


def estimated_pieces(text: str) -> int:
    """How many of CLIP's pieces a text has, without its list of merges: an estimate on the long side.

    Frequent words are one piece and rare ones are several; here every six letters of a word are taken for one, and
    every byte of a letter beyond ASCII, which is the most it can be. English prose of 77 pieces of a vocabulary twice
    as large comes to 91 so; a text of rare short words can still come to less than it has.
    """
    return sum(-(-len(word) // 6) if word.isascii() else len(word.encode()) for word in clip_words(text))


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a description may be.

    Attributes:
        words: the fewest.
        pieces: the most, as the text encoder of published models counts; its two marks are not among them.
        count: text -> pieces; exact with ``ClipPieces.pieces``, else estimated.
    """

    words: int = 3
    pieces: int = LONGEST - 2
    count: Callable[[str], int] = estimated_pieces


@dataclass(slots=True)
class Sieve:
    """Collects the usable descriptions of one tag from its answers, in the order in which they come.

    Attributes:
        names: by any of these a description names the tag.
        kept: what passed.
        dropped: reason -> how many did not.
        shortened: how many of the kept lost sentences at their end, to the length or because the answer was cut.
    """

    names: Sequence[str]
    limits: Limits = Limits()
    kept: list[str] = field(default_factory=list)
    dropped: Counter[Reason] = field(default_factory=Counter)
    shortened: int = 0
    _keys: set[str] = field(default_factory=set)

    def take(self, reply: Reply, *, wanted: int = 1) -> int:
        """Read an answer to a question for ``wanted`` descriptions; how many of it are kept now."""
        before = len(self.kept)
        if reply.refused:
            self.dropped["refusal"] += 1
            return 0
        items = split(reply.text, cut=reply.cut)
        if items is None:
            self.dropped["cut" if reply.cut else "malformed"] += 1
            return 0
        if not items:
            self.dropped["too_short"] += 1
        for number, item in enumerate(items):
            if len(self.kept) - before == wanted or number == _MOST_TRIED * wanted:
                self.dropped["beyond"] += len(items) - number
                break
            if reason := self._refuses(item, unfinished=reply.cut and number == len(items) - 1):
                self.dropped[reason] += 1
                if reason == "refusal" and number == 0:
                    break  # what follows an apology explains it
        return len(self.kept) - before

    def _refuses(self, item: str, *, unfinished: bool) -> Reason | None:
        """Keep a description, or say why not."""
        text = clean(item[:_MOST_OF_ITEM])
        if _REFUSAL.match(text):
            return "refusal"
        if not _storable(text):
            return "malformed"
        sentences = _sentences(text)
        whole = len(sentences)
        if unfinished and sentences and not _END.search(sentences[-1]):
            del sentences[-1]
            if not sentences:
                return "cut"
        spoken = [sentence for sentence in sentences if not _is_remark(sentence, self.names)]
        if sentences and not spoken:
            return "remark"
        fitting = self._fitting(spoken)
        if spoken and not fitting:
            return "too_long"
        text = " ".join(fitting)
        if sum(1 for _ in _WORD.finditer(text)) < self.limits.words:
            return "too_short"
        if not names_one_of(text, self.names):
            return "unnamed"
        if clean(text) != text:
            return "malformed"  # what a remark left behind opens like a list
        key = _key(text)
        if key in self._keys:
            return "repeated"
        self._keys.add(key)
        self.kept.append(text)
        self.shortened += len(fitting) + (len(sentences) - len(spoken)) < whole
        return None

    def _fitting(self, sentences: Sequence[str]) -> list[str]:
        """The most leading sentences that the text encoder reads whole."""
        fitting: list[str] = []
        for sentence in sentences:
            if self.limits.count(" ".join((*fitting, sentence))) > self.limits.pieces:
                break
            fitting.append(sentence)
        return fitting


# -- reading an answer ---------------------------------------------------------------------------------------


def split(text: str, *, cut: bool = False) -> list[str] | None:
    """The items of an answer: the texts of a JSON list, or its lines; None: not readable.

    Args:
        cut: the answer stops in the middle; JSON is then not readable.
    """
    text = _THOUGHTS.sub("", text[:_MOST_READ], count=1)
    if _THINKS.match(text):
        return None  # it never came to the answer
    if fenced := _FENCE.match(text):
        text = fenced[1]
    text = text.strip()
    if text[:1] in ("{", "["):
        found = _from_json(text)
        return None if found is None else [item for item in found if item.strip()]
    lines = [line for line in (line.strip() for line in text.splitlines()) if line]
    # An opening such as "Here are ten descriptions:" is a line of its own.
    return [item for line in lines for item in _in_one_line(line)]


def _in_one_line(line: str) -> list[str]:
    """The items of a line "1. … 2. … 3. …", numbered from one on without a gap; else the line itself."""
    line = _LEAD_IN.sub("", line)
    marks = list(_NUMBERED.finditer(line))
    if (
        len(marks) > 1
        and marks[0].start() == 0
        and [int(m[1]) for m in marks] == list(range(1, len(marks) + 1))
    ):
        ends = [mark.start() for mark in marks[1:]] + [len(line)]
        return [line[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    return [line]


def _from_json(text: str) -> list[str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return None
    items = [_text_of(item) for item in value]
    texts = [item for item in items if item is not None]
    return texts if len(texts) == len(items) else None


def _text_of(value: Any) -> str | None:
    """A text, or the only text of an object such as {"id": 3, "text": "…"}."""
    if isinstance(value, dict):
        texts = [item for item in value.values() if isinstance(item, str)]
        return texts[0] if len(texts) == 1 else None
    return value if isinstance(value, str) else None


def clean(text: str) -> str:
    """One line without what opens an item of a list, marks of emphasis, quotation marks and unseen characters."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text if not _is_format(c)
    )
    text = " ".join(_DOUBLE_QUOTES.sub("", _EMPHASIS.sub("", text)).split())
    while (less := _opened(text)) != text:
        text = less
    return unicodedata.normalize("NFC", text)


def _opened(text: str) -> str:
    """Without one thing that stands before or around a description; the same where there is none."""
    if len(text) > 1 and text[0] in "'‘" and text[-1] in "'’":
        return text[1:-1].strip()
    return _LEAD_IN.sub("", _MARK.sub("", text)).strip()


def _is_format(character: str) -> bool:
    # Joiners stay: scripts and emoji need them.
    return unicodedata.category(character) == "Cf" and character not in "\u200c\u200d"


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\ufffd" not in text


def _sentences(text: str) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(text):
        found.append(text[start : end.end()].strip())
        start = end.end()
    return [sentence for sentence in (*found, text[start:].strip()) if sentence]


def _is_remark(sentence: str, names: Sequence[str]) -> bool:
    if sentence.endswith(":") or _REMARK.search(sentence):
        return True
    about = _ABOUT_WORDS.match(sentence)
    return about is not None and not any(about[1].lower() in name.lower() for name in names)


# -- what a text says ----------------------------------------------------------------------------------------


def names_one_of(text: str, names: Iterable[str]) -> bool:
    """Whether every word of one of the names stands in a text, in any form of it, whatever the accents.

    The words may stand apart: who plays a guitar does what the tag "play guitar" says.
    """
    plain = _plain(text)
    read = Text(plain)
    return any(_says(plain, read, _plain(name)) for name in names)


def _says(plain: str, read: Text, name: str) -> bool:
    # Scripts without spaces, signs and emoji are no words to the tokenizer; there the letters must stand as they are.
    if name.isascii() and any(map(str.isalnum, name)):
        words = [word for word in name.split() if any(map(str.isalnum, word))]
        return all(read.mentions([word]) for word in words)
    return bool(name) and name in plain


def _plain(text: str) -> str:
    """Case and accents folded: "Crème brûlée" and "creme brulee" are the same."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    folded = "".join(c for c in parts if not (unicodedata.combining(c) and unicodedata.category(c) == "Mn"))
    return " ".join(folded.split())


def _key(text: str) -> str:
    """Under which two descriptions are the same one."""
    return "".join(filter(str.isalnum, _plain(text)))
