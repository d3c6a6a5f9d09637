"""An aligner's graphs and files: they answer like torch, store no weight twice, and are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import small_aligner as small
import tiny
from taglens.errors import ModelError, UsageError
from taglens.inference import export as exporting
from taglens.inference import export_aligner as module
from taglens.inference.bundle import CONFIG, GUIDE, MATCH, PICTURES, TEXTS, WRITER, Bundle
from taglens.inference.export import export
from taglens.inference.export_aligner import export_aligner, share_weights
from taglens.inference.export_captions import export_captioner
from taglens.inference.tagger import Tagger
from taglens.models.aligner import Aligner
from taglens.models.captioner import CaptionerConfig

GRAPHS = (PICTURES, TEXTS, MATCH)
# Wide enough that weights are worth sharing.
WIDE = CaptionerConfig(
    image_width=32,
    words=90,
    positions=24,
    tag_length=10,
    width=64,
    depth=2,
    heads=4,
    ffn_width=96,
    shared_layers=0,
    end=3,
    start=88,
    tags=89,
    see_padding=False,
    see_picture=True,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory) / "bundle"


@pytest.mark.parametrize(
    ("see_padding", "see_picture", "half"),
    [(False, True, True), (False, False, False), (True, False, True)],
    ids=["as trained", "tags only", "as published"],
)
def test_graphs_answer_like_torch(see_padding: bool, see_picture: bool, half: bool, tmp_path: Path) -> None:
    config = replace(WIDE, see_padding=see_padding, see_picture=see_picture)
    captioner, aligner = small.random_parts(config, width=40)
    export_captioner(captioner, b"", tmp_path, half=half)
    about, difference = export_aligner(aligner, captioner, tmp_path, half=half)
    assert about["width"] == 40
    assert difference <= (2e-3 if half else 1e-5)


@pytest.mark.parametrize("half", [True, False], ids=["half", "full"])
def test_weights_stand_once(half: bool, tmp_path: Path) -> None:
    captioner, aligner = small.random_parts(WIDE, width=40)
    export_captioner(captioner, b"", tmp_path, half=half)
    export_aligner(aligner, captioner, tmp_path, half=half)
    inside: dict[str, int] = {}
    for file in GRAPHS:
        model = onnx.load(str(tmp_path / file), load_external_data=False)
        inside[file] = sum(len(weight.raw_data) for weight in model.graph.initializer)
    own = sum(
        value.numel() * (2 if half else 4) for value in aligner.own_state().values() if value.numel() >= 1024
    )
    # Besides their own large weights only what is too small to share.
    assert own <= sum(inside.values()) <= own + 25_000
    assert inside[MATCH] < inside[TEXTS]
    shutil.move(tmp_path / WRITER, tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=f"cannot load .*{TEXTS}"):
        module.OnnxAlignEngine(tmp_path, device="cpu").texts(
            np.ones((1, 2), np.int64), np.ones((1, 2), np.int64)
        )


def test_sharing_a_weight_changes_no_answer(tmp_path: Path) -> None:
    captioner, aligner = small.random_parts(WIDE, width=40)
    export_captioner(captioner, b"", tmp_path, half=False)
    export_aligner(aligner, captioner, tmp_path, half=False)
    engine = module.OnnxAlignEngine(tmp_path, device="cpu")
    ids = np.arange(12).reshape(2, 6)
    before = engine.texts(ids, np.ones_like(ids))
    # All in one again.
    whole = onnx.load(str(tmp_path / TEXTS))
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / TEXTS).write_bytes(whole.SerializeToString())
    assert np.array_equal(
        module.OnnxAlignEngine(tmp_path / "whole", device="cpu").texts(ids, np.ones_like(ids)), before
    )
    size = (tmp_path / "whole" / TEXTS).stat().st_size
    shutil.copy(tmp_path / WRITER, tmp_path / "whole")
    saved = share_weights(tmp_path / "whole" / TEXTS, [tmp_path / "whole" / WRITER])
    assert saved > 20_000
    assert (tmp_path / "whole" / TEXTS).stat().st_size < size - saved + 2_000
    # In a folder of links, as caches have them, too.
    links = tmp_path / "links"
    links.mkdir()
    for number, path in enumerate((tmp_path / "whole").iterdir()):
        blob = tmp_path / f"blob{number}"
        shutil.copy(path, blob)
        (links / path.name).symlink_to(blob)
    assert np.array_equal(module.OnnxAlignEngine(links, device="cpu").texts(ids, np.ones_like(ids)), before)


def change_embedding(aligner: Aligner) -> None:
    aligner.bert.embeddings.words.weight *= -1.0


def change_picture(aligner: Aligner) -> None:
    aligner.picture_out[2].bias[0] += 0.5  # type: ignore[index, operator]


def change_text(aligner: Aligner) -> None:
    aligner.text_out.bias[1] += 0.5


def change_match(aligner: Aligner) -> None:
    aligner.match_out.bias += 1.0


def change_cross(aligner: Aligner) -> None:
    aligner.bert.layers[1].attention.out.bias[3] += 0.8  # type: ignore[union-attr, operator, index]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    captioner, aligner = small.random_parts()
    export_captioner(captioner, b"", folder, half=False)
    assert export_aligner(aligner, captioner, folder, half=False)[1] <= 1e-5
    return folder


@pytest.mark.parametrize(
    "change", [change_embedding, change_picture, change_text, change_match, change_cross]
)
def test_a_graph_that_answers_otherwise_is_noticed(change: Callable[[Aligner], None], graphs: Path) -> None:
    captioner, aligner = small.random_parts()
    with torch.no_grad():
        change(aligner)
    assert module._difference(aligner, captioner, graphs) > 2e-3


@pytest.mark.parametrize("difference", [3e-3, float("nan")])
def test_an_aligner_that_differs_is_not_exported(
    difference: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner, aligner = small.random_parts()
    monkeypatch.setattr(exporting, "export_captioner", lambda *_, **__: ({}, 0.0))
    monkeypatch.setattr(exporting, "export_aligner", lambda *_, **__: ({}, difference))
    monkeypatch.setattr(exporting, "_export_tags", lambda *_, **__: 0.0)
    with pytest.raises(ModelError, match="differs from the model by"):
        export(
            small.recognizer(),
            small.vocabulary(),
            tmp_path / "bundle",
            name="aligned",
            captioner=captioner,
            aligner=aligner,
            pieces=small.PIECES,
        )
    assert not (tmp_path / "bundle").exists()


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    captioner, aligner = small.random_parts()
    common: dict[str, Any] = {"name": "aligned"}
    with pytest.raises(ModelError, match="export it together with that captioner"):
        export(small.recognizer(), small.vocabulary(), tmp_path / "b", aligner=aligner, **common)
    with pytest.raises(UsageError, match="must be 0 or more"):
        export(
            small.recognizer(),
            small.vocabulary(),
            tmp_path / "b",
            captioner=captioner,
            pieces=small.PIECES,
            tag_weight=float("nan"),
            **common,
        )
    assert not (tmp_path / "b").exists()


# -- damaged folders ---------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=["cut", "missing"])
@pytest.mark.parametrize("file", GRAPHS)
def test_a_damaged_part_is_named_once_it_is_asked_for(
    file: str, damage: Callable[[Path], object], bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    damage(tmp_path / "bundle" / file)
    tagger = Tagger.from_pretrained(tmp_path / "bundle", device="cpu", threads=1)
    picture = tiny.pixels(1)[0]
    assert [row.error for row in tagger([picture])] == [None]
    for ask in (lambda: list(tagger.embed([picture])), lambda: tagger.embed_text(["a dog"])):
        with pytest.raises(ModelError, match=file.replace(".", r"\.")):
            ask()


def test_texts_are_not_read_with_another_writers_weights(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    cut(tmp_path / "bundle" / WRITER)
    tagger = Tagger.from_pretrained(tmp_path / "bundle", device="cpu", threads=1)
    with pytest.raises(ModelError, match=r"writer\.onnx is not the file"):
        tagger.embed_text(["a dog"])


@pytest.mark.parametrize("sum", ["pictures_sha256", "texts_sha256", "match_sha256"])
def test_a_bundles_name_changes_with_its_aligner(sum: str, bundle: Path, tmp_path: Path) -> None:
    for file in (CONFIG, "model.onnx", "vocabulary.jsonl"):
        (tmp_path / file).write_bytes((bundle / file).read_bytes())
    row = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    row["aligner"][sum] = "0" * 64
    (tmp_path / CONFIG).write_text(json.dumps(row), "utf-8")
    assert Bundle.open(tmp_path).ref != Bundle.open(bundle).ref
    del row["aligner"][sum]
    (tmp_path / CONFIG).write_text(json.dumps(row), "utf-8")
    with pytest.raises(ModelError, match=f"incomplete.*{sum}"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    "said", [{"lambda": -1}, {"lambda": "much"}, {"lambda": True}, {}, 0.1, {"lambda": 1e999}]
)
def test_a_weight_that_is_none_is_refused(said: object, bundle: Path, tmp_path: Path) -> None:
    for file in (CONFIG, "model.onnx", "vocabulary.jsonl"):
        (tmp_path / file).write_bytes((bundle / file).read_bytes())
    row = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    assert Bundle.open(tmp_path).tag_weight == row["retrieval"]["lambda"] == 0.25
    row["retrieval"] = said
    (tmp_path / CONFIG).write_text(json.dumps(row), "utf-8")
    with pytest.raises(ModelError, match="a number of 0 or more"):
        Bundle.open(tmp_path)


def test_bundles_without_an_aligner_are_as_before(tmp_path_factory: pytest.TempPathFactory) -> None:
    import small_captioner

    folder = small_captioner.made(tmp_path_factory) / "bundle"
    assert not {file for file in (*GRAPHS,) if (folder / file).exists()}
    assert (folder / GUIDE).exists()
    found = Bundle.open(folder)
    assert (found.aligner, found.tag_weight) == (None, None)
    row = json.loads((folder / CONFIG).read_text("utf-8"))
    assert not row.keys() & {"aligner", "retrieval"}
