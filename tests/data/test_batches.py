"""Batches: a function of their number, fair to every source, and honest about what is not known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tiny
from taglens import images
from taglens.data.batches import BatchStream, PictureSet, decode_set
from taglens.data.building import build_shards
from taglens.data.labelling import Labels, label_from_names
from taglens.data.shards import Scope, ShardSet, ShardSettings
from taglens.errors import DataError, MismatchError
from taglens.vocabulary import Entry, Vocabulary


def numbered(name: str, count: int) -> PictureSet:
    """Pictures that carry nothing: only which of them are drawn matters."""
    pixels = np.zeros((count, 1, 1, 3), np.uint8)
    return PictureSet(name, pixels, np.zeros((count, 1), np.uint8), np.ones(1, np.float32))


def drawn(stream: BatchStream, batches: int) -> list[list[tuple[int, int]]]:
    """Per batch, the (source, row) pairs."""
    return [
        [(source, int(row)) for source, rows in stream.members(number) for row in rows]
        for number in range(batches)
    ]


# -- which pictures ----------------------------------------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> BatchStream:
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    sets = [numbered(str(number), size) for number, size in enumerate(sizes)]
    shares: Mapping[str, float] | None = None
    if draw(st.booleans()):
        some = st.one_of(st.just(0.0), st.floats(0.001, 1.0))
        values = draw(st.lists(some, min_size=len(sizes), max_size=len(sizes)).filter(any))
        shares = {s.name: value for s, value in zip(sets, values, strict=True)}
    return BatchStream(sets, batch_size=draw(st.integers(1, 9)), seed=draw(st.integers(0, 3)), shares=shares)


@settings(max_examples=100, deadline=None)
@given(streams())
def test_batches_are_full_and_fair(stream: BatchStream) -> None:
    """Every batch has its size; each source its share, to within the number of sources, at every moment."""
    sizes = [len(s) for s in stream.sets]
    given_shares = stream._shares
    counts: Counter[int] = Counter()
    epochs: dict[int, list[int]] = {source: [] for source in range(len(sizes))}
    for number, batch in enumerate(drawn(stream, 40), 1):
        assert len(batch) == stream.batch_size
        for source, row in batch:
            counts[source] += 1
            epochs[source].append(row)
        for source, share in enumerate(given_shares):
            assert abs(counts[source] - number * stream.batch_size * share) < len(sizes)
    for source, rows in epochs.items():
        # Gone through in full before anything comes again.
        for start in range(0, len(rows), sizes[source]):
            part = rows[start : start + sizes[source]]
            assert len(set(part)) == len(part)
            if len(part) == sizes[source]:
                assert set(part) == set(range(sizes[source]))


def test_a_source_with_a_small_share_is_gone_through_too() -> None:
    """Less than one picture a batch, between two large sources: where cumulative rounding goes back and forth."""
    sets = [numbered("a", 50), numbered("small", 8), numbered("b", 50)]
    stream = BatchStream(sets, batch_size=1, shares={"a": 0.45, "small": 0.1, "b": 0.45})
    batches = drawn(stream, 80)
    assert all(len(batch) == 1 for batch in batches)
    assert sorted(row for batch in batches for source, row in batch if source == 1) == list(range(8))


def test_shares_are_by_size_unless_given() -> None:
    sets = [numbered("a", 30), numbered("b", 10)]
    by_size = Counter(s for batch in drawn(BatchStream(sets, batch_size=4), 10) for s, _ in batch)
    assert by_size == {0: 30, 1: 10}
    shares = {"a": 3.0, "b": 1.0}
    assert drawn(BatchStream(sets, batch_size=4, shares=shares), 10) == drawn(
        BatchStream(sets, batch_size=4), 10
    )
    given_shares = BatchStream(sets, batch_size=4, shares={"b": 2.0})
    assert {source for batch in drawn(given_shares, 10) for source, _ in batch} == {1}


def test_the_frequency_is_what_the_draws_hold() -> None:
    present = (np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.uint8), np.array([[0, 1]], np.uint8))
    pixels = np.zeros((4, 2, 2, 3), np.uint8)
    sets = [
        PictureSet(name, pixels[: len(tags)], tags, np.ones(2, np.float32))
        for name, tags in zip("ab", present, strict=True)
    ]
    stream = BatchStream(sets, batch_size=8, shares={"a": 0.5, "b": 0.5})
    assert stream.frequency() == pytest.approx([0.375, 0.625])
    assert stream.batch(0).targets.mean(0) == pytest.approx(stream.frequency())


def test_a_batch_is_a_function_of_its_number() -> None:
    sets = [numbered("a", 7), numbered("b", 5)]
    straight = drawn(BatchStream(sets, batch_size=3, seed=1), 20)
    fresh = BatchStream(sets, batch_size=3, seed=1)
    for number in (19, 0, 7, 7, 3, 18):
        pairs = [(source, int(row)) for source, rows in fresh.members(number) for row in rows]
        assert pairs == straight[number]
    assert drawn(BatchStream(sets, batch_size=3, seed=2), 20) != straight


def test_every_round_has_its_own_order() -> None:
    rows = [row for batch in drawn(BatchStream([numbered("a", 20)], batch_size=5), 12) for _, row in batch]
    rounds = [tuple(rows[start : start + 20]) for start in (0, 20, 40)]
    assert len(set(rounds)) == 3 and tuple(range(20)) not in rounds


def test_sources_do_not_share_an_order() -> None:
    sets = [numbered("a", 20), numbered("b", 20)]
    rows: dict[int, list[int]] = {0: [], 1: []}
    for batch in drawn(BatchStream(sets, batch_size=4), 10):
        for source, row in batch:
            rows[source].append(row)
    assert rows[0] != rows[1]


@pytest.mark.parametrize(
    ("sets", "batch_size", "shares"),
    [
        ([], 4, None),
        ([numbered("a", 3)], 0, None),
        ([numbered("a", 3)], 4, {"a": 0.0}),
        ([numbered("a", 3)], 4, {}),
    ],
    ids=["no source", "no batch", "share 0", "no share"],
)
def test_a_stream_of_nothing_is_refused(
    sets: list[PictureSet], batch_size: int, shares: Mapping[str, float] | None
) -> None:
    with pytest.raises(DataError):
        BatchStream(sets, batch_size=batch_size, shares=shares)


# -- what is in them ---------------------------------------------------------------------------------


def test_a_batch_holds_its_pictures_targets_and_weights() -> None:
    first = tiny.picture_set("first", 5, side=8)
    second = tiny.picture_set("second", 4, side=8, absent=0.3, seed=1)
    reach = second.absent_weight
    reach[[0, 5]] = 0
    second.present[3] = [1, 0, 1, 0, 0, 0]  # a tag out of the source's reach, given all the same
    stream = BatchStream([first, second], batch_size=6, seed=2)
    for number in range(4):
        batch = stream.batch(number)
        pairs = [(source, int(row)) for source, rows in stream.members(number) for row in rows]
        assert batch.pixels.shape == (6, 8, 8, 3) and batch.pixels.dtype == np.uint8
        assert batch.targets.shape == batch.weights.shape == (6, 6)
        assert batch.targets.dtype == batch.weights.dtype == np.float32
        for place, (source, row) in enumerate(pairs):
            picture_set = (first, second)[source]
            assert np.array_equal(batch.pixels[place], picture_set.pixels[row])
            for tag in range(6):
                present = picture_set.present[row, tag] == 1
                expected = 1.0 if present or source == 0 else 0.0 if tag in (0, 5) else 0.3
                assert batch.targets[place, tag] == float(present)
                assert batch.weights[place, tag] == np.float32(expected)


def test_a_batch_draws_a_caption_for_every_picture_that_has_one() -> None:
    captioned, plain = tiny.picture_set("captioned", 7, side=8), tiny.picture_set("plain", 5, side=8)
    counts = np.array([2, 3, 0, 1, 3, 2, 1])
    # A text says whose it is and which: (picture, number).
    table = np.zeros((7, 3, 2), np.float32)
    table[..., 0], table[..., 1] = np.arange(7)[:, None], np.arange(3)
    captioned = replace(captioned, texts=table, text_counts=counts)
    stream = BatchStream([plain, captioned], batch_size=6, seed=1)
    met: set[tuple[float, float]] = set()
    for number in range(60):
        batch = stream.batch(number)
        rows = [(source, int(row)) for source, some in stream.members(number) for row in some]
        with_caption = [place for place, (s, row) in enumerate(rows) if s == 1 and counts[row]]
        assert batch.described.tolist() == with_caption and len(batch.texts) == len(with_caption)
        assert [text[0] for text in batch.texts] == [rows[place][1] for place in with_caption]
        assert np.array_equal(batch.texts, stream.batch(number).texts)
        met |= {(float(owner), float(which)) for owner, which in batch.texts}
    assert met == {(row, which) for row, count in enumerate(counts) for which in range(count)}


def test_without_captions_a_batch_has_no_texts() -> None:
    batch = BatchStream([tiny.picture_set("plain", 5, side=8)], batch_size=3).batch(0)
    assert len(batch.texts) == len(batch.described) == 0


# -- from shards -------------------------------------------------------------------------------------

VOCABULARY = Vocabulary(
    [
        Entry("animal", "object"),
        Entry("dog", "object", parents=("object:animal",)),
        Entry("boat", "object"),
        Entry("red", "attribute"),
    ],
    name="few",
)
COLOURS = ["#ff0000", "#00ff00", "#0000ff", "#804020", "#123456", "#ffffff", "#000000"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Seven flat pictures of several sizes, the last two for validation."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    labels = [["dog"], ["red"], ["dog", "red"], [], ["dog"], ["red"], ["dog"]]
    rows = []
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (9 + number, 30), colour).save(folder / f"{number}.png")
        split = "train" if number < 5 else "val"
        rows.append({"image": f"{number}.png", "labels": labels[number], "split": split})
    path = folder / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shards(corpus: Path, *, absent: float = 0.25, scope: Scope = "labels") -> ShardSet:
    out = corpus.parent.parent / f"shards-{absent}-{scope}"
    build_shards(
        corpus,
        out,
        vocabulary=VOCABULARY,
        label=label_from_names(VOCABULARY),
        settings=ShardSettings(absent=absent, scope=scope, samples_per_shard=2, labeller="names"),
    )
    return ShardSet.open(out)


def test_a_split_is_decoded_in_order(corpus: Path) -> None:
    calls: list[int] = []
    found = decode_set(shards(corpus), VOCABULARY, split="train", side=16, workers=3, progress=calls.append)
    assert found.name == "shards-0.25-labels" and len(found) == 5 and calls == [5]
    assert found.pixels.shape == (5, 16, 16, 3) and found.pixels.dtype == np.uint8
    for number in range(5):
        colour = [int(COLOURS[number][at : at + 2], 16) for at in (1, 3, 5)]
        assert (found.pixels[number] == colour).all()
    # Parents are given with their children: a dog is an animal.
    assert found.present.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert found.absent_weight.tolist() == [0.25, 0.25, 0.0, 0.25], "no picture could have been named a boat"


def test_the_other_split_and_the_other_scope(corpus: Path) -> None:
    found = decode_set(shards(corpus, absent=1.0, scope="all"), VOCABULARY, split="val", side=8)
    assert [tuple(picture[0, 0]) for picture in found.pixels] == [(255, 255, 255), (0, 0, 0)]
    assert found.absent_weight.tolist() == [1.0] * 4


def test_pictures_are_what_inference_sees(corpus: Path) -> None:
    """Not flat ones, larger than the side, so that the way of resizing shows."""
    for number in range(7):
        noise = np.random.default_rng(number).integers(0, 256, (70, 50 + number, 3), np.uint8)
        Image.fromarray(noise).save(corpus.parent / f"{number}.png")
    found = decode_set(shards(corpus), VOCABULARY, split="train", side=16)
    for number in range(5):
        picture = images.load(corpus.parent / f"{number}.png", at_least=16)
        expected: npt.NDArray[np.float32] = images.prepare(picture.pixels, 16).transpose(1, 2, 0)
        assert np.array_equal(found.pixels[number], np.rint(expected * 255).astype(np.uint8))


def test_a_missing_split_is_named(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'test'.*train, val"):
        decode_set(shards(corpus), VOCABULARY, split="test", side=8)


def test_another_vocabulary_is_refused(corpus: Path) -> None:
    other = Vocabulary(list(VOCABULARY)[::-1], name="few")
    with pytest.raises(MismatchError, match="another vocabulary"):
        decode_set(shards(corpus), other, split="train", side=8)


def test_captions_are_embedded_where_asked(tmp_path: Path) -> None:
    captions = [["a dog", "!!", "a red dog"], ["a boat"], ["..."]]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "captions.jsonl"
    for number in range(3):
        Image.new("RGB", (9, 9), COLOURS[number]).save(path.parent / f"{number}.png")
    rows = [{"image": f"{n}.png", "captions": texts, "split": "train"} for n, texts in enumerate(captions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_shards(
        path,
        tmp_path / "out",
        vocabulary=VOCABULARY,
        label=lambda _: Labels((2,)),
        settings=ShardSettings(absent=1.0, scope="all", samples_per_shard=2, labeller="constant"),
    )
    built = ShardSet.open(tmp_path / "out")

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array([[len(text), 1] for text in texts], np.float32)

    assert decode_set(built, VOCABULARY, split="train", side=8).texts is None
    found = decode_set(built, VOCABULARY, split="train", side=8, embed=embed)
    assert found.texts is not None and found.text_counts is not None
    # A caption without a word is as good as none.
    assert found.text_counts.tolist() == [2, 1, 0]
    assert found.texts[..., 0].tolist() == [[5, 9], [6, 0], [0, 0]]
