"""A captioner's graphs and files: they write like torch, or are refused by name once captions are asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import small_captioner as small
from taglens.errors import ModelError
from taglens.inference import export as exporting
from taglens.inference import export_captions
from taglens.inference.bundle import CONFIG, GUIDE, PIECES, WRITER, Bundle
from taglens.inference.caption_engines import OnnxCaptionEngine, TorchCaptionEngine
from taglens.inference.export import export
from taglens.inference.export_captions import export_captioner
from taglens.inference.tagger import Tagger
from taglens.models.captioner import Captioner, CaptionerConfig
from taglens.models.checkpoint import captioner_from_pretrained, from_pretrained

Array = npt.NDArray[np.float32]
FIVE = small.pictures(5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model, for torch and as a bundle."""
    made = small.made(tmp_path_factory)
    return {"torch": made / "model", "onnx": made / "bundle"}


def load(folder: Path) -> Tagger:
    return Tagger.from_pretrained(folder, device="cpu", threads=1)


def never() -> Iterator[str]:
    raise AssertionError("a picture was drawn before the model was looked at")
    yield


# -- graphs ------------------------------------------------------------------------------------------

TINY = CaptionerConfig(
    image_width=12,
    words=30,
    positions=16,
    tag_length=8,
    width=16,
    depth=2,
    heads=4,
    ffn_width=24,
    shared_layers=1,
    end=3,
    start=28,
    tags=29,
)


def random_captioner(config: CaptionerConfig) -> Captioner:
    """One whose captions depend on all that it is shown."""
    torch.manual_seed(0)
    captioner = Captioner(config).eval()
    with torch.no_grad():
        for value in captioner.parameters():
            if value.ndim == 2:
                value.copy_(torch.randn(value.shape) * value.shape[1] ** -0.5)
    return captioner


def next_logits(engine: OnnxCaptionEngine, length: int) -> Array:
    """Of the piece after a prompt, for a list of four pieces filled up to ``length``."""
    ids, mask = np.zeros((1, length), np.int64), np.zeros((1, length), np.int64)
    ids[:, :4], mask[:, :4] = (29, 7, 9, 3), 1
    tokens = np.random.default_rng(0).standard_normal((1, 6, 12)).astype(np.float32)
    return engine.step(np.array([[28, 5]]), engine.start(ids, mask, tokens), np.array([0]))[0]


@pytest.mark.parametrize(
    ("see_padding", "half"), [(True, True), (False, False)], ids=["as published, half", "unpadded, full"]
)
def test_graphs_write_like_torch(see_padding: bool, half: bool, tmp_path: Path) -> None:
    captioner = random_captioner(replace(TINY, see_padding=see_padding))
    about, difference = export_captioner(captioner, b"pieces", tmp_path, half=half)
    assert (about["see_padding"], about["pieces"]) == (see_padding, 30)
    assert difference <= (2e-3 if half else 1e-5)
    ours = TorchCaptionEngine(captioner, device="cpu")
    graphs = OnnxCaptionEngine(tmp_path / GUIDE, tmp_path / WRITER, see_padding=see_padding, device="cpu")
    rng = np.random.default_rng(1)
    mask = np.array([[1] * 8, [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]])
    ids = rng.integers(4, 28, (3, 8)) * mask
    tokens = rng.standard_normal((3, 6, 12)).astype(np.float32)
    states: list[Any] = [engine.start(ids, mask, tokens) for engine in (ours, graphs)]
    turns = (np.arange(3), np.array([2, 2, 0, 1]), np.array([1, 3]), np.array([1, 1, 0, 0, 1]), np.array([4]))
    for number, rows in enumerate(turns):
        pieces = rng.integers(4, 28, (len(rows), 3 if number == 0 else 1))
        found = []
        for at, engine in enumerate((ours, graphs)):
            logits, states[at] = engine.step(pieces, states[at], rows)
            found.append(logits)
        assert found[0].shape == found[1].shape == (len(rows), 30)
        assert np.abs(found[0] - found[1]).max() <= (2e-2 if half else 1e-4), number
    # The length to which a list is filled up changes a caption only where padding is seen.
    assert (np.abs(next_logits(graphs, 5) - next_logits(graphs, 8)).max() < 1e-4) != see_padding


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    assert export_captioner(random_captioner(TINY), b"", folder, half=False)[1] <= 1e-5
    return folder


def change_guide(captioner: Captioner) -> None:
    captioner.encoder.layers[1].norm2.bias[3] += 0.5  # type: ignore[union-attr, operator, index]


def change_past(captioner: Captioner) -> None:
    captioner.decoder.layers[0].self_attention.value.bias[5] += 0.5  # type: ignore[union-attr, operator, index]


def change_writer(captioner: Captioner) -> None:
    captioner.head.bias[7] += 1.0


@pytest.mark.parametrize("change", [change_guide, change_past, change_writer])
def test_a_graph_that_writes_otherwise_is_noticed(change: Callable[[Captioner], None], graphs: Path) -> None:
    captioner = random_captioner(TINY)
    with torch.no_grad():
        change(captioner)
    assert export_captions._difference(captioner, graphs) > 2e-3


def test_a_graph_that_gives_no_numbers_is_noticed(graphs: Path) -> None:
    captioner = random_captioner(TINY)
    with torch.no_grad():
        captioner.head.bias[7] = torch.nan
    assert not export_captions._difference(captioner, graphs) <= 2e-3


@pytest.mark.parametrize("difference", [3e-3, float("nan")])
def test_a_captioner_that_differs_is_not_exported(
    difference: float, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer, words, name = from_pretrained(folders["torch"])
    captioner = captioner_from_pretrained(folders["torch"], recognizer)
    shutil.copytree(folders["onnx"], tmp_path / "bundle")
    monkeypatch.setattr(exporting, "export_captioner", lambda *_, **__: ({}, difference))
    monkeypatch.setattr(exporting, "_export_tags", lambda *_, **__: 0.0)
    with pytest.raises(ModelError, match="differs from the model by"):
        export(recognizer, words, tmp_path / "bundle", name=name, captioner=captioner, pieces=b"")
    assert Bundle.open(tmp_path / "bundle").ref == Bundle.open(folders["onnx"]).ref, "what was there stays"


# -- damaged folders ---------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def swap(path: Path) -> None:
    """Two pieces change places: as many, of the same letters."""
    lines = path.read_text("utf-8").splitlines()
    lines[-1], lines[-2] = lines[-2], lines[-1]
    path.write_text("\n".join(lines) + "\n", "utf-8")


@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=["cut", "missing"])
@pytest.mark.parametrize("file", [GUIDE, WRITER])
def test_a_damaged_part_is_named_once_captions_are_asked_for(
    file: str, damage: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["onnx"], tmp_path / "bundle")
    damage(tmp_path / "bundle" / file)
    tagger = load(tmp_path / "bundle")
    assert [row.error for row in tagger(FIVE)] == [None] * 5
    for ask in (lambda: tagger.caption(never()), lambda: tagger(never(), caption=True)):
        with pytest.raises(ModelError, match=file.replace(".", r"\.")):
            ask()


def grow(path: Path) -> None:
    path.write_text(path.read_text("utf-8") + "more\n", "utf-8")


@pytest.mark.parametrize("change", [swap, grow, Path.unlink])
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_other_words_are_refused(
    engine: str, change: Callable[[Path], object], folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders[engine], tmp_path / "copy")
    change(tmp_path / "copy" / PIECES)
    tagger = load(tmp_path / "copy")
    assert [row.error for row in tagger(FIVE[:1])] == [None]
    with pytest.raises(ModelError, match=r"vocab\.txt is not the file|cannot read .*vocab\.txt"):
        tagger.caption(never())


def test_words_of_another_number_are_refused_where_no_checksum_stands(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["torch"], tmp_path / "copy")
    grow(tmp_path / "copy" / PIECES)
    row = json.loads((tmp_path / "copy" / CONFIG).read_text("utf-8"))
    del row["pieces_sha256"]
    (tmp_path / "copy" / CONFIG).write_text(json.dumps(row), "utf-8")
    count = len(small.PIECES) + 2
    told = rf"vocab\.txt has {count + 1} pieces, .* the captioner writes with {count}"
    with pytest.raises(ModelError, match=told):
        load(tmp_path / "copy").caption(never())


@pytest.mark.parametrize("sum", ["guide_sha256", "writer_sha256", "pieces_sha256"])
def test_a_bundles_name_changes_with_its_captioner(
    sum: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["onnx"], tmp_path / "bundle")
    config = tmp_path / "bundle" / CONFIG
    row = json.loads(config.read_text("utf-8"))
    row["captioner"][sum] = "0" * 64
    config.write_text(json.dumps(row), "utf-8")
    assert Bundle.open(tmp_path / "bundle").ref != Bundle.open(folders["onnx"]).ref
    del row["captioner"][sum]
    config.write_text(json.dumps(row), "utf-8")
    with pytest.raises(ModelError, match=f"incomplete.*{sum}"):
        Bundle.open(tmp_path / "bundle")
