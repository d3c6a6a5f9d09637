"""Texts that say what they must: against every text there is, and for any model whether or not it likes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from taglens.errors import ModelError, UsageError
from taglens.inference.constrained import MOST_DEMANDS, Answer, Demand, Joints, constrained_search
from taglens.inference.constrained import _Place as Place
from taglens.inference.constrained import _Wishes as Wishes
from taglens.inference.generation import Beams, Bounds, Ids, beam_search

END = 0
PROMPT = (1, 2)
Texts = list[tuple[int, tuple[int, ...]]]  # a state: the picture and the text of every row


class Toy:
    """A model whose logits are any numbers, but always the same for the same picture and text."""

    def __init__(self, words: int = 6, *, seed: int = 0, scale: float = 2.0) -> None:
        self.words, self.seed, self.scale = words, seed, scale

    def logits(self, picture: int, text: Sequence[int]) -> NDArray[np.float64]:
        dice = np.random.default_rng([self.seed, picture, len(text), *text])
        return dice.normal(0.0, self.scale, self.words)

    def start(self, pictures: Sequence[int]) -> Texts:
        return [(picture, ()) for picture in pictures]

    def __call__(self, ids: Ids, state: Texts, rows: Ids) -> tuple[NDArray[np.float64], Texts]:
        after = [
            (state[row][0], state[row][1] + tuple(map(int, more)))
            for row, more in zip(rows, ids, strict=True)
        ]
        return np.stack([self.logits(picture, text) for picture, text in after]), after


class Words(Toy):
    """A model by likely pairs of words: ``likely[a][b]`` of b after a; all else has the logit -8."""

    def __init__(self, text: str) -> None:
        pairs = [pair.split(":") for pair in text.split()]
        self.names = ["END", *dict.fromkeys(name for first, second, _ in pairs for name in (first, second))]
        self.names = list(dict.fromkeys(self.names))
        super().__init__(len(self.names))
        self.likely = {(self.id(first), self.id(second)): float(logit) for first, second, logit in pairs}

    def id(self, name: str) -> int:
        return self.names.index(name)

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(map(self.id, text.split()))

    def read(self, ids: Sequence[int]) -> str:
        return " ".join(self.names[one] for one in ids if one != END)

    def logits(self, picture: int, text: Sequence[int]) -> NDArray[np.float64]:
        return np.array([self.likely.get((text[-1], piece), -8.0) for piece in range(self.words)])

    def joints(self) -> Joints:
        before = np.array([name.startswith("##") for name in self.names])
        return Joints(before, np.zeros(self.words, bool))

    def write(self, *demands: Sequence[str], prompt: str = "of", **more: int) -> tuple[str, tuple[int, ...]]:
        """The best text, without the prompt, that says each demand in one of its forms; and what it does not say."""
        beams = Beams(more.pop("beams", 3))
        bounds = Bounds(END, **({"max_length": 14, "min_length": 0} | more))
        forms = [tuple(self.ids(form) for form in demand) for demand in demands]
        ids = np.array([self.ids(prompt)])
        ((found,),) = constrained_search(self, self.start([0]), ids, bounds, [forms], self.joints(), beams)
        return self.read(found.text.ids[ids.shape[1] :]), found.unmet


def free(words: int, *, before: Sequence[int] = (), after: Sequence[int] = ()) -> Joints:
    masks = np.zeros((2, words), bool)
    masks[0, list(before)] = masks[1, list(after)] = True
    return Joints(*masks)


def prompts(count: int = 1) -> Ids:
    return np.array([PROMPT] * count, np.int64)


# -- twins -------------------------------------------------------------------------------------------


def says(text: Sequence[int], demand: Demand, joints: Joints) -> bool:
    """Whether a form stands in a text (prompt and end taken off) as words of its own."""
    for form in demand:
        for start in range(len(text) - len(form) + 1):
            end = start + len(form)
            apart = not joints.before[text[start]] and (start == 0 or not joints.after[text[start - 1]])
            if (
                tuple(text[start:end]) == form
                and apart
                and (end == len(text) or not joints.before[text[end]])
            ):
                return True
    return False


def unsaid(text: Sequence[int], demands: Sequence[Demand], joints: Joints) -> tuple[int, ...]:
    body = [piece for piece in text[len(PROMPT) :] if piece != END]
    return tuple(number for number, demand in enumerate(demands) if not says(body, demand, joints))


def fewest(demands: Sequence[Demand], joints: Joints) -> int:
    """Pieces that say all, one after another, where what another says in each of its forms costs nothing."""
    total = 0
    for one, demand in enumerate(demands):
        covered = [
            all(says(form, demand, joints) for form in other)
            and (at < one or not all(says(form, other, joints) for form in demand))
            for at, other in enumerate(demands)
            if at != one
        ]
        total += 0 if any(covered) else min(map(len, demand))
    return total


def sought(demands: Sequence[Demand], joints: Joints, room: int) -> set[int]:
    """The demands that fit into the room together, the shortest first."""
    kept: list[int] = []
    for number in sorted(range(len(demands)), key=lambda one: min(map(len, demands[one]), default=0)):
        if demands[number] and fewest([demands[one] for one in sorted([*kept, number])], joints) <= room:
            kept.append(number)
    return set(kept)


def plain_scores(toy: Toy, picture: int, text: Sequence[int], bounds: Bounds) -> list[float]:
    logits = [float(one) for one in toy.logits(picture, text)]
    whole = math.log(sum(math.exp(one) for one in logits))
    found = [one - whole for one in logits]
    for piece in set(text):
        found[piece] *= bounds.repetition_penalty
    if len(text) < bounds.min_length:
        found[bounds.end] = -math.inf
    return found


Ranked = tuple[int, bool, float, tuple[int, ...]]


def every_text(toy: Toy, bounds: Bounds, demands: Sequence[Demand], joints: Joints) -> list[Ranked]:
    """All that says what fits into the room: fewest unmet first, then those that end, then the score."""
    room = bounds.max_length - len(PROMPT)
    needed = sought(demands, joints, room)
    found: list[Ranked] = []
    for written in range(room + 1):
        for tail in product(range(1, toy.words), repeat=written):
            pieces = tail if written == room else (*tail, END)
            text, total = list(PROMPT), 0.0
            for piece in pieces:
                total += plain_scores(toy, 0, text, bounds)[piece]
                text.append(piece)
            unmet = unsaid(text, demands, joints)
            ended = text[-1] == END
            if total == -math.inf or needed & set(unmet):
                continue
            found.append((-len(unmet), ended or not needed, total / (len(text) - ended), tuple(text)))
    return sorted(found, reverse=True)


def forms(words: int, joints: Joints) -> st.SearchStrategy[tuple[int, ...]]:
    def whole(form: tuple[int, ...]) -> bool:
        return not joints.before[form[0]] and not joints.after[form[-1]]

    return st.lists(st.integers(1, words - 1), min_size=1, max_size=3).map(tuple).filter(whole)


@st.composite
def wishes(draw: st.DrawFn, *, words: int, most: int = 3) -> tuple[list[Demand], Joints]:
    """Demands, and pieces that continue words or take the next into theirs; 1 is always a word."""
    kinds = draw(st.lists(st.sampled_from(["word"] * 4 + ["before", "both"]), min_size=words, max_size=words))
    kinds[END] = kinds[1] = "word"
    joints = free(
        words,
        before=[at for at, kind in enumerate(kinds) if kind != "word"],
        after=[at for at, kind in enumerate(kinds) if kind == "both"],
    )
    demand = st.lists(forms(words, joints), max_size=3, unique=True).map(tuple)
    return draw(st.lists(demand, max_size=most)), joints


# -- all texts ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    wish=wishes(words=4),
    lengths=st.tuples(st.integers(0, 5), st.integers(3, 6)),
    penalty=st.sampled_from([1.0, 1.4]),
)
def test_enough_beams_find_the_best_of_all_texts(
    seed: int, wish: tuple[list[Demand], Joints], lengths: tuple[int, int], penalty: float
) -> None:
    demands, joints = wish
    # Room is kept for each demand by itself: texts that say two at once in their last pieces are passed over.
    said = [{piece for form in demand for piece in form} for demand in demands]
    assume(not any(one & other for one, other in combinations(said, 2)))
    toy, bounds = Toy(4, seed=seed), Bounds(END, lengths[1], min(lengths), penalty)
    expected = every_text(toy, bounds, demands, joints)[:5]
    (found,) = constrained_search(
        toy, toy.start([0]), prompts(), bounds, [demands], joints, Beams(400, returned=5)
    )
    assert [one.text.ids for one in found[: len(expected)]] == [text for *_, text in expected]
    for one, (unmet, _, score, _) in zip(found, expected, strict=False):
        assert -len(one.unmet) == unmet and one.text.score == pytest.approx(score)


# -- without demands ---------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 4),
    words=st.integers(3, 8),
    lengths=st.tuples(st.integers(0, 9), st.integers(3, 9)).map(sorted),
    penalty=st.sampled_from([1.0, 1.3, 0.8]),
    length_penalty=st.sampled_from([1.0, 0.0, -1.0]),
    hopeless=st.sampled_from([(), ((),), (((1,) * 9,), ())]),
)
def test_without_demands_that_can_be_met_it_is_the_free_search(
    seed: int,
    count: int,
    words: int,
    lengths: list[int],
    penalty: float,
    length_penalty: float,
    hopeless: tuple[Demand, ...],
) -> None:
    toy, bounds = Toy(words, seed=seed), Bounds(END, max(lengths[1], 3), lengths[0], penalty)
    beams = Beams(count, count, length_penalty)
    found = constrained_search(toy, toy.start([0, 1]), prompts(2), bounds, [hopeless] * 2, free(words), beams)
    assert [[one.text for one in texts] for texts in found] == beam_search(
        toy, toy.start([0, 1]), prompts(2), bounds, beams
    )
    assert all(one.unmet == tuple(range(len(hopeless))) for texts in found for one in texts)


# -- what must hold for any model --------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    wish=wishes(words=9, most=5),
    room=st.integers(1, 12),
    count=st.integers(1, 3),
    scale=st.sampled_from([0.5, 3.0, 30.0]),
)
def test_what_fits_is_said_and_what_is_unmet_is_not(
    seed: int, wish: tuple[list[Demand], Joints], room: int, count: int, scale: float
) -> None:
    demands, joints = wish
    toy, bounds = Toy(9, seed=seed, scale=scale), Bounds(END, len(PROMPT) + room, 4 if room > 4 else 0)
    (found,) = constrained_search(
        toy, toy.start([0]), prompts(), bounds, [demands], joints, Beams(count, count)
    )
    needed = sought(demands, joints, room)
    assert not needed & set(found[0].unmet)
    for one in found:
        assert one.unmet == unsaid(one.text.ids, demands, joints)
        assert one.text.ended == (one.text.ids[-1] == END) and len(one.text.ids) <= bounds.max_length
        assert not (one.text.ended and needed & set(one.unmet)), "it ended before all was said"
    ranks = [(len(one.unmet), -one.text.score) for one in found if one.text.ended]
    assert ranks == sorted(ranks)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.lists(st.tuples(st.integers(0, 5), wishes(words=6, most=3)), min_size=2, max_size=4),
)
def test_a_picture_in_a_batch_reads_as_it_does_alone(
    seed: int, batch: list[tuple[int, tuple[list[Demand], Joints]]]
) -> None:
    toy, bounds, joints = Toy(seed=seed), Bounds(END, 10, 4), batch[0][1][1]
    demands = [
        [
            tuple(form for form in demand if not joints.before[form[0]] and not joints.after[form[-1]])
            for demand in wish
        ]
        for _, (wish, _) in batch
    ]

    def search(places: Sequence[int]) -> list[list[Answer]]:
        state = toy.start([batch[at][0] for at in places])
        wanted = [demands[at] for at in places]
        return constrained_search(toy, state, prompts(len(places)), bounds, wanted, joints, Beams(2, 2))

    together = search(range(len(batch)))
    assert together == [search([at])[0] for at in range(len(batch))]
    assert together == search(range(len(batch)))


def test_scores_are_the_models_own() -> None:
    toy, bounds = Toy(seed=3), Bounds(END, 12, 4)
    demands: list[Demand] = [((3, 4),), ((5,), (2, 2))]
    (found,) = constrained_search(toy, toy.start([0]), prompts(), bounds, [demands], free(6), Beams(3, 3))
    for one in found:
        text, total = list(PROMPT), 0.0
        for piece in one.text.ids[len(PROMPT) :]:
            total += plain_scores(toy, 0, text, bounds)[piece]
            text.append(piece)
        assert one.text.score == pytest.approx(total / (len(text) - one.text.ended))
    (best, *_) = beam_search(toy, toy.start([0]), prompts(), bounds, Beams(50))[0]
    assert found[0].text.score <= best.score


def test_more_room_and_more_beams_do_not_lose_demands() -> None:
    demands: list[Demand] = [((3, 4, 5),), ((5, 5),), ((2,),)]
    for room in range(1, 12):
        said = []
        for count in (1, 3):
            toy = Toy(seed=room)
            ((found,),) = constrained_search(
                toy, toy.start([0]), prompts(), Bounds(END, 2 + room, 0), [demands], free(6), Beams(count)
            )
            said.append(3 - len(found.unmet))
        assert min(said) >= (1 if room < 3 else 2 if room < 6 else 3)


@settings(max_examples=300, deadline=None)
@given(wish=wishes(words=6, most=4), text=st.lists(st.integers(1, 5), max_size=8))
def test_every_text_can_go_on_to_lack_one_piece_less(
    wish: tuple[list[Demand], Joints], text: list[int]
) -> None:
    """What the search stands on: so a bank that fits into the room never runs dry before all is said."""
    demands, joints = wish
    known = Wishes(demands, joints, room=99)
    place = Place()
    for piece in text:
        place = known.after(place, piece)
    unsaid_now = {number for number, demand in enumerate(demands) if not says(text, demand, joints)}
    met = known.met(place)
    assert {number for number in range(len(demands)) if not met >> number & 1} == unsaid_now
    lack = known.lack(place)
    assert (lack == 0) == (not any(demands[number] for number in unsaid_now))
    if not lack:
        return
    helps = known.helps(place).tolist()
    if joints.after[text[-1]] if text else False:
        # Either a form goes on, or any word of its own sets the next free to begin one.
        helps = [*helps, 1]
    assert min(known.lack(known.after(place, piece)) for piece in helps) < lack


def test_what_going_on_would_take_back_is_lacking_too() -> None:
    """1 the dog, 2 what makes a dog house of it, 3 an apostrophe."""
    joints = free(5, before=[2, 3], after=[3])
    known = Wishes([((1,),), ((1, 2),)], joints, room=99)
    for text, lack in (
        ((), 3),
        ((1,), 2),
        ((1, 2), 1),
        ((1, 3), 4),
        ((1, 4), 2),
        ((1, 2, 1), 0),
        ((1, 1, 2), 0),
    ):
        place = Place()
        for piece in text:
            place = known.after(place, piece)
        assert known.lack(place) == lack, text


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("room", range(1, 9))
def test_a_model_that_glues_everything_together_is_made_to_let_go(room: int, count: int) -> None:
    names = ["END", "of", "'", "’", "`", "´", "a", "dog", "cat"]
    table = np.zeros(9)
    table[2:6] = [30.0, 29.0, 28.0, 27.0]

    def step(ids: Ids, state: int, rows: Ids) -> tuple[NDArray[np.float64], int]:
        return np.tile(table, (len(rows), 1)), 0

    joints = free(9, before=range(2, 6), after=range(2, 6))
    demands: list[Demand] = [((names.index("dog"),),), ((names.index("cat"),),)]
    bounds = Bounds(END, 1 + room, 0)
    ((found,),) = constrained_search(step, 0, np.array([[1]]), bounds, [demands], joints, Beams(count))
    assert found.unmet == ((1,) if room == 1 else ())


def test_texts_that_can_no_longer_say_all_are_given_up() -> None:
    """Three pieces are lacking and there is room for three: after each step one bank is left, then two, and so on."""
    for room, most in ((3, [1, 1, 1]), (4, [1, 2, 2, 2]), (9, [1, 2, 3, 4, 4, 4, 4, 3, 2])):
        asked: list[int] = []

        class Counting(Toy):
            def __call__(self, ids: Ids, state: Texts, rows: Ids) -> tuple[NDArray[np.float64], Texts]:
                asked.append(len(rows))  # noqa: B023
                return super().__call__(ids, state, rows)

        toy = Counting(seed=room, words=8)
        demands: list[Demand] = [((3,),), ((4,),), ((5,),)]
        constrained_search(
            toy, toy.start([0]), prompts(), Bounds(END, 2 + room, 2 + room), [demands], free(8), Beams(2)
        )
        assert all(rows <= 2 * banks for rows, banks in zip(asked, most, strict=False)), (asked, most)


# -- sentences ---------------------------------------------------------------------------------------

SCENE = Words(
    "of:a:5 a:dog:5 a:cat:3 a:man:3 a:hot:1 hot:dog:4 hot:stove:3 dog:on:4 cat:on:4 man:on:4 dog:and:1 cat:and:1 "
    "man:and:1 and:a:6 on:the:6 the:grass:5 the:table:2 grass:END:6 table:END:6 dog:##s:2 ##s:on:5 dog:##house:2 "
    "##house:on:5 stove:on:4 pup:##py:5 a:pup:0 ##py:on:4 a:grass:-2"
)


def test_without_demands_the_likeliest_sentence() -> None:
    assert SCENE.write() == ("a dog on the grass", ())


@pytest.mark.parametrize(
    ("demands", "expected"),
    [
        ([["dog"]], "a dog on the grass"),
        ([["cat"]], "a cat on the grass"),
        ([["dog"], ["cat"]], "a dog and a cat on the grass"),
        ([["table"], ["cat"]], "a cat on the table"),
        ([["dog ##s"]], "a dog ##s on the grass"),
        ([["dog", "dog ##s"]], "a dog on the grass"),
        ([["stove", "cat"]], "a cat on the grass"),
        ([["cat", "pup ##py"], ["dog"]], "a dog and a cat on the grass"),
        ([["pup ##py"]], "a pup ##py on the grass"),
        ([["hot dog"]], "a hot dog on the grass"),
    ],
    ids=str,
)
@pytest.mark.parametrize("beams", [3, 5, 9])
def test_demands_are_woven_in_and_not_put_behind(demands: list[list[str]], expected: str, beams: int) -> None:
    assert SCENE.write(*demands, beams=beams) == (expected, ())


@pytest.mark.parametrize(
    "names", ["man cat table", "table man cat dog", "pup dog grass", "house cat man grass"]
)
@pytest.mark.parametrize("beams", [5, 9])
def test_no_word_stands_where_the_model_never_has_it(names: str, beams: int) -> None:
    more = {"pup": "pup ##py", "house": "dog ##house"}
    demands = [[more.get(name, name)] for name in names.split()]
    text, unmet = SCENE.write(*demands, beams=beams, max_length=20)
    ids = SCENE.ids(f"of {text} END")
    assert unmet == () and set(pairwise(ids)) <= SCENE.likely.keys(), text


def test_what_stands_inside_another_is_said_along_with_it() -> None:
    for demands in ([["dog"], ["hot dog"]], [["hot dog"], ["dog"]]):
        assert SCENE.write(*demands) == ("a hot dog on the grass", ())
        # Two pieces are enough for both.
        assert SCENE.write(*demands, max_length=3) == ("hot dog", ())
        assert SCENE.write(*demands, max_length=2) == ("dog", (demands.index(["hot dog"]),))


def test_a_form_inside_a_longer_word_does_not_count() -> None:
    lover = Words("of:dog:5 dog:##house:9 ##house:END:9 dog:END:1 ##house:dog:1")
    assert lover.write() == ("dog ##house", ())
    text, unmet = lover.write(["dog"])
    assert unmet == () and "dog" in text.replace(" ##", "").split()
    assert lover.write(["dog ##house"]) == ("dog ##house", ())
    text, unmet = lover.write(["dog"], ["dog ##house"])
    assert unmet == () and f" {text} ".replace(" ##", "").split().count("dog") == 1
    assert lover.write(["dog"], ["dog ##house"], max_length=3)[1] == (1,)
    assert lover.write(["dog"], ["dog ##house"], max_length=4)[1] == ()


def test_a_form_after_a_piece_that_takes_it_into_its_word_does_not_count() -> None:
    words = Words("of:o:5 o:':9 ':dog:9 dog:END:9 dog:dog:1")
    joints = free(words.words, before=[words.id("'")], after=[words.id("'")])
    demand = ((words.id("dog"),),)
    bounds = Bounds(END, 6, 0)
    ids = np.array([[words.id("of")]])
    ((found,),) = constrained_search(words, words.start([0]), ids, bounds, [[demand]], joints)
    assert found.unmet == () and " o ' dog dog" in f" {words.read(found.text.ids)}"
    possessive = (words.ids("o ' dog"),)
    ((found,),) = constrained_search(words, words.start([0]), ids, bounds, [[possessive]], joints)
    assert words.read(found.text.ids) == "of o ' dog"


def test_a_begun_form_is_finished_though_the_model_would_not() -> None:
    """Every piece of it is unlikely, at its place and everywhere else."""
    shy = Words("of:a:5 a:dog:5 dog:END:5 x:a:9 y:a:9 z:a:9 x:dog:0 y:dog:0 z:END:0")
    for beams in (1, 2, 4):
        text, unmet = shy.write(["x y z"], beams=beams)
        assert unmet == () and "x y z" in text
    assert shy.write(["x y z"], max_length=3)[1] == (0,)


def test_the_same_twice_and_synonyms_of_each_other_cost_once() -> None:
    assert SCENE.write(["cat"], ["cat"], ["cat"], max_length=2) == ("cat", ())
    assert SCENE.write(["cat", "pup ##py"], ["pup ##py", "cat"], max_length=2) == ("cat", ())


def test_a_prompt_says_nothing() -> None:
    assert SCENE.write(["cat"], prompt="a cat on the", max_length=12)[0].split().count("cat") == 1


@pytest.mark.parametrize("hopeless", [[], ["a hot dog and a hot dog and a hot dog and a hot dog"]])
def test_what_cannot_be_said_is_unmet_and_stops_nothing(hopeless: list[str]) -> None:
    assert SCENE.write(hopeless) == ("a dog on the grass", (0,))
    assert SCENE.write(["cat"], hopeless, ["dog"]) == ("a dog and a cat on the grass", (1,))


def test_of_too_many_the_most_are_said() -> None:
    demands = [["hot dog"], ["cat"], ["pup ##py"], ["man"]]
    for room, unmet in ((1, (0, 2, 3)), (2, (0, 2)), (3, (0, 2)), (4, (2,)), (5, (2,)), (6, ())):
        assert SCENE.write(*demands, max_length=1 + room)[1] == unmet


def test_a_text_that_can_only_end_ends_with_what_it_has() -> None:
    class Stubborn(Words):
        def logits(self, picture: int, text: Sequence[int]) -> NDArray[np.float64]:
            found = super().logits(picture, text)
            return np.where(found == -8.0, -np.inf, found)

    words = Stubborn("of:a:5 a:dog:5 dog:END:5 x:cat:5")
    assert words.write(["cat"]) == ("a dog", (0,))
    assert words.write(["dog"], ["cat"]) == ("a dog", (1,))


def test_as_many_answers_as_asked_for_all_with_what_must_be() -> None:
    demands = [((SCENE.id("cat"),),), ((SCENE.id("dog"),),)]
    ids = np.array([[SCENE.id("of")]])
    (found,) = constrained_search(
        SCENE, SCENE.start([0]), ids, Bounds(END, 14, 0), [demands], SCENE.joints(), Beams(4, 4)
    )
    assert len({one.text.ids for one in found}) == 4 and not any(one.unmet for one in found)
    scores = [one.text.score for one in found]
    assert scores == sorted(scores, reverse=True)


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demands", "told"),
    [
        ([((1,),)] * (MOST_DEMANDS + 1), "at most 8 things, found 9"),
        ([((),)], "no row of pieces|is no row"),
        ([((1, END),)], "is no row of pieces below 6 without the end, 0"),
        ([((6,),)], "is no row of pieces below 6"),
        ([((-1,),)], "is no row"),
        ([((5, 1),)], "does not begin and end where words do"),
        ([((1, 4),)], "does not begin and end where words do"),
    ],
    ids=str,
)
def test_demands_that_are_none(demands: list[Demand], told: str) -> None:
    toy, joints = Toy(), free(6, before=[5], after=[4])
    with pytest.raises(UsageError, match=told):
        constrained_search(toy, toy.start([0]), prompts(), Bounds(END, 9, 0), [demands], joints)


def test_what_does_not_fit_together() -> None:
    toy, bounds = Toy(), Bounds(END, 9, 0)
    with pytest.raises(UsageError, match="2 prompts and demands for 1"):
        constrained_search(toy, toy.start([0, 1]), prompts(2), bounds, [[]], free(6))
    with pytest.raises(ModelError, match="scores of 6 pieces; the words have 7"):
        constrained_search(toy, toy.start([0]), prompts(), bounds, [[]], free(7))
    with pytest.raises(UsageError, match="no room"):
        constrained_search(toy, toy.start([0]), prompts(), Bounds(END, 2, 0), [[]], free(6))
