"""The package's figures against slow twins, METEOR's process against a stand-in, and what is told without either."""

from __future__ import annotations

import os
import random
import shutil
import sys
import types
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import caption_twins as twins
from taglens.errors import MissingExtraError, UsageError
from taglens.evaluation import caption_metrics
from taglens.evaluation.caption_metrics import CaptionMetrics, require_scorers

INSTALLED = find_spec("pycocoevalcap") is not None
needs_package = pytest.mark.skipif(
    not INSTALLED, reason="pycocoevalcap is not installed: pip install 'taglens[eval]'"
)

REFERENCES = [
    ["a brown dog runs across the wet grass", "the dog is running", "a dog runs and a dog jumps"],
    ["two men sit on a bench", "men on a red bench in the park"],
    [
        "a girl in a red dress climbs the stairs",
        "the girl climbs",
        "a child climbing stairs",
        "girl on stairs",
    ],
    ["a dog"],
]
CAPTIONS = [
    "a dog runs across the grass",
    "a man and a man on a bench",
    "a boy",
    "the grass is wet and the dog",
]


def measured(references: Sequence[Sequence[str]], captions: Sequence[str]) -> dict[str, float | None]:
    with CaptionMetrics(meteor=False) as metrics:
        return metrics(references, captions)


def close(figures: dict[str, float | None], others: dict[str, float | None]) -> None:
    for name, other in others.items():
        assert figures[name] == pytest.approx(other, abs=1e-8), name


@needs_package
def test_figures_equal_the_slow_twins() -> None:
    figures = measured(REFERENCES, CAPTIONS)
    close(figures, twins.TwinMetrics()(REFERENCES, CAPTIONS))
    assert all(value for name, value in figures.items() if name != "METEOR"), "all of them say something"
    assert figures["METEOR"] is None


@needs_package
def test_figures_equal_the_slow_twins_on_chance() -> None:
    rng = random.Random(1)

    def text() -> str:
        return " ".join(
            rng.choices(["a", "the", "dog", "cat", "runs", "red", "on", "grass"], k=rng.randint(1, 7))
        )

    for _ in range(20):
        pictures = rng.randint(2, 5)
        references = [[text() for _ in range(rng.randint(1, 3))] for _ in range(pictures)]
        captions = [text() for _ in range(pictures)]
        # Where no n-gram is right the package has a tiny number instead of 0.
        expected: dict[str, float | None] = {
            **{f"BLEU-{n}": twins.bleu(references, captions, n) for n in (1, 2, 3, 4)},
            "ROUGE-L": twins.rouge(references, captions),
            "CIDEr": twins.cider(references, captions),
        }
        figures = measured(references, captions)
        for name, value in expected.items():
            assert figures[name] == pytest.approx(value, abs=1e-3 if value == 0 else 1e-8), name


@needs_package
def test_perfect_captions_score_one_and_cider_ten() -> None:
    references = [
        [f"a {one} and a {two} on the {three}"] for one, two, three in zip("abc", "def", "ghi", strict=True)
    ]
    figures = measured(references, [texts[0] for texts in references])
    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert figures[name] == pytest.approx(1, abs=1e-6)
    assert figures["CIDEr"] == pytest.approx(10)


@needs_package
def test_the_order_of_rows_changes_nothing() -> None:
    order = [2, 0, 3, 1]
    close(
        measured([REFERENCES[row] for row in order], [CAPTIONS[row] for row in order]),
        measured(REFERENCES, CAPTIONS),
    )
    close(measured([texts[::-1] for texts in REFERENCES], CAPTIONS), measured(REFERENCES, CAPTIONS))


@needs_package
def test_empty_captions_score_nothing() -> None:
    figures = measured(REFERENCES, [""] * 4)
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr"):
        assert figures[name] == pytest.approx(0, abs=1e-6)


@needs_package
def test_a_single_picture_has_no_cider() -> None:
    assert measured(REFERENCES[:1], CAPTIONS[:1])["CIDEr"] is None


@needs_package
def test_what_does_not_fit_is_refused() -> None:
    for references, captions in (([], []), (REFERENCES, CAPTIONS[:2])):
        with pytest.raises(UsageError, match="expected one for each"):
            measured(references, captions)


# -- without the package, without Java -----------------------------------------------------------------


def test_without_the_package_the_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_metrics, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'taglens\[eval\]'"):
        require_scorers()
    with pytest.raises(MissingExtraError, match="evaluating captions needs pycocoevalcap"):
        CaptionMetrics()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for the package's folder: METEOR's place, and a SPICE that talks where it should not."""
    (tmp_path / "meteor").mkdir()
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(caption_metrics, "find_spec", lambda name: spec)
    return tmp_path


@pytest.fixture
def java(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``java`` that speaks METEOR's protocol: of each caption its share of the first reference's words."""
    program = package / "java"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "assert sys.argv[-6:] == ['-', '-', '-stdio', '-l', 'en', '-norm'], sys.argv\n"
        "for line in sys.stdin:\n"
        "    kind, *parts = line.rstrip('\\n').split(' ||| ')\n"
        "    if kind == 'SCORE':\n"
        "        said, there = set(parts[-1].split()), set(parts[0].split())\n"
        "        print(len(said & there) / len(there), flush=True)\n"
        "    else:\n"
        "        print(*parts, sum(map(float, parts)) / len(parts), sep='\\n', flush=True)\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(program))
    return program


def by_meteor(metrics: CaptionMetrics, references: list[list[str]], captions: list[str]) -> float | None:
    return metrics._by_meteor(references, captions)


def test_meteor_is_asked_line_by_line_and_again(java: Path) -> None:
    with CaptionMetrics() as metrics:
        assert by_meteor(metrics, [["a b", "x"], ["c"]], ["a", "c"]) == 0.75
        assert by_meteor(metrics, [["a b", "x"]], [""]) == 0.0
        assert by_meteor(metrics, [["a | | | b"]], ["a | b"]) == 1.0
        assert metrics.notes == []
    assert by_meteor(metrics, [["a"]], ["a"]) is None, "closed"


def test_a_java_that_does_not_answer_costs_meteor_alone(java: Path) -> None:
    java.write_text("#!/bin/sh\nexit 1\n")
    with CaptionMetrics() as metrics:
        assert by_meteor(metrics, [["a"]], ["a"]) is None
        assert by_meteor(metrics, [["a"]], ["a"]) is None
        (note,) = metrics.notes
        assert note.startswith("METEOR is left out: METEOR's Java program does not answer")
    # Asked for, it is tried at once.
    with pytest.raises(UsageError, match="does not answer"):
        CaptionMetrics(meteor=True)
    java.write_text("#!/bin/sh\ncat\n")
    with pytest.raises(UsageError, match="could not convert"):
        CaptionMetrics(meteor=True)
    java.write_text("no program")
    with pytest.raises(UsageError, match="does not answer"):
        CaptionMetrics(meteor=True)


def test_without_java(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert CaptionMetrics().notes == ["METEOR is left out: it runs in Java, and there is no java to be found"]
    assert CaptionMetrics(meteor=False).notes == []
    with pytest.raises(UsageError, match="METEOR runs in Java"):
        CaptionMetrics(meteor=True)
    with pytest.raises(UsageError, match="SPICE runs in Java"):
        CaptionMetrics(spice=True)


@needs_package
@pytest.mark.skipif(shutil.which("java") is None, reason="no Java for METEOR")
def test_meteor_itself() -> None:
    with CaptionMetrics(meteor=True) as metrics:
        perfect = metrics([["a dog runs on the grass"], ["two men"]], ["a dog runs on the grass", "two men"])
        other = metrics([["a dog runs on the grass"], ["two men"]], ["dogs run on grass", "a cat"])
    assert perfect["METEOR"] == pytest.approx(1.0)
    assert other["METEOR"] is not None and 0.05 < other["METEOR"] < 0.6


def spice(monkeypatch: pytest.MonkeyPatch, compute: Any) -> None:
    """A stand-in for the package's SPICE."""
    module = types.ModuleType("pycocoevalcap.spice.spice")
    module.Spice = lambda: types.SimpleNamespace(compute_score=compute)  # type: ignore[attr-defined]
    for name in ("pycocoevalcap", "pycocoevalcap.spice"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", module)


def test_what_spice_prints_stays_off_standard_output(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def compute(truth: dict[int, list[str]], given: dict[int, list[str]]) -> tuple[float, list[Any]]:
        print("Downloading")
        os.system("echo from java")
        return len(truth[0]) / 10, []

    spice(monkeypatch, compute)
    assert caption_metrics._by_spice({0: ["a", "b"]}, {0: ["a"]}) == 0.2
    print("after")
    out, err = capfd.readouterr()
    assert out == "after\n" and "Downloading" in err and "from java" in err


def test_a_spice_that_fails_says_at_once_what_it_needs(java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(truth: object, given: object) -> tuple[float, list[Any]]:
        raise OSError("no such host")

    spice(monkeypatch, compute)
    with pytest.raises(UsageError, match=r"SPICE could not be computed \(no such host\).*leave --spice out"):
        CaptionMetrics(meteor=False, spice=True)
