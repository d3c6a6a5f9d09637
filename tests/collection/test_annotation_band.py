"""A band fitted to labelled pictures loses no more of them than is allowed, and says what it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import colours
from taglens.collection.annotation_band import _short, band_of_labels
from taglens.errors import UsageError
from taglens.language.bands import Band
from taglens.results import to_line


def corpus(folder: Path, least: float = 0.4) -> Path:
    """40 plain pictures, each labelled with the colours of which it has more than ``least``; one cannot be read."""
    tagger = colours.tagger()
    pictures = colours.write_pictures(folder, 40)
    rows = []
    for number, (path, scores) in enumerate(tagger.scores(pictures)):
        assert scores is not None
        names = [name for name, score in zip(colours.NAMES, scores, strict=True) if score > least]
        row = {"image": str(path), "labels": [*names, "unicorn"], "split": "train" if number % 2 else "val"}
        rows.append(to_line(row))
    (folder / "bad.png").write_bytes(b"no picture")
    rows.append(to_line({"image": "bad.png", "labels": ["red"], "split": "val"}))
    file = folder / "labels.jsonl"
    file.write_text("\n".join(rows) + "\n")
    return file


def test_a_fitted_band_does_what_it_says(tmp_path: Path) -> None:
    tagger, told = colours.tagger(), []
    found = band_of_labels(
        tagger, corpus(tmp_path), lost=0.1, wrong=0.2, watch=lambda done, total: told.append((done, total))
    )
    assert found.pictures == 40 and found.tags == 4 and told[-1] == (40, 41)
    assert found.lost <= 0.1 and (found.wrong is None or found.wrong <= 0.2)
    band = Band.around(tagger.vocabulary.thresholds(), below=found.below, above=found.above)
    splits = [band.split(s) for _, s in tagger.scores(sorted(tmp_path.rglob("[0-9]*.png"))) if s is not None]
    assert found.asked == pytest.approx(np.mean([len(asked) for _, asked in splits]), abs=1e-3)
    assert found.given == pytest.approx(np.mean([len(sure) for sure, _ in splits]), abs=1e-3)
    # Labels that the scores decide exactly, at the thresholds themselves, need no band.
    sure = band_of_labels(tagger, corpus(tmp_path / "sure", least=0.3), lost=0.0, wrong=0.0)
    assert sure.asked < 0.2 and sure.lost == 0.0 and sure.wrong == 0.0
    none = band_of_labels(tagger, corpus(tmp_path / "all"), lost=0.0, wrong=0.0)
    assert none.asked >= found.asked and none.lost == 0.0
    half = band_of_labels(tagger, tmp_path / "labels.jsonl", split="train")
    assert half.pictures == 20 and half.to_dict()["pictures"] == 20


def test_labels_of_other_things_fit_no_band(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    (picture,) = colours.write_pictures(tmp_path, 1)
    file.write_text(to_line({"image": str(picture), "labels": ["unicorn"]}) + "\n")
    with pytest.raises(UsageError, match="none has a label that is a tag"):
        band_of_labels(colours.tagger(), file)


@pytest.mark.parametrize("edge", [0.0, 0.03125, 1.00004, 9.99999, 12.34531, 27.631])
def test_an_edge_that_is_typed_is_never_nearer(edge: float) -> None:
    """Rare tags have thresholds and scores near 0: their edges have two digits before the point."""
    typed = float(f"{_short(edge):g}")
    assert edge + 4e-5 < typed < edge + 2e-4
