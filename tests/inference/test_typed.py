"""Any word as a tag: exported, loaded and asked, and the same as in torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from taglens.errors import ModelError, UsageError
from taglens.inference.bundle import LABELS, TEXT, Bundle
from taglens.inference.export import Calibration, export
from taglens.inference.tagger import Tagger
from taglens.language.text_encoder import TextEncoder
from taglens.language.text_training import learn
from taglens.models.checkpoint import save_pretrained
from taglens.models.label_bank import EmbeddedBank
from taglens.training.recipes import text_bank
from taglens.vocabulary import Entry, Vocabulary

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "pink", "grey", "orange")
THINGS = ("dog", "cat", "beach", "boat", "run", "horse", "tree", "car", "house", "ball")
CALIBRATION = Calibration(
    0.8, np.linspace(-0.5, 0.5, 6, dtype=np.float32), typed_slope=0.8, typed_offset=0.3, typed_threshold=0.4
)


def learned(seed: int) -> TextEncoder:
    """An encoder of captions in which every thing keeps company of its own."""
    rng = np.random.default_rng(seed)
    pairs = [(COLOURS[c], thing) for thing in THINGS for c in rng.integers(0, len(COLOURS), 12)]
    return learn(
        [f"a {colour} {thing}" for colour, thing in pairs], width=16, least=2, contexts=30, buckets=64
    )


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    return learned(0)


@pytest.fixture(scope="module")
def trained(text: TextEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torch folder whose labels are texts."""
    folder = tmp_path_factory.mktemp("typed") / "model"
    plain = tiny.vocabulary()
    entries = [
        Entry(e.name, e.kind, descriptions=("a red one", "a big ball")[: n % 3]) for n, e in enumerate(plain)
    ]
    vocabulary = Vocabulary(entries, name="tiny")
    model = tiny.recognizer(descriptions=3)
    model.bank = text_bank(vocabulary, text)
    save_pretrained(model, vocabulary, folder, name="typed")
    text.save(folder / TEXT)
    return folder


@pytest.fixture(scope="module")
def bundle(trained: Path, text: TextEncoder) -> Path:
    from taglens.models.checkpoint import from_pretrained

    model, vocabulary, name = from_pretrained(trained)
    out = trained.parent / "bundle"
    export(model, vocabulary, out, name=name, calibration=CALIBRATION, text=text, half=False)
    return out


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in tiny.pixels(5, side=40)]


def scores(tagger: Tagger, pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([row for _, row in tagger.scores(pictures, batch_size=2) if row is not None])


def test_a_typed_tag_is_scored_like_a_label_of_one_text(
    bundle: Path, trained: Path, text: TextEncoder, pictures: list[Image.Image]
) -> None:
    from taglens import images
    from taglens.models.checkpoint import from_pretrained

    model, _, _ = from_pretrained(trained)
    names = ["red car", "zebra"]
    prepared = np.stack([images.prepare(np.asarray(p), tiny.SIDE) for p in pictures])
    with torch.inference_mode():
        asked = model.with_labels(EmbeddedBank(torch.from_numpy(text(names))))
        logits = asked(torch.from_numpy(prepared)).logits
        wanted = torch.sigmoid(0.8 * logits + 0.3).numpy()
    found = scores(Tagger.from_pretrained(bundle).typed(names), pictures)
    assert np.abs(found - wanted).max() < 1e-4


def test_torch_and_onnx_agree_on_typed_tags(bundle: Path, trained: Path, pictures: list[Image.Image]) -> None:
    names = ["red car", "a ball"]
    found = scores(Tagger.from_pretrained(bundle).typed(names), pictures)
    from_torch = scores(Tagger.from_pretrained(trained).typed(names), pictures)
    logits = np.log(from_torch / (1 - from_torch))
    assert np.abs(1 / (1 + np.exp(-(0.8 * logits + 0.3))) - found).max() < 1e-4


def test_known_and_typed_tags_stand_side_by_side(bundle: Path, pictures: list[Image.Image]) -> None:
    tagger = Tagger.from_pretrained(bundle)
    mixed = tagger.with_vocabulary(
        Vocabulary([Entry("zebra", "typed"), Entry("cat", "object"), Entry("red car", "typed")], name="mixed")
    )
    found = scores(mixed, pictures)
    assert np.allclose(found[:, 1], scores(tagger, pictures)[:, 1], atol=1e-6)
    assert np.allclose(found[:, [0, 2]], scores(tagger.typed(["zebra", "red car"]), pictures), atol=1e-6)
    (prediction,) = mixed(pictures[0], threshold=0.0)
    assert {(tag.id, tag.kind) for tag in prediction.tags or ()} == {
        ("typed:zebra", "typed"),
        ("object:cat", "object"),
        ("typed:red car", "typed"),
    }
    assert [entry.threshold for entry in mixed.vocabulary] == [0.4, None, 0.4]


def test_descriptions_of_a_foreign_vocabulary_count(bundle: Path, pictures: list[Image.Image]) -> None:
    tagger = Tagger.from_pretrained(bundle)
    plain = tagger.with_vocabulary(Vocabulary([Entry("zebra", "object")], name="v"))
    described = tagger.with_vocabulary(
        Vocabulary([Entry("zebra", "object", descriptions=("a black and white horse",))], name="v")
    )
    assert np.abs(scores(plain, pictures) - scores(described, pictures)).max() > 1e-4


def test_asking_for_other_tags_leaves_the_tagger_as_it_was(bundle: Path, pictures: list[Image.Image]) -> None:
    tagger = Tagger.from_pretrained(bundle)
    before = scores(tagger, pictures)
    tagger.typed(["zebra"])
    assert np.array_equal(scores(tagger, pictures), before) and tagger.vocabulary.name == "tiny"


def test_words_known_by_spelling_only_are_named(bundle: Path) -> None:
    tagger = Tagger.from_pretrained(bundle)
    assert tagger.typed(["red car", "xylograph"]).guesses() == ["xylograph"]
    assert tagger.guesses() == []


def test_a_name_without_a_letter_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"tag '\?!'.*no word"):
        Tagger.from_pretrained(bundle).typed(["dog", "?!"])


def test_a_model_that_learned_its_labels_reads_no_text(tmp_path: Path) -> None:
    save_pretrained(tiny.recognizer(), tiny.vocabulary(), tmp_path, name="learned")
    tagger = Tagger.from_pretrained(tmp_path)
    assert not tagger.reads_text
    with pytest.raises(UsageError, match="reads no text"):
        tagger.typed(["zebra"])


def test_another_text_encoder_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = learned(1)
    kept = (bundle / TEXT).read_bytes()
    try:
        other.save(bundle / TEXT)
        tagger = Tagger.from_pretrained(bundle)  # known tags need no text
        with pytest.raises(ModelError, match="not the text encoder"):
            tagger.typed(["zebra"])
    finally:
        (bundle / TEXT).write_bytes(kept)


def test_a_cut_labels_graph_is_refused(bundle: Path) -> None:
    kept = (bundle / LABELS).read_bytes()
    try:
        (bundle / LABELS).write_bytes(kept[:-10])
        with pytest.raises(ModelError, match=r"labels\.onnx is not the file"):
            Bundle.open(bundle)
    finally:
        (bundle / LABELS).write_bytes(kept)


def test_text_labels_without_their_encoder_are_not_exported(trained: Path, tmp_path: Path) -> None:
    from taglens.models.checkpoint import from_pretrained

    model, vocabulary, name = from_pretrained(trained)
    with pytest.raises(ModelError, match="need their text encoder"):
        export(model, vocabulary, tmp_path / "out", name=name)
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_configuration_says_what_reads_the_texts(bundle: Path, text: TextEncoder) -> None:
    row = json.loads((bundle / "config.json").read_text())
    assert row["text_encoder"] == text.fingerprint and row["typed_threshold"] == 0.4
