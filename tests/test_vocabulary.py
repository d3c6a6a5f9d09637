"""The label system: identity, looking up, from scores to tags, the file, and what check objects to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taglens.errors import MismatchError, VocabularyError
from taglens.vocabulary import Entry, Vocabulary, normalise, tag_id

DOG = Entry("dog", "object", synonyms=("hound",), parents=("object:animal",), count=9)
ANIMAL = Entry("animal", "object", count=2)
PUPPY = Entry("puppy", "object", parents=("object:dog",), count=3)
TRAIN = Entry("train", "object", count=5)
TO_TRAIN = Entry("train", "action", count=4)
PETS = Vocabulary([DOG, ANIMAL, PUPPY, TRAIN, TO_TRAIN], name="pets")

NAMES = st.text(alphabet="abcdé -'", min_size=1, max_size=6).filter(lambda name: bool(normalise(name)))
ENTRIES = st.builds(
    Entry,
    name=NAMES,
    kind=st.sampled_from(["object", "scene", "attribute", "action"]),
    synonyms=st.lists(NAMES, max_size=2).map(tuple),
    parents=st.lists(st.sampled_from(["object:a", "scene:b"]), max_size=2).map(tuple),
    threshold=st.none() | st.floats(0, 1),
    descriptions=st.lists(NAMES, max_size=2).map(tuple),
    translations=st.dictionaries(st.sampled_from(["de", "fr", "zh"]), NAMES, max_size=2),
    count=st.integers(0, 10**9),
    hidden=st.booleans(),
)
VOCABULARIES = st.lists(ENTRIES, min_size=1, max_size=8, unique_by=lambda entry: entry.id).map(
    lambda entries: Vocabulary(entries, name="drawn", description="x")
)

# A busy machine is no failure: how long a drawn case takes is not what these tests are about.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def write(path: Path, *lines: object) -> Path:
    path.write_text(
        "".join(line + "\n" if isinstance(line, str) else json.dumps(line) + "\n" for line in lines),
        encoding="utf-8",
    )
    return path


# -- names and entries ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "same"),
    [("Christmas  Tree", "christmas tree"), (" a\tb ", "a b"), ("cafe\u0301", "café"), ("STRASSE", "straße")],
)
def test_names_are_compared_without_case_spacing_and_composition(written: str, same: str) -> None:
    assert normalise(written) == normalise(same)


@UNTIMED
@given(st.text(max_size=12))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once or normalise(normalise(once)) == normalise(once)


def test_an_id_is_kind_and_name() -> None:
    assert tag_id("object", "Hot  Dog") == "object:hot dog"
    assert Entry("Hot Dog", "object").id == "object:hot dog"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "  "}, "empty name"),
        ({"kind": "thing"}, "expected one of object"),
        ({"threshold": 1.5}, "0 to 1"),
        ({"threshold": float("nan")}, "0 to 1"),
        ({"count": -1}, "0 or more"),
    ],
)
def test_an_entry_refuses_nonsense_at_birth(fields: dict[str, object], said: str) -> None:
    with pytest.raises(VocabularyError, match=said):
        Entry(**{"name": "dog", "kind": "object", **fields})  # type: ignore[arg-type]


def test_two_entries_cannot_share_an_id() -> None:
    with pytest.raises(VocabularyError, match=r"tags 1 and 2.*merge the two"):
        Vocabulary([Entry("Dog", "object"), Entry("dog", "object")])


# -- looking up ----------------------------------------------------------------------------------------


def test_it_is_an_ordered_sequence() -> None:
    assert len(PETS) == 5
    assert PETS[2] is PUPPY
    assert list(PETS) == [DOG, ANIMAL, PUPPY, TRAIN, TO_TRAIN]
    assert PETS.ids[3:] == ["object:train", "action:train"]
    assert "object:dog" in PETS
    assert "dog" not in PETS
    assert 0 not in PETS
    assert PETS.position("action:train") == 4
    assert repr(PETS) == f"Vocabulary(pets@{PETS.fingerprint}, 5 tags)"


def test_an_unknown_id_names_the_vocabulary() -> None:
    with pytest.raises(VocabularyError, match=PETS.ref):
        PETS.position("object:cat")


def test_find_takes_a_name_or_a_synonym_in_any_spelling() -> None:
    assert PETS.find(" DOG ") == 0
    assert PETS.find("Hound") == 0
    assert PETS.find("cat") is None


def test_find_takes_the_homograph_that_captions_name_more_often() -> None:
    assert PETS.find("train") == 3
    swapped = Vocabulary([TO_TRAIN, replace(TRAIN, count=3)])
    assert swapped.find("train") == 0


def test_find_takes_the_earlier_of_equal_homographs() -> None:
    assert Vocabulary([TO_TRAIN, replace(TRAIN, count=4)]).find("train") == 0
    assert Vocabulary([replace(TRAIN, count=4), TO_TRAIN]).find("train") == 0


def test_find_can_be_held_to_kinds() -> None:
    assert PETS.find("train", kinds=["action"]) == 4
    assert PETS.find("dog", kinds=["action", "scene"]) is None


def test_a_name_goes_before_a_synonym_however_frequent() -> None:
    words = Vocabulary([Entry("hound", "object", count=1), replace(DOG, count=1000)])
    assert words.find("hound") == 0
    # ... but a name of another kind does not stand in the way of a synonym of the kind that was asked for.
    assert Vocabulary([Entry("hound", "action"), DOG]).find("hound", kinds=["object"]) == 1


def test_parents_are_followed_to_the_end() -> None:
    assert PETS.with_parents([2]) == {0, 1, 2}
    assert PETS.with_parents([1]) == {1}
    assert PETS.with_parents([]) == set()


def test_parents_that_are_absent_or_circular_do_no_harm() -> None:
    odd = Vocabulary(
        [
            Entry("a", "object", parents=("object:b", "object:nowhere")),
            Entry("b", "object", parents=("object:a",)),
        ]
    )
    assert odd.with_parents([0]) == {0, 1}


@UNTIMED
@given(VOCABULARIES, st.data())
def test_closing_under_parents_twice_changes_nothing(words: Vocabulary, data: st.DataObject) -> None:
    start = data.draw(st.sets(st.integers(0, len(words) - 1)))
    closed = words.with_parents(start)
    assert start <= closed
    assert words.with_parents(closed) == closed


# -- the fingerprint -----------------------------------------------------------------------------------


def test_the_fingerprint_covers_what_a_column_means() -> None:
    same = Vocabulary([Entry("a", "object"), Entry("b", "scene")], name="x")
    assert len(same.fingerprint) == 12
    others = [
        [Entry("b", "scene"), Entry("a", "object")],
        [Entry("a", "object")],
        [Entry("a", "object"), Entry("b", "object")],
        [Entry("a", "object"), Entry("c", "scene")],
        [Entry("A", "object"), Entry("b", "scene")],
    ]
    assert same.fingerprint not in {Vocabulary(entries).fingerprint for entries in others}


def test_the_fingerprint_leaves_out_what_may_be_edited() -> None:
    plain = Vocabulary([Entry("a", "object")], name="x")
    rich = Entry(
        "a",
        "object",
        synonyms=("b",),
        parents=("object:c",),
        threshold=0.2,
        descriptions=("d",),
        translations={"de": "e"},
        count=7,
        hidden=True,
    )
    assert Vocabulary([rich], name="y", description="z").fingerprint == plain.fingerprint


def test_the_fingerprint_is_stable_across_releases() -> None:
    assert Vocabulary([Entry("dog", "object"), Entry("run", "action")]).fingerprint == "7df5aa199d64"


def test_require_names_both_fingerprints() -> None:
    PETS.require(PETS.fingerprint, what="the shard")
    with pytest.raises(MismatchError, match=f"the shard was made.*{PETS.ref}.*abc") as caught:
        PETS.require("abc", what="the shard")
    assert caught.value.found == "fingerprint abc"


# -- scores to tags ------------------------------------------------------------------------------------


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_tags_come_by_falling_score_at_or_above_the_threshold() -> None:
    tags = PETS.select(scores(0.5, 0.49, 0.9, 0.0, 0.7))
    assert [(tag.id, tag.kind) for tag in tags] == [
        ("object:puppy", "object"),
        ("action:train", "action"),
        ("object:dog", "object"),
    ]
    assert tags[0].score == pytest.approx(0.9)


def test_stored_thresholds_are_the_default_and_an_argument_replaces_all() -> None:
    words = PETS.with_thresholds([0.9, 0.1, None, None, None])
    assert [tag.name for tag in words.select(scores(0.8, 0.2, 0.4, 0.4, 0.4))] == ["animal"]
    assert [tag.name for tag in words.select(scores(0.8, 0.2, 0.4, 0.4, 0.4), threshold=0.4)] == [
        "dog",
        "puppy",
        "train",
        "train",
    ]


def test_a_score_equal_to_a_threshold_that_fp32_cannot_hold_passes() -> None:
    for value in (0.1, 0.3, 0.7):
        assert len(PETS.select(np.full(5, value, np.float32), threshold=value)) == 5
        assert len(PETS.with_thresholds([value] * 5).select(np.full(5, value, np.float32))) == 5


def test_threshold_zero_gives_every_tag_and_one_gives_only_certainty() -> None:
    assert len(PETS.select(scores(0, 0, 0, 0, 0), threshold=0.0)) == 5
    assert len(PETS.select(scores(0, 0, 0, 0, 0), threshold=0.0, top=0)) == 5
    assert [tag.name for tag in PETS.select(scores(1, 0.999, 0, 0, 0), threshold=1.0)] == ["dog"]


def test_equal_scores_keep_the_vocabularys_order() -> None:
    ids = [tag.id for tag in PETS.select(scores(0.5, 0.8, 0.5, 0.8, 0.5))]
    assert ids == ["object:animal", "object:train", "object:dog", "object:puppy", "action:train"]


def test_the_threshold_cuts_before_top() -> None:
    given_scores = scores(0.9, 0.8, 0.7, 0.2, 0.1)
    assert [tag.name for tag in PETS.select(given_scores, top=2)] == ["dog", "animal"]
    assert len(PETS.select(given_scores, top=4)) == 3
    assert len(PETS.select(given_scores, threshold=0.0, top=4)) == 4


def test_hidden_tags_are_never_given_and_take_no_place() -> None:
    words = Vocabulary([replace(DOG, hidden=True), ANIMAL, PUPPY])
    assert [tag.name for tag in words.select(scores(0.9, 0.8, 0.7), top=2)] == ["animal", "puppy"]
    assert [tag.name for tag in words.select(scores(1, 1, 1), threshold=0.0)] == ["animal", "puppy"]


def test_scores_of_another_length_are_refused() -> None:
    for wrong in (scores(0.1), np.zeros((1, 5), np.float32)):
        with pytest.raises(MismatchError, match=f"5 scores for {PETS.ref}"):
            PETS.select(wrong)


@UNTIMED
@given(
    VOCABULARIES,
    st.data(),
    st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.none() | st.integers(0, 9),
)
def test_select_equals_its_slow_twin(
    words: Vocabulary, data: st.DataObject, threshold: float | None, top: int | None
) -> None:
    drawn = data.draw(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=len(words), max_size=len(words))
    )
    expected = []
    for entry, score in zip(words, drawn, strict=True):
        least = threshold
        if least is None:
            least = 0.5 if entry.threshold is None else float(np.float32(entry.threshold))
        if score >= least and not entry.hidden:
            expected.append((entry.id, score))
    expected.sort(key=lambda pair: -pair[1])
    if top:
        expected = expected[:top]
    tags = words.select(np.array(drawn, np.float32), threshold=threshold, top=top)
    assert [(tag.id, tag.score) for tag in tags] == expected


def test_with_thresholds_keeps_everything_else() -> None:
    words = Vocabulary([DOG, ANIMAL], name="x", description="y").with_thresholds([0.25, None])
    assert list(words) == [replace(DOG, threshold=0.25), ANIMAL]
    assert (words.name, words.description) == ("x", "y")
    assert words.thresholds().tolist() == [0.25, 0.5]
    assert words.thresholds(default=0.75).tolist() == [0.25, 0.75]
    with pytest.raises(VocabularyError, match="1 thresholds for the 2 tags"):
        words.with_thresholds([0.5])


# -- the file ------------------------------------------------------------------------------------------


@UNTIMED
@given(words=VOCABULARIES)
def test_saving_and_loading_gives_the_same(
    words: Vocabulary, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("v") / "words.jsonl"
    words.save(path)
    loaded = Vocabulary.load(path)
    assert loaded.entries == words.entries
    assert (loaded.name, loaded.description, loaded.ref) == (words.name, words.description, words.ref)
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


def test_the_file_is_diffable(tmp_path: Path) -> None:
    PETS.save(tmp_path / "old.jsonl")
    entries = [replace(entry, threshold=0.3) if entry is PUPPY else entry for entry in PETS]
    Vocabulary(entries, name="pets").save(tmp_path / "new.jsonl")
    old = (tmp_path / "old.jsonl").read_text(encoding="utf-8").splitlines()
    new = (tmp_path / "new.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(old) == 1 + len(PETS)
    assert [n for n, (a, b) in enumerate(zip(old, new, strict=True)) if a != b] == [3]
    assert json.loads(new[3]) == {
        "id": "object:puppy",
        "name": "puppy",
        "kind": "object",
        "parents": ["object:dog"],
        "threshold": 0.3,
        "count": 3,
    }


def test_the_file_keeps_letters_and_leaves_nothing_beside(tmp_path: Path) -> None:
    Vocabulary([Entry("piñata", "object", translations={"zh": "皮纳塔"})]).save(tmp_path / "v.jsonl")
    assert "皮纳塔" in (tmp_path / "v.jsonl").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["v.jsonl"]


def test_a_plain_list_of_names_is_a_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.txt", "Red Wine", "", "  dog  ")
    words = Vocabulary.load(path)
    assert words.ids == ["object:red wine", "object:dog"]
    assert (words.name, words[0].name) == ("mine", "Red Wine")


def test_entries_without_header_kind_or_id_are_enough(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"name": "dog"}, {"name": "run", "kind": "action", "threshold": 1})
    words = Vocabulary.load(path)
    assert words.ids == ["object:dog", "action:run"]
    assert words[1].threshold == 1.0


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"\xef\xbb\xbfdog\r\ncat\r\n")
    assert Vocabulary.load(path).ids == ["object:dog", "object:cat"]


HEADER = {"taglens_vocabulary": 1, "name": "x"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "is empty"),
        ([HEADER], "a header and no tags"),
        ([{"taglens_vocabulary": 2}, {"name": "a"}], "format 2; this release reads 1"),
        ([HEADER, "{"], "line 2: not JSON"),
        ([HEADER, "[]"], "line 2: expected an object"),
        ([HEADER, {"kind": "object"}], "line 2: expected an object with a name"),
        ([HEADER, {"name": 3}], "line 2: expected an object with a name"),
        ([HEADER, "", {"name": "a", "colour": 1}], "line 3: unknown field 'colour'"),
        ([HEADER, {"name": "a", "kind": "thing"}], "line 2: tag 'a' has kind 'thing'"),
        ([HEADER, {"name": "a", "synonyms": "b"}], "line 2: synonyms must be a list"),
        ([HEADER, {"name": "a", "parents": [1]}], "line 2: parents must be a list"),
        ([HEADER, {"name": "a", "threshold": "0.5"}], "line 2: threshold must be a number"),
        ([HEADER, {"name": "a", "threshold": True}], "line 2: threshold must be a number"),
        ([HEADER, {"name": "a", "threshold": 2}], "line 2: .*0 to 1"),
        ([HEADER, {"name": "a", "count": 1.5}], "line 2: count must be a whole number"),
        ([HEADER, {"name": "a", "translations": ["b"]}], "line 2: translations must map"),
        ([HEADER, {"name": "a", "id": "object:b"}], "line 2: id 'object:b' does not fit"),
        ([HEADER, {"name": "a"}, {"name": "A"}], "stands twice"),
    ],
)
def test_a_malformed_file_says_where_and_why(tmp_path: Path, lines: list[object], said: str) -> None:
    with pytest.raises(VocabularyError, match=said):
        Vocabulary.load(write(tmp_path / "v.jsonl", *lines))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"nowhere\.jsonl"):
        Vocabulary.load(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(VocabularyError, match=r"latin\.txt"):
        Vocabulary.load(tmp_path / "latin.txt")


def test_an_edit_of_the_tags_is_noticed_and_an_edit_of_a_threshold_is_not(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    PETS.save(path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"count": 3', '"count": 3, "threshold": 0.75'), encoding="utf-8")
    assert Vocabulary.load(path)[2].threshold == 0.75
    path.write_text(text.replace("puppy", "pup"), encoding="utf-8")
    with pytest.raises(MismatchError, match=rf"{PETS.fingerprint}.*remove the fingerprint"):
        Vocabulary.load(path)


# -- checking ------------------------------------------------------------------------------------------


def test_a_sound_vocabulary_has_no_problems() -> None:
    assert PETS.problems() == []


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([Entry("a", "object", synonyms=("x",)), Entry("b", "object", synonyms=("X",))], "belongs to"),
        ([Entry("a", "object", synonyms=("b",)), Entry("b", "object")], "is itself the tag object:b"),
        ([Entry("a", "object"), Entry("a", "scene")], "both an object and a scene"),
        ([Entry("t-shirt", "object"), Entry("t shirt", "object")], "differ only in spaces or hyphens"),
        ([Entry("a  b", "object")], "stray white space"),
        ([Entry("a", "object", threshold=1.0)], "hardly ever"),
        ([Entry("a", "object", parents=("object:b",))], "parent that is not here"),
        ([Entry("a", "object", descriptions=(" ",))], "empty description"),
        ([Entry("a", "object", parents=("object:a",))], "its own ancestor"),
        (
            [Entry("a", "object", parents=("object:b",)), Entry("b", "object", parents=("object:a",))],
            "object:b is its own ancestor",
        ),
    ],
)
def test_problems_are_found(entries: list[Entry], said: str) -> None:
    assert any(said in problem for problem in Vocabulary(entries).problems())


def test_homographs_of_other_kinds_are_no_problem() -> None:
    words = [
        Entry("orange", "object"),
        Entry("orange", "attribute"),
        Entry("fly", "action", synonyms=("soar",)),
    ]
    words.append(Entry("kite", "object", synonyms=("fly", "soar")))
    assert Vocabulary(words).problems() == []


def test_half_a_character_in_a_name_is_refused() -> None:
    with pytest.raises(VocabularyError, match="half a character"):
        Entry("dog\ud800", "object")


@pytest.mark.parametrize("line", ['{"name": ' + "[" * 100_000, '{"name": "a", "count": ' + "9" * 5_000 + "}"])
def test_lines_that_no_reader_takes_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text('{"name": "dog", "kind": "object"}\n' + line + "\n")
    with pytest.raises(VocabularyError, match="line 2"):
        Vocabulary.load(path)


def test_other_tags_keep_the_name_and_the_rule() -> None:
    first = Vocabulary([Entry("dog", "object")], name="pets", description="mine", strict=True)
    other = first.with_entries([Entry("cat", "object")])
    assert (other.name, other.description, other.strict, other[0].name) == ("pets", "mine", True, "cat")
    assert first.with_entries(first, name="beasts").name == "beasts"
