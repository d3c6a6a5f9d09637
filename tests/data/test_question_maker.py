"""Questions made from captions: what is asked, what is not, and that answers do not follow from words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from taglens.data.question_facts import COLOURS, FactReader, Facts
from taglens.data.question_maker import (
    LEAST_COUNTED,
    TYPES,
    QuestionPlan,
    article,
    make_questions,
    many,
)
from taglens.data.questions import Question
from taglens.data.sources import Row, read_captions
from taglens.errors import DataError, UsageError
from taglens.inference.bundle import STARTER, VOCABULARY, locate
from taglens.language.parser import parse_lines
from taglens.language.word_lists import WordLists, packaged
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry("person", "object"),
        Entry("man", "object", parents=("object:person",)),
        Entry("animal", "object"),
        Entry("dog", "object", synonyms=("hound",), parents=("object:animal",)),
        Entry("terrier", "object", parents=("object:dog",)),
        Entry("ball", "object"),
        Entry("snow", "object"),
        Entry("stairs", "object"),
        Entry("beach", "scene"),
        Entry("shirt", "object"),
        Entry("secret", "object", hidden=True),
        Entry("red", "attribute"),
        Entry("run", "action"),
    ]
)


@cache
def lists() -> WordLists:
    return packaged()


def facts(*captions: str) -> Facts:
    return FactReader(WORDS, lists())(list(parse_lines(captions)))


def column(name: str) -> int:
    found = WORDS.find(name)
    assert found is not None
    return found


def picture(number: int, *captions: str, split: str | None = "train") -> Row:
    image = f"{number}.jpg"
    return Row(number, image, Path("folder") / image, captions=captions, split=split)


def made(rows: Iterable[Row], **plan: float) -> list[Question]:
    return make_questions(rows, WORDS, lists(), parse=parse_lines, plan=QuestionPlan(**plan))  # type: ignore[arg-type]


# -- what captions say -------------------------------------------------------------------------------


def test_each_caption_is_one_voice() -> None:
    found = facts("A red ball .", "A ball in the snow .", "A hound with a blue ball .")
    assert found.captions == 3
    assert found.named == {column("ball"): 3, column("snow"): 1, column("dog"): 1}
    assert found.implied >= {column("dog"), column("animal")}
    assert found.colours[column("ball")] == ["red", "blue"]


@pytest.mark.parametrize(
    ("caption", "colour"),
    [
        ("A black and white dog .", "black and white"),
        ("A white and black dog .", "black and white"),
        ("A grey dog .", "gray"),
        ("A dark blue ball .", None),  # of the ball, not the dog
        ("A happy dog .", None),
        ("A black , brown and white dog .", None),
    ],
)
def test_colours(caption: str, colour: str | None) -> None:
    assert facts(caption).colours.get(column("dog"), [None]) == [colour]


def test_a_kind_speaks_of_what_it_is_a_kind_of() -> None:
    found = facts("A brown terrier runs .")
    for name in ("terrier", "dog", "animal"):
        assert found.colours[column(name)] == ["brown"] and found.doings[column(name)] == ["running"]
    assert found.named.keys() == {column("terrier")}


@pytest.mark.parametrize(
    "caption",
    [
        "Two dogs run .",
        "Dogs run .",
        "Several dogs run .",
        "A black dog and a white dog run .",
        "A terrier chases another dog .",
    ],
)
def test_several_are_noticed(caption: str) -> None:
    assert column("dog") in facts(caption).several


@pytest.mark.parametrize("caption", ["A dog runs .", "One dog runs .", "The dog .", "A dog and two balls ."])
def test_one_is_not_several(caption: str) -> None:
    assert column("dog") not in facts(caption).several


@pytest.mark.parametrize(
    ("caption", "number"),
    [
        ("Two dogs run .", "2"),
        ("3 dogs .", "3"),
        ("A dog runs .", "1"),
        ("One dog .", "1"),
        ("Dogs run .", None),
        ("Several dogs .", None),
        ("A dog runs after another .", None),
        ("A group with a dog .", None),
        ("A dog and a terrier .", None),  # how many dogs, nobody says
    ],
)
def test_numbers(caption: str, number: str | None) -> None:
    assert facts(caption).numbers.get(column("dog"), [None]) == [number]


@pytest.mark.parametrize(
    ("caption", "doing"),
    [
        ("A dog is running on the beach .", "running"),
        ("A dog runs .", "running"),
        ("A dog lies in the snow .", "lying"),
        ("A dog jumping .", "jumping"),
        ("A dog tied to a ball .", None),
        ("A dog covered in snow .", None),
        ("A dog wears a shirt .", None),
        ("A dog with a ball .", None),
    ],
)
def test_doings(caption: str, doing: str | None) -> None:
    assert facts(caption).doings.get(column("dog"), [None]) == [doing]


# -- questions ---------------------------------------------------------------------------------------

COLOURED = ("red", "blue", "green", "white")
DONE = ("runs", "jumps", "swims", "sits")


def corpus(count: int, *, split: str = "train", first: int = 0) -> list[Row]:
    """Half of the pictures have a dog, half a man with a shirt; all differ in colour, deed and number."""
    rows = []
    for number in range(first, first + count):
        colour, done = COLOURED[number % 4], DONE[(number // 4) % 4]
        if number % 2:
            said = [f"A {colour} dog {done} with a ball .", f"A dog {done} ."]
        else:
            said = [f"A man in a {colour} shirt {done} on the beach .", f"A man {done} ."]
        if number % 6 == 0:
            said = ["Two dogs in the snow .", "Two dogs ."]
        rows.append(picture(number, *said, split=split))
    return rows


def by_type(questions: Sequence[Question]) -> dict[str | None, list[Question]]:
    found: dict[str | None, list[Question]] = defaultdict(list)
    for one in questions:
        found[one.type].append(one)
    return found


def test_all_types_are_asked_in_their_words() -> None:
    found = by_type(made(corpus(48)))
    assert found.keys() == set(TYPES)
    exists = {one.question for one in found["exists"]}
    assert {"is there a dog?", "is there a man?", "is there a ball?"} <= exists
    assert {one.question for one in found["colour"]} <= {
        f"what {word} is the {name}?" for word in ("colour", "color") for name in ("dog", "shirt")
    }
    assert {one.question for one in found["action"]} == {"what is the dog doing?", "what is the man doing?"}
    assert {one.question for one in found["count"]} == {"how many dogs are there?"}
    assert {"1", "2"} <= {answer for one in found["count"] for answer in one.answers or ()}


def test_people_are_never_asked_for_their_colour() -> None:
    rows = [picture(n, f"A {c} man .", f"A {c} dog .") for n, c in enumerate(COLOURED * 3)]
    asked = {one.question.split()[-1] for one in by_type(made(rows))["colour"]}
    assert asked == {"dog?"}


def test_answers_are_what_each_caption_says() -> None:
    rows = [
        picture(0, "A red ball .", "A ball .", "A blue ball .", "An orange ball .", "A red ball ."),
        picture(1, "A green ball .", "A white ball ."),
    ]
    first, *_ = (one for one in by_type(made(rows))["colour"] if one.image == "0.jpg")
    assert first.answers == ("red", "blue", "orange", "red")


def test_nothing_that_is_implied_or_open_is_answered_no() -> None:
    """A terrier is a dog, and a dog may be a terrier: neither is asked with the answer no of the other's picture."""
    rows = corpus(12)
    rows += [picture(n, "A terrier and a ball .", "The terrier .") for n in range(100, 112)]
    rows += [picture(n, "An animal in the snow .") for n in range(200, 212)]
    reader = FactReader(WORDS, lists())
    said = {row.image: reader(list(parse_lines(row.captions or ()))) for row in rows}
    questions = by_type(made(rows, most=3))["exists"]
    assert len(questions) > 40
    for one in questions:
        (thing,) = (c for c, e in enumerate(WORDS) if one.question.removesuffix("?").split()[-1] == e.name)
        assert one.answers is not None and len(set(one.answers)) == 1
        named = said[one.image].named
        if one.answers[0] == "yes":
            assert one.answers == ("yes",) * named[thing]
        else:
            assert one.answers == ("no",) * said[one.image].captions
            assert not reader.closure(thing) & named.keys()
            assert all(thing not in reader.closure(other) for other in named)


def test_every_word_has_as_many_yes_as_no_in_each_split() -> None:
    rows = corpus(60) + corpus(40, split="val", first=1000)
    counts: Counter[tuple[str | None, str, str]] = Counter()
    for one in by_type(made(rows))["exists"]:
        assert one.answers is not None
        counts[one.split, one.question, one.answers[0]] += 1
    assert {split for split, *_ in counts} == {"train", "val"} and counts.total() > 100
    for split, question, answer in list(counts):
        assert counts[split, question, "yes"] == counts[split, question, "no"], (split, question, answer)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.8])
def test_no_answer_to_a_word_is_too_common(share: float) -> None:
    rows = corpus(96)
    rows += [picture(n, "A red dog runs .") for n in range(500, 600)]
    groups: dict[tuple[str | None, str], Counter[str]] = defaultdict(Counter)
    for one in made(rows, most_share=share):
        if one.type != "exists":
            assert one.answers is not None
            groups[one.type, one.question.split()[-1]][Counter(sorted(one.answers)).most_common(1)[0][0]] += 1
    assert groups
    for group, counts in groups.items():
        # A word that is answered in fewer ways than that cannot be brought so low: then it is not asked.
        assert max(counts.values()) <= share * counts.total() + 1e-9 or len(counts) * share < 1, group


def test_a_word_with_one_answer_is_not_asked() -> None:
    rows = corpus(24) + [picture(n, "White snow .") for n in range(50, 70)]
    assert not any("snow" in one.question for one in by_type(made(rows))["colour"])


def test_only_what_is_counted_is_asked_for_its_number() -> None:
    rows = [picture(n, "A man in the snow .", "A man .") for n in range(9)]
    rows += [picture(n, "Two men .") for n in range(20, 20 + LEAST_COUNTED)]
    assert {one.question for one in by_type(made(rows))["count"]} == {"how many men are there?"}
    assert not by_type(made(rows[: 9 + LEAST_COUNTED - 1]))["count"]


def test_hidden_tags_and_other_kinds_are_not_asked() -> None:
    rows = corpus(24) + [picture(n, "A secret and a red thing .") for n in range(50, 60)]
    assert not any("secret" in one.question or "red?" in one.question for one in made(rows))


def test_pictures_keep_their_names_order_and_split() -> None:
    rows = corpus(24) + corpus(12, split="val", first=100)
    found = made(rows)
    assert list(dict.fromkeys(one.image for one in found)) == [
        row.image for row in rows if row.image in {one.image for one in found}
    ]
    splits = {row.image: row.split for row in rows}
    assert all(one.split == splits[one.image] and one.path == Path("folder") / one.image for one in found)
    for image in splits:
        types = [TYPES.index(one.type) for one in found if one.image == image and one.type]
        assert types == sorted(types)


def test_the_same_rows_make_the_same_questions() -> None:
    rows = corpus(48)
    assert made(rows) == made(list(rows)) != made(rows, seed=1)


def test_no_picture_has_more_than_asked_for() -> None:
    for most in (1, 3):
        counts = Counter((one.image, one.type) for one in made(corpus(48), most=most))
        assert max(n for (_, type), n in counts.items() if type != "exists") <= most
        assert max(n for (_, type), n in counts.items() if type == "exists") <= 2 * most


def test_what_cannot_be_made_or_meant() -> None:
    with pytest.raises(DataError, match="no picture has captions"):
        made([Row(0, "a.jpg", Path("a.jpg"), captions=None)])
    with pytest.raises(DataError, match="nothing that can be asked and balanced"):
        made([picture(0, "Hmm .")])
    with pytest.raises(UsageError, match="at least 1"):
        QuestionPlan(most=0)
    with pytest.raises(UsageError, match="between 0 and 1, found 1"):
        QuestionPlan(most_share=1.0)


# -- words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("dog", "a"),
        ("umbrella", "an"),
        ("unicycle", "a"),
        ("uniform", "a"),
        ("hourglass", "an"),
        ("Apple", "an"),
    ],
)
def test_articles(name: str, written: str) -> None:
    assert article(name) == written


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("dog", "dogs"),
        ("man", "men"),
        ("child", "children"),
        ("box", "boxes"),
        ("sheep", "sheep"),
        ("tree trunk", "tree trunks"),
        ("stairs", "stairs"),
        ("glasses", "glasses"),
    ],
)
def test_plurals(name: str, written: str) -> None:
    assert many(name) == written


def test_what_is_not_counted_gets_no_article() -> None:
    rows = [picture(n, "A man on snow .", "A dog in snow .", "A man walks down stairs .") for n in range(20)]
    rows += [picture(n, "A ball on a beach .", "A red shirt .") for n in range(50, 70)]
    asked = {one.question for one in by_type(made(rows, most=4))["exists"]}
    assert {"is there snow?", "are there stairs?", "is there a dog?", "is there a ball?"} <= asked


def test_real_captions(shared: Callable[[str], Path]) -> None:
    rows = list(islice(read_captions(shared("data/flickr8k/captions.jsonl")), 150))
    vocabulary = Vocabulary.load(locate(STARTER) / VOCABULARY)
    found = make_questions(rows, vocabulary, lists(), parse=parse_lines)
    types = by_type(found)
    assert types.keys() == set(TYPES) and len(found) > 300
    words = set(COLOURS.values()) | {"and"}
    assert all(set(answer.split()) <= words for one in types["colour"] for answer in one.answers or ())
    assert all(answer.isdigit() for one in types["count"] for answer in one.answers or ())
    assert all(answer.endswith("ing") for one in types["action"] for answer in one.answers or ())
