"""Asking about a few tags gives the scores that asking about all of them gives, whatever runs the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import tiny
from taglens.inference.engines import OnnxEngine, TorchEngine
from taglens.inference.export import Calibration, _export_tags
from taglens.inference.graphs import choosing
from taglens.inference.tagger import Tagger
from taglens.vocabulary import Entry, Vocabulary


def test_some_tags_score_as_they_do_among_all() -> None:
    """The decoder asked about a few tags: the same scores, in any order, also through another vocabulary."""
    tagger = Tagger.from_pretrained("starter", threads=1)
    pixels = np.random.default_rng(0).random((3, 3, tagger.side, tagger.side), dtype=np.float32)
    whole = tagger.look(pixels)
    columns = [700, 3, len(tagger.vocabulary) - 1, 3]
    some = tagger.look_for(pixels, columns)
    assert np.abs(some.scores - whole.scores[:, columns]).max() < 1e-5
    assert np.abs(some.tokens - whole.tokens).max() < 1e-5 and (
        tagger.look_for(pixels, [0]).scores.shape == (3, 1)
    )
    few = tagger.with_vocabulary(Vocabulary([tagger.vocabulary[9], tagger.vocabulary[700]], name="few"))
    assert np.abs(few.look_for(pixels, [1]).scores[:, 0] - whole.scores[:, 700]).max() < 1e-5
    assert np.abs(tagger.vectors(some) - tagger.vectors(whole)).max() < 1e-5
    # A typed tag has no column: everything is asked, and its score taken.
    typed = tagger.with_vocabulary(
        Vocabulary([Entry("zzz dog", "typed"), tagger.vocabulary[700]], name="typed")
    )
    both = typed.look_for(pixels, [0, 1]).scores
    assert both.shape == (3, 2) and np.abs(both[:, 1] - whole.scores[:, 700]).max() < 1e-5


@pytest.mark.parametrize("descriptions", [0, 1, 2])
@pytest.mark.parametrize("pooled_term", [True, False])
def test_engines_answer_alike_whatever_labels_are(
    descriptions: int, pooled_term: bool, tmp_path: Path
) -> None:
    model = tiny.recognizer(tiny.HYBRID, descriptions=descriptions, pooled_term=pooled_term)
    pixels = np.random.default_rng(0).random((2, 3, tiny.SIDE, tiny.SIDE), dtype=np.float32)
    columns = np.array([5, 0, 2], np.intp)
    engine = TorchEngine(model, device="cpu")
    some = engine.some(pixels, columns)
    assert np.abs(some.scores - engine(pixels).scores[:, columns]).max() < 1e-5
    calibration = Calibration(0.5, np.linspace(-1, 1, 6, dtype=np.float32))
    path = tmp_path / "model.onnx"
    _export_tags(model, calibration, path, half=False)
    onnx_engine = OnnxEngine(path, device="cpu", threads=1)
    found = onnx_engine.some(pixels, columns)
    if descriptions < 2:
        assert found is None, "the number of labels is built into such graphs"
        return
    assert found is not None
    assert np.abs(found.scores - onnx_engine(pixels).scores[:, columns]).max() < 1e-5


def test_a_graph_of_another_form_is_not_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    _export_tags(tiny.recognizer(descriptions=2), Calibration(1.0, np.zeros(6, np.float32)), path, half=False)
    assert choosing(path) is not None
    model = onnx.load(str(path))
    for each in model.graph.initializer:
        if each.name == "offsets":
            each.CopyFrom(onnx.numpy_helper.from_array(np.zeros((1, 6), np.float32), "offsets"))
    onnx.save(model, str(path))
    assert choosing(path) is None
    engine = OnnxEngine(path, device="cpu", threads=1)
    pixels = np.zeros((1, 3, tiny.SIDE, tiny.SIDE), np.float32)
    assert engine.some(pixels, np.array([1])) is None and engine.some(pixels, np.array([1])) is None
