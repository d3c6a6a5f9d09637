"""A picture index: what is found and why, against scoring one by one; files; and what cannot be meant."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_aligner as small
import tiny
from taglens.errors import DataError, MismatchError, UsageError
from taglens.inference.alignment import Embedded
from taglens.inference.search import Hit, Narrow, PictureIndex, Unfound
from taglens.inference.sources import Source
from taglens.inference.tagger import Tagger
from taglens.results import Failure, to_line

ALL = Narrow(top=0)
COUNT = 12


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    return Tagger.from_pretrained(small.made(tmp_path_factory) / "bundle", device="cpu", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(tiny.pixels(COUNT, seed=3)):
        (place / f"{number:02}.png").write_bytes(tiny.png(picture))
    return place


@pytest.fixture(scope="module")
def index(tagger: Tagger, folder: Path) -> PictureIndex:
    made = PictureIndex(tagger)
    assert made.add_rows(rows(tagger, folder)) == []
    return made


def rows(tagger: Tagger, folder: Path) -> list[Embedded]:
    """The pictures' own vectors, and scores that tell them apart, as those of so small a model do not."""
    rng = np.random.default_rng(0)
    found = tagger.embed(sorted(folder.glob("*.png")), batch_size=5)
    return [replace(row, scores=rng.random(6, np.float32)) for row in found]


def given(tagger: Tagger, row: Embedded) -> set[str]:
    """Ids of the tags that a picture has, implied ones among them."""
    assert row.scores is not None
    vocabulary = tagger.vocabulary
    found = {vocabulary.position(tag.id) for tag in vocabulary.select(row.scores)}
    return {vocabulary[column].id for column in vocabulary.with_parents(found)}


def test_a_text_finds_by_similarity_and_by_tags(index: PictureIndex, tagger: Tagger, folder: Path) -> None:
    text = "a red dog runs"  # an attribute, an object and an action of the vocabulary
    asked = {"attribute:red", "object:dog", "action:run"}
    (vector,) = tagger.embed_text([text])
    wanted = {}
    for row in rows(tagger, folder):
        assert row.vector is not None
        share = len(given(tagger, row) & asked) / 3
        wanted[row.source] = (float(row.vector @ vector), share)
    for weight in (0.0, 0.25, 3.0):
        hits = index.search(text, weight=weight, narrow=ALL)
        assert [hit.rank for hit in hits] == list(range(1, COUNT + 1))
        assert sorted(hit.source for hit in hits) == sorted(wanted)
        for hit in hits:
            similarity, share = wanted[hit.source]
            assert (hit.similarity, hit.overlap) == (
                pytest.approx(similarity, abs=1e-5),
                pytest.approx(share),
            )
            assert hit.score == pytest.approx(similarity + weight * share, abs=1e-5)
            assert len(hit.tags) == round(3 * share) and {tag.id for tag in hit.tags} <= asked
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({share for _, share in wanted.values()}) > 1, "the tags tell pictures apart"
    assert index.search(text, narrow=ALL) == index.search(text, weight=0.25, narrow=ALL), (
        "the model's own lambda"
    )
    alone = [hit.score for hit in index.search(text, weight=0.0, narrow=ALL)]
    assert alone == [hit.similarity for hit in index.search(text, weight=0.0, narrow=ALL)]


def test_a_text_without_tags_is_similarity_alone(index: PictureIndex) -> None:
    for hit in index.search("on the two blue", narrow=ALL):
        assert (hit.score, hit.overlap, hit.tags) == (hit.similarity, None, ())


def test_keywords_find_what_has_all_of_them(index: PictureIndex, tagger: Tagger, folder: Path) -> None:
    hits = index.by_tags(["cat", "grass"], narrow=ALL)
    everyone = {row.source: row for row in rows(tagger, folder)}
    for hit in hits:
        scores = everyone[hit.source].scores
        assert scores is not None
        # A dog implies a cat here.
        cat = max(float(scores[0]), float(scores[1]))
        both = (cat + 0.01) * (float(scores[2]) + 0.01)
        assert hit.score == pytest.approx(both**0.5 - 0.01, abs=1e-3)
        has = given(tagger, everyone[hit.source]) & {"object:cat", "scene:grass"}
        assert {tag.id for tag in hit.tags} == has and hit.overlap == len(has) / 2
        assert hit.similarity is None
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    # By name, synonym or id, and each once.
    assert index.by_tags(["puppy", "object:dog", "dog"]) == index.by_tags(["dog"])


def test_a_picture_finds_itself_first_and_says_what_it_shares(
    index: PictureIndex, tagger: Tagger, folder: Path
) -> None:
    path = folder / "04.png"
    hits = index.like(path, narrow=ALL)
    assert (hits[0].source, hits[0].similarity) == (str(path), pytest.approx(1.0, abs=1e-5))
    assert hits[0].path == path
    own = {tag.id for tag in tagger.vocabulary.select(dict(tagger.scores([path]))[path])}  # type: ignore[arg-type]
    everyone = {row.source: row for row in rows(tagger, folder)}
    for hit in hits:
        assert {tag.id for tag in hit.tags} == own & given(tagger, everyone[hit.source])
        assert hit.score == hit.similarity
    assert index.like(tiny.pixels(COUNT, seed=3)[4])[0].source == str(path), "bytes or pixels do as well"
    with pytest.raises(UsageError, match=r"cannot look for pictures like .*none"):
        index.like(folder / "none.png")


def test_hits_are_narrowed(index: PictureIndex) -> None:
    every = index.search("a dog", narrow=ALL)
    assert index.search("a dog", narrow=Narrow(top=3)) == every[:3]
    assert len(index.search("a dog")) == 10
    floor = every[4].score
    assert len(index.search("a dog", narrow=Narrow(top=0, least=floor))) == 5
    only = index.search("a dog", narrow=Narrow(top=0, only=("cat", "grass")))
    both = [hit.source for hit in index.by_tags(["cat", "grass"], narrow=ALL) if hit.overlap == 1.0]
    assert 0 < len(only) < COUNT and sorted(hit.source for hit in only) == sorted(both)
    assert [hit.rank for hit in only] == list(range(1, len(only) + 1))
    assert [hit.source for hit in only] == [hit.source for hit in every if hit.source in both]


@pytest.mark.parametrize("name", ["boat", "hound dog", "", "dgo"])
def test_what_is_no_tag_is_refused_by_name(name: str, index: PictureIndex) -> None:
    """A hidden tag is none: nothing would ever be found."""
    for ask in (
        lambda: index.by_tags(["dog", name]),
        lambda: index.search("dog", narrow=Narrow(only=(name,))),
    ):
        with pytest.raises(
            UsageError, match=rf"'{name}' is no tag of aligned-words@.*or search by free text"
        ):
            ask()


def test_what_cannot_be_meant_is_refused(index: PictureIndex, tagger: Tagger) -> None:
    with pytest.raises(UsageError, match="nearest: dog"):
        index.by_tags(["dgo"])
    with pytest.raises(UsageError, match="no tag to look for"):
        index.by_tags([])
    with pytest.raises(UsageError, match="is one text"):
        index.by_tags("dog")
    with pytest.raises(UsageError, match="nothing to look for"):
        index.search(" ")
    with pytest.raises(UsageError, match="top -1 is below 0"):
        Narrow(top=-1)
    empty = PictureIndex(tagger)
    assert (len(empty), empty.sources) == (0, [])
    for ask in (lambda: empty.search("a dog"), lambda: empty.by_tags(["dog"]), lambda: empty.save("x.npz")):
        with pytest.raises(UsageError, match="holds no picture"):
            ask()


def test_unreadable_pictures_are_given_back_and_not_kept(
    tagger: Tagger, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    index = PictureIndex(tagger)
    failed = index.add([folder / "00.png", tmp_path / "broken.png", folder / "01.png", tmp_path / "none.png"])
    assert [row.source for row in failed] == [str(tmp_path / "broken.png"), str(tmp_path / "none.png")]
    assert index.sources == [str(folder / "00.png"), str(folder / "01.png")]
    assert index.add([tmp_path / "none.png"])[0].error is not None and len(index) == 2


def test_a_changed_file_takes_its_own_place(tagger: Tagger, folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        shutil.copy(folder / "00.png", tmp_path / name)
    index = PictureIndex(tagger)
    index.add([tmp_path / "a.png", tmp_path / "b.png"])
    source = Source.of(tmp_path / "a.png")
    assert index.holds(source) and not index.holds(Source.of(tmp_path / "c.png"))
    shutil.copy(folder / "05.png", tmp_path / "a.png")
    os.utime(tmp_path / "a.png", (1, 1))
    assert not index.holds(source)
    index.add([tmp_path / "a.png"])
    assert index.holds(source) and index.sources == [str(tmp_path / name) for name in ("a.png", "b.png")]
    best = index.like(folder / "05.png")[0]
    assert best.source == str(tmp_path / "a.png") and best.similarity == pytest.approx(1.0, abs=1e-5)
    # What has no file has no name of its own.
    index.add([tiny.pixels(1)[0], tiny.pixels(2)[1]])
    assert len(index) == 4


def test_rows_of_another_model_are_refused(tagger: Tagger) -> None:
    row = Embedded("a", np.zeros(8, np.float32), np.zeros(6, np.float32), "other@1", 1, 1)
    with pytest.raises(
        MismatchError, match=r"the rows were made with another model: expected aligned@.*other@1"
    ):
        PictureIndex(tagger).add_rows([row])


# -- files -------------------------------------------------------------------------------------------


def test_a_saved_index_answers_the_same(index: PictureIndex, tagger: Tagger, tmp_path: Path) -> None:
    index.save(tmp_path / "i.npz")
    again = PictureIndex.load(tmp_path / "i.npz", tagger)
    for ask in (
        lambda one: one.search("a red dog", narrow=ALL),
        lambda one: one.by_tags(["dog", "red"], narrow=ALL),
        lambda one: one.like(tiny.pixels(1)[0], narrow=ALL),
    ):
        assert ask(again) == ask(index)
    assert again.holds(Source.of(index.sources[0]))
    assert [path.name for path in tmp_path.iterdir()] == ["i.npz"]
    again.save(tmp_path / "j.npz")
    assert PictureIndex.load(tmp_path / "j.npz", tagger).sources == index.sources


def test_names_that_are_no_text_survive(tagger: Tagger, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(tiny.png(tiny.pixels(1)[0]))
    index = PictureIndex(tagger)
    index.add([tmp_path / name])
    index.save(tmp_path / "i.npz")
    again = PictureIndex.load(tmp_path / "i.npz", tagger)
    (hit,) = again.by_tags(["dog"])
    assert hit.path == tmp_path / name and hit.path.exists()
    assert "\ufffd" in hit.source and hit.source_bytes is not None
    assert again.holds(Source.of(tmp_path / name))


def test_an_index_of_another_model_is_refused(index: PictureIndex, tagger: Tagger, tmp_path: Path) -> None:
    index.save(tmp_path / "i.npz")
    starter = Tagger.from_pretrained("starter", device="cpu", threads=1)
    with pytest.raises(
        MismatchError, match=rf"i\.npz was made with another model.*{starter.ref}.*{tagger.ref}"
    ):
        PictureIndex.load(tmp_path / "i.npz", starter)
    chosen = tagger.with_vocabulary(tagger.vocabulary.with_entries(list(tagger.vocabulary)[:3]))
    with pytest.raises(MismatchError, match="another vocabulary"):
        PictureIndex.load(tmp_path / "i.npz", chosen)


def rewrite(path: Path, **changed: Any) -> None:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    head = json.loads(bytes(arrays.pop("head"))) | changed.pop("head", {})
    arrays = {name: each for name, each in (arrays | changed).items() if each is not None}
    np.savez(path, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


DAMAGE: dict[str, tuple[Any, str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "no picture index, or is damaged"),
    "text": (lambda path: path.write_text("x"), "no picture index"),
    "empty": (lambda path: path.write_bytes(b""), "no picture index"),
    "one array": (one_array, "no picture index"),
    "missing": (Path.unlink, "cannot read the index"),
    "another format": (lambda path: rewrite(path, head={"taglens_index": 99}), "has format 99"),
    "fewer names": (lambda path: rewrite(path, head={"names": [["a", None]]}), "do not fit 1 pictures"),
    "no vectors": (lambda path: rewrite(path, vectors=None), "no picture index"),
    "flat vectors": (lambda path: rewrite(path, vectors=np.zeros(COUNT, np.float32)), "vectors do not fit"),
    "double vectors": (lambda path: rewrite(path, vectors=np.zeros((COUNT, 8))), "vectors do not fit"),
    "scores of others": (
        lambda path: rewrite(path, scores=np.zeros((COUNT, 7), np.float16)),
        "scores do not fit",
    ),
    "no numbers": (
        lambda path: rewrite(path, vectors=np.full((COUNT, 8), np.nan, np.float32)),
        "not finite",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_no_index_is_refused(case: str, index: PictureIndex, tagger: Tagger, tmp_path: Path) -> None:
    damage, told = DAMAGE[case]
    path = tmp_path / "i.npz"
    index.save(path)
    damage(path)
    with pytest.raises(DataError, match=told):
        PictureIndex.load(path, tagger)


def test_no_index_runs_code(tagger: Tagger, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    with (tmp_path / "i.npz").open("wb") as file:
        np.savez(file, head=np.array([Evil()], object))
    with pytest.raises(DataError, match="no picture index"):
        PictureIndex.load(tmp_path / "i.npz", tagger)
    assert not (tmp_path / "harm").exists()


# -- rows --------------------------------------------------------------------------------------------


def test_rows_have_the_same_fields_found_or_not(index: PictureIndex) -> None:
    hit: Hit = index.search("a red dog on grass")[0]
    lost = Unfound("x.png", Failure("not_found", "there is none"), "m@1", "eC5wbmc=")
    row = json.loads(hit.to_json())
    assert row["error"] is None and row["rank"] == 1
    assert row.keys() == lost.to_dict().keys() - {"source_bytes"}
    assert to_line(lost.to_dict()) == lost.to_json()
    assert lost.to_dict()["error"] == {"type": "not_found", "message": "there is none"}


def test_a_model_without_an_aligner_searches_by_tags_and_pictures(folder: Path, tmp_path: Path) -> None:
    plain = Tagger.from_pretrained(small.only_tags(tmp_path / "tags"), device="cpu", threads=1)
    index = PictureIndex(plain)
    index.add(sorted(folder.glob("0[0-3].png")))
    assert len(index.by_tags(["dog", "beach"])) == 4
    assert index.like(folder / "02.png")[0].source == str(folder / "02.png")
    with pytest.raises(UsageError, match="has no aligner"):
        index.search("a dog")
    with pytest.raises(UsageError, match=r"choose among its tags$"):
        index.by_tags(["zzyzx"])
