"""From captions and labels to a vocabulary: counting, merging, choosing, implying; the lists behind it."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taglens.errors import DataError, UsageError, VocabularyError
from taglens.language.parser import parse_lines
from taglens.language.vocabulary_builder import (
    Build,
    build_vocabulary,
    count_words,
    read_captions,
    read_labels,
    words_of,
)
from taglens.language.vocabulary_diff import compare
from taglens.language.word_lists import WORDS, Word, WordLists, packaged, read_lists
from taglens.vocabulary import Entry, Vocabulary, normalise

# A busy machine is no failure: how long a drawn case takes is not what these tests are about.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Said:
    """A parsed caption, written by hand."""

    objects: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


def parse(lines: Iterable[str]) -> Iterator[Said]:
    """Every word is an object, but those in -ing are actions and those in -y attributes."""
    for line in lines:
        words = line.split()
        yield Said(
            objects=tuple(word for word in words if not word.endswith(("ing", "y"))),
            attributes=tuple(word for word in words if word.endswith("y")),
            actions=tuple(word.removesuffix("ing") for word in words if word.endswith("ing")),
        )


def thing(name: str) -> Word:
    return "object", name


@pytest.fixture
def lists(tmp_path: Path) -> Callable[..., WordLists]:
    """Word lists from the text of their files."""

    def make(**texts: str) -> WordLists:
        for name in ("synonyms", "scenes", "kinds", "deny", "allow", "hidden", "parents"):
            (tmp_path / f"{name}.txt").write_text("# a comment\n\n" + texts.get(name, ""), encoding="utf-8")
        return read_lists(
            tmp_path,
            synonyms=[tmp_path / "synonyms.txt"],
            deny=[tmp_path / "deny.txt"],
            allow=[tmp_path / "allow.txt"],
        )

    return make


def build(counts: dict[Word, int], given_lists: WordLists | None = None, **options: object) -> Build:
    return build_vocabulary(counts, given_lists or WordLists(), **options)  # type: ignore[arg-type]


def entry(vocabulary: Vocabulary, id: str) -> Entry:
    return vocabulary[vocabulary.position(id)]


# -- the lists' format ---------------------------------------------------------------------------------


def test_a_word_is_moved_then_merged_then_placed(lists: Callable[..., WordLists]) -> None:
    made = lists(
        kinds="attribute > object: seaside = sea",
        synonyms="scene: Ocean = sea, the deep  # a comment\nobject: sofa = couch, settee",
        scenes="beach,\n  city street",
    )
    assert made.resolve("attribute", "Seaside") == ("scene", "ocean")
    assert made.resolve("object", "the  deep") == ("scene", "ocean")
    assert made.resolve("attribute", "sea") == ("attribute", "sea")
    assert made.resolve("object", "couch") == ("object", "sofa")
    assert made.resolve("scene", "sofa") == ("object", "sofa")
    assert made.resolve("object", "city street") == ("scene", "city street")
    assert made.resolve("action", "beach") == ("action", "beach")
    assert made.written(("scene", "ocean")) == "Ocean"
    assert made.other_names(("scene", "ocean")) == ("sea", "the deep")


def test_a_later_file_of_synonyms_wins(lists: Callable[..., WordLists], tmp_path: Path) -> None:
    lists(synonyms="object: sofa = couch, settee")
    mine = tmp_path / "mine.txt"
    mine.write_text("object: couch = sofa, davenport\n", encoding="utf-8")
    both = read_lists(tmp_path, synonyms=[tmp_path / "synonyms.txt", mine], deny=[], allow=[])
    for name in ("sofa", "couch", "settee", "davenport"):
        assert both.resolve("object", name) == ("object", "couch")
    assert set(both.other_names(("object", "couch"))) == {"sofa", "davenport", "settee"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("synonyms", "sofa = couch", r"synonyms\.txt, line 3: expected 'kind: names'"),
        ("synonyms", "thing: sofa = couch", "'thing' is no kind"),
        ("synonyms", "object: = couch", "expected 'kind: name = synonym"),
        ("synonyms", "object: a = b\nobject: c = b", "'b' .*two groups.*line 3"),
        ("synonyms", "object: a = b\nobject: b = a", "two groups"),
        ("kinds", "attribute: a", "expected 'kind > kind: names'"),
        ("kinds", "attribute > object: a\nattribute > action: a", "moved twice"),
        ("deny", "front, side", "expected 'kind: names'"),
        ("deny", "none: front", "is no kind"),
        ("parents", "dog", "expected 'child, child -> parent'"),
        ("parents", "dog -> ", "expected 'child, child -> parent'"),
        ("parents", "dog -> pet\npet -> animal -> dog", "circle: dog -> pet -> animal -> dog"),
    ],
)
def test_a_line_that_breaks_the_format_is_named(
    lists: Callable[..., WordLists], name: str, text: str, said: str
) -> None:
    with pytest.raises(VocabularyError, match=said):
        lists(**{name: text})


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"nowhere\.txt"):
        packaged(deny=[tmp_path / "nowhere.txt"])


def test_any_denies_every_kind(lists: Callable[..., WordLists]) -> None:
    made = lists(deny="any: top\naction: be")
    assert made.deny == {("object", "top"), ("attribute", "top"), ("action", "top"), ("action", "be")}


def test_parents_are_read_through_synonyms(lists: Callable[..., WordLists]) -> None:
    made = lists(
        synonyms="object: bicycle = bike", parents="bike, car -> vehicle\naction: jog -> run\n! a -> b"
    )
    assert made.edges == (
        (thing("bicycle"), thing("vehicle")),
        (thing("car"), thing("vehicle")),
        (("action", "jog"), ("action", "run")),
    )
    assert made.not_edges == {(thing("a"), thing("b"))}


def test_an_edge_between_merged_words_is_no_edge(lists: Callable[..., WordLists]) -> None:
    assert lists(synonyms="object: dog = puppy", parents="puppy -> dog -> animal").edges == (
        (thing("dog"), thing("animal")),
    )


# -- the lists that ship -------------------------------------------------------------------------------


def test_the_shipped_lists_are_as_large_as_promised() -> None:
    made = packaged()
    assert sum(1 for names in made.order.values() if names) >= 150
    assert len(made.scenes) >= 150
    assert len(made.edges) >= 300


@pytest.mark.parametrize(
    ("kind", "names", "word"),
    [
        ("object", ["people", "human", "person"], ("object", "person")),
        ("object", ["bike", "bicycle"], ("object", "bicycle")),
        ("object", ["television", "tv"], ("object", "tv")),
        ("object", ["donut", "doughnut"], ("object", "donut")),
        ("object", ["eggplant", "aubergine"], ("object", "aubergine")),
        ("object", ["pants", "slacks", "trousers"], ("object", "trousers")),
        ("object", ["plane", "aeroplane", "airplane"], ("object", "airplane")),
        ("attribute", ["grey", "gray"], ("attribute", "gray")),
        ("action", ["lay", "lie"], ("action", "lie")),
        ("scene", ["sea", "ocean"], ("scene", "ocean")),
        ("object", ["beach"], ("scene", "beach")),
        ("object", ["snow"], ("object", "snow")),
    ],
)
def test_names_of_one_tag(kind: str, names: list[str], word: Word) -> None:
    made = packaged()
    assert {made.resolve(kind, name) for name in names} == {word}  # type: ignore[arg-type]


APART = (
    "person",
    "man",
    "woman",
    "lady",
    "gentleman",
    "boy",
    "girl",
    "child",
    "baby",
    "toddler",
    "adult",
    "male",
    "female",
    "dog",
    "puppy",
    "cyclist",
    "rider",
    "coat",
    "jacket",
    "shore",
    "beach",
    "ocean",
    "lake",
    "river",
    "stream",
    "snow",
    "ice",
    "shirt",
    "t-shirt",
    "hat",
    "cap",
    "helmet",
    "glasses",
    "sunglasses",
    "rock",
    "stone",
    "trail",
    "path",
    "track",
    "road",
    "street",
    "sidewalk",
    "clothes",
    "outfit",
    "costume",
    "uniform",
    "suit",
    "board",
    "skateboard",
    "outdoor",
    "outside",
)


def test_different_things_stay_apart() -> None:
    made = packaged()
    assert len({made.resolve("object", name) for name in APART}) == len(APART)
    pairs = [("big", "large"), ("small", "little"), ("tall", "high"), ("young", "old"), ("tan", "brown")]
    for one, other in pairs:
        assert made.resolve("attribute", one) != made.resolve("attribute", other)


def test_no_shipped_name_is_denied_and_wanted_at_once() -> None:
    made = packaged()
    assert sorted(made.deny & made.hidden) == []
    wanted = {word for word, names in made.order.items() if names} | {parent for _, parent in made.edges}
    assert sorted(made.deny & wanted) == []


def test_no_shipped_edge_is_refused_too() -> None:
    made = packaged()
    assert sorted(set(made.edges) & made.not_edges) == []


def test_every_move_of_the_shipped_lists_ends() -> None:
    made = packaged()
    for word in made.moves:
        kind, name = made.resolve(*word)
        assert made.resolve(kind, name) == (kind, name) or (kind, name) in made.moves


# -- counting ------------------------------------------------------------------------------------------


def test_a_caption_counts_once_for_a_tag_however_it_names_it(lists: Callable[..., WordLists]) -> None:
    made = lists(synonyms="object: person = human", scenes="sea")
    counts = count_words(["human person human runing", "sea person foggy"], parse, made)
    assert counts == {
        ("object", "person"): 2,
        ("action", "run"): 1,
        ("scene", "sea"): 1,
        ("attribute", "foggy"): 1,
    }


def test_a_scene_that_stands_in_both_lists_counts_once(lists: Callable[..., WordLists]) -> None:
    said = Said(objects=("beach", "dog"), scenes=("beach",))
    assert words_of(said, lists(scenes="beach")) == {("scene", "beach"), ("object", "dog")}


def test_an_attribute_and_its_thing_are_one_where_the_lists_know_the_compound(
    lists: Callable[..., WordLists],
) -> None:
    made = lists(parents="electric guitar -> guitar")
    said = Said(("guitar", "man"), ("red", "electric"), pairs=(("electric", "guitar"), ("red", "guitar")))
    assert words_of(said, made) == {thing("electric guitar"), thing("man"), ("attribute", "red")}
    twice = replace(said, pairs=(*said.pairs, ("electric", "man")))
    assert ("attribute", "electric") in words_of(twice, made)
    assert words_of(said, WordLists()) == {
        thing("guitar"),
        thing("man"),
        ("attribute", "red"),
        ("attribute", "electric"),
    }


# -- choosing ------------------------------------------------------------------------------------------

COUNTS: dict[Word, int] = {
    thing("dog"): 9,
    thing("cat"): 5,
    ("action", "run"): 5,
    thing("lamp"): 2,
    ("attribute", "red"): 1,
}


def test_tags_stand_by_falling_count_and_then_by_id() -> None:
    result = build(COUNTS, min_count=2)
    assert result.vocabulary.ids == ["object:dog", "action:run", "object:cat", "object:lamp"]
    assert [tag.count for tag in result.vocabulary] == [9, 5, 5, 2]
    assert [(word.name, word.reason) for word in result.left_out] == [("red", "rare")]


def test_top_cuts_after_min_count() -> None:
    result = build(COUNTS, min_count=2, top=2)
    assert result.vocabulary.ids == ["object:dog", "action:run"]
    assert [(word.name, word.reason) for word in result.left_out] == [
        ("cat", "top"),
        ("lamp", "top"),
        ("red", "rare"),
    ]


def test_denied_words_are_dropped_and_allowed_ones_kept(lists: Callable[..., WordLists]) -> None:
    made = lists(deny="object: dog, cat\nany: run", allow="object: cat\nattribute: red")
    result = build(COUNTS, made, min_count=3)
    assert result.vocabulary.ids == ["object:cat", "attribute:red"]
    assert {word.name: word.reason for word in result.left_out} == {
        "dog": "denied",
        "run": "denied",
        "lamp": "rare",
    }


def test_hidden_words_are_tags_that_are_not_given(lists: Callable[..., WordLists]) -> None:
    result = build(COUNTS, lists(hidden="object: dog"))
    assert [tag.id for tag in result.vocabulary if tag.hidden] == ["object:dog"]


def test_spellings_are_joined_under_the_commonest() -> None:
    counts = {
        thing("skate board"): 2,
        thing("skateboard"): 5,
        thing("skate-board"): 1,
        ("action", "skateboard"): 3,
    }
    result = build(counts, min_count=3)
    tag = entry(result.vocabulary, "object:skateboard")
    assert (tag.count, tag.synonyms) == (8, ("skate board", "skate-board"))
    assert entry(result.vocabulary, "action:skateboard").count == 3
    assert result.vocabulary.problems() == []


def test_a_reviewed_spelling_goes_before_a_commoner_one(lists: Callable[..., WordLists]) -> None:
    result = build({thing("t shirt"): 9, thing("t-shirt"): 1}, lists(synonyms="object: t-shirt = tee"))
    assert result.vocabulary.ids == ["object:t-shirt"]
    assert result.vocabulary[0].synonyms == ("tee", "t shirt")


def test_a_rare_compound_counts_as_its_head() -> None:
    counts = {thing("old wicker chair"): 1, thing("wicker chair"): 2, thing("chair"): 4, thing("zinc tub"): 1}
    result = build(counts, min_count=4)
    assert result.vocabulary.ids == ["object:chair"]
    assert result.vocabulary[0].count == 7
    assert {word.name: word.reason for word in result.left_out} == {
        "old wicker chair": "head",
        "wicker chair": "head",
        "zinc tub": "rare",
    }


def test_compounds_can_lift_their_head_over_the_bar() -> None:
    result = build({thing("wicker chair"): 2, thing("chair"): 2}, min_count=4)
    assert result.vocabulary.ids == ["object:chair"]


def test_a_compound_that_is_no_kind_of_its_head_does_not_count_as_it(lists: Callable[..., WordLists]) -> None:
    made = lists(parents="! teddy bear -> bear", scenes="sea", kinds="object > action: stand")
    counts = {thing("teddy bear"): 1, thing("bear"): 5, thing("fruit stand"): 1, ("action", "stand"): 5}
    result = build(counts, made, min_count=2)
    assert {tag.id: tag.count for tag in result.vocabulary} == {"object:bear": 5, "action:stand": 5}


def test_a_frequent_compound_implies_its_head(lists: Callable[..., WordLists]) -> None:
    counts = {thing("big red ball"): 3, thing("ball"): 3, thing("teddy bear"): 3, thing("bear"): 3}
    result = build(counts, lists(parents="! teddy bear -> bear"))
    assert entry(result.vocabulary, "object:big red ball").parents == ("object:ball",)
    assert entry(result.vocabulary, "object:teddy bear").parents == ()


def test_parents_enter_for_their_children_only(lists: Callable[..., WordLists]) -> None:
    made = lists(parents="dog, cat -> animal -> being\nlamp -> furniture\nyak -> bovine")
    result = build({**COUNTS, thing("animal"): 1}, made, min_count=3)
    words = result.vocabulary
    assert words.ids == ["object:dog", "action:run", "object:cat", "object:animal", "object:being"]
    assert entry(words, "object:animal").count == 1
    assert entry(words, "object:being").count == 0
    assert "animal" not in {word.name for word in result.left_out}
    assert words.problems() == []


def test_only_direct_parents_are_written(lists: Callable[..., WordLists]) -> None:
    made = lists(parents="puppy -> animal\npuppy -> dog -> animal")
    words = build({thing("puppy"): 1}, made).vocabulary
    assert entry(words, "object:puppy").parents == ("object:dog",)
    assert {words[p].name for p in words.with_parents([words.position("object:puppy")])} == {
        "puppy",
        "dog",
        "animal",
    }


def test_a_denied_parent_is_not_brought_back(lists: Callable[..., WordLists]) -> None:
    made = lists(parents="dog -> thing", deny="object: thing")
    words = build({thing("dog"): 2, thing("thing"): 9}, made).vocabulary
    assert words.ids == ["object:dog"]
    assert words[0].parents == ()


def test_names_are_written_as_the_lists_write_them(lists: Callable[..., WordLists]) -> None:
    words = build({thing("tv"): 2}, lists(synonyms="object: TV = television")).vocabulary
    assert (words[0].id, words[0].name, words[0].synonyms) == ("object:tv", "TV", ("television",))


def test_a_synonym_that_is_a_tag_of_its_own_is_left_to_it() -> None:
    made = WordLists(order={thing("sofa"): ("couch",)})
    words = build({thing("sofa"): 2, thing("couch"): 1}, made).vocabulary
    assert words.find("couch") == words.position("object:couch")
    assert words.problems() == []


def test_impossible_bars_are_refused() -> None:
    for options in ({"min_count": 0}, {"top": 0}):
        with pytest.raises(UsageError, match="1 or more"):
            build(COUNTS, **options)
    with pytest.raises(VocabularyError, match="lower --min-count"):
        build(COUNTS, min_count=10)


@UNTIMED
@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["object", "attribute", "action"]),
            st.sampled_from(
                ["dog", "hot dog", "big hot dog", "hot-dog", "cat", "c at", "red", "big cat", "lady"]
            ),
        ),
        st.integers(1, 9),
        min_size=1,
    ),
    st.integers(1, 5),
    st.randoms(),
)
def test_what_is_built_is_sound_and_does_not_depend_on_order(
    counts: dict[Word, int], bar: int, random
) -> None:
    made = WordLists(
        edges=((thing("dog"), thing("animal")), (thing("cat"), thing("animal"))),
        synonyms={thing("lady"): thing("cat")},
        allow=frozenset({("attribute", "red")}),
    )
    counted: Counter[Word] = Counter()
    for word, count in counts.items():
        counted[made.resolve(*word)] += count
    shuffled = list(counted.items())
    random.shuffle(shuffled)
    try:
        first = build(dict(counted), made, min_count=bar)
    except VocabularyError:
        return
    second = build(dict(shuffled), made, min_count=bar)
    assert [tag.to_dict() for tag in first.vocabulary] == [tag.to_dict() for tag in second.vocabulary]
    assert first.left_out == second.left_out
    assert first.vocabulary.problems() == []
    ranks = [(-tag.count, tag.id) for tag in first.vocabulary]
    assert ranks == sorted(ranks)
    # Every count is somewhere: in a tag, or among what was left out and has no head to go to.
    lost = sum(word.count for word in first.left_out if word.reason != "head")
    assert sum(tag.count for tag in first.vocabulary) + lost == sum(counted.values())


# -- labels --------------------------------------------------------------------------------------------


def label_file(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def repeated(labels: list[str], times: int, **more: object) -> list[dict[str, object]]:
    return [{"image": f"{n}.jpg", "labels": labels, **more} for n in range(times)]


def test_labels_enter_and_imply_what_always_goes_with_them(tmp_path: Path) -> None:
    path = label_file(
        tmp_path / "labels.jsonl",
        *repeated(["goldfish", "fish", "animal"], 10),
        *repeated(["fish", "animal"], 10),
        *repeated(["animal"], 10),
        *repeated(["lamp"], 3),
        {"image": "x.jpg", "labels": None},
    )
    labels = read_labels([path], WordLists(), {})
    assert labels.words == {
        thing("animal"): 30,
        thing("fish"): 20,
        thing("goldfish"): 10,
        thing("lamp"): 3,
    }
    words = build({thing("red"): 7}, labels=labels, min_count=5).vocabulary
    assert words.ids == ["object:red", "object:animal", "object:fish", "object:goldfish", "object:lamp"]
    assert entry(words, "object:goldfish").parents == ("object:fish",)
    assert entry(words, "object:fish").parents == ("object:animal",)


def test_labels_that_always_stand_together_imply_neither(tmp_path: Path) -> None:
    path = label_file(tmp_path / "labels.jsonl", *repeated(["bed", "bedroom"], 20))
    assert read_labels([path], WordLists(), {}).implied == ()


def test_an_exception_in_another_file_ends_an_implication(tmp_path: Path) -> None:
    one = label_file(tmp_path / "one.jsonl", *repeated(["cat", "animal"], 20), *repeated(["animal"], 1))
    other = label_file(tmp_path / "other.jsonl", *repeated(["cat"], 1))
    assert read_labels([one], WordLists(), {}).implied == ((thing("cat"), thing("animal")),)
    assert read_labels([one, other], WordLists(), {}).implied == ()


def test_a_few_pictures_imply_nothing(tmp_path: Path) -> None:
    path = label_file(tmp_path / "labels.jsonl", *repeated(["cat", "animal"], 9), *repeated(["animal"], 9))
    assert read_labels([path], WordLists(), {}).implied == ()
    assert read_labels([path], WordLists(), {}, support=9).implied != ()


def test_labels_go_through_the_lists(tmp_path: Path, lists: Callable[..., WordLists]) -> None:
    made = lists(
        synonyms="scene: ocean = sea\nobject: carrot = carrots",
        scenes="ocean",
        parents="! carrot -> package\ncat -> animal",
    )
    path = label_file(
        tmp_path / "labels.jsonl",
        *repeated(["sea", "carrots", "package"], 10),
        *repeated(["package", "animal", "cat"], 10),
        *repeated(["animal", "cat"], 10),
        *repeated(["cat"], 10),
    )
    labels = read_labels([path], made, {})
    assert labels.words.keys() == {
        ("scene", "ocean"),
        thing("carrot"),
        thing("package"),
        thing("animal"),
        thing("cat"),
    }
    words = build({}, made, labels=labels).vocabulary
    assert entry(words, "object:carrot").parents == ()
    # The list says cat -> animal; that every animal of this file was a cat does not turn it round.
    assert entry(words, "object:animal").parents == ()
    assert entry(words, "object:cat").parents == ("object:animal",)
    assert words.find("carrots") == words.position("object:carrot")
    assert words.problems() == []


def test_moves_mend_parses_and_not_labels(tmp_path: Path, lists: Callable[..., WordLists]) -> None:
    path = label_file(tmp_path / "labels.jsonl", *repeated(["milk", "drink"], 10), *repeated(["drink"], 1))
    made = lists(kinds="object > action: drink", parents="milk -> drink")
    counts: Counter[Word] = Counter({("action", "drink"): 99, thing("drink"): 1})
    words = build(counts, made, labels=read_labels([path], made, counts), min_count=9).vocabulary
    assert entry(words, "object:milk").parents == ("object:drink",)
    assert words.position("action:drink") == 0


def test_a_label_without_a_kind_finds_its_sense(tmp_path: Path) -> None:
    path = label_file(
        tmp_path / "labels.jsonl",
        *repeated(["fly", "insect"], 10),
        *repeated(["insect", "red"], 1),
        *repeated(["run", "red"], 10, kind=["action", None]),
        *repeated(["new"], 1),
    )
    counts: Counter[Word] = Counter({("action", "fly"): 99, ("attribute", "red"): 9, ("action", "red"): 8})
    labels = read_labels([path], WordLists(), counts)
    assert labels.words.keys() == {
        thing("fly"),
        thing("insect"),
        ("attribute", "red"),
        ("action", "run"),
        thing("new"),
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: expected an object"),
        ('{"image": "a.jpg"}', "line 2: expected a list of names"),
        ('{"labels": "dog"}', "line 2: expected a list of names"),
        ('{"labels": ["dog", " "]}', "line 2: expected a list of names"),
        ('{"labels": ["dog"], "kind": "thing"}', "line 2: kind 'thing'"),
        ('{"labels": ["dog"], "kind": ["object", "object"]}', "a list of 1 of them"),
    ],
)
def test_a_malformed_label_row_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"labels": ["cat"]}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_labels([path], WordLists(), {})


# -- captions ------------------------------------------------------------------------------------------


def test_captions_come_from_text_gzip_and_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n", encoding="utf-8")
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("drei\nvier\n")
    rows = [
        {"image": "1.jpg", "captions": ["a", "b"], "split": "train"},
        {"image": "2.jpg", "captions": ["c"], "split": "val"},
        {"image": "3.jpg", "captions": ["d"]},
    ]
    label_file(tmp_path / "captions.jsonl", *rows)
    assert list(read_captions(tmp_path / "a.txt")) == ["one", "two"]
    assert list(read_captions(tmp_path / "b.txt.gz")) == ["drei", "vier"]
    assert list(read_captions(tmp_path / "captions.jsonl")) == ["a", "b", "d"]
    assert list(read_captions(tmp_path / "captions.jsonl", split="val")) == ["c", "d"]


def test_captions_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        list(read_captions(tmp_path / "nowhere.txt"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"a caption\n" * 99)[:-12])
    with pytest.raises(DataError, match=r"cut\.gz"):
        list(read_captions(tmp_path / "cut.gz"))
    label_file(tmp_path / "captions.jsonl", {"captions": "a"})
    with pytest.raises(DataError, match="line 1: expected a list of texts"):
        list(read_captions(tmp_path / "captions.jsonl"))


# -- comparing -----------------------------------------------------------------------------------------


def test_a_difference_tells_apart_what_happened() -> None:
    old = Vocabulary(
        [
            Entry("couch", "object"),
            Entry("dog", "object", count=1),
            Entry("cat", "object"),
            Entry("beach", "object"),
            Entry("lamp", "object"),
        ]
    )
    new = Vocabulary(
        [
            Entry("dog", "object", count=2, hidden=True),
            Entry("lamp", "object"),
            Entry("sofa", "object", synonyms=("couch",)),
            Entry("beach", "scene"),
            Entry("run", "action"),
        ]
    )
    found = compare(old, new)
    assert found.added == ("action:run",)
    assert found.removed == ("object:cat",)
    assert found.renamed == (("object:couch", "object:sofa"), ("object:beach", "scene:beach"))
    assert found.changed == {"object:dog": ("count", "hidden")}
    assert found.moved is False
    assert compare(new, Vocabulary([new[1], new[0]])).moved is True


def test_equal_vocabularies_do_not_differ() -> None:
    words = build(COUNTS).vocabulary
    found = compare(words, words)
    assert (found.added, found.removed, found.renamed, found.changed, found.moved) == ((), (), (), {}, False)


# -- with the shipped lists and the shared data --------------------------------------------------------


def test_every_label_of_the_shared_sets_is_found(shared: Callable[[str], Path]) -> None:
    sets = ("tiny-imagenet", "intel-scenes", "houses-rooms", "clothing-small", "grocery", "voc-5class")
    paths = [shared(f"data/{name}/labels.jsonl") for name in sets]
    lists = packaged()
    result = build_vocabulary({}, lists, labels=read_labels(paths, lists, {}))
    words = result.vocabulary
    names = {
        label
        for path in paths
        for line in path.read_text(encoding="utf-8").splitlines()
        for label in json.loads(line)["labels"]
    }
    assert [name for name in sorted(names) if words.find(name) is None] == []
    assert words.problems() == []
    implied = {words[p].name for p in words.with_parents([words.position("object:goldfish")])}
    assert implied == {"goldfish", "fish", "animal"}
    assert not any(tag.hidden for tag in words if normalise(tag.name) in names)


def test_the_lists_ship_as_readable_text() -> None:
    for path in WORDS.glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("#"), path.name
        assert "\t" not in text, path.name


def test_a_head_that_means_the_compound_ends_the_search() -> None:
    lists = packaged()
    counts: Counter[Word] = Counter({("object", "guitar"): 5, ("action", "play"): 5})
    made = build_vocabulary(counts, lists, min_count=1).vocabulary
    assert made.find("guitar") is not None


def test_what_describes_by_doing_counts_as_the_action_alone() -> None:
    captions = ["a woman smiling", "a man running", "people sitting", "a charming dog runs"]
    counts = count_words(captions, parse_lines, packaged())
    assert counts["action", "run"] == 2
    assert not {name for kind, name in counts if kind == "attribute"} & {"smiling", "running", "sitting"}
