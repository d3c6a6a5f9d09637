"""Captions that must mention tags: by name, synonym or another form, in both engines, or told as unmet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import small_captioner as small
from taglens.errors import UsageError
from taglens.inference.captioning import CaptionWriter, Guided, Search
from taglens.inference.generation import Sampling
from taglens.inference.tagger import Tagger
from taglens.language.caption_text import CaptionText
from taglens.language.mentioned import Text
from taglens.language.wordpiece import WordPiece

THREE = small.pictures(3)
SHORT = Search(max_length=18)
SOME = "dog|dogs|hot dog|puppy|man|men|cat|grass|run|running|t-shirt|café|zebra|日本|...|two dogs|dog run|red car|Car"


def names(tag: str) -> list[str]:
    """A tag, what pieces make of it, and its synonyms, where the vocabulary has any."""
    entry = next((one for one in small.ENTRIES if tag in (one.name, *one.synonyms)), None)
    return [tag, tag.replace("é", "e"), *(() if entry is None else (entry.name, *entry.synonyms))]


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tagger]:
    made = small.made(tmp_path_factory)
    folders: dict[str, Path] = {"torch": made / "model", "onnx": made / "bundle"}
    return {
        engine: Tagger.from_pretrained(folder, device="cpu", threads=1) for engine, folder in folders.items()
    }


@pytest.fixture(scope="module")
def bundled(taggers: dict[str, Tagger]) -> Tagger:
    return taggers["onnx"]


TAGS = ["car", "tree", "kitten", "running", "blue boat"]


def test_every_tag_is_mentioned_that_free_captions_leave_out(bundled: Tagger) -> None:
    free = list(bundled.caption(THREE, tags=TAGS, search=SHORT))
    bound = list(bundled.caption(THREE, tags=TAGS, search=SHORT, must_mention=True))
    assert any(row.to_dict()["unmet"] for row in free), "else the test below shows nothing"
    for row, before in zip(bound, free, strict=True):
        assert row.to_dict()["unmet"] == [] and row.guide_tags == before.guide_tags == tuple(TAGS)
        (caption,) = row.captions or ()
        assert caption.mentioned == tuple(TAGS)
        text = Text(caption.text)
        assert all(text.mentions(names(tag)) for tag in TAGS)
        assert caption.score <= (before.captions or ())[0].score + 0.5 and caption.score < 0


@pytest.mark.parametrize("engine", ["torch", "onnx"])
@pytest.mark.parametrize("tags", [["car"], TAGS[:3]], ids=len)
def test_a_batch_writes_what_its_pictures_alone_do(
    engine: str, tags: list[str], taggers: dict[str, Tagger]
) -> None:
    search = Search(max_length=12, must_mention=True)
    tagger = taggers[engine]
    together = [row.captions for row in tagger.caption(THREE, tags=tags, search=search)]
    alone = [row.captions for one in THREE for row in tagger.caption(one, tags=tags, search=search)]
    assert [[one.text for one in each or ()] for each in together] == [
        [one.text for one in each or ()] for each in alone
    ]
    found = [one.score for each in together for one in each or ()]
    assert found == pytest.approx([one.score for each in alone for one in each or ()], abs=1e-4)


def test_both_engines_write_the_same(taggers: dict[str, Tagger]) -> None:
    rows = [
        list(tagger.caption(THREE[:2], tags=TAGS[:3], search=SHORT, must_mention=True))
        for tagger in taggers.values()
    ]
    assert [row.caption for row in rows[0]] == [row.caption for row in rows[1]]


def test_told_either_way_it_is_the_same(bundled: Tagger) -> None:
    by_search = bundled.caption(THREE[0], tags=["car"], search=Search(max_length=12, must_mention=True))
    by_name = bundled.caption(THREE[0], tags=["car"], search=Search(max_length=12), must_mention=True)
    assert next(by_search) == next(by_name)


def test_what_recognised_tags_add_need_not_be_mentioned(bundled: Tagger) -> None:
    (row,) = bundled.caption(THREE[0], tags=["car"], add_tags=True, search=SHORT, must_mention=True)
    assert row.guide_tags is not None and len(row.guide_tags) > 1
    assert row.to_dict()["unmet"] == [] and "car" in (row.captions or ())[0].mentioned


def test_several_captions_each_mention_all(bundled: Tagger) -> None:
    search = Search(beams=3, number=3, max_length=14, must_mention=True)
    (row,) = bundled.caption(THREE[0], tags=["car", "dog"], search=search)
    assert row.captions is not None and len(row.captions) == 3
    assert all(one.mentioned == ("car", "dog") and not one.unmet for one in row.captions)
    assert len({one.text for one in row.captions}) > 1 and max(one.score for one in row.captions) < 0


def test_one_beam_is_enough(bundled: Tagger) -> None:
    for row in bundled.caption(THREE, tags=TAGS, search=Search(beams=1, max_length=18, must_mention=True)):
        assert row.to_dict()["unmet"] == []


# -- what a model with other wishes is made to say -----------------------------------------------------


class Fixed:
    """An engine whose logits follow from a seed and the piece before alone."""

    def __init__(self, pieces: int, seed: int) -> None:
        self.table = np.random.default_rng(seed).normal(0, 3, (pieces, pieces)).astype(np.float32)

    def start(self, ids: Any, mask: Any, tokens: Any) -> int:
        return 0

    def step(self, ids: Any, state: int, rows: Any, /) -> tuple[Any, int]:
        return self.table[ids[:, -1]], 0


PIECES = WordPiece([*small.PIECES, "'", "-", ".", "hot", "cafe"])


def say(
    tags: list[str],
    *,
    seed: int = 0,
    search: Search = Search(must_mention=True),
    engine: Fixed | None = None,
) -> Any:
    words = small.vocabulary()
    writer = CaptionWriter(engine or Fixed(len(PIECES), seed), CaptionText(PIECES), positions=60)
    guided = Guided(writer, words, known=words, given=tuple(tags), recognise=False, search=search)
    (found,) = guided(np.zeros((1, 2, 4), np.float32), np.zeros((1, len(words)), np.float32))
    return found.captions[0]


@settings(max_examples=60, deadline=None)
@given(
    tags=st.lists(st.sampled_from(SOME.split("|")), min_size=1, max_size=6, unique=True),
    seed=st.integers(0, 999),
    length=st.integers(6, 40),
    beams=st.integers(1, 3),
)
def test_every_tag_that_is_not_unmet_is_mentioned(
    tags: list[str], seed: int, length: int, beams: int
) -> None:
    search = Search(beams=beams, min_length=5, max_length=length, must_mention=True)
    caption = say(tags, seed=seed, search=search)
    text = Text(caption.text)
    for tag in tags:
        assert (tag in caption.unmet) != text.mentions(names(tag))
    if length == 40:
        assert set(caption.unmet) <= {"日本", "..."}, "all that can be spelled fits"


@pytest.mark.parametrize("tags", [["dog"], ["dog", "red car"]], ids=str)
def test_scores_are_means_as_without(tags: list[str]) -> None:
    """Against the model's own table, piece by piece."""
    caption = say(tags, seed=5, search=Search(must_mention=True, max_length=20))
    table = Fixed(len(PIECES), 5).table.astype(np.float64)
    # The text alone does not say whether it ended itself.
    ids = [PIECES.dec, *PIECES.ids("a picture of " + caption.text)[1:-1]]
    chances = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    total = sum(chances[a, b] for a, b in pairwise(ids[3:]))
    means = [total / len(ids), (total + chances[ids[-1], PIECES.sep]) / len(ids)]
    assert any(caption.score == pytest.approx(mean) for mean in means)


def test_a_tag_that_does_not_suit_does_not_make_captions_ramble() -> None:
    """After "a man" the model ends readily, and else goes on and on at 0.7 a piece; "car" costs 12."""
    engine = Fixed(len(PIECES), 0)
    at = {piece: PIECES.ids(piece)[1] for piece in ("of", "a", "man", "on", "car")}
    engine.table[:] = -12.0
    engine.table[:, PIECES.sep] = -11.0
    for first, second, logit in (
        *[("of", "a", 0), ("a", "man", 0), ("man", "on", 0), ("on", "a", 0), ("car", "on", 0)],
        *[("a", "on", -2), ("on", "man", -2)],
    ):
        engine.table[at[first], at[second]] = logit
    engine.table[at["man"], PIECES.sep] = engine.table[at["car"], PIECES.sep] = 2.0
    search = Search(must_mention=True, min_length=4, beams=5)
    assert len(say(["car"], engine=engine, search=search).text.split()) <= 5
    assert say(["car"], engine=engine, search=search).unmet == ()


def test_impossible_tags_are_unmet_and_stop_nothing() -> None:
    for seed in range(12):
        free = say(["日本"], search=Search(), seed=seed)
        bound = say(["日本"], seed=seed)
        assert (bound.text, bound.score) == (free.text, pytest.approx(free.score))
        assert bound.unmet == ("日本",)
    assert say(["日本", "car"]).mentioned == ("car",)
    long = "hot dog " * 20
    assert say([long.strip(), "car"]).unmet == (long.strip(),)


def test_accents_that_no_model_writes_are_no_reason_to_miss_a_tag() -> None:
    assert "cafe" in say(["café"]).text and say(["café"]).unmet == ()


# -- refusals ----------------------------------------------------------------------------------------


def never() -> Iterator[str]:
    raise AssertionError("a picture was drawn before the arguments were looked at")
    yield


def test_refusals_come_at_once(bundled: Tagger) -> None:
    with pytest.raises(UsageError, match="must mention your tags, and there are none"):
        bundled.caption(never(), must_mention=True)
    with pytest.raises(UsageError, match="there are none"):
        bundled.caption(never(), tags=[], must_mention=True)
    many = [f"{a}{b}" for a in "bcd" for b in "fgh"]
    with pytest.raises(UsageError, match="at most 8 tags, found 9"):
        bundled.caption(never(), tags=many, must_mention=True)
    assert bundled.caption(never(), tags=[*many[:8], "BF", " bf"], must_mention=True)
    with pytest.raises(UsageError, match="cannot be drawn"):
        Search(sampling=Sampling(), must_mention=True)
    with pytest.raises(UsageError, match="cannot be drawn"):
        bundled.caption(never(), tags=["dog"], search=Search(sampling=Sampling()), must_mention=True)
