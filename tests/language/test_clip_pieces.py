"""CLIP's pieces: another implementation's numbers, the original's way as a slow twin, files and what they lack."""

from __future__ import annotations

import gzip
import json
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_tower import MERGES
from taglens.errors import VocabularyError
from taglens.language.clip_pieces import END, START, ClipPieces, words

# Made with the package tokenizers 0.23 (NFC, spaces, lower case, the published pattern, bytes) on `MERGES`.
CASES = {
    "a small dog on the bench": [320, 82, 76, 525, 331, 533, 78, 333, 515, 65, 68, 77, 66, 327],
    "The DOGS  are\tsinging,\nnothing else": [515, 534, 64, 519, 551, 267, 77, 78, 532, 68, 75, 82, 324],
    "it's don't we've they're I'm you'd she'll": [
        *(527, 524, 560, 535, 554, 539, 561, 538, 328, 537, 556, 536, 82, 71, 324, 6, 75, 331),
    ],
    "café cafe\u0301 CAFÉ": [520, 69, 127, 358, 520, 69, 127, 358, 520, 69, 127, 358],
    "12 cats 3.5kg ½ Ⅷ ٣": [272, 273, 563, 274, 269, 276, 74, 326, 126, 377, 158, 227, 371, 149, 352],
    "собака и кот": [567, 122, 140, 109, 558, 564, 140, 372, 530, 122, 141, 480],
    "犬と猫の写真": [568, 101, 163, 234, 104, 159, 223, 106, 161, 228, 247, 163, 250, 509],
    "🐕 & 🐈\u200d⬛!?!": [
        172,
        253,
        238,
        499,
        261,
        172,
        253,
        238,
        230,
        158,
        222,
        235,
        158,
        105,
        249,
        0,
        30,
        256,
    ],
    "a_b__c --- ...": [320, 318, 321, 62, 318, 322, 12, 12, 268, 13, 13, 269],
    f"x{END}y {START}": [343, 570, 344, 569],
    "thethethe dogdogdog sssing": [517, 517, 515, 514, 70, 514, 70, 533, 82, 82, 82, 516],
    "   ": [],
}


@pytest.fixture(scope="module")
def small() -> ClipPieces:
    return ClipPieces(MERGES)


# -- numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", CASES, ids=str)
def test_stored_texts_have_the_numbers_of_another_implementation(text: str, small: ClipPieces) -> None:
    assert small.ids(text) == [569, *CASES[text], 570]
    assert small.ids(text) == [569, *CASES[text], 570]  # now from what was kept


def test_the_marks_stay_when_the_text_is_cut(small: ClipPieces) -> None:
    assert small.ids("dogs " * 90) == [569, *[534] * 75, 570]
    assert small.ids("dogs and cats", longest=4) == [569, 534, 521, 570]
    assert small.ids("dogs", longest=2) == [569, 570]
    with pytest.raises(VocabularyError, match="room for 1"):
        small.ids("dogs", longest=1)


def test_quotes_widths_ligatures_and_entities_are_made_plain(small: ClipPieces) -> None:
    for written, plain in (
        ("it’s “the” thing", 'it\'s "the" thing'),
        ("ｔｈｅ　ｄｏｇ", "the dog"),
        ("ﬁne ŉ", "fine 'n"),
        ("dogs &amp;amp; cats &lt;3", "dogs & cats <3"),
        ("a\x00b\x1f c\ufeff", "ab c"),
        ("\x93dogs\x94", '"dogs"'),
    ):
        assert small.ids(written) == small.ids(plain)


def test_halves_of_surrogate_pairs_and_huge_entities_are_texts_too(small: ClipPieces) -> None:
    assert small.ids("\ud83d\udc15") == small.ids("🐕")
    assert small.ids("a\ud800b") == small.ids("a\ufffdb")
    assert small.ids("&#" + "9" * 5000 + ";")[-1] == small.end
    assert small.ids("&#xD800; dogs")[-2] == 534


# -- the original's way, slowly -----------------------------------------------------------------------


def slow_pieces(text: str, merges: list[tuple[str, str]]) -> list[str]:
    """Every word merged by a new look at the whole of it; for text that needs no repair."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in seen}
    letters |= {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in letters)}
    found = []
    for word in slow_words(" ".join(unicodedata.normalize("NFC", text).split()).lower()):
        symbols = [letters[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        while True:
            there = [merges.index(pair) for pair in pairwise(symbols) if pair in merges]
            if not there:
                break
            first, second = merges[min(there)]
            joined: list[str] = []
            place = 0
            while place < len(symbols):
                if symbols[place : place + 2] == [first, second]:
                    joined.append(first + second)
                    place += 2
                else:
                    joined.append(symbols[place])
                    place += 1
            symbols = joined
        found += symbols
    return found


def slow_words(text: str) -> list[str]:
    """The published pattern, character by character."""

    def kind(character: str) -> str:
        letter = unicodedata.category(character)[0]
        return " " if character.isspace() else letter if letter in "LN" else "?"

    found = []
    place = 0
    while place < len(text):
        rest = text[place:]
        clitic = next((c for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if rest.startswith(c)), "")
        end = 1
        if clitic:
            end = len(clitic)
        elif kind(rest[0]) in "L?":
            while end < len(rest) and kind(rest[end]) == kind(rest[0]):
                end += 1
        if kind(rest[0]) != " ":
            found.append(rest[:end])
        place += end
    return found


ORDINARY = st.text(
    st.sampled_from("thedogsincarw '.,!?-_012éüñß犬собакÅ½²🐕\u0301\t\n"), max_size=40
) | st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]).filter(
        lambda c: unicodedata.normalize("NFKC", c) == c and c not in "&<|ʼ‘’‚‛“”„‟ſ\ufeff"
    ),
    max_size=20,
)
ALPHABET = "abc"


@settings(max_examples=150, deadline=None)
@given(text=ORDINARY)
def test_pieces_are_those_of_the_slow_way(text: str) -> None:
    assert ClipPieces(MERGES).pieces(text) == slow_pieces(text, MERGES)


@st.composite
def hostile_merges(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Merges in an order that no training would give: of pieces that a later merge makes."""
    parts = list(ALPHABET) + [letter + "</w>" for letter in ALPHABET]
    for _ in range(draw(st.integers(1, 12))):
        left = draw(st.sampled_from([part for part in parts if not part.endswith("</w>")]))
        right = draw(st.sampled_from(parts))
        if left + right not in parts:
            parts.append(left + right)
    made = [part for part in parts if len(part.removesuffix("</w>")) > 1]
    pairs = []
    for part in made:
        splits = [(part[:cut], part[cut:]) for cut in range(1, len(part.removesuffix("</w>")))]
        pairs += [pair for pair in splits if pair[0] in parts and pair[1] in parts][:1]
    return list(draw(st.permutations(pairs)))


@settings(max_examples=150, deadline=None)
@given(merges=hostile_merges(), word=st.text(ALPHABET, min_size=1, max_size=24))
def test_merges_in_any_order_are_those_of_the_slow_way(merges: list[tuple[str, str]], word: str) -> None:
    assert ClipPieces(merges).pieces(word) == slow_pieces(word, merges)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(), max_size=60))
def test_any_text_at_all_has_numbers(text: str) -> None:
    pieces = ClipPieces(MERGES)
    found = pieces.ids(text)
    assert (found[0], found[-1]) == (pieces.start, pieces.end) and len(found) <= 77
    assert all(0 <= number < len(pieces) for number in found)
    assert all(word and not word.isspace() for word in words(text))


def test_a_word_of_a_million_letters_is_read(small: ClipPieces) -> None:
    """Of which only the first pieces count; one that looked at it anew for each merge would never end."""
    assert small.ids("the" * 300_000) == [569, *[517] * 75, 570]


def test_what_is_kept_is_bounded(small: ClipPieces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taglens.language.clip_pieces._MOST_KEPT", 10)
    pieces = ClipPieces(MERGES)
    for number in range(100):
        assert pieces.ids(f"dog{'x' * number}") == small.ids(f"dog{'x' * number}")
        assert len(pieces._kept) <= 10 and all(len(word) <= 64 for word in pieces._kept)


# -- files -------------------------------------------------------------------------------------------


def published(merges: list[tuple[str, str]] = MERGES) -> bytes:
    """As the original release writes its list."""
    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2', *(" ".join(pair) for pair in merges)]
    return ("\n".join(lines) + "\n").encode()


def test_all_forms_of_the_files_are_one(small: ClipPieces, tmp_path: Path) -> None:
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(published()))
    (tmp_path / "bpe.txt").write_bytes(published().replace(b"\n", b"\r\n"))
    folder = tmp_path / "hub"
    folder.mkdir()
    small.save(folder / "vocab.json", folder / "merges.txt")
    assert {path.name for path in folder.iterdir()} == {"vocab.json", "merges.txt"}
    places = ("bpe.txt.gz", "bpe.txt", "hub", "hub/vocab.json", "hub/merges.txt")
    for found in (ClipPieces.load(tmp_path / place) for place in places):
        assert found.fingerprint == small.fingerprint and len(found) == 571
        assert found.ids("singing dogs") == small.ids("singing dogs")
    other = ClipPieces(MERGES[:-1])
    assert other.fingerprint != small.fingerprint


def test_numbers_of_the_hub_s_vocabulary_count(small: ClipPieces, tmp_path: Path) -> None:
    small.save(tmp_path / "vocab.json", tmp_path / "merges.txt")
    ids = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    turned = {piece: len(ids) - 1 - number for piece, number in ids.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(turned), encoding="utf-8")
    found = ClipPieces.load(tmp_path)
    assert found.ids("dogs") == [1, 570 - 534, 0] and found.fingerprint != small.fingerprint


def test_the_original_s_list_ends_where_its_vocabulary_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taglens.language.clip_pieces._PUBLISHED_MERGES", 40)
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(published()))
    assert len(ClipPieces.load(tmp_path / "bpe.txt.gz")) == 512 + 40 + 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"t h\nt h\n", "stands twice"),
        (b"th e\n", "'th', which the vocabulary lacks"),
        (b"t h e\n", "line 1: expected two pieces"),
        (b"dog\n", "line 1: expected two pieces"),
        (b"t h\na \xff\n", "no text in UTF-8"),
        (b"a bc</w>\nb c</w>\n ab</w>\n", "line 3"),
        (gzip.compress(b"t h\n" * 100)[:-9], "cannot read the pieces"),
        (b"t h\nh e\nth e\nt he\n", "two merges make the piece 'the'"),
    ],
)
def test_files_that_are_no_list_of_merges(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bpe.txt").write_bytes(content)
    with pytest.raises(VocabularyError, match=message):
        ClipPieces.load(tmp_path / "bpe.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids.pop(START), r"startoftext\|>' is missing|numbered from 0"),
        (lambda ids: ids.update(dog=1), "each number once"),
        (lambda ids: ids.update(dog=True), "one object of pieces and their numbers"),
        (lambda ids: ids.update(dog="7"), "one object of pieces and their numbers"),
        (lambda ids: ids.pop("ing</w>"), "numbered from 0"),
    ],
)
def test_vocabularies_that_do_not_fit(
    change: object, message: str, small: ClipPieces, tmp_path: Path
) -> None:
    small.save(tmp_path / "vocab.json", tmp_path / "merges.txt")
    ids = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    change(ids)  # type: ignore[operator]
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    with pytest.raises(VocabularyError, match=message):
        ClipPieces.load(tmp_path)


def test_files_of_two_models(small: ClipPieces, tmp_path: Path) -> None:
    small.save(tmp_path / "vocab.json", tmp_path / "merges.txt")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nx y\n", encoding="utf-8")
    with pytest.raises(VocabularyError, match="belong to different models"):
        ClipPieces.load(tmp_path)


def test_files_that_are_not_there_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VocabularyError, match="cannot read the pieces"):
        ClipPieces.load(tmp_path)
    monkeypatch.setattr("taglens.language.clip_pieces._MOST_BYTES", 1000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"t h\n" * 1000))
    with pytest.raises(VocabularyError, match="larger than"):
        ClipPieces.load(tmp_path / "bomb.gz")
