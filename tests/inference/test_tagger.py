"""The tagger: one row per picture, in order, as it is asked for, whatever the pictures are."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import tiny
from hostile import write_hostile
from taglens.errors import ImageError, ImageErrorType, MismatchError, ModelError, UsageError, VocabularyError
from taglens.images import load
from taglens.inference.engines import Output
from taglens.inference.export import export
from taglens.inference.sources import Source
from taglens.inference.tagger import Tagger
from taglens.models.checkpoint import save_pretrained
from taglens.vocabulary import Entry, Vocabulary

Pixels = npt.NDArray[np.uint8]
PICTURES = tiny.pixels(7, side=40)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bundle`` and ``trained``: the same small model, exported and not."""
    root = tmp_path_factory.mktemp("models")
    save_pretrained(tiny.recognizer(), tiny.vocabulary(), root / "trained", name="small")
    export(tiny.recognizer(), tiny.vocabulary(), root / "bundle", name="small")
    return root


@pytest.fixture(scope="session")
def tagger(folders: Path) -> Tagger:
    return Tagger.from_pretrained(folders / "bundle", threads=1)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(len(PICTURES))]
    for path, picture in zip(paths, PICTURES, strict=True):
        path.write_bytes(tiny.png(picture))
    return paths


def scores(tagger: Tagger, sources: Any, **options: Any) -> list[dict[str, float]]:
    """Every tag's score, per picture."""
    rows = tagger(sources, threshold=0, **options)
    return [{tag.id: tag.score for tag in row.tags or ()} for row in rows]


def close(left: list[dict[str, float]], right: list[dict[str, float]], tolerance: float) -> bool:
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(abs(a[id] - b[id]) <= tolerance for id in a)
        for a, b in zip(left, right, strict=True)
    )


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("taglens-decode")]


class Counting:
    """Pictures without end, and how many were drawn."""

    def __init__(self) -> None:
        self.drawn = 0

    def __iter__(self) -> Iterator[Pixels]:
        for number in count():
            self.drawn += 1
            assert self.drawn < 1000, "drawn without end"
            yield PICTURES[number % len(PICTURES)]


# -- batches and order -------------------------------------------------------------------------------


def test_a_batch_scores_like_its_pictures_alone(tagger: Tagger) -> None:
    alone = [scores(tagger, picture)[0] for picture in PICTURES]
    for batch_size in (1, 2, 3, 7, 16):
        assert close(scores(tagger, list(PICTURES), batch_size=batch_size), alone, 1e-4)
    assert not close(alone[:1], alone[1:2], 1e-3), "the pictures must not look alike to the model"


def test_rows_come_in_the_order_of_the_sources(tagger: Tagger, files: list[Path], tmp_path: Path) -> None:
    """Large and small, good and bad: what is read sooner does not come sooner."""
    big = tmp_path / "big.png"
    Image.fromarray(tiny.pixels(1, side=900)[0]).save(big)
    sources = [big, files[0], tmp_path / "missing.png", files[1], big, tmp_path / "none.png", files[2]]
    bad = [2, 5]
    alone = [{} if place in bad else scores(tagger, path)[0] for place, path in enumerate(sources)]
    for batch_size in (1, 3, 16):
        rows = list(tagger(sources, batch_size=batch_size))
        assert [row.source for row in rows] == [str(path) for path in sources]
        assert [place for place, row in enumerate(rows) if row.error is not None] == bad
        # A failed row between them takes no other's scores.
        assert close(scores(tagger, sources, batch_size=batch_size), alone, 1e-4)


def test_no_pictures_give_no_rows(tagger: Tagger) -> None:
    assert list(tagger([])) == []
    assert list(tagger(iter(()))) == []


# -- laziness ----------------------------------------------------------------------------------------


def test_sources_are_drawn_as_they_are_needed(tagger: Tagger) -> None:
    pictures = Counting()
    rows = tagger(pictures, batch_size=2)
    assert pictures.drawn == 0
    assert len(list(islice(rows, 5))) == 5
    # The batch that was begun, and two ahead.
    assert pictures.drawn <= 5 + 1 + 2 * 2
    next(rows)
    rows.close()  # type: ignore[attr-defined]


def test_leaving_early_stops_the_threads(tagger: Tagger) -> None:
    rows = tagger(Counting(), batch_size=2)
    next(rows)
    assert decoders()
    rows.close()  # type: ignore[attr-defined]
    assert not decoders()
    for _ in tagger(Counting(), batch_size=2):
        break
    assert not decoders()
    list(tagger(list(PICTURES)))
    assert not decoders()


def test_what_the_sources_raise_comes_through(tagger: Tagger) -> None:
    def pictures() -> Iterator[Pixels]:
        yield PICTURES[0]
        raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="the disk is gone"):
        list(tagger(pictures()))
    assert not decoders()


# -- every form of a picture -------------------------------------------------------------------------


def test_every_form_of_a_picture_scores_alike(tagger: Tagger, files: list[Path]) -> None:
    content = files[0].read_bytes()
    with Image.open(files[0]) as opened:
        opened.load()
        forms: dict[str, Any] = {
            str(files[0]): str(files[0]),
            os.fspath(files[0]): files[0],
            "<bytes>": content,
            "<array>": PICTURES[0],
            "<image>": Image.fromarray(PICTURES[0]),
        }
        expected = scores(tagger, files[0])
        for shown, form in forms.items():
            for sources in (form, [form]):
                (row,) = tagger(sources)
                assert (row.source, row.width, row.height, row.error) == (shown, 40, 40, None)
                assert scores(tagger, sources) == expected
        assert [row.source for row in tagger(opened)] == [str(files[0])], (
            "a picture from a file keeps its name"
        )
        assert scores(tagger, opened) == expected
    assert scores(tagger, bytearray(content)) == expected
    shown_otherwise = Source(files[0], "as typed")
    assert [row.source for row in tagger(shown_otherwise)] == ["as typed"]
    assert scores(tagger, shown_otherwise) == expected


def test_a_mixture_of_forms_is_one_run(tagger: Tagger, files: list[Path]) -> None:
    mixed = [files[0], PICTURES[1], files[2].read_bytes(), str(files[3])]
    assert close(scores(tagger, mixed), scores(tagger, files[:4]), 1e-6)
    assert close(scores(tagger, (picture for picture in mixed)), scores(tagger, files[:4]), 1e-6)


def test_a_name_that_is_not_utf8_is_kept(tagger: Tagger, tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(raw)).write_bytes(tiny.png(PICTURES[0]))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with Image.open(os.fsdecode(raw)) as opened:
        for source in (os.fsdecode(raw), opened):
            (row,) = tagger(source)
            assert row.error is None and row.source.endswith("caf\ufffd.png")
            assert row.source_bytes is not None and base64.b64decode(row.source_bytes) == raw
            row.to_json().encode()


def test_what_is_no_picture_is_a_row_and_does_not_end_the_run(tagger: Tagger) -> None:
    rows = list(tagger([PICTURES[0], None, 3, PICTURES[1]]))  # type: ignore[list-item]
    assert [None if row.error is None else row.error.type for row in rows] == [
        None,
        "unsupported",
        "unsupported",
        None,
    ]


def test_sizes_and_notes_are_the_pictures_own(tagger: Tagger) -> None:
    frames = [Image.new("RGB", (50, 20), colour) for colour in ("red", "lime", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    (row,) = tagger(file.getvalue())
    assert (row.width, row.height, row.notes) == (50, 20, ("first frame of 3",))
    assert (row.model, row.vocabulary) == (tagger.ref, tiny.vocabulary().ref)


def test_hostile_files_are_rows(tagger: Tagger, tmp_path: Path) -> None:
    """Each file does what reading it alone does, and none of them harms another."""
    paths = list(write_hostile(tmp_path).values())
    paths += [tmp_path / "missing.jpg", tmp_path / "no" / "such" / "folder.jpg"]
    rows = list(tagger(paths, batch_size=8, max_pixels=1_000_000))
    assert len(rows) == len(paths)
    failed = 0
    for path, row in zip(paths, rows, strict=True):
        try:
            picture = load(path, max_pixels=1_000_000, at_least=tagger.side)
        except ImageError as error:
            failed += 1
            assert row.error is not None and (row.error.type, row.error.message) == (error.type, str(error))
            assert row.error.type in get_args(ImageErrorType)
            assert (row.width, row.height, row.tags, row.names) == (None, None, None, [])
        else:
            assert row.error is None and row.tags is not None
            assert (row.width, row.height, row.notes) == (picture.width, picture.height, picture.notes)
        row.to_json().encode()
    assert 10 < failed < len(paths) - 10


# -- thresholds and numbers --------------------------------------------------------------------------


class Fixed:
    """An engine that gives the same scores to every picture."""

    def __init__(self, *scores: float) -> None:
        self.scores = np.array(scores, np.float32)
        self.seen: list[npt.NDArray[np.float32]] = []

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Output:
        self.seen.append(pixels)
        b = len(pixels)
        pooled, tokens = np.zeros((b, 2), np.float32), np.zeros((b, 3, 2), np.float32)
        return Output(np.tile(self.scores, (b, 1)), pooled, tokens)


def fixed(*values: float) -> Tagger:
    """tiny.vocabulary()'s thresholds: dog 0.2, cat 0.5 by default, beach 0.3, red 0.1, run 0.5, boat 0.5."""
    return Tagger(Fixed(*values), tiny.vocabulary(), ref="fixed@0", side=8)


def names(tagger: Tagger, **options: Any) -> list[str]:
    (row,) = tagger(PICTURES[0], **options)
    return row.names


def test_the_threshold_cuts_first_and_then_the_number() -> None:
    tagger = fixed(0.19, 0.6, 0.3, 0.05, 0.9, 0.49)
    assert names(tagger) == ["run", "cat", "beach"], "each tag's own threshold, reached is enough"
    assert names(tagger, threshold=0, top=0) == ["run", "cat", "boat", "beach", "dog", "red"]
    assert names(tagger, threshold=0, top=None) == names(tagger, threshold=0, top=0)
    assert names(tagger, threshold=0.3) == ["run", "cat", "boat", "beach"]
    assert names(tagger, threshold=0.3, top=2) == ["run", "cat"]
    assert names(tagger, top=1) == ["run"]
    assert names(tagger, threshold=1.0) == [] and names(tagger, threshold=1) == []


def test_the_engine_sees_prepared_pixels() -> None:
    engine = Fixed(*[0.5] * 6)
    tagger = Tagger(engine, tiny.vocabulary(), ref="fixed@0", side=8)
    red = np.zeros((5, 9, 3), np.uint8)
    red[..., 0] = 255
    list(tagger([red, red, red], batch_size=2))
    assert [batch.shape for batch in engine.seen] == [(2, 3, 8, 8), (1, 3, 8, 8)]
    assert all(batch.dtype == np.float32 for batch in engine.seen)
    assert (engine.seen[0][:, 0] == 1).all() and (engine.seen[0][:, 1:] == 0).all()


def test_pictures_are_read_no_larger_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were for training, and within the caller's limit."""
    asked: list[dict[str, Any]] = []

    def recorded(source: Any, **options: Any) -> Any:
        asked.append(options)
        return load(source, **options)

    monkeypatch.setattr("taglens.images.load", recorded)
    list(fixed(*[0.5] * 6)([PICTURES[0]], max_pixels=5000))
    assert asked == [{"max_pixels": 5000, "at_least": 8}]


def test_failed_pictures_do_not_reach_the_engine() -> None:
    engine = Fixed(*[0.5] * 6)
    tagger = Tagger(engine, tiny.vocabulary(), ref="fixed@0", side=8)
    rows = list(tagger([b"", b"nothing", b""]))
    assert engine.seen == [] and all(row.error is not None for row in rows)


# -- scores ------------------------------------------------------------------------------------------


def test_scores_are_the_tags_scores(tagger: Tagger, files: list[Path], tmp_path: Path) -> None:
    sources = [files[0], tmp_path / "missing.png", files[1]]
    found = list(tagger.scores(sources, batch_size=2))
    assert [path for path, _ in found] == sources
    assert found[1][1] is None
    for (_, values), row in zip(found, scores(tagger, sources), strict=True):
        if values is not None:
            assert values.shape == (6,) and values.dtype == np.float32
            assert row == {entry.id: float(v) for entry, v in zip(tiny.vocabulary(), values, strict=True)}


# -- another vocabulary ------------------------------------------------------------------------------


def test_a_vocabulary_chooses_orders_and_renames(tagger: Tagger) -> None:
    wanted = Vocabulary(
        [
            Entry("red", "attribute", threshold=0.7),
            Entry("hound", "object", synonyms=("pooch",)),  # known by the model as a synonym of dog
            Entry("vessel", "object", synonyms=("boat",)),  # its synonym is known
            Entry("beach", "scene", hidden=True),
        ],
        name="mine",
    )
    other = tagger.with_vocabulary(wanted)
    own, found = scores(tagger, PICTURES[0])[0], scores(other, PICTURES[0])[0]
    assert found == {
        "attribute:red": own["attribute:red"],
        "object:hound": own["object:dog"],
        "object:vessel": own["object:boat"],
    }
    (row,) = other(PICTURES[0])
    assert row.vocabulary == wanted.ref and row.model == tagger.ref
    # A threshold of its own, else the model's for that column.
    assert [entry.threshold for entry in other.vocabulary] == [0.7, 0.2, None, 0.3]
    (_, values), *_ = other.scores(PICTURES[0])
    assert values is not None and values.shape == (4,)
    assert scores(tagger, PICTURES[0])[0] == own, "the tagger itself is left alone"


def test_an_id_goes_before_a_name() -> None:
    known = Vocabulary([Entry("train", "object", synonyms=("rail",)), Entry("train", "action", count=9)])
    tagger = Tagger(Fixed(0.25, 0.75), known, ref="fixed@0", side=8)
    for kind, score in (("object", 0.25), ("action", 0.75)):
        other = tagger.with_vocabulary(Vocabulary([Entry("train", kind)]))  # type: ignore[arg-type]
        assert scores(other, PICTURES[0]) == [{f"{kind}:train": score}]


def test_a_choice_of_a_choice_is_made_from_the_whole_model(tagger: Tagger) -> None:
    first = tagger.with_vocabulary(Vocabulary([Entry("cat", "object")]))
    second = first.with_vocabulary(Vocabulary([Entry("run", "action"), Entry("cat", "object")]))
    own = scores(tagger, PICTURES[0])[0]
    assert scores(second, PICTURES[0]) == [{id: own[id] for id in ("action:run", "object:cat")}]


def test_an_unknown_tag_is_named(tagger: Tagger) -> None:
    wanted = Vocabulary([Entry("cat", "object"), *(Entry(f"elf {n}", "object") for n in range(8))])
    with pytest.raises(VocabularyError, match=r"does not know 'elf 0'.*'elf 4' and 3 more.*6 tags"):
        tagger.with_vocabulary(wanted)


def test_a_vocabulary_that_does_not_fit_the_engine_is_found() -> None:
    tagger = Tagger(Fixed(0.5, 0.5), tiny.vocabulary(), ref="fixed@0", side=8)
    with pytest.raises(MismatchError, match="do not fit"):
        list(tagger(PICTURES[0]))


# -- engines -----------------------------------------------------------------------------------------


def test_both_engines_give_the_same_rows(folders: Path, tagger: Tagger, files: list[Path]) -> None:
    slow = Tagger.from_pretrained(folders / "trained", device="cpu")
    assert close(scores(slow, files), scores(tagger, files), 2e-3)
    assert slow.ref.startswith("small@") and slow.ref != tagger.ref, (
        "a fingerprint is of the weights that ran"
    )
    assert slow.side == tagger.side and slow.vocabulary.ref == tagger.vocabulary.ref
    named = Tagger.from_pretrained(folders / "trained", engine="torch", device="cpu")
    assert named.ref == slow.ref


def test_an_engine_that_does_not_fit_is_named(folders: Path) -> None:
    with pytest.raises(UsageError, match="unknown engine 'tensorrt'; use auto, onnx, torch"):
        Tagger.from_pretrained(folders / "bundle", engine="tensorrt")
    with pytest.raises(UsageError, match=r"trained model folder.*use onnx"):
        Tagger.from_pretrained(folders / "bundle", engine="torch")
    for folder in ("bundle", "trained"):
        with pytest.raises(UsageError, match="unknown device 'gpu'"):
            Tagger.from_pretrained(folders / folder, device="gpu")


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere is no model folder"):
        Tagger.from_pretrained(tmp_path / "nowhere")


# -- what cannot be meant ----------------------------------------------------------------------------

BAD: dict[str, Callable[[Tagger], Any]] = {
    "threshold above 1": lambda tagger: tagger([], threshold=1.5),
    "threshold below 0": lambda tagger: tagger([], threshold=-0.1),
    "threshold not a number": lambda tagger: tagger([], threshold=float("nan")),
    "top below 0": lambda tagger: tagger([], top=-1),
    "batch size 0": lambda tagger: tagger([], batch_size=0),
    "max pixels 0": lambda tagger: tagger([], max_pixels=0),
    "neither one nor many": lambda tagger: tagger(3),  # type: ignore[arg-type]
    "nothing": lambda tagger: tagger(None),  # type: ignore[arg-type]
    "batch size of scores": lambda tagger: tagger.scores([], batch_size=0),
    "sources of scores": lambda tagger: tagger.scores(3),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("call", BAD.values(), ids=BAD)
def test_what_cannot_be_meant_is_refused_at_once(call: Callable[[Tagger], Any], tagger: Tagger) -> None:
    """Before the first row is asked for: no one may be half-way through when it turns out."""
    with pytest.raises(UsageError):
        call(tagger)
