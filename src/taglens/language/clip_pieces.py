"""Text to the pieces that CLIP's text tower reads: lower-cased, byte-level pairs, between a start and an end mark.

Knows the rules and reads the files that the user has (the original release's list of merges, or the pair of files on
the Hugging Face hub); carries none of its own. Refuses to know prompts and vectors (`taglens.language.clip_encoder`).
Shapes: V pieces of the vocabulary, N pieces of a text.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import html
import io
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from heapq import heapify, heappop, heappush
from itertools import groupby, islice
from pathlib import Path

from taglens.errors import VocabularyError

START, END = "<|startoftext|>", "<|endoftext|>"
LONGEST = 77
VOCABULARY, MERGES = "vocab.json", "merges.txt"

# Closes a word, so that "cat" and the beginning of "catalogue" are two pieces.
_CLOSE = "</w>"
# The original's list goes on; its vocabulary of 49,408 ends here.
_PUBLISHED_MERGES = 48_894
_HEADER = "#version:"
_MOST_BYTES = 64 << 20
_MOST_KEPT, _LONGEST_KEPT = 50_000, 64
# Far more than the pieces that are kept of a text; a longer word would cost seconds and change nothing.
_LONGEST_WORD = 10_000

# Marks, clitics, runs of letters and digits (parted further below), runs of anything else that is no space.
_WORDS = re.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[^\W_]+|(?:[^\w\s]|_)+", re.IGNORECASE
)


class ClipPieces:
    """A vocabulary of byte pairs, and the rules that cut text into them.

    Args:
        merges: pairs of pieces in the order in which they are joined.
        ids: piece -> number; None: as the original numbers them: single bytes, bytes that close a word, what the
            merges make in their order, the two marks.

    Raises:
        VocabularyError: a merge that stands twice or joins what is no piece; numbers that are not 0 to V - 1.
    """

    def __init__(self, merges: Iterable[tuple[str, str]], ids: Mapping[str, int] | None = None) -> None:
        self._merges = tuple(merges)
        self._ranks = {pair: rank for rank, pair in enumerate(self._merges)}
        if len(self._ranks) != len(self._merges):
            twice = next(pair for rank, pair in enumerate(self._merges) if self._ranks[pair] != rank)
            raise VocabularyError(f"the merge {' '.join(twice)!r} stands twice; each is named once")
        self._ids = dict(ids) if ids is not None else _numbered(self._merges)
        if sorted(self._ids.values()) != list(range(len(self._ids))):
            raise VocabularyError(f"expected {len(self._ids)} pieces numbered from 0 on, each number once")
        self._require_pieces()
        self.start, self.end = self._ids[START], self._ids[END]
        self._kept: dict[str, tuple[int, ...]] = {}

    def _require_pieces(self) -> None:
        for piece in (START, END, *_single_pieces()):
            if piece not in self._ids:
                raise VocabularyError(
                    f"no vocabulary of CLIP: the piece {piece!r} is missing among {len(self._ids)}"
                )
        for left, right in self._merges:
            if missing := [piece for piece in (left, right, left + right) if piece not in self._ids]:
                raise VocabularyError(
                    f"the merge {left} {right} needs the piece {missing[0]!r}, which the vocabulary lacks: the two "
                    "files belong to different models"
                )

    # -- files -------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: Path) -> ClipPieces:
        """Read the user's file, told apart by content.

        Args:
            path: the original release's list of merges (bpe_simple_vocab_16e6.txt.gz, packed or not), or vocab.json
                or merges.txt with the other beside it, or the folder that holds both.

        Raises:
            VocabularyError: no such file, a damaged one, or one that is none of these.
        """
        if path.is_dir():
            return cls.read(path / VOCABULARY, path / MERGES)
        content = _read(path)
        if content.lstrip()[:1] == b"{":
            return cls.read(path, path.with_name(MERGES))
        if path.name == MERGES and path.with_name(VOCABULARY).is_file():
            return cls.read(path.with_name(VOCABULARY), path)
        try:
            return cls(islice(_merges(content, path), _PUBLISHED_MERGES))
        except VocabularyError as error:
            raise VocabularyError(f"{path}: {error}") from None

    @classmethod
    def read(cls, vocabulary: Path, merges: Path) -> ClipPieces:
        """Read the two files of the hub's form. Raises VocabularyError, as `load` does."""
        pairs = tuple(_merges(_read(merges), merges))
        try:
            ids = json.loads(_read(vocabulary))
        except (ValueError, RecursionError) as error:
            raise VocabularyError(f"{vocabulary} is no JSON: {error}") from None
        if not isinstance(ids, dict) or not all(type(number) is int for number in ids.values()):
            raise VocabularyError(f"{vocabulary}: expected one object of pieces and their numbers")
        try:
            return cls(pairs, ids)
        except VocabularyError as error:
            raise VocabularyError(f"{vocabulary} and {merges.name}: {error}") from None

    def save(self, vocabulary: Path, merges: Path) -> None:
        """Write the two files of the hub's form, each beside and renamed."""
        lines = "".join(f"{left} {right}\n" for left, right in self._merges)
        for path, text in (
            (vocabulary, json.dumps(self._ids, ensure_ascii=False) + "\n"),
            (merges, f"{_HEADER} 0.2\n{lines}"),
        ):
            beside = path.with_name(path.name + ".part")
            beside.write_bytes(text.encode())
            beside.replace(path)

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits of the pieces, their numbers and the order of the merges."""
        pieces = sorted(self._ids, key=self._ids.__getitem__)
        merges = "\n".join(" ".join(pair) for pair in self._merges)
        return hashlib.sha256("\n".join([*pieces, "", merges]).encode()).hexdigest()

    def __len__(self) -> int:
        """V, the two marks included."""
        return len(self._ids)

    # -- text --------------------------------------------------------------------------------------------

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text, without the marks around it; a mark written in it counts as such."""
        return [piece for word in words(text) for piece in self._take_apart(word)]

    def ids(self, text: str, *, longest: int = LONGEST) -> list[int]:
        """The start mark, the text's pieces, the end mark; at most ``longest`` [N], the text's own end cut off."""
        if longest < 2:
            raise VocabularyError(f"the two marks alone are 2 pieces, found room for {longest}")
        found: list[int] = []
        for word in words(text):
            found += self._numbers_of(word)
            if len(found) >= longest - 2:
                break
        return [self.start, *found[: longest - 2], self.end]

    def _numbers_of(self, word: str) -> tuple[int, ...]:
        if (found := self._kept.get(word)) is not None:
            return found
        found = tuple(self._ids[piece] for piece in self._take_apart(word))
        if len(word) <= _LONGEST_KEPT:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[word] = found
        return found

    def _take_apart(self, word: str) -> list[str]:
        if word in (START, END):
            return [word]
        letters = _byte_letters()
        # Parity: the original reads a word of any length before it cuts.
        symbols = [letters[byte] for byte in word[:_LONGEST_WORD].encode()]
        symbols[-1] += _CLOSE
        return _joined(symbols, self._ranks)


def words(text: str) -> Iterator[str]:
    """Lower-case words: runs of letters, single digits, clitics, runs of marks; lazily, in one pass."""
    for found in _WORDS.finditer(_clean(text)):
        word = found[0]
        if not word[0].isalnum() or word.isalpha():
            yield word
            continue
        for letters, run in groupby(word, str.isalpha):
            if letters:
                yield "".join(run)
            else:
                yield from run


def _clean(text: str) -> str:
    """One line in lower case, with plain quotes, widths and ligatures, single spaces, no control characters.

    Parity: the original leaves this to a package that also repairs text whose encoding was mistaken for another;
    that is not done here.
    """
    # Halves of a surrogate pair cannot be bytes; a pair is one character.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if "&" in text:
        with contextlib.suppress(ValueError):  # a character number of more digits than Python turns into one
            text = html.unescape(html.unescape(text))
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = unicodedata.normalize("NFC", text.translate(_plain()))
    return " ".join(text.split()).lower()


@lru_cache(maxsize=1)
def _plain() -> dict[int, str]:
    """Character -> what is read in its place."""
    found = dict.fromkeys((*range(9), 0x0B, *range(0x0E, 0x20), 0x7F), "")
    found |= dict.fromkeys((*range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)), "")
    # Bytes of Windows that were taken for Latin-1.
    found |= {code: bytes([code]).decode("cp1252", "replace") for code in range(0x80, 0xA0)}
    found |= {code: chr(code) for code in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}
    ligatures = (0x132, 0x133, 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB07))
    for code in ligatures:
        parts = unicodedata.decomposition(chr(code)).split()[1:]
        found[code] = "".join(chr(int(part, 16)) for part in parts)
    # Full and half width.
    found |= {code: unicodedata.normalize("NFKC", chr(code)) for code in (0x3000, *range(0xFF01, 0xFFF0))}
    quotes = str.maketrans(dict.fromkeys("ʼ‘’‚‛", "'") | dict.fromkeys("“”„‟", '"'))
    return {code: text.translate(quotes) for code, text in (quotes | found).items()}


# -- pairs -----------------------------------------------------------------------------------------------


def _joined(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """The symbols with pairs joined: of all that are there the earliest merge, from left to right, until none is.

    A heap of places instead of a new look at the whole word for each merge: n log n in its length.
    """
    alive = [True] * len(symbols)
    after = [*range(1, len(symbols)), -1]
    before = list(range(-1, len(symbols) - 1))

    def rank(place: int) -> int | None:
        """Of the pair that begins here."""
        if place < 0 or not alive[place] or after[place] < 0:
            return None
        return ranks.get((symbols[place], symbols[after[place]]))

    heap = [(found, place) for place in range(len(symbols)) if (found := rank(place)) is not None]
    heapify(heap)
    while heap:
        now, changed = heap[0][0], []
        # Pairs that these joins make wait for the next round, even where their merge is an earlier one.
        places = []
        while heap and heap[0][0] == now:
            places.append(heappop(heap)[1])
        for place in places:
            if rank(place) != now:
                continue
            gone = after[place]
            symbols[place] += symbols[gone]
            alive[gone], after[place] = False, after[gone]
            if after[gone] >= 0:
                before[after[gone]] = place
            changed.append(place)
        for place in changed:
            for begin in (before[place], place):
                if (found := rank(begin)) is not None:
                    heappush(heap, (found, begin))
    return [symbol for symbol, is_alive in zip(symbols, alive, strict=True) if is_alive]


@lru_cache(maxsize=1)
def _byte_letters() -> tuple[str, ...]:
    """For each of 256 bytes the character that stands for it in the files: itself where that can be seen."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in seen else chr(next(spare)) for byte in range(256))


def _single_pieces() -> list[str]:
    """The 512 pieces of one byte in the original's order: those seen first, then again closing a word."""
    letters = _byte_letters()
    ordered = [letter for byte, letter in enumerate(letters) if ord(letter) == byte]
    ordered += [letter for byte, letter in enumerate(letters) if ord(letter) != byte]
    return [*ordered, *(letter + _CLOSE for letter in ordered)]


def _numbered(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    pieces = [*_single_pieces(), *(left + right for left, right in merges), START, END]
    ids = {piece: number for number, piece in enumerate(pieces)}
    if len(ids) != len(pieces):
        twice = next(piece for number, piece in enumerate(pieces) if ids[piece] != number)
        raise VocabularyError(f"two merges make the piece {twice!r}; give the vocab.json that numbers them")
    return ids


# -- content ---------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    """A file's content, unpacked."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if content[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise VocabularyError(f"cannot read the pieces {path}: {error}") from None
    if len(content) > _MOST_BYTES:
        raise VocabularyError(f"{path} is larger than {_MOST_BYTES >> 20} MiB: no list of CLIP's pieces")
    return content


def _merges(content: bytes, path: Path) -> Iterator[tuple[str, str]]:
    """The pairs of a list of merges, one a line below its header."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is no text in UTF-8: {error}") from None
    # Only line feeds part lines: a piece may hold what `str.splitlines` also breaks at.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line or (number == 1 and _HEADER in line):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise VocabularyError(
                f"{path}, line {number}: expected two pieces with a space between them, found {line[:80]!r}; give "
                "bpe_simple_vocab_16e6.txt.gz, or vocab.json with merges.txt beside it"
            )
        yield left, right
