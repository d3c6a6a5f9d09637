"""Bundles: the exported graph answers like the model, and only a whole and matching folder is opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

import tiny
from taglens.errors import MismatchError, ModelError, TaglensError, UsageError, VocabularyError
from taglens.inference import engines
from taglens.inference.bundle import CONFIG, GRAPH, VOCABULARY, Bundle, is_trained, locate, write_config
from taglens.inference.engines import OnnxEngine, Output, TorchEngine, finite
from taglens.inference.export import Calibration, export
from taglens.inference.tagger import Tagger
from taglens.models.checkpoint import save_pretrained
from taglens.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
TOLERANCE = 2e-3


def pixels(count: int) -> Floats:
    return np.random.default_rng(count).random((count, 3, tiny.SIDE, tiny.SIDE), dtype=np.float32)


@pytest.fixture(scope="module", params=["convnet", "hybrid"])
def encoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[True, False], ids=["half", "full"])
def half(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def exported(encoder: str, half: bool, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / f"{encoder}-{half}"
    return export(tiny.recognizer(tiny.ENCODERS[encoder]), tiny.vocabulary(), folder, name="small", half=half)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    export(tiny.recognizer(), tiny.vocabulary(), folder, name="small")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A bundle that may be damaged."""
    shutil.copytree(whole, tmp_path / "bundle")
    return tmp_path / "bundle"


# -- the graph ---------------------------------------------------------------------------------------


def test_the_bundle_answers_like_the_model(exported: Bundle, encoder: str) -> None:
    model = tiny.recognizer(tiny.ENCODERS[encoder])
    engine = OnnxEngine(exported.graph, device="cpu")
    # The graph was traced with two pictures; any number must do, and a batch must score like its pictures alone.
    for count in (1, 2, 5):
        given = pixels(count)
        found = engine(given)
        with torch.inference_mode():
            expected = model(torch.from_numpy(given))
        assert found.scores.shape == (count, 6) and found.pooled.shape == (count, 16)
        assert found.scores.dtype == found.pooled.dtype == np.float32
        assert np.abs(found.scores - torch.sigmoid(expected.logits).numpy()).max() <= TOLERANCE
        assert np.abs(found.pooled - expected.pooled.numpy()).max() <= 2e-2
        for row in range(count):
            assert np.abs(engine(given[row : row + 1]).scores[0] - found.scores[row]).max() <= 1e-5
    assert engine(pixels(5)).scores.std(0).max() > 1e-3, "the pictures must not look alike to the model"


def test_the_torch_engine_is_the_model(encoder: str) -> None:
    model = tiny.recognizer(tiny.ENCODERS[encoder])
    model.train()
    found = TorchEngine(model, device="cpu")(pixels(3))
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(pixels(3)))
    assert np.allclose(found.scores, torch.sigmoid(expected.logits).numpy(), atol=1e-6)
    assert np.allclose(found.pooled, expected.pooled.numpy(), atol=1e-6)


def test_large_weights_are_halved_and_the_rest_is_not(exported: Bundle, half: bool) -> None:
    graph = onnx.load(exported.graph)
    large = {t.data_type for t in graph.graph.initializer if int(np.prod(t.dims)) >= 1024}
    small = {t.data_type for t in graph.graph.initializer if int(np.prod(t.dims)) < 1024}
    assert large == {onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 not in small
    assert json.loads((exported.folder / CONFIG).read_text())["half"] is half


def test_a_weight_beyond_half_precision_stays_whole(tmp_path: Path) -> None:
    model = tiny.recognizer(tiny.HYBRID)
    with torch.no_grad():
        # The normalisation that follows takes its size back.
        model.encoder.blocks[0].ffn[2].weight.mul_(1e7)
    bundle = export(model, tiny.vocabulary(), tmp_path / "bundle", name="huge")
    large = [
        (tensor.data_type, float(np.abs(onnx.numpy_helper.to_array(tensor)).max()))
        for tensor in onnx.load(bundle.graph).graph.initializer
        if int(np.prod(tensor.dims)) >= 1024
    ]
    (size,) = [size for kind, size in large if kind == onnx.TensorProto.FLOAT]
    assert size > 65504 and len(large) > 1
    assert np.isfinite(OnnxEngine(bundle.graph, device="cpu")(pixels(2)).scores).all()


def test_calibration_is_inside_the_graph(tmp_path: Path) -> None:
    model = tiny.recognizer()
    offsets = np.linspace(-2, 2, 6, dtype=np.float32)
    calibration = Calibration(0.5, offsets)
    bundle = export(model, tiny.vocabulary(), tmp_path / "bundle", name="small", calibration=calibration)
    with torch.inference_mode():
        logits = model(torch.from_numpy(pixels(4))).logits.numpy()
    expected = 1 / (1 + np.exp(-(0.5 * logits + offsets)))
    assert np.abs(OnnxEngine(bundle.graph, device="cpu")(pixels(4)).scores - expected).max() <= TOLERANCE
    assert np.abs(calibration.apply(logits) - expected).max() <= 1e-6


def test_a_model_that_cannot_be_kept_close_enough_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="differs from the model"):
        export(tiny.recognizer(), tiny.vocabulary(), tmp_path / "bundle", name="small", tolerance=0.0)
    with pytest.raises(ModelError, match=CONFIG):
        Bundle.open(tmp_path / "bundle")


def test_a_model_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = tiny.recognizer()
    with torch.no_grad():
        model.bank.embeddings[3] = float("nan")
    with pytest.raises(ModelError, match="differs from the model"):
        export(model, tiny.vocabulary(), tmp_path / "bundle", name="small")


@pytest.mark.parametrize("tags", [5, 7])
def test_a_vocabulary_of_another_length_is_refused(tags: int, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"6 tags.*has {tags}"):
        export(tiny.recognizer(), tiny.vocabulary(tags), tmp_path / "bundle", name="small")
    assert not (tmp_path / "bundle").exists()


# -- the folder --------------------------------------------------------------------------------------


def test_a_bundle_says_what_it_is(exported: Bundle) -> None:
    again = Bundle.open(exported.folder)
    assert again.ref == exported.ref and again.name == "small" and again.side == tiny.SIDE
    assert len(again.fingerprint) == 12 and again.ref == f"small@{again.fingerprint}"
    assert again.vocabulary.ref == tiny.vocabulary().ref
    assert again.vocabulary.thresholds().tolist() == tiny.vocabulary().thresholds().tolist()
    assert {path.name for path in exported.folder.iterdir()} == {CONFIG, GRAPH, VOCABULARY}
    assert not is_trained(exported.folder)


def test_other_weights_have_another_fingerprint(whole: Path, tmp_path: Path) -> None:
    other = export(tiny.recognizer(seed=1), tiny.vocabulary(), tmp_path / "bundle", name="small")
    assert other.fingerprint != Bundle.open(whole).fingerprint


def rewrite(folder: Path, **changes: Any) -> None:
    row = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in row.items() if v is not None}))


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


DAMAGE: dict[str, tuple[Callable[[Path], Any], type[TaglensError], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), ModelError, "no model folder.*starter"),
    "config cut": (lambda f: cut(f / CONFIG), ModelError, "cannot read .*config.json"),
    "config no object": (lambda f: (f / CONFIG).write_text("[]"), ModelError, "not a bundle of format 1"),
    "a later format": (lambda f: rewrite(f, taglens_bundle=2), ModelError, "not a bundle of format 1"),
    "no side": (lambda f: rewrite(f, side=None), ModelError, "incomplete.*side"),
    "side in words": (lambda f: rewrite(f, side="large"), ModelError, "incomplete"),
    "no checksum": (lambda f: rewrite(f, graph_sha256=None), ModelError, "incomplete.*graph_sha256"),
    "no graph": (lambda f: (f / GRAPH).unlink(), ModelError, "cannot read .*model.onnx.*again"),
    "graph cut": (lambda f: cut(f / GRAPH), ModelError, "cut or replaced"),
    "graph replaced": (lambda f: (f / GRAPH).write_bytes(b"another"), ModelError, "cut or replaced"),
    "no vocabulary": (lambda f: (f / VOCABULARY).unlink(), VocabularyError, "cannot read vocabulary"),
    "another vocabulary": (
        lambda f: tiny.vocabulary(prefix="no ").save(f / VOCABULARY),
        MismatchError,
        "another vocabulary",
    ),
    "vocabulary turned round": (
        lambda f: Vocabulary(list(tiny.vocabulary())[::-1], name="tiny").save(f / VOCABULARY),
        MismatchError,
        "another vocabulary",
    ),
}


@pytest.mark.parametrize(("damage", "kind", "named"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(
    damage: Callable[[Path], Any], kind: type[TaglensError], named: str, folder: Path
) -> None:
    damage(folder)
    for open_it in (Bundle.open, Tagger.from_pretrained):
        with pytest.raises(kind, match=named) as caught:
            open_it(folder)
        assert str(folder) in str(caught.value), "the message says which folder"


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ModelError, match=path.name):
            Bundle.open(path)


def test_a_trained_folder_says_how_to_export_it(tmp_path: Path) -> None:
    save_pretrained(tiny.recognizer(), tiny.vocabulary(), tmp_path / "model", name="small")
    assert is_trained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"export it first: taglens bundle .*model --out DIR"):
        Bundle.open(tmp_path / "model")
    with pytest.raises(ModelError, match="export it first"):
        Tagger.from_pretrained(tmp_path / "model", engine="onnx")


def test_thresholds_may_be_edited(folder: Path) -> None:
    tiny.vocabulary().with_thresholds([0.9] * 6).save(folder / VOCABULARY)
    assert {entry.threshold for entry in Bundle.open(folder).vocabulary} == {0.9}


def test_a_name_is_a_shipped_model_and_all_else_a_folder(tmp_path: Path) -> None:
    assert locate("starter").parts[-3:] == ("taglens", "assets", "starter")
    assert locate("./starter") == Path("starter")
    assert locate(tmp_path) == tmp_path


# -- engines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no graph at all", None], ids=["empty", "text", "cut"])
def test_a_file_that_is_no_graph_is_named(content: bytes | None, whole: Path, tmp_path: Path) -> None:
    graph = tmp_path / GRAPH
    data = (whole / GRAPH).read_bytes()
    graph.write_bytes(data[: len(data) // 2] if content is None else content)
    with pytest.raises(ModelError, match=r"cannot load .*model\.onnx"):
        OnnxEngine(graph, device="cpu")


@pytest.mark.parametrize(("old", "new"), [("pixels", "images"), ("scores", "logits"), ("pooled", "other")])
def test_a_graph_with_other_names_is_no_bundle(old: str, new: str, whole: Path, tmp_path: Path) -> None:
    graph = onnx.load(whole / GRAPH)
    for value in (*graph.graph.input, *graph.graph.output):
        if value.name == old:
            value.name = new
    for node in graph.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    onnx.save(graph, tmp_path / GRAPH)
    with pytest.raises(ModelError, match=f"{new}.*expected.*export it again"):
        OnnxEngine(tmp_path / GRAPH, device="cpu")


def test_damaged_weights_are_found_when_they_are_used(folder: Path) -> None:
    """A bundle whose checksum was made after the damage: nothing but its answers can tell."""
    graph = onnx.load(folder / GRAPH)
    for tensor in graph.graph.initializer:
        values = np.array(onnx.numpy_helper.to_array(tensor))
        if values.dtype == np.float16:
            values.flat[0] = np.nan
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(graph, folder / GRAPH)
    write_config(folder, name="small", side=tiny.SIDE, vocabulary=tiny.vocabulary(), about={})
    tagger = Tagger.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"small@.* not finite.*damaged"):
        list(tagger(tiny.pixels(1)[0]))


def test_scores_that_are_no_numbers_are_refused() -> None:
    pooled, tokens = np.zeros((1, 2), np.float32), np.zeros((1, 3, 2), np.float32)
    good = Output(np.array([[0.1, 0.9]], np.float32), pooled, tokens)
    assert finite(good, "m") is good
    for value in (np.nan, np.inf):
        with pytest.raises(ModelError, match="m gives scores that are not finite"):
            finite(Output(np.array([[0.1, value]], np.float32), pooled, tokens), "m")


@pytest.mark.parametrize("device", ["gpu", "tpu", "mps", ""])
def test_an_unknown_device_is_named(device: str, whole: Path) -> None:
    with pytest.raises(UsageError, match="use auto, cpu or cuda"):
        OnnxEngine(whole / GRAPH, device=device)
    with pytest.raises(UsageError, match="use auto, cpu or cuda"):
        TorchEngine(tiny.recognizer(), device=device)


def test_a_device_that_is_not_here_is_no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    with pytest.raises(UsageError, match=r"not available.*onnxruntime-gpu"):
        engines._providers("cuda", [cpu])
    assert engines._providers("auto", [cpu]) == [cpu]
    assert engines._providers("auto", [cpu, cuda]) == [cuda, cpu]
    assert engines._providers("cpu", [cpu, cuda]) == [cpu]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        TorchEngine(tiny.recognizer(), device="cuda")
