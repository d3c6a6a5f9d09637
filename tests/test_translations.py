"""Names in other languages: found, given, and never a change of what a column means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from taglens.errors import UsageError, VocabularyError
from taglens.inference.engines import Output
from taglens.inference.tagger import Tagger
from taglens.vocabulary import Entry, Vocabulary

DOG = Entry("dog", "object", synonyms=("hound",), translations={"zh": "狗", "de": "Hund"}, count=1)
TABLE = Entry("table", "object", translations={"zh": "桌子/电子表格"})
GIFT = Entry("gift", "object", translations={"de": "Geschenk"})
POISON = Entry("poison", "object", translations={"de": "Gift"})
RUN = Entry("run", "action")
WORDS = Vocabulary([DOG, TABLE, GIFT, POISON, RUN], name="words")


class Fixed:
    """An engine whose scores are the same for every picture."""

    def __call__(self, pixels: np.ndarray) -> Output:
        one = np.array([0.9, 0.8, 0.7, 0.6, 0.55], np.float32)
        return Output(
            np.tile(one, (len(pixels), 1)), np.zeros((len(pixels), 1)), np.zeros((len(pixels), 1, 1))
        )


PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def tagger() -> Tagger:
    return Tagger(Fixed(), WORDS, ref="fixed@0", side=8)


def test_the_languages_and_how_many_tags_have_a_name_in_each() -> None:
    assert WORDS.languages == {"de": 3, "zh": 2}
    assert Vocabulary([RUN]).languages == {}


def test_translations_change_no_fingerprint() -> None:
    bare = Vocabulary([replace(entry, translations={}) for entry in WORDS])
    assert bare.fingerprint == WORDS.fingerprint


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(VocabularyError, match="'dog' has an empty name in 'zh'; leave it out"):
        Entry("dog", "object", translations={"zh": " "})


def test_a_word_is_found_in_its_language() -> None:
    assert WORDS.find("狗") is None
    assert WORDS.find("狗", language="zh") == 0
    assert WORDS.find(" HUND", language="de") == 0
    assert WORDS.find("hound", language="de") == 0, "names and synonyms go on being found"
    assert WORDS.find("nothing", language="de") is None
    assert WORDS.find("", language="zh") is None


def test_in_a_language_its_own_names_go_first() -> None:
    assert WORDS.find("gift") == 2
    assert WORDS.find("gift", language="de") == 3
    assert WORDS.find("gift", language="zh") == 2


def test_a_translation_with_two_meanings_is_found_by_either() -> None:
    for name in ("桌子/电子表格", "桌子", "电子表格"):
        assert WORDS.find(name, language="zh") == 1


def test_tags_are_given_by_their_names_in_a_language(tagger: Tagger) -> None:
    (row,) = tagger(PICTURE, language="zh")
    assert row.names == ["狗", "桌子/电子表格", "gift", "poison", "run"]
    assert [tag.id for tag in row.tags or ()] == WORDS.ids
    (row,) = tagger(PICTURE)
    assert row.names == ["dog", "table", "gift", "poison", "run"]


def test_an_unknown_language_is_refused_at_once_with_those_there_are(tagger: Tagger) -> None:
    with pytest.raises(UsageError, match=r"in 'fr'; languages: de \(3 tags\), zh \(2 tags\)\. .*import"):
        tagger(PICTURE, language="fr")
    with pytest.raises(UsageError, match="languages: none"):
        Tagger(Fixed(), Vocabulary([RUN]), ref="fixed@0", side=8)(PICTURE, language="fr")


def test_a_few_tags_without_a_name_in_the_models_language_are_no_fault(tagger: Tagger) -> None:
    chosen = tagger.with_vocabulary(Vocabulary([RUN]))
    (row,) = chosen(PICTURE, language="zh")
    assert row.names == ["run"]
