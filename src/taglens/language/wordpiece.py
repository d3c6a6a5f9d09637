"""Text to word pieces and back, as the lower-casing WordPiece tokenizer of BERT does it.

Knows the rules and reads a vocabulary file that the user has (one piece a line); carries none of its own. Knows
nothing of tags or captions (`taglens.language.caption_text`). Shapes: N pieces, filled up or cut to a length.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from taglens.errors import VocabularyError

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
DEC, ENC = "[DEC]", "[ENC]"  # what opens a caption, and what opens a list of tags (Tag2Text 1.4)
SPECIAL = (PAD, UNKNOWN, CLS, SEP, MASK)
ADDED = (DEC, ENC)

# A longer word is not taken apart: it is unknown.
LONGEST_WORD = 100

# Ideographs stand without spaces between them, so each is a word of its own.
_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
# Written apart in pieces, together in a sentence; applied one after the other.
_JOINED = (*(f" {mark}" for mark in ".?!,"), " ' ", " n't", " 'm", " 's", " 've", " 're")


@dataclass(frozen=True, slots=True)
class Pieces:
    """One text as N numbers.

    Attributes:
        ids: the pieces, filled up with [PAD].
        mask: 1 where a piece stands, 0 where it was filled up.
    """

    ids: tuple[int, ...]
    mask: tuple[int, ...]


class WordPiece:
    """A vocabulary of word pieces, and the rules that cut text into them.

    Args:
        pieces: the vocabulary in order; a piece that continues a word opens with "##". [DEC] and [ENC] are added at
            its end where it lacks them, as the published models do.

    Raises:
        VocabularyError: a piece stands twice, or one of the five special pieces is missing.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        listed = list(pieces)
        self._ids: dict[str, int] = {piece: number for number, piece in enumerate(listed)}
        if len(self._ids) != len(listed):
            twice = next(piece for number, piece in enumerate(listed) if self._ids[piece] != number)
            raise VocabularyError(f"the piece {twice!r} stands twice; a WordPiece vocabulary names each once")
        if missing := [piece for piece in SPECIAL if piece not in self._ids]:
            raise VocabularyError(
                f"no WordPiece vocabulary: {', '.join(missing)} missing among {len(listed)} pieces; "
                "give the vocab.txt of bert-base-uncased"
            )
        for piece in ADDED:
            self._ids.setdefault(piece, len(self._ids))
        self._pieces = tuple(self._ids)
        self._special = frozenset(self._ids[piece] for piece in SPECIAL + ADDED)
        self._find_special = re.compile("(" + "|".join(map(re.escape, SPECIAL + ADDED)) + ")")
        self.pad, self.unknown, self.cls, self.sep, self.mask = (self._ids[piece] for piece in SPECIAL)
        self.dec, self.enc = (self._ids[piece] for piece in ADDED)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WordPiece:
        """Read a vocabulary file: UTF-8, one piece a line. Raises VocabularyError when it is none."""
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise VocabularyError(f"cannot read the WordPiece vocabulary {path}: {error}") from None
        # Only line feeds part lines: pieces may hold what `str.splitlines` also breaks at.
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        try:
            return cls(lines)
        except VocabularyError as error:
            raise VocabularyError(f"{path}: {error}") from None

    def __len__(self) -> int:
        """Pieces, [DEC] and [ENC] included."""
        return len(self._pieces)

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text, without [CLS] and [SEP]; special pieces written in it count as such."""
        found: list[str] = []
        for number, part in enumerate(self._find_special.split(text)):
            if number % 2:
                found.append(part)
            else:
                for word in words(part):
                    found += self._take_apart(word)
        return found

    def ids(self, text: str, *, longest: int | None = None) -> list[int]:
        """[CLS], the text's pieces, [SEP]; at most ``longest`` numbers, the text's end being cut off."""
        body = [self._ids.get(piece, self.unknown) for piece in self.pieces(text)]
        if longest is not None:
            if longest < 2:
                raise VocabularyError(f"[CLS] and [SEP] alone are 2 pieces, found room for {longest}")
            body = body[: longest - 2]
        return [self.cls, *body, self.sep]

    def encode(self, text: str, length: int) -> Pieces:
        """The same, cut or filled up with [PAD] to exactly ``length`` numbers."""
        found = self.ids(text, longest=length)
        empty = length - len(found)
        return Pieces((*found, *[self.pad] * empty), (*[1] * len(found), *[0] * empty))

    def decode(self, ids: Sequence[int]) -> str:
        """Numbers to lower-case text; special pieces, unknown ones among them, are left out.

        Raises:
            VocabularyError: a number outside the vocabulary.
        """
        pieces: list[str] = []
        for id in ids:
            if not 0 <= id < len(self._pieces):
                raise VocabularyError(f"piece {id} is outside a vocabulary of {len(self._pieces)} pieces")
            if id not in self._special:
                pieces.append(self._pieces[id])
        text = " ".join(pieces).replace(" ##", "").strip()
        for mark in _JOINED:
            text = text.replace(mark, mark.strip())
        return text

    def _take_apart(self, word: str) -> list[str]:
        """The longest piece that opens the word, then the longest that continues it; or the unknown piece."""
        if len(word) > LONGEST_WORD:
            return [UNKNOWN]
        found: list[str] = []
        start = 0
        while start < len(word):
            opening = "##" if start else ""
            for end in range(len(word), start, -1):
                if (piece := opening + word[start:end]) in self._ids:
                    found.append(piece)
                    start = end
                    break
            else:
                return [UNKNOWN]
        return found


def words(text: str) -> list[str]:
    """Lower-case words without accents; every punctuation mark and every ideograph is a word of its own."""
    # Parity: characters are lowered one by one, so that a Greek sigma is the same within a word and at its end.
    spaced = "".join(_clean(character).lower() for character in text)
    found: list[str] = []
    for word in spaced.split():
        plain = unicodedata.normalize("NFD", word)
        plain = "".join(character for character in plain if unicodedata.category(character) != "Mn")
        found += "".join(f" {mark} " if _is_punctuation(mark) else mark for mark in plain).split()
    return found


def _clean(character: str) -> str:
    """A character with spaces around ideographs; control characters vanish, every kind of space becomes one."""
    if character in " \t\n\r" or unicodedata.category(character) == "Zs":
        return " "
    if character == "\ufffd" or unicodedata.category(character).startswith("C"):
        return ""
    code = ord(character)
    if any(low <= code <= high for low, high in _IDEOGRAPHS):
        return f" {character} "
    return character


def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")
