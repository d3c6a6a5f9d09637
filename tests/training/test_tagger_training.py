"""Learning the tagger: a small build end to end, the same twice, and whole numbers that say what floats say."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from taglens.language.graphs import Example  # noqa: E402
from taglens.language.parser import CaptionParser  # noqa: E402
from taglens.language.tagger import LABELS  # noqa: E402
from taglens.training import tagger_student as student_of  # noqa: E402
from taglens.training import tagger_training as training  # noqa: E402
from taglens.training.tagger_teacher import Teacher  # noqa: E402

ROWS = [
    (
        f"a {color} {animal} sitting on {place}",
        f"( {animal} , is , {color} ) , ( {animal} , sit on , {place} )",
    )
    for animal in ("cat", "dog", "cow", "hen", "pig")
    for color in ("red", "tan", "blue", "black")
    for place in ("grass", "sand", "snow")
]
PLAIN = [f"a {color} fox runs on the sand" for color in ("red", "tan", "blue")] * 4
SETTINGS = training.Settings(teachers=1, epochs=8, width=8, hidden=12, steps=150)


@pytest.fixture(scope="module")
def built() -> CaptionParser:
    return CaptionParser(training.build(ROWS, PLAIN, SETTINGS))


def test_it_learns_its_examples(built: CaptionParser) -> None:
    found = built.parse("a tan hen sitting on grass")
    assert found.pairs == (("tan", "hen"),)
    assert found.relations == (("hen", "sit on", "grass"),)


def test_the_same_input_gives_the_same_file_with_teachers_new_or_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = training.Settings(teachers=1, epochs=1, width=8, hidden=12, steps=5)
    training.build(ROWS, PLAIN, settings).save(tmp_path / "a.npz")
    training.build(ROWS, PLAIN, settings, work=tmp_path).save(tmp_path / "b.npz")
    with monkeypatch.context() as patch:
        patch.delattr(training, "fit_teacher")
        training.build(ROWS, PLAIN, settings, work=tmp_path).save(tmp_path / "c.npz")
    assert len({(tmp_path / name).read_bytes() for name in ("a.npz", "b.npz", "c.npz")}) == 1


def test_a_teacher_of_other_settings_is_trained_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for epochs in (1, 2):
        training.build(
            ROWS, [], training.Settings(teachers=1, epochs=epochs, width=8, hidden=12, steps=5), work=tmp_path
        )
    assert "trained anew" in capsys.readouterr().err


def test_whole_numbers_say_what_the_floats_say() -> None:
    torch.manual_seed(0)
    captions = [text.split() for text, _ in ROWS]
    lexicon = training.Lexicon.of(
        captions, [Example(tuple(tokens), ("O",) * len(tokens)) for tokens in captions]
    )
    student = training.Student(lexicon, width=16, hidden=24).eval()
    with torch.no_grad():
        for table in (student.words, student.pieces):
            table.weight[1:] = torch.randn(table.weight[1:].shape)
    items = [training._labelled(tokens, lexicon, training._one_hot("O" * len(tokens))) for tokens in captions]
    weights = training.quantise(student, lexicon, items)
    weights.check("here")
    tagger = training.Tagger(weights, {}, frozenset())
    table = tagger.table(str)
    said = "".join(tagger.label([[r for t in tokens for r in table.add(t)] for tokens in captions], table))
    rows, _, present = student_of.collate(items)
    with torch.inference_mode():
        best = student(rows, present)[present].argmax(-1)
    floats = "".join(LABELS[k] for k in best.tolist())
    agree = sum(a == b for a, b in zip(said, floats, strict=True)) / len(said)
    assert agree > 0.95


def test_a_teachers_shares_are_those_of_all_label_rows() -> None:
    """The forward-backward sums against the sum over every row of labels, by the book."""
    from itertools import product

    torch.manual_seed(1)
    teacher = Teacher(3, 2, torch.randn(4, 5).numpy(), width=6, hidden=4).eval()
    with torch.no_grad():
        for part in (teacher.pairs, teacher.starts, teacher.ends):
            part.copy_(torch.randn(part.shape))
    captions = [[(1, 1), (2, 0), (3, 2)], [(2, 1)]]
    shares = teacher.shares(captions)
    with torch.inference_mode():
        rows = torch.tensor(captions[0])[None]
        scores = teacher(rows, torch.tensor([3]))[0]
        total = torch.zeros(3, len(LABELS))
        for path in product(range(len(LABELS)), repeat=3):
            value = teacher.starts[path[0]] + teacher.ends[path[2]]
            value = value + sum(scores[t, label] for t, label in enumerate(path))
            value = value + teacher.pairs[path[0], path[1]] + teacher.pairs[path[1], path[2]]
            for t, label in enumerate(path):
                total[t, label] += value.exp()
    assert torch.allclose(shares[0], total / total[0].sum(), atol=1e-4)
    assert torch.allclose(shares[1, 0].sum(), torch.tensor(1.0), atol=1e-5)
