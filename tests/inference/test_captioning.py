"""Captions of a small random Tag2Text: what batches, seeds, tags and damaged files may change, and may not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import published_weights as published
import small_captioner as small
from taglens.errors import ModelError, UsageError
from taglens.inference.bundle import CONFIG, PIECES
from taglens.inference.captioning import CaptionWriter, Guided, Search
from taglens.inference.export import export
from taglens.inference.generation import Sampling
from taglens.inference.tagger import Tagger
from taglens.language.caption_text import CaptionText
from taglens.language.wordpiece import WordPiece
from taglens.models.checkpoint import captioner_from_pretrained, from_pretrained
from taglens.models.convert import convert
from taglens.models.published import save_converted
from taglens.results import Captioned

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
FIVE = small.pictures(5)
SEARCHES = {
    "beams": Search(number=2, max_length=16),
    "greedy": Search(beams=1, max_length=16),
    "drawn": Search(sampling=Sampling(seed=3), number=2, max_length=16),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model, for torch and as a bundle."""
    made = small.made(tmp_path_factory)
    return {"torch": made / "model", "onnx": made / "bundle"}


def load(folder: Path) -> Tagger:
    return Tagger.from_pretrained(folder, device="cpu", threads=1)


@pytest.fixture(scope="module")
def taggers(folders: dict[str, Path]) -> dict[str, Tagger]:
    return {engine: load(folder) for engine, folder in folders.items()}


@pytest.fixture(scope="module", params=["torch", "onnx"])
def tagger(request: pytest.FixtureRequest, taggers: dict[str, Tagger]) -> Tagger:
    return taggers[request.param]


@pytest.fixture(scope="module")
def bundled(taggers: dict[str, Tagger]) -> Tagger:
    return taggers["onnx"]


def texts(rows: Sequence[Captioned]) -> list[list[str]]:
    return [[one.text for one in row.captions or ()] for row in rows]


def scores(rows: Sequence[Captioned]) -> list[float]:
    return [one.score for row in rows for one in row.captions or ()]


# -- who else is in the batch ------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_a_batch_writes_what_its_pictures_alone_do(search: Search, tagger: Tagger) -> None:
    alone = [row for picture in FIVE for row in tagger.caption(picture, search=search)]
    together = list(tagger.caption(FIVE, search=search))
    by_two = list(tagger.caption(FIVE, search=search, batch_size=2))
    assert texts(together) == texts(by_two) == texts(alone)
    assert [row.guide_tags for row in together] == [row.guide_tags for row in alone]
    assert scores(together) == pytest.approx(scores(alone), abs=1e-4)
    assert len({row.caption for row in alone}) == 5, "pictures of one caption would show nothing"


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_both_engines_write_the_same(search: Search, taggers: dict[str, Tagger]) -> None:
    torch_rows, onnx_rows = (list(each.caption(FIVE, search=search)) for each in taggers.values())
    assert texts(torch_rows) == texts(onnx_rows)
    assert scores(torch_rows) == pytest.approx(scores(onnx_rows), abs=1e-4)


# -- the searches ------------------------------------------------------------------------------------


def test_one_beam_takes_the_likeliest_piece_again_and_again(tagger: Tagger, folders: dict[str, Path]) -> None:
    """Against the whole text read anew for every piece, without past or batch."""
    model, _, _ = from_pretrained(folders["torch"])
    captioner = captioner_from_pretrained(folders["torch"], model)
    assert captioner is not None
    text = CaptionText(WordPiece.load(folders["torch"] / PIECES))
    rows = list(tagger.caption(FIVE, search=Search(beams=1, max_length=14)))
    tokens = [found.tokens for found in token_rows(folders["torch"])]
    for row, seen in zip(rows, tokens, strict=True):
        guide = text.tags(row.guide_tags or ())
        mask = torch.tensor([guide.mask])
        ids = list(text.prompt_ids)
        with torch.inference_mode():
            memory = captioner.encode(torch.tensor([guide.ids]), mask, torch.from_numpy(seen))
            while len(ids) < 14:
                given = torch.tensor([ids])
                logits = captioner.write(given, memory, mask=torch.ones_like(given), memory_mask=mask)[0, -1]
                if len(ids) < 10:
                    logits[text.pieces.sep] = -torch.inf
                ids.append(int(logits.argmax()))
                if ids[-1] == text.pieces.sep:
                    break
        assert row.caption == text.read(ids)


def token_rows(folder: Path) -> list[Any]:
    """What the recogniser says of each picture alone."""
    from taglens import images
    from taglens.inference.engines import TorchEngine

    model, _, _ = from_pretrained(folder)
    engine = TorchEngine(model, device="cpu")
    return [engine(images.prepare(picture, small.SIDE)[None]) for picture in FIVE]


def test_the_same_seed_draws_the_same_and_another_another(tagger: Tagger) -> None:
    def drawn(seed: int, top_p: float = 0.9) -> list[list[str]]:
        return texts(list(tagger.caption(FIVE, search=Search(sampling=Sampling(seed, top_p)))))

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, top_p=1e-9) == texts(list(tagger.caption(FIVE, search=Search(beams=1))))


@pytest.mark.parametrize("search", [Search(beams=4, number=3), Search(sampling=Sampling(), number=3)])
def test_as_many_captions_as_asked_for_the_best_first(search: Search, bundled: Tagger) -> None:
    for row in bundled.caption(FIVE, search=search):
        assert row.captions is not None and len(row.captions) == 3
        # Pieces that differ may read alike: marks leave no trace in a text.
        assert len({one.score for one in row.captions}) == 3 and len({one.text for one in row.captions}) > 1
        found = [one.score for one in row.captions]
        assert found == sorted(found, reverse=True) and max(found) <= 0.0
        assert row.caption == row.captions[0].text


def test_draws_begin_at_the_seed_and_count_up(bundled: Tagger) -> None:
    (three,) = bundled.caption(FIVE[4], search=Search(sampling=Sampling(5), number=3))
    single = [
        row.caption
        for seed in (5, 6, 7)
        for row in bundled.caption(FIVE[4], search=Search(sampling=Sampling(seed)))
    ]
    assert sorted(one.text for one in three.captions or ()) == sorted(map(str, single))


def test_lengths_and_penalty_are_kept_to(bundled: Tagger) -> None:
    pieces = WordPiece(small.PIECES)

    def length(text: str) -> int:
        return 4 + len(pieces.pieces(text))

    for most in (6, 12):
        for row in bundled.caption(FIVE, search=Search(min_length=5, max_length=most)):
            assert 5 <= length(str(row.caption)) <= most
    plain, varied = (
        [row.caption for row in bundled.caption(FIVE, search=Search(repetition_penalty=penalty))]
        for penalty in (1.0, 3.0)
    )
    assert sum(len(set(str(text).split())) for text in varied) > sum(
        len(set(str(text).split())) for text in plain
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"beams": 0}, "beams must be 1 or more, found 0"),
        ({"number": 0}, "number must be 1 or more, found 0"),
        ({"number": 4}, "4 captions a picture need as many beams, found 3"),
        ({"min_length": 31}, "min 31, max 30"),
        ({"min_length": -1}, "min -1"),
        ({"repetition_penalty": 0.0}, "repetition penalty must be above 0"),
    ],
    ids=str,
)
def test_searches_that_cannot_be_meant(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Search(**changes)


def never() -> Iterator[str]:
    raise AssertionError("a picture was drawn before the arguments were looked at")
    yield


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"search": Search(min_length=1, max_length=4)}, "5 to 48 pieces"),
        ({"search": Search(max_length=49)}, "max_length 49 .* 5 to 48 pieces"),
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"batch_size": 0}, "batch size 0"),
        ({"add_tags": True}, "add_tags"),
        ({"add_tags": True, "tags": []}, "add_tags"),
        ({"tags": "dog"}, "one text"),
    ],
    ids=str,
)
def test_arguments_are_refused_at_once(arguments: dict[str, Any], told: str, tagger: Tagger) -> None:
    with pytest.raises(UsageError, match=told):
        tagger.caption(never(), **arguments)


def test_the_longest_and_shortest_that_can_be_asked_for(tagger: Tagger) -> None:
    assert tagger.caption_lengths == range(5, 49) and tagger.writes
    for most in (5, 48):
        search = Search(min_length=0, max_length=most)
        assert len(list(tagger.caption(FIVE[:1], search=search))) == 1


# -- what guides -------------------------------------------------------------------------------------


def test_the_users_tags_replace_those_recognised(bundled: Tagger) -> None:
    rows = list(bundled.caption(FIVE, tags=["car", "two dogs"]))
    assert {row.guide_tags for row in rows} == {("car", "two dogs")}
    assert [row.caption for row in rows] != [row.caption for row in bundled.caption(FIVE)]
    assert all(row.unmet_best == [] or set(row.unmet_best) <= {"car", "two dogs"} for row in map(Unmet, rows))
    (none,) = bundled.caption(FIVE[0], tags=[])
    assert none.guide_tags == () and none.caption


class Unmet:
    """What a row's line says was not said."""

    def __init__(self, row: Captioned) -> None:
        self.unmet_best: list[str] = row.to_dict()["unmet"]


def test_added_tags_go_first_and_repeats_fall_out(bundled: Tagger) -> None:
    plain = list(bundled.caption(FIVE))
    rows = list(bundled.caption(FIVE, tags=["car", "Dog", "car", "dog"], add_tags=True))
    for row, before in zip(rows, plain, strict=True):
        assert before.guide_tags is not None and "dog" in before.guide_tags
        rest = tuple(name for name in before.guide_tags if name != "dog")
        assert row.guide_tags == ("car", "Dog", *rest)
    assert all(set(one.unmet) <= {"car", "Dog"} for row in rows for one in row.captions or ())


@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.5, 0.9, 1.0])
def test_tags_guide_from_their_threshold_in_the_vocabularys_order(threshold: float, bundled: Tagger) -> None:
    order = [entry.name for entry in small.ENTRIES]
    rows = bundled.caption(FIVE, threshold=threshold)
    for row, tagged in zip(rows, bundled(FIVE, threshold=threshold), strict=True):
        assert set(row.guide_tags or ()) == set(tagged.names) and "secret" not in tagged.names
        assert list(row.guide_tags or ()) == sorted(tagged.names, key=order.index)


def test_thresholds_matter() -> None:
    """Guards the test above: between its thresholds tags come and go."""
    found = [len(row.names) for row in load_once()(FIVE, threshold=0.0)]
    less = [len(row.names) for row in load_once()(FIVE, threshold=0.9)]
    assert sum(found) == 30 and 0 < sum(less) < 25


def load_once() -> Tagger:
    from taglens.inference.engines import TorchEngine

    return Tagger(
        TorchEngine(small.converted().model(), device="cpu"), small.vocabulary(), ref="m", side=small.SIDE
    )


class Scripted:
    """An engine that writes given sentences, whatever it is shown; keeps the tag lists it was given."""

    def __init__(self, text: CaptionText, sentences: Sequence[str]) -> None:
        self.text, self.sentences = text, [text.pieces.ids(one)[1:] for one in sentences]
        self.read: list[str] = []

    def start(self, ids: Ids, mask: Ids, tokens: Array) -> tuple[Ids, int]:
        self.read += [self.text.pieces.decode(row) for row in ids]
        return np.arange(len(ids)), -len(self.text.prompt_ids)

    def step(self, ids: Ids, state: tuple[Ids, int], rows: Ids, /) -> tuple[Array, tuple[Ids, int]]:
        pictures, written = state[0][rows], state[1] + ids.shape[1]
        logits = np.full((len(rows), len(self.text.pieces)), -9.0, np.float32)
        for row, picture in enumerate(pictures):
            logits[row, self.sentences[picture][written]] = 9.0
        return logits, (pictures, written)


def say(sentence: str, **given: Any) -> tuple[Any, Scripted]:
    """What is told of one picture whose caption is known; by default nothing is recognised."""
    text = CaptionText(WordPiece(small.PIECES))
    engine = Scripted(text, [sentence])
    words = small.vocabulary()
    guided = Guided(
        CaptionWriter(engine, text, positions=40),
        words,
        known=words,
        search=Search(beams=1, min_length=0),
        given=tuple(given.get("tags", ())),
    )
    scores = np.zeros((1, len(words)), np.float32)
    scores[0, [words.find(name) for name in given.get("recognised", ())]] = 1.0
    (found,) = guided(np.zeros((1, 2, 4), np.float32), scores)
    return found, engine


@pytest.mark.parametrize(
    ("sentence", "tags", "mentioned"),
    [
        ("two dogs run on the grass", ["dog", "car"], ["dog"]),
        ("two dogs run on the grass", ["dogs", "Dogs", "DOG"], ["dogs", "DOG"]),
        ("a man runs", ["man", "run", "running"], ["man", "run", "running"]),
        ("two men running", ["man", "run"], ["man", "run"]),
        ("a dog", ["puppy", "kitten"], ["puppy"]),
        ("a cat", ["kitten", "grass"], ["kitten", "grass"]),
        ("grass", ["cat"], ["cat"]),
        ("a red car", ["red car", "red boat", "car red"], ["red car"]),
        ("a doge", ["dog"], []),
        ("", ["dog"], []),
    ],
)
def test_tags_that_a_caption_says_in_any_form_or_by_a_synonym(
    sentence: str, tags: list[str], mentioned: list[str]
) -> None:
    found, engine = say(sentence, tags=tags)
    (caption,) = found.captions
    assert caption.text == sentence
    assert list(caption.mentioned) == mentioned
    assert list(caption.unmet) == [tag for tag in found.guide if tag not in mentioned]
    assert engine.read[0].startswith(found.guide[0].lower())


def test_what_was_recognised_may_be_mentioned_and_is_never_unmet() -> None:
    found, _ = say("a dog on a boat", recognised=["dog", "tree"], tags=["boat", "cat"])
    assert found.guide == ("boat", "cat", "dog", "tree")
    assert found.captions[0].mentioned == ("boat", "dog") and found.captions[0].unmet == ("cat",)
    found, _ = say("a dog", recognised=["tree", "dog"])
    assert found.guide == ("dog", "tree") and found.captions[0].unmet == ()


def test_tags_without_room_are_told() -> None:
    found, engine = say("a dog", tags=["dog"] + [f"{a}{b}" for a in "bcde" for b in "fghi"] + ["cat"])
    assert len(found.guide) == 18
    # [ENC] and [SEP] leave 38 pieces: one for "dog", three for each of the others with its divider.
    assert found.notes == ("13 of 18 guide tags were read whole: the model has no room for more",)
    # The divider before the fourteenth still stands there: 1 + 12 * 3 + 1.
    assert engine.read == [" | ".join(found.guide[:13]) + " |"]
    found, _ = say("a dog", tags=["dog", *[f"{a}{b}" for a in "bcd" for b in "fghi"]])
    assert found.notes == ()


def test_notes_of_the_picture_and_of_its_tags_stand_in_one_row(bundled: Tagger) -> None:
    many = [f"{a}{b}" for a in "bcde" for b in "fghi"]
    (row,) = bundled.caption(FIVE[0], tags=many)
    assert row.notes == ("13 of 16 guide tags were read whole: the model has no room for more",)
    assert row.guide_tags == tuple(many)


# -- pictures that cannot be read --------------------------------------------------------------------


def test_bad_pictures_are_rows_and_the_others_keep_their_captions(tagger: Tagger, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    search = Search(beams=1, max_length=12)
    good = [row.caption for row in tagger.caption(FIVE, search=search)]
    mixed: list[Any] = ["gone.png", FIVE[0], FIVE[1], tmp_path / "broken.png", *FIVE[2:], b""]
    for size in (1, 3, 16):
        rows = list(tagger.caption(mixed, batch_size=size, search=search))
        assert [row.caption for row in rows] == [None, *good[:2], None, *good[2:], None]
        assert [row.error is not None for row in rows] == [
            True,
            False,
            False,
            True,
            False,
            False,
            False,
            True,
        ]
        for row in rows:
            failed = row.error is not None
            assert (row.captions is None, row.guide_tags is None, row.width is None) == (failed,) * 3
            assert row.model == tagger.ref


def test_nothing_but_bad_pictures(tagger: Tagger) -> None:
    rows = list(tagger.caption(["gone.png", "gone-too.png"]))
    assert [row.error and row.error.type for row in rows] == ["not_found"] * 2
    assert list(tagger.caption([])) == []


# -- beside tags -------------------------------------------------------------------------------------


def test_tagging_gives_the_same_sentence(tagger: Tagger) -> None:
    pictures: list[Any] = [FIVE[0], "gone.png", *FIVE[1:]]
    captions = [row.caption for row in tagger.caption(pictures, threshold=0.9)]
    rows = list(tagger(pictures, caption=True, threshold=0.9, top=1, batch_size=2))
    assert [row.caption for row in rows] == captions, "top is of the tags that are given alone"
    plain = list(tagger(pictures, threshold=0.9, top=1, batch_size=2))
    assert [row.names for row in rows] == [row.names for row in plain]
    assert [row.caption for row in plain] == [None] * 6


def test_chosen_tags_guide_alone(bundled: Tagger) -> None:
    words = bundled.vocabulary
    few = bundled.with_vocabulary(type(words)([words[words.position("object:tree")]], name="few"))
    for row, tagged in zip(few.caption(FIVE), few(FIVE, caption=True), strict=True):
        assert row.guide_tags in ((), ("tree",)) and tagged.caption == row.caption
    # Synonyms are the model's own, though the choice lacks the tag.
    text = str(next(iter(bundled.caption(FIVE[0], tags=["dog"]))).caption)
    assert "running" in text
    (row,) = few.caption(FIVE[0], tags=["run"])
    assert (row.captions or ())[0].mentioned == (("run",) if "run" in str(row.caption) else ())


# -- models without ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mute") / "model"
    save_converted(convert(small.state()), small.vocabulary(), folder, name="mute")
    return folder


def test_a_model_that_writes_none_is_refused_by_name(mute: Path, tmp_path: Path) -> None:
    recognizer, words, name = from_pretrained(mute)
    export(recognizer, words, tmp_path / "bundle", name=name)
    for folder in (mute, tmp_path / "bundle"):
        tagger = load(folder)
        assert not tagger.writes
        for ask in (lambda: tagger.caption(never()), lambda: tagger(never(), caption=True)):  # noqa: B023
            with pytest.raises(UsageError, match=f"{tagger.ref} gives tags and writes no captions"):
                ask()
        assert [row.error for row in tagger(FIVE)] == [None] * 5


def test_a_captioner_and_its_words_go_together(folders: dict[str, Path], tmp_path: Path) -> None:
    recognizer, words, name = from_pretrained(folders["torch"])
    captioner = captioner_from_pretrained(folders["torch"], recognizer)
    for given in ({"captioner": captioner}, {"pieces": b"x"}):
        with pytest.raises(ModelError, match="together"):
            export(recognizer, words, tmp_path / "bundle", name=name, **given)  # type: ignore[arg-type]
    assert not (tmp_path / "bundle" / CONFIG).exists()


def test_the_shape_of_the_published_tensors_is_what_the_model_is_made_of() -> None:
    """Guards the helper: nothing of it is left out when it is converted."""
    state = small.state()
    plain, whole = published.tag2text(tags=7, width=24), small.converted()
    assert whole.captioner is not None
    assert whole.captioner.config.image_width == published.out_width(published.SMALL)
    assert sorted((*whole.used, *whole.tied, *whole.dropped)) == sorted(state)
    assert not whole.dropped and len(state) > len(plain)
