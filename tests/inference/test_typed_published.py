"""Any word as a tag of a converted RAM or RAM++: by hand in torch, by the torch engine, by a bundle without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import clip_tower
import published_weights as published
from taglens.cli.main import start
from taglens.errors import ModelError, UsageError
from taglens.inference.bundle import Bundle
from taglens.inference.clip_texts import GRAPH, MERGES, PIECES, TEMPLATES, TOWER, OnnxTower, TextParts
from taglens.inference.export import texts_of
from taglens.inference.tagger import Tagger
from taglens.language.clip_encoder import SHIPPED_TEMPLATES, ClipEncoder, prompt, read_templates
from taglens.language.clip_pieces import ClipPieces
from taglens.models.checkpoint import read_config
from taglens.models.clip_text import convert_text
from taglens.models.convert import convert
from taglens.models.published import numbered_tags, save_converted
from taglens.vocabulary import Entry, Vocabulary

PLUS = pytest.mark.parametrize("made", ["RAM++"], indirect=True)
NAMES = ["singing dogs", "犬", "owl", "red"]
PHOTOS = [f"preprocess/im{number}.png" for number in (0, 1)]
FOLDERS = {"RAM++": "ram_plus_tiny_384", "RAM": "ram_tiny_384"}


@dataclass
class Made:
    """A golden model converted with a tower, its bundle, and the tower's files."""

    family: str
    state: dict[str, torch.Tensor]
    folder: Path
    tower: dict[str, torch.Tensor]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


def files(folder: Path, tower: dict[str, torch.Tensor]) -> dict[str, Path]:
    """The user's files: weights as the hub has them, and both lists of pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tower, folder / "pytorch_model.bin")
    ClipPieces(clip_tower.MERGES).save(folder / "vocab.json", folder / "merges.txt")
    return {"tower": folder / "pytorch_model.bin", "pieces": folder}


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit:
        start([*map(str, arguments)])
    return int(exit.value.code or 0)


@pytest.fixture(scope="module", params=FOLDERS)
def made(
    request: pytest.FixtureRequest, shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Made:
    folder = tmp_path_factory.mktemp("typed")
    golden = shared(f"golden/{FOLDERS[request.param]}")
    tower = clip_tower.hub_state(seed=3)
    given = files(folder / "clip", tower)
    tags = folder / "tags.txt"
    tags.write_text("\n".join(json.loads((golden / "meta.json").read_text("utf-8"))["tag_list"]), "utf-8")
    source = golden / "state.safetensors"
    assert not run(
        *("convert", source, "--out", folder / "model", "--tags", tags, "--text-tower", given["tower"])
    )
    assert not run("bundle", folder / "model", "--out", folder / "bundle")
    return Made(request.param, load_file(source), folder, tower)


def by_hand(made: Made, name: str) -> np.ndarray:
    """The vector [L] of a name: each template through the tower alone, to length one; their mean to length one."""
    model, pieces = convert_text(made.tower).model(), ClipPieces(clip_tower.MERGES)
    vectors = []
    with torch.inference_mode():
        for template in read_templates(SHIPPED_TEMPLATES):
            vector = model(torch.tensor([pieces.ids(prompt(template, name))]))[0]
            vectors.append(vector / vector.norm())
    mean = torch.stack(vectors).mean(dim=0)
    return (mean / mean.norm()).numpy()


def scored(tagger: Tagger, paths: list[Path]) -> np.ndarray:
    return np.stack([row for _, row in tagger.scores(paths) if row is not None])


def test_a_typed_tag_s_score_is_that_of_the_torch_computation(
    made: Made, shared: Callable[[str], Path]
) -> None:
    """The golden model asked as the original's open set: another label table in place of its own."""
    names = NAMES[:2]
    vectors = torch.from_numpy(np.stack([by_hand(made, name) for name in names]))
    each = 1 if made.family == "RAM" else 3
    state = dict(made.state)
    # Where a tag's descriptions are all one text, whatever weight each has, the tag is that text.
    state["label_embed"] = vectors.repeat_interleave(each, dim=0)
    model = convert(state, descriptions=each).model()
    pixels = load_file(shared("golden/preprocess/image_384.safetensors"))["image"]
    paths = [shared(f"golden/{photo}") for photo in PHOTOS]
    from taglens import images

    prepared = np.stack([images.prepare(images.load(path).pixels, 384) for path in paths])
    assert prepared.shape == tuple(pixels.shape)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(prepared)).logits.numpy()
    assert wanted.std() > 0.1
    found = []
    for folder in (made.model, made.bundle):
        tagger = Tagger.from_pretrained(folder, device="cpu")
        assert tagger.reads_text
        found.append(scored(tagger.typed(names), paths).astype(np.float64))
    assert np.abs(np.log(found[0] / (1 - found[0])) - wanted).max() < 1e-3
    # The runtime's sigmoid is an approximation: far below 0 right to 1e-7, and not to so many digits.
    assert np.abs(found[1] - 1 / (1 + np.exp(-wanted.astype(np.float64)))).max() < 1e-6


def test_torch_and_the_bundle_read_alike(made: Made, shared: Callable[[str], Path]) -> None:
    texts = texts_of(made.model)
    assert isinstance(texts, TextParts)
    ours, theirs = texts.encoder(device="cpu"), Bundle.open(made.bundle).text_encoder(device="cpu")
    assert isinstance(theirs, ClipEncoder) and ours.fingerprint == theirs.fingerprint
    for name in NAMES:
        assert np.abs(ours.name(name) - by_hand(made, name)).max() < 1e-5
        assert np.abs(theirs.name(name) - by_hand(made, name)).max() < 1e-5
    texts_given = ["a dog", "the " * 200, "x", "two cats and a dog, singing"]
    assert np.abs(ours(texts_given) - theirs(texts_given)).max() < 1e-5


@PLUS
def test_the_model_s_own_tags_are_as_without_a_tower(made: Made, shared: Callable[[str], Path]) -> None:
    paths = [shared(f"golden/{PHOTOS[0]}")]
    wanted = json.loads(shared(f"golden/{FOLDERS[made.family]}/meta.json").read_text("utf-8"))
    tagger = Tagger.from_pretrained(made.bundle, device="cpu")
    mixed = tagger.with_vocabulary(
        Vocabulary([Entry("singing dogs", "typed"), Entry(wanted["tag_list"][3], "object")], name="mixed")
    )
    found = scored(mixed, paths)
    assert np.allclose(found[:, 1], scored(tagger, paths)[:, 3], atol=1e-6)
    assert np.allclose(found[:, 0], scored(tagger.typed(["singing dogs"]), paths)[:, 0], atol=1e-6)


@PLUS
def test_the_tower_rests_while_pictures_are_read(made: Made) -> None:
    tagger = Tagger.from_pretrained(made.bundle, device="cpu")
    vocabulary = tagger.typed(["owl"])._open
    assert vocabulary is not None
    encoder = vocabulary.text
    assert isinstance(encoder, ClipEncoder)
    assert isinstance(encoder.tower, OnnxTower) and encoder.tower._session is None
    first = encoder.name("owl")  # known without it
    assert encoder.tower._session is None
    encoder._kept.clear()
    assert np.array_equal(encoder.name("owl"), first) and encoder.tower._session is not None


@PLUS
def test_the_threshold_is_the_original_s_for_open_sets(made: Made) -> None:
    for folder in (made.model, made.bundle):
        typed = Tagger.from_pretrained(folder, device="cpu").typed(["owl"])
        assert [entry.threshold for entry in typed.vocabulary] == [0.5]
        assert typed.guesses() == []


@PLUS
def test_descriptions_are_read_as_they_are(made: Made, shared: Callable[[str], Path]) -> None:
    paths = [shared(f"golden/{PHOTOS[0]}")]
    tagger = Tagger.from_pretrained(made.bundle, device="cpu")
    plain, described = (
        tagger.with_vocabulary(Vocabulary([Entry("zebra", "object", descriptions=d)], name="v"))
        for d in ((), ("a black and white horse",))
    )
    assert described._labels is not None
    encoder = Bundle.open(made.bundle).text_encoder(device="cpu")
    wanted = np.stack([encoder.name("zebra"), encoder(["a black and white horse"])[0]])
    assert np.allclose(described._labels.embeddings[0], wanted, atol=1e-6)
    assert described._labels.counts.tolist() == [2]
    assert np.abs(np.log(scored(plain, paths) / scored(described, paths))).max() > 0.1


@PLUS
def test_the_command_tags_without_torch(made: Made, shared: Callable[[str], Path]) -> None:
    photo = shared(f"golden/{PHOTOS[0]}")
    script = "import sys; sys.modules['torch'] = None; from taglens.cli import main; main()"
    command = [sys.executable, "-c", script, "tag", str(photo), "--model", str(made.bundle)]
    done = subprocess.run(
        [*command, "--tags", "singing dogs,owl", "--threshold", "0", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    tagger = Tagger.from_pretrained(made.bundle, device="cpu").typed(["singing dogs", "owl"])
    wanted = scored(tagger, [photo])[0]
    assert {tag["id"]: tag["kind"] for tag in row["tags"]} == {
        "typed:singing dogs": "typed",
        "typed:owl": "typed",
    }
    assert sorted(tag["score"] for tag in row["tags"]) == pytest.approx(sorted(wanted.tolist()), abs=1e-5)


@PLUS
def test_another_s_words_or_tower_are_refused(made: Made, tmp_path: Path) -> None:
    for kind, folder in (("model", made.model), ("bundle", made.bundle)):
        here = tmp_path / kind
        shutil.copytree(folder, here)
        kept = (here / TEMPLATES).read_bytes()
        (here / TEMPLATES).write_text("a photo of {a}\n")
        tagger = Tagger.from_pretrained(here, device="cpu")  # known tags need no text
        with pytest.raises(ModelError, match="is not what the model was made with"):
            tagger.typed(["owl"])
        (here / TEMPLATES).write_bytes(kept)
        if kind == "bundle":
            (here / GRAPH).write_bytes((here / GRAPH).read_bytes()[:-1])
            message = r"text\.onnx is not the file"
        else:
            weights = load_file(here / TOWER)
            save_file({**weights, "norm.bias": weights["norm.bias"] + 1}, here / TOWER)
            message = "is not what the model was made with"
        with pytest.raises(ModelError, match=message):
            Tagger.from_pretrained(here, device="cpu").typed(["owl"])


@PLUS
def test_the_tower_is_part_of_what_a_bundle_is(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.bundle, tmp_path / "silent")
    row = json.loads((tmp_path / "silent" / "config.json").read_text("utf-8"))
    del row["text_tower"]
    (tmp_path / "silent" / "config.json").write_text(json.dumps(row), "utf-8")
    silent, reading = Bundle.open(tmp_path / "silent"), Bundle.open(made.bundle)
    assert (silent.typed_threshold, reading.typed_threshold) == (None, 0.5)
    assert silent.fingerprint != reading.fingerprint
    assert not Tagger.from_pretrained(silent.folder, device="cpu").reads_text


# -- small made-up models: what the options say ---------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(published.ram(labels=24, tags=3, descriptions=2), tmp_path / "ram.pth")
    return tmp_path / "ram.pth"


def converting(weights: Path, *more: object) -> int:
    out = weights.parent / "out"
    return run("convert", weights, "--out", out, "--descriptions", 2, *more)


def test_what_is_written_and_said(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = files(tmp_path / "clip", clip_tower.hub_state(projection=24))
    (tmp_path / "mine.txt").write_text("# mine\nsee {a}\n\njust {}\n")
    more = ("--text-tower", given["tower"], "--templates", tmp_path / "mine.txt", "--json")
    assert converting(weights, *more) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["reads_text"] is True
    assert "reads any tag" in err and "tensors left out: the vision tower" in err
    folder = tmp_path / "out"
    assert {TOWER, PIECES, MERGES, TEMPLATES} <= {path.name for path in folder.iterdir()}
    assert (folder / TEMPLATES).read_text() == "see {a}\njust {}\n"
    row = read_config(folder)
    assert row["reads_text"] is True and row["text_tower"]["width"] == 24
    texts = texts_of(folder)
    assert isinstance(texts, TextParts) and texts.templates == ("see {a}", "just {}")


def test_a_list_of_pieces_beside_the_tower_is_found_or_asked_for(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = files(tmp_path / "clip", clip_tower.hub_state(projection=24))
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((tmp_path / "clip" / name).read_bytes())
        (tmp_path / "clip" / name).unlink()
    assert converting(weights, "--text-tower", given["tower"]) == 2
    assert "--text-pieces: neither vocab.json nor bpe_simple" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert converting(weights, "--text-tower", given["tower"], "--text-pieces", tmp_path / "merges.txt") == 0


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ({"projection": 32}, "vectors of 32, the model's labels have 24"),
        ({"projection": 24, "pieces": 570}, "knows 570 pieces and the list has 571"),
    ],
)
def test_towers_that_do_not_fit(
    tower: dict[str, Any], message: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = files(tmp_path / "clip", clip_tower.hub_state(**tower))
    assert converting(weights, "--text-tower", given["tower"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_options_without_a_tower_and_models_that_read_nothing(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert converting(weights, "--text-pieces", tmp_path) == 2
    assert "give that too" in capsys.readouterr().err
    torch.save(published.tag2text(), tmp_path / "t2t.pth")
    given = files(tmp_path / "clip", clip_tower.hub_state(projection=24))
    assert run("convert", tmp_path / "t2t.pth", "--out", tmp_path / "o", "--text-tower", given["tower"]) == 2
    assert "learned its labels" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_half_precision_where_nothing_is_lost(tmp_path: Path) -> None:
    """The published numbers are half precision's: a graph of them is half as large and no less exact."""
    tower = clip_tower.hub_state(projection=24)
    sizes = []
    for kind in ("wide", "narrow"):
        if kind == "narrow":
            tower = {k: v.half() if v.is_floating_point() else v for k, v in tower.items()}
        parts = TextParts(
            convert_text(tower), ClipPieces(clip_tower.MERGES), read_templates(SHIPPED_TEMPLATES)
        )
        folder = tmp_path / kind
        folder.mkdir()
        _, error = parts.export(folder, half=False)
        assert error < 1e-5
        sizes.append((folder / GRAPH).stat().st_size)
    assert sizes[1] < 0.7 * sizes[0]


def test_a_tower_of_not_numbers_is_refused_where_it_is_asked(weights: Path, tmp_path: Path) -> None:
    converted = convert(torch.load(weights, weights_only=True), descriptions=2)
    tower = convert_text(clip_tower.hub_state(projection=24))
    parts = TextParts(tower, ClipPieces(clip_tower.MERGES), ("{}",))
    save_converted(converted, numbered_tags(converted, name="v"), tmp_path / "m", name="m", text=parts)
    tower.state["norm.bias"].fill_(torch.inf)
    with pytest.raises(ModelError, match="no vectors"):
        parts.encoder(device="cpu").name("owl")
    with pytest.raises(UsageError, match="nothing to look for"):
        Tagger.from_pretrained(tmp_path / "m", device="cpu").typed(["\u206f"])
