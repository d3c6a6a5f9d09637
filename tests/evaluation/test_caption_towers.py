"""Tiny models of chance as transformers keeps them: read alike alone and together, at the right layer, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny_transformers as tiny
from taglens.errors import ImageError, MissingExtraError, ModelError, UsageError
from taglens.evaluation import caption_towers
from taglens.evaluation.caption_scores import Array, best_match, clip_scores, mean_match, ref_clip_scores
from taglens.evaluation.caption_towers import BertPieces, ClipTowers, ModelScores
from taglens.evaluation.datasets import CaptionedImage
from taglens.models import transformers_folders as folders

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'taglens[vlm]'",
)

TEXTS = ["a dog runs on the grass", "cat", "", "the man sits on a red bench and the cat sits on a bench red"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders bert, roberta, distilbert and clip."""
    place = tmp_path_factory.mktemp("models")
    tiny.bert(place / "bert")
    for kind in ("roberta", "distilbert"):
        tiny.bert(place / kind, kind=kind)
    tiny.clip(place / "clip")
    return place


@pytest.fixture
def rows(tmp_path: Path) -> list[CaptionedImage]:
    rng = np.random.default_rng(0)
    found = []
    for number, references in enumerate((("a dog runs", "the dog ."), ("a cat sits",), ("two dog", "."))):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (20 + 9 * number, 30, 3), dtype=np.uint8)).save(path)
        found.append(CaptionedImage(path, path.name, references, "val"))
    return found


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_texts_are_read_alike_alone_and_together(kind: str, models: Path) -> None:
    read = BertPieces(models / kind, layer=2, device="cpu")
    together = read(TEXTS)
    for text, one in zip(TEXTS, together, strict=True):
        (alone,) = read([text])
        assert one.ids.tolist() == alone.ids.tolist() == read.ids([text])[0]
        assert one.marks.tolist() == [True, *[False] * (len(one.ids) - 2), True]
        np.testing.assert_allclose(one.vectors, alone.vectors, atol=1e-5)
    # Cut where the model's positions end: 20, of which roberta's first two are padding's and before.
    longest = len(read([" ".join(["dog"] * 50)])[0].ids)
    assert longest == (20 if kind != "roberta" else 20 - 1 - int(read._model.config.pad_token_id))
    assert len(together[2].ids) == 2 and read([]) == [] == read.ids([])


def test_the_layer_that_was_asked_for_is_read(models: Path) -> None:
    first, last = (BertPieces(models / "bert", layer=layer, device="cpu") for layer in (1, 3))
    import torch
    from transformers import AutoTokenizer, BertModel

    words = AutoTokenizer.from_pretrained(models / "bert")
    model = BertModel.from_pretrained(models / "bert").eval()
    with torch.inference_mode():
        layers = model(**words(TEXTS[:1], return_tensors="pt"), output_hidden_states=True).hidden_states
    for read, wanted in ((first, layers[1]), (last, layers[3])):
        np.testing.assert_allclose(read(TEXTS[:1])[0].vectors, wanted[0].numpy(), atol=1e-5)
    assert first.name == last.name and first.name.startswith("bert@")


def test_a_layer_is_never_guessed(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="say it with --bertscore-layer, 1 to 3"):
        BertPieces(models / "bert", device="cpu")
    with pytest.raises(UsageError, match="no layer 4"):
        BertPieces(models / "bert", layer=4, device="cpu")
    assert BertPieces(tiny.bert(tmp_path / "deep", layers=12), device="cpu").layer == 9


def test_clip_reads_as_transformers_does(models: Path, rows: list[CaptionedImage]) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    towers = ClipTowers(models / "clip", device="cpu")
    files = [row.path for row in rows]
    seen, read = towers.pictures(files), towers.texts(TEXTS)
    assert seen.shape == (3, 8) and read.shape == (4, 8)
    model, words = (
        CLIPModel.from_pretrained(models / "clip").eval(),
        AutoTokenizer.from_pretrained(models / "clip"),
    )
    processor = CLIPImageProcessorPil.from_pretrained(models / "clip")
    for number, file in enumerate(files):
        with Image.open(file) as picture, torch.inference_mode():
            wanted = model.get_image_features(**processor(picture, return_tensors="pt")).pooler_output
        np.testing.assert_allclose(seen[number], wanted[0].numpy(), atol=1e-5)
    for number, text in enumerate(TEXTS):
        # The longest is cut: this tower has 12 places.
        ids = words("A photo depicts " + text, truncation=True, max_length=12, return_tensors="pt")
        with torch.inference_mode():
            wanted = model.get_text_features(**ids).pooler_output
        np.testing.assert_allclose(read[number], wanted[0].numpy(), atol=1e-5)
    assert towers.pictures([]).shape == towers.texts([]).shape == (0, 8)


def test_all_scores_of_pictures_are_the_means_of_their_own(models: Path, rows: list[CaptionedImage]) -> None:
    pieces, clip = (
        BertPieces(models / "bert", layer=2, device="cpu"),
        ClipTowers(models / "clip", device="cpu"),
    )
    captions = ["a dog", "the cat sits", ""]
    scores = ModelScores(pieces=pieces, clip=clip)
    found = scores(rows, captions)
    # A reference without a word is none.
    known = [["a dog runs", "the dog ."], ["a cat sits"], ["two dog"]]
    match = mean_match(
        [best_match(pieces([text])[0], pieces(texts)) for text, texts in zip(captions, known, strict=True)]
    )
    assert (found["BERTScore-P"], found["BERTScore-R"], found["BERTScore-F1"]) == pytest.approx(
        (match.precision, match.recall, match.f1), abs=1e-5
    )
    read = clip.texts(captions)
    each = clip_scores(clip.pictures([row.path for row in rows]), read)
    both = ref_clip_scores(each, read, [clip.texts(texts) for texts in known])
    assert found["CLIPScore"] == pytest.approx(each.mean(), abs=1e-5)
    assert found["RefCLIPScore"] == pytest.approx(both.mean(), abs=1e-5)
    assert scores.about == {"BERTScore": f"{pieces.name}, layer 2", "CLIPScore": clip.name}
    rare = ModelScores(pieces=pieces, rare=True)(rows, captions)
    assert rare.keys() < found.keys() and rare["BERTScore-F1"] != pytest.approx(
        found["BERTScore-F1"], abs=1e-4
    )
    with pytest.raises(UsageError, match="2 captions for 3 pictures"):
        scores(rows, captions[:2])


class Counting:
    """Towers that note what they are asked for; words count for a text, its number for a picture."""

    name = "counting"

    def __init__(self) -> None:
        self.looked: list[str] = []
        self.read: list[str] = []

    def pictures(self, files: Sequence[Path]) -> Array:
        self.looked += [file.stem for file in files]
        return np.array([[1.0, float(file.stem)] for file in files], np.float32)

    def texts(self, texts: Sequence[str]) -> Array:
        assert all(texts)
        self.read += texts
        return np.array([[1.0, len(text.split())] for text in texts], np.float32)


def test_pictures_are_looked_at_once_and_silence_compares_with_nothing(rows: list[CaptionedImage]) -> None:
    towers = Counting()
    scores = ModelScores(aligner=towers)
    found = scores(rows, ["dog", ".", "dog"])
    again = scores(rows, ["dog"] * 3)
    assert sorted(towers.looked) == ["0", "1", "2"] and towers.read == ["dog", "dog"]
    cosine = [1 / 2**0.5, 1.0, 3 / 10**0.5]
    assert found["picture_similarity"] == pytest.approx((cosine[0] + cosine[2]) / 3)
    assert again["picture_similarity"] == pytest.approx(sum(cosine) / 3)
    assert scores(rows, [".", "", "!"]) == {"picture_similarity": 0.0}
    assert scores.about == {"picture_similarity": "counting"}


def test_a_picture_that_is_not_there_is_told(models: Path, rows: list[CaptionedImage]) -> None:
    rows[1].path.unlink()
    with pytest.raises(ImageError, match=r"1\.png"):
        ModelScores(clip=ClipTowers(models / "clip", device="cpu"))(rows, ["a", "b", "c"])


# -- folders -----------------------------------------------------------------------------------------


def broken(models: Path, to: Path, **config: Any) -> Path:
    shutil.copytree(models / "bert", to)
    told = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**told, **config}))
    return to


def test_folders_that_are_not_what_they_should_be_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        BertPieces(tmp_path, layer=1)
    with pytest.raises(ModelError, match="is a clip; BERTScore is computed with one of bert, roberta"):
        BertPieces(models / "clip", layer=1)
    with pytest.raises(ModelError, match="is a bert; CLIPScore"):
        ClipTowers(models / "bert")
    with pytest.raises(ModelError, match=r"weights of a BertModel are absent .*encoder\.layer\.3"):
        BertPieces(broken(models, tmp_path / "deeper", num_hidden_layers=4), layer=1, device="cpu")
    with pytest.raises(ModelError, match="names no model_type"):
        BertPieces(broken(models, tmp_path / "nameless", model_type=None), layer=1)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is no JSON"):
        folders.config_of(tmp_path / "text")
    bare = broken(models, tmp_path / "bare")
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    with pytest.raises(ModelError, match="AutoModel"):
        BertPieces(bare, layer=1, device="cpu")
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        folders.fingerprint(bare)


def test_fingerprints_follow_the_weights(models: Path, tmp_path: Path) -> None:
    one, same = folders.fingerprint(models / "bert"), folders.fingerprint(tiny.bert(tmp_path / "again"))
    other = folders.fingerprint(tiny.bert(tmp_path / "other", seed=1))
    assert one == same != other and len(one) == 12
    whole = (tmp_path / "again" / "model.safetensors").read_bytes()
    (tmp_path / "again" / "model.safetensors").write_bytes(whole[:20])
    with pytest.raises(ModelError, match="it was cut"):
        folders.fingerprint(tmp_path / "again")


def test_transformers_is_left_as_talkative_as_it_was() -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with folders.hushed():
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_without_the_package_the_cure_is_told(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_towers, "find_spec", lambda name: None if name == "transformers" else 1)
    with pytest.raises(MissingExtraError, match=r"pip install 'taglens\[vlm\]'"):
        ClipTowers(models / "clip")
