"""Captions to words: as the Treebank program of COCO's evaluation splits them; where it is installed it is asked."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.evaluation.caption_words import words
from taglens.evaluation.datasets import read_captions

# COCO's list of what is dropped, as its evaluation has it.
DROPPED = {
    "''",
    "'",
    "``",
    "`",
    "-LRB-",
    "-RRB-",
    "-LCB-",
    "-RCB-",
    ".",
    "?",
    "!",
    ",",
    ":",
    "-",
    "--",
    "...",
    ";",
}
# What the program said of each, dropped tokens left out.
KNOWN = {
    "A dog .": "a dog",
    "Two-tone T-shirt's colour - the theatre's centre... cannot": (
        "two-tone t-shirt 's colour the theatre 's centre can not"
    ),
    "A man (in grey) rides, can't stop; it's 3/4 \"full\".": (
        "a man -lrb- in grey -rrb- rides ca n't stop it 's 3/4 full"
    ),
    "AT&T 1,000 dogs at 5:30 p.m. U.S. flag #12 $5 50% o'clock": (
        "at&t 1,000 dogs at 5:30 p.m. u.s. flag # 12 $ 5 50 % o'clock"
    ),
    "rock 'n' roll -- a cat | b * c ' quoted ' [x] {y} _ ^": (
        "rock 'n' roll a cat | b * c quoted -lsb- x -rsb- -lcb- y -rcb- _ ^"
    ),
    "the dogs' tails Mr. Smith don’t “smart”… café 日本": "the dogs tails mr. smith do n't smart café 日本",
    "gonna lemme 3-year-old 1950s '50s 2nd wanna": "gon na lem me 3-year-old 1950s '50s 2nd wan na",
    "a cat.dog runs.The end. yes ! No ? ok :) it 's": "a cat.dog runs.the end yes no ok :-rrb- it 's",
    "½ cup salt &amp; pepper, 10ft": "1/2 cup salt & pepper 10ft",
    "": "",
    ' . " ... !? ': "",
}


@pytest.mark.parametrize(("caption", "expected"), KNOWN.items())
def test_known_captions(caption: str, expected: str) -> None:
    assert " ".join(words(caption)) == expected


@given(st.text())
def test_any_text_gives_words_that_survive_joining(text: str) -> None:
    found = words(text)
    assert " ".join(found).split() == found
    assert all(word == word.lower() or word.upper() == word for word in found)
    assert not DROPPED & set(found)


@given(st.lists(st.sampled_from(["dog", "t-shirt", "it's", "can't", "runs", "café", "12"])))
def test_punctuation_between_words_changes_nothing(parts: list[str]) -> None:
    assert words(" , ".join(parts).upper() + " .") == words(" ".join(parts))


@pytest.mark.parametrize(
    "text", ["a." * 100_000, "'" * 300_000, "1." * 100_000, "a-" * 100_000, ":(" * 100_000]
)
def test_long_nonsense_ends(text: str) -> None:
    words(text)  # would take hours if it were not linear


def treebank(captions: list[str], folder: Path) -> list[list[str]]:
    """What the program makes of captions, or a skip."""
    spec = find_spec("pycocoevalcap")
    if spec is None:
        pytest.skip("pycocoevalcap is not installed: pip install 'taglens[eval]'")
    java = shutil.which("java")
    if java is None:
        pytest.skip("no Java to ask the Treebank tokenizer")
    assert spec.submodule_search_locations is not None
    jar = Path(next(iter(spec.submodule_search_locations))) / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    file = folder / "captions.txt"
    file.write_text("\n".join(" ".join(text.split()) for text in captions), encoding="utf-8")
    command = [java, "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    done = subprocess.run(
        [*command, "-preserveLines", "-lowerCase", str(file)], capture_output=True, check=True
    )
    lines = done.stdout.decode("utf-8").split("\n")
    return [[word for word in line.split(" ") if word and word not in DROPPED] for line in lines][
        : len(captions)
    ]


def test_the_treebank_program_agrees(tmp_path: Path) -> None:
    captions = [caption for caption in KNOWN if words(caption)]
    assert treebank(captions, tmp_path) == [words(caption) for caption in captions]


def test_the_treebank_program_agrees_on_captions(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    rows = read_captions(shared("data/flickr8k/captions.jsonl"), default_split=None)
    captions = random.Random(0).sample([text for row in rows for text in row.captions], 3000)
    found = treebank(captions, tmp_path)
    other = [text for text, theirs in zip(captions, found, strict=True) if theirs != words(text)]
    assert len(other) <= 2, other
