"""Names and descriptions to vectors: templates, means, batches; the tower is made up and tells texts apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_tower import MERGES
from taglens.errors import ModelError, UsageError, VocabularyError
from taglens.language.clip_encoder import (
    SHIPPED_TEMPLATES,
    ClipEncoder,
    Floats,
    prompt,
    read_templates,
    write_templates,
)
from taglens.language.clip_pieces import ClipPieces

PIECES = ClipPieces(MERGES)
TABLE = np.random.default_rng(0).standard_normal((len(PIECES), 8)).astype(np.float32)
TEMPLATES = ("{}", "a photo of {a}", "{} at night")


class FakeTower:
    """The sum of the pieces up to the end mark, each weighed by its place; remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, ids: npt.NDArray[np.int64]) -> Floats:
        self.sizes.append(ids.shape)
        ends = (ids == PIECES.end).argmax(axis=1)
        rows = [
            (TABLE[row[:end]] * np.arange(1, end + 1)[:, None]).sum(axis=0)
            for row, end in zip(ids, ends, strict=True)
        ]
        return np.stack(rows).astype(np.float32)

    def rest(self) -> None:
        self.sizes.append(())


class Broken:
    """A tower that gives the same values for everything."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.astype(np.float32)

    def __call__(self, ids: npt.NDArray[np.int64]) -> Floats:
        return np.tile(self.values, (len(ids), 1))

    def rest(self) -> None: ...


def encoder(templates: tuple[str, ...] = TEMPLATES, **changed: object) -> ClipEncoder:
    parts = {"tower": FakeTower(), "tower_fingerprint": "f", "width": 8} | changed
    return ClipEncoder(PIECES, templates, **parts)  # type: ignore[arg-type]


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def test_a_name_is_the_mean_of_its_sentences() -> None:
    tower = FakeTower()
    asked = ["owl", "a photo of an owl", "owl at night"]
    each = [unit(tower(np.array([PIECES.ids(text)])))[0] for text in asked]
    found = encoder().name("owl")
    assert found.shape == (8,) and found.dtype == np.float32
    assert np.allclose(found, unit(np.mean(each, axis=0)), atol=1e-6)
    assert np.allclose(encoder(("{}",)).name("owl"), encoder()(["owl"])[0], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text("thedogsincar ", min_size=1, max_size=80).filter(str.strip), max_size=40))
def test_texts_do_not_see_each_other(texts: list[str]) -> None:
    together = encoder()(texts)
    assert together.shape == (len(texts), 8)
    for text, vector in zip(texts, together, strict=True):
        assert np.allclose(vector, encoder()([text])[0], atol=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_batches_are_bounded_and_little_is_filled_up() -> None:
    reader = encoder()
    reader(["dog"] * 40 + ["the dog and the cat and the dogs"] * 3)
    assert isinstance(reader.tower, FakeTower)
    assert reader.tower.sizes == [(32, 3), (11, 10)]
    reader(["the " * 500])
    assert reader.tower.sizes[-1] == (1, 77)
    short = encoder(positions=5)
    short(["the dog and the cat"])
    assert isinstance(short.tower, FakeTower) and short.tower.sizes == [(1, 5)]


def test_names_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taglens.language.clip_encoder._MOST_KEPT", 3)
    reader = encoder()
    assert isinstance(reader.tower, FakeTower)
    first = reader.name("dog")
    asked = len(reader.tower.sizes)
    assert np.array_equal(reader.name("dog"), first) and len(reader.tower.sizes) == asked
    for number in range(10):
        reader.name(f"dog {number}")
        assert len(reader._kept) <= 3
    assert np.array_equal(reader.name("dog"), first)


@pytest.mark.parametrize("text", ["", "  \n", "\x00", "\ufeff"])
def test_nothing_to_look_for_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="nothing to look for"):
        encoder().name(text)
    with pytest.raises(UsageError, match="nothing to look for"):
        encoder()([text])


@pytest.mark.parametrize("values", [np.zeros(8), np.full(8, np.nan), np.ones(5)])
def test_a_damaged_tower_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ModelError, match="no vectors"):
        encoder(tower=Broken(values))(["dog"])


def test_the_fingerprint_covers_tower_pieces_and_templates() -> None:
    others = [
        encoder(),
        encoder(TEMPLATES[:2]),
        encoder(tower_fingerprint="g"),
        ClipEncoder(ClipPieces(MERGES[:-1]), TEMPLATES, FakeTower(), tower_fingerprint="f", width=8),
    ]
    assert len({one.fingerprint for one in others}) == 4 and len(others[0].fingerprint) == 12
    assert encoder().fingerprint == others[0].fingerprint and others[0].knows("xylograph")


# -- templates -----------------------------------------------------------------------------------------


def test_articles() -> None:
    assert prompt("a photo of {a}", "owl") == "a photo of an owl"
    assert prompt("a photo of {a}", "Dog") == "a photo of a Dog"
    assert prompt("{} at night", "{a}") == "{a} at night"
    assert prompt("see {a}", "") == "see a "


def test_the_shipped_templates_are_sentences_about_any_tag() -> None:
    shipped = read_templates(SHIPPED_TEMPLATES)
    assert len(shipped) == 32 and "{}" in shipped
    assert all("owl" in prompt(template, "owl") for template in shipped)
    assert all(template == template.strip().lower() for template in shipped)


def test_templates_are_written_as_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff# mine\r\n\r\n see {a} \r\n{}\r\n".encode())
    found = read_templates(tmp_path / "a.txt")
    assert found == ("see {a}", "{}")
    write_templates(found, tmp_path / "b.txt")
    assert read_templates(tmp_path / "b.txt") == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a photo\n", "line 1: expected one"),
        ("{} and {}\n", "line 1: expected one"),
        ("{}\n{} and {a}\n", "line 2: expected one"),
        ("see {name}\n", "line 1: expected one"),
        ("{}\nsee {a}\n{}\n", "line 3: '{}' stands there twice"),
        ("# nothing\n", "holds no template"),
    ],
)
def test_files_that_are_no_templates(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(content, encoding="utf-8")
    with pytest.raises(VocabularyError, match=message):
        read_templates(tmp_path / "t.txt")
    with pytest.raises(VocabularyError, match="cannot read the templates"):
        read_templates(tmp_path / "none.txt")
