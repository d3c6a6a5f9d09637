"""Files of descriptions, and the shipped one: concrete, several a tag, each said once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from taglens.errors import VocabularyError
from taglens.inference.bundle import VOCABULARY, locate
from taglens.language.descriptions import SHIPPED, describe, prompts, read_descriptions
from taglens.vocabulary import Entry, Vocabulary


def file(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_later_file_wins_and_the_others_stay(tmp_path: Path) -> None:
    first = file(
        tmp_path / "a",
        {"id": "object:dog", "descriptions": ["has fur", "barks"]},
        {"id": "object:cat", "descriptions": ["whiskers"]},
    )
    second = file(tmp_path / "b", {"id": "object:dog", "descriptions": ["four legs"]})
    found = read_descriptions([first, second])
    assert found == {"object:dog": ("four legs",), "object:cat": ("whiskers",)}


def test_descriptions_join_a_vocabulary_without_changing_what_it_means() -> None:
    boat = Entry("boat", "object", descriptions=("a hull",))
    before = Vocabulary([Entry("dog", "object"), boat, Entry("red", "attribute")])
    after = describe(before, {"object:dog": ("four legs", "a tail"), "object:horse": ("a mane",)})
    assert after.fingerprint == before.fingerprint
    assert [entry.descriptions for entry in after] == [("four legs", "a tail"), ("a hull",), ()]
    assert [prompts(entry) for entry in after] == [
        ("dog", "four legs", "a tail"),
        ("boat", "a hull"),
        ("red",),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ('["object:dog"]', "expected an object with an id"),
        ('{"id": "object:dog", "descriptions": "fur"}', "must be a list of texts"),
        ('{"id": "object:dog", "descriptions": ["fur", " "]}', "none of them empty"),
    ],
)
def test_a_file_that_breaks_the_format_is_refused_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(line)
    with pytest.raises(VocabularyError, match=said):
        read_descriptions([path])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"nowhere\.jsonl"):
        read_descriptions([tmp_path / "nowhere.jsonl"])


# -- the shipped ones --------------------------------------------------------------------------------


def test_the_most_frequent_tags_have_at_least_three_descriptions() -> None:
    vocabulary = Vocabulary.load(locate("starter") / VOCABULARY)
    shipped = read_descriptions([SHIPPED])
    seen = [entry for entry in vocabulary if not entry.hidden]
    frequent = sorted(seen, key=lambda entry: -entry.count)[:1000]
    assert [e.id for e in frequent if len(shipped.get(e.id, ())) < 3] == []


def test_every_description_is_short_plain_and_said_once() -> None:
    shipped = read_descriptions([SHIPPED])
    texts = Counter(text for described in shipped.values() for text in described)
    assert [text for text, times in texts.items() if times > 1] == []
    assert [text for text in texts if not (5 <= len(text.split()) <= 20 and text.isascii())] == []
