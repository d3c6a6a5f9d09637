"""`Tagger.embed` and `embed_text`: unit vectors in one space, alone as in company, and what cannot be meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import small_aligner as small
import small_captioner
import tiny
from taglens.errors import DataError, ModelError, UsageError
from taglens.inference.alignment import Alignment, Embedded, stacked, unit
from taglens.inference.tagger import Tagger

Array = npt.NDArray[np.float32]
TEXTS = ["a dog runs", "two men in the red boat on the grass", "cat", "a dog runs", "the blue car of a man"]


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tagger]:
    made = small.made(tmp_path_factory)
    folders = {"torch": made / "model", "onnx": made / "bundle"}
    return {name: Tagger.from_pretrained(path, device="cpu", threads=1) for name, path in folders.items()}


@pytest.fixture(params=["torch", "onnx"])
def tagger(request: pytest.FixtureRequest, taggers: dict[str, Tagger]) -> Tagger:
    return taggers[request.param]


PICTURES = list(tiny.pixels(5))


def vectors(tagger: Tagger, pictures: list[npt.NDArray[np.uint8]], **more: int) -> Array:
    return stacked(list(tagger.embed(pictures, **more)))


def test_vectors_are_of_unit_length_and_differ(tagger: Tagger) -> None:
    pictures, texts = vectors(tagger, PICTURES), tagger.embed_text(TEXTS)
    assert (pictures.shape, texts.shape, pictures.dtype, texts.dtype) == (
        (5, 8),
        (5, 8),
        np.float32,
        np.float32,
    )
    for each in (pictures, texts):
        assert np.abs(np.linalg.norm(each, axis=1) - 1).max() < 1e-5
    assert np.array_equal(texts[0], texts[3]) and np.abs(texts[0] - texts[2]).max() > 1e-2
    assert np.abs(pictures[0] - pictures[1]).max() > 1e-3


def test_both_engines_agree(taggers: dict[str, Tagger]) -> None:
    for number in (0, 1):
        found = [
            (vectors(tagger, PICTURES), tagger.embed_text(TEXTS))[number]
            for tagger in (taggers["torch"], taggers["onnx"])
        ]
        assert np.abs(found[0] - found[1]).max() < 1e-5


def test_alone_as_in_company(tagger: Tagger) -> None:
    together, alone = vectors(tagger, PICTURES), [vectors(tagger, [one])[0] for one in PICTURES]
    assert np.abs(together - np.stack(alone)).max() < 1e-6
    assert np.abs(vectors(tagger, PICTURES, batch_size=2) - together).max() < 1e-6
    texts = tagger.embed_text(TEXTS)
    assert np.abs(texts - np.stack([tagger.embed_text([one])[0] for one in TEXTS])).max() < 1e-6


def test_many_texts_keep_their_order(tagger: Tagger) -> None:
    rng = np.random.default_rng(0)
    words = small_captioner.WORDS.split()
    texts = [" ".join(rng.choice(words, int(rng.integers(1, 9)))) for _ in range(150)]
    found = tagger.embed_text(texts)
    for number in (0, 63, 64, 149):
        assert np.abs(found[number] - tagger.embed_text([texts[number]])[0]).max() < 1e-6


def test_a_text_is_read_to_the_length_of_training(tagger: Tagger) -> None:
    room = small.CAPTIONER.tag_length - 2
    long = " ".join(["dog", "cat"] * room)
    assert np.array_equal(tagger.embed_text([long])[0], tagger.embed_text([" ".join(long.split()[:room])])[0])
    shorter = tagger.embed_text([" ".join(long.split()[: room - 1])])
    assert np.abs(tagger.embed_text([long])[0] - shorter[0]).max() > 1e-4


def test_rows_say_what_their_pictures_are(tagger: Tagger, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(tiny.png(PICTURES[0])[:40])
    sources = [PICTURES[0], tmp_path / "broken.png", PICTURES[1], tmp_path / "none.png"]
    rows = list(tagger.embed(sources, batch_size=2))
    assert [row.error is None for row in rows] == [True, False, True, False]
    assert [row.vector is None for row in rows] == [row.scores is None for row in rows] == [False, True] * 2
    assert rows[1].source == str(tmp_path / "broken.png") and rows[3].error is not None
    assert rows[3].error.type == "not_found"
    assert {row.model for row in rows} == {tagger.ref}
    assert (rows[0].width, rows[0].height, rows[0].tokens) == (32, 32, None)
    alone = vectors(tagger, [PICTURES[1]])[0]
    assert rows[2].vector is not None and np.abs(rows[2].vector - alone).max() < 1e-6
    wanted = dict(tagger.scores([tmp_path / "none.png"]))
    assert list(wanted.values()) == [None]
    with pytest.raises(DataError, match=r"2 of 4 pictures have no vector .*broken\.png.*leave them out"):
        stacked(rows)
    with pytest.raises(DataError, match="no rows"):
        stacked([])


def test_scores_are_those_of_tagging(tagger: Tagger) -> None:
    (row,) = tagger.embed([PICTURES[2]])
    assert row.scores is not None
    told = {tag.id: tag.score for tag in next(iter(tagger([PICTURES[2]], threshold=0.0))).tags or ()}
    for column, entry in enumerate(tagger.vocabulary):
        assert entry.hidden or told[entry.id] == pytest.approx(float(row.scores[column]))


# -- matching ----------------------------------------------------------------------------------------

GUIDES = [["dog"], [], ["cat", "red"], ["grass", "dog", "run"], ["tree"]]


def tokens(tagger: Tagger) -> Array:
    rows = list(tagger.embed(PICTURES, keep_tokens=True))
    return np.stack([row.tokens for row in rows if row.tokens is not None])


def test_pairs_are_matched_as_each_alone(tagger: Tagger) -> None:
    seen = tokens(tagger)
    pairs = np.array([(picture, text) for text in range(5) for picture in (4, 0, 2, 1, 3)])
    found = tagger.alignment.match(seen, GUIDES, TEXTS, pairs)
    assert found.shape == (25,) and found.dtype == np.float32
    for number in (0, 7, 13, 24):
        picture, text = pairs[number]
        alone = tagger.alignment.match(
            seen[picture][None], [GUIDES[picture]], [TEXTS[text]], np.array([[0, 0]])
        )
        assert alone[0] == pytest.approx(float(found[number]), abs=1e-5)
    # It looks at the picture, at its tags, and at the text.
    assert (
        np.ptp(found.reshape(5, 5), axis=1).min() > 1e-4 and np.ptp(found.reshape(5, 5), axis=0).min() > 1e-4
    )
    other = tagger.alignment.match(seen, [["boat"], *GUIDES[1:]], TEXTS, pairs)
    assert np.abs(other - found)[pairs[:, 0] == 0].min() > 1e-5
    assert np.abs(other - found)[pairs[:, 0] != 0].max() < 1e-5


def test_matching_nothing_is_nothing(tagger: Tagger) -> None:
    found = tagger.alignment.match(tokens(tagger), GUIDES, TEXTS, np.zeros((0, 2), np.int64))
    assert found.shape == (0,)
    assert tagger.embed_text([]).shape == (0, 8)


def test_both_engines_match_alike(taggers: dict[str, Tagger]) -> None:
    pairs = np.argwhere(np.ones((5, 5)))
    found = [tagger.alignment.match(tokens(tagger), GUIDES, TEXTS, pairs) for tagger in taggers.values()]
    assert np.abs(found[0] - found[1]).max() < 1e-4


def test_pictures_are_looked_at_with_the_tags_that_guide_captions(tagger: Tagger) -> None:
    rows = list(tagger.embed(PICTURES))
    guides = tagger.alignment.guides(
        tagger.vocabulary, np.stack([row.scores for row in rows if row.scores is not None])
    )
    assert guides == [list(row.guide_tags or ()) for row in tagger.caption(PICTURES)]
    assert any(guides)


# -- what cannot be meant ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_a_text_without_words_is_refused(text: str, tagger: Tagger) -> None:
    with pytest.raises(UsageError, match="holds nothing to look for"):
        tagger.embed_text(["a dog", text])


def test_one_text_is_no_list(tagger: Tagger) -> None:
    with pytest.raises(UsageError, match="is one text; give a list"):
        tagger.embed_text("a dog")


def test_a_model_without_an_aligner_says_what_to_use(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = small.only_tags(tmp_path_factory.mktemp("plain") / "tags")
    plain = Tagger.from_pretrained(folder, device="cpu", threads=1)
    assert not plain.aligns
    with pytest.raises(UsageError, match=r"has no aligner.*search by tags.*tagger\.typed"):
        plain.embed_text(["a dog"])
    writes = Tagger.from_pretrained(
        small_captioner.made(tmp_path_factory) / "bundle", device="cpu", threads=1
    )
    with pytest.raises(UsageError, match="has no aligner") as refused:
        writes.embed_text(["a dog"])
    assert "typed" not in str(refused.value), "this model reads no text at all"
    with pytest.raises(UsageError, match="reads no text"):
        writes.ask(np.zeros((1, 2, 24), np.float32), ["a dog"])


def test_pictures_compare_without_an_aligner_too(tmp_path: Path) -> None:
    plain = Tagger.from_pretrained(small.only_tags(tmp_path / "tags"), device="cpu", threads=1)
    found = vectors(plain, PICTURES[:3])
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    assert np.abs(found - vectors(plain, PICTURES[:3], batch_size=1)).max() < 1e-5


def test_texts_are_asked_as_tags() -> None:
    plain = Tagger.from_pretrained("starter", device="cpu", threads=1)
    (row,) = plain.embed([PICTURES[0]], keep_tokens=True)
    assert row.tokens is not None
    found = plain.ask(row.tokens[None], ["a brown dog", "snow"])
    assert found.shape == (1, 2) and 0 <= found.min() <= found.max() <= 1
    assert found[0, 0] == pytest.approx(float(plain.ask(row.tokens[None], ["a brown dog"])[0, 0]), abs=1e-6)


class Damaged:
    def pictures(self, tokens: Array) -> Array:
        return np.full((len(tokens), 8), np.nan, np.float32)


def test_vectors_that_are_no_numbers_are_refused() -> None:
    def never() -> Iterator[str]:
        raise AssertionError

    with pytest.raises(ModelError, match="weights are damaged"):
        Alignment(Damaged(), never, ref="it@0").pictures(np.zeros((1, 2, 3), np.float32))  # type: ignore[arg-type]


def test_a_vector_of_zeros_stays_one() -> None:
    assert np.array_equal(unit(np.zeros((2, 3), np.float32)), np.zeros((2, 3), np.float32))
    assert isinstance(Embedded("a", None, None, "m"), Embedded)


def test_tagging_loads_no_aligner(tmp_path_factory: pytest.TempPathFactory) -> None:
    tagger = Tagger.from_pretrained(small.made(tmp_path_factory) / "bundle", device="cpu", threads=1)
    assert next(iter(tagger(PICTURES[:1]))).error is None
    assert tagger.aligns and tagger._load_alignment is not None
    assert tagger._load_alignment.cache_info().currsize == 0
    tagger.embed_text(["a dog"])
    assert tagger._load_alignment.cache_info().currsize == 1
