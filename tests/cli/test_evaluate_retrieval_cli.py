"""``taglens evaluate --task retrieval`` from outside: one object, where lambda is from, failures, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_aligner as small
import tiny
from taglens.cli import evaluate_retrieval as module
from taglens.cli.evaluate_retrieval import RetrievalTask, Seen, by_labels, by_match, look
from taglens.cli.main import start
from taglens.errors import UsageError
from taglens.evaluation.datasets import read_captions
from taglens.evaluation.retrieval import measure
from taglens.inference.tagger import Tagger
from taglens.language.parser import parse_lines
from taglens.language.text_tags import TextTags
from taglens.language.word_lists import packaged

Run = Callable[..., tuple[int, dict[str, Any] | None, str]]
SENTENCES = ("a dog runs on the grass", "two men in a red boat", "the blue cat", "a car", "a picture of two")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory) / "bundle"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of val, one of them missing, and six of train."""
    folder = tmp_path_factory.mktemp("captions")
    rows = []
    for number, picture in enumerate(tiny.pixels(14, seed=1)):
        name = f"{number:02}.png"
        if number != 3:
            (folder / name).write_bytes(tiny.png(picture))
        captions = [SENTENCES[(number + more) % 5] for more in range(1 + number % 3)]
        rows.append({"image": name, "captions": captions, "split": "val" if number < 8 else "train"})
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], model: Path, data: Path) -> Run:
    def call(*options: str) -> tuple[int, dict[str, Any] | None, str]:
        arguments = ["evaluate", "--task", "retrieval", "--model", str(model), "--data", str(data)]
        with pytest.raises(SystemExit) as end:
            start([*arguments, *options])
        out, err = capsys.readouterr()
        assert out.count("\n") <= 1
        return int(end.value.code or 0), json.loads(out) if out else None, err

    return call


def test_the_object_has_what_the_contract_says(run: Run) -> None:
    status, found, err = run("--json")
    assert status == 1 and found is not None
    assert "1 of 8 pictures could not be read" in err and "03.png" in err
    # The missing picture had one caption; val has 1 2 3 1 2 3 1 2.
    assert (found["images"], found["failed"], found["captions"]) == (8, 1, 14)
    for way in ("i2t", "t2i"):
        assert found[way].keys() == {"R@1", "R@5", "R@10", "median_rank"}
        assert 0 <= found[way]["R@1"] <= found[way]["R@5"] <= found[way]["R@10"] <= 1
    assert (found["lambda"], found["lambda_from"], found["tuned"], found["rerank"]) == (
        0.25,
        "model",
        None,
        None,
    )
    assert list(found["methods"]) == ["similarity", "tags", "similarity+tags"]
    assert found["methods"]["similarity+tags"] == {way: found[way] for way in ("i2t", "t2i")}
    assert set(found["keywords"]) <= {"1", "2", "3", "4"} and "1" in found["keywords"]
    for row in found["keywords"].values():
        assert row["mAP"].keys() == row["P@10"].keys() >= {"similarity", "tags", "similarity+tags"}
    assert found["captions_without_tags"] > 0, "nobody knows a tag for a car here"


def test_lambda_0_is_similarity_alone(run: Run) -> None:
    _, found, _ = run("--lambda", "0")
    assert found is not None
    assert (found["lambda"], found["lambda_from"]) == (0.0, "given")
    assert {way: found[way] for way in ("i2t", "t2i")} == found["methods"]["similarity"]
    for row in found["keywords"].values():
        assert row["mAP"]["similarity+tags"] == row["mAP"]["similarity"]


def test_lambda_is_chosen_on_another_split(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        module,
        "choose_weight",
        lambda pairs: seen.append(len(pairs.similarity)) or (0.7, {0.0: 0.1, 0.7: 0.2}),
    )
    _, found, _ = run("--tune-split", "train")
    assert found is not None and seen == [6]
    assert (found["lambda"], found["lambda_from"]) == (0.7, "split train")
    assert found["tuned"] == {"pictures": 6, "mean_recall": {"0": 0.1, "0.7": 0.2}}
    monkeypatch.setattr(module, "MOST_TUNED", 4)
    run("--tune-split", "train")
    assert seen == [6, 3], "at most so many, spread over all of them"


def test_overlap_of_recognised_or_of_likely_tags(run: Run) -> None:
    _, plain, _ = run()
    _, likely, _ = run("--overlap", "likely")
    assert plain is not None and likely is not None
    assert (plain["overlap"], likely["overlap"]) == ("recognised", "likely")
    assert plain["methods"]["similarity"] == likely["methods"]["similarity"]
    assert plain["methods"]["tags"] != likely["methods"]["tags"]


def test_reranking_is_said_and_only_reorders_the_first(run: Run) -> None:
    _, plain, _ = run()
    _, found, _ = run("--rerank", "2")
    assert plain is not None and found is not None
    assert found["rerank"] == {"top": 2, "by": "match"}
    assert found["methods"]["similarity+tags"] == plain["methods"]["similarity+tags"]
    assert found["methods"]["reranked by match"] == {way: found[way] for way in ("i2t", "t2i")}
    for way in ("i2t", "t2i"):
        assert found[way]["R@5"] == plain[way]["R@5"], "beyond the first two nothing moves"


REFUSED = {
    "--lambda -1": "--lambda must be 0 or more",
    "--lambda nan": "--lambda must be 0 or more",
    "--lambda 1 --tune-split train": "give one",
    "--tune-split val": "all its pictures are among those evaluated",
    "--tune-split test": "no row of split 'test'",
    "--rerank -1": "--rerank must be 0",
    "--rerank-by match": "give both",
    "--rerank 3 --rerank-by itm": "expected one of match, labels",
    "--rerank 3 --rerank-by labels": "reads no text",
    "--overlap soft": "expected one of recognised, likely",
    "--beams 2": "--beams belongs to --task caption",
    "--threshold 0.5": "--threshold belongs to --task tagging",
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_be_meant_is_refused(options: str, run: Run) -> None:
    status, found, err = run(*options.split())
    assert (status, found) == (2, None)
    assert REFUSED[options] in err


def test_a_model_without_an_aligner_is_refused(run: Run, tmp_path: Path) -> None:
    status, found, err = run("--model", str(small.only_tags(tmp_path / "tags")))
    assert (status, found) == (2, None) and "has no aligner" in err


def test_other_tasks_have_none_of_its_options(run: Run) -> None:
    status, _, err = run("--task", "tagging", "--lambda", "1")
    assert status == 2 and "--lambda belongs to --task retrieval" in err


def test_pictures_of_which_none_can_be_read(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image": "none.png", "captions": ["a dog"]}\n', "utf-8")
    status, found, err = run("--data", str(path))
    assert (status, found) == (2, None)
    assert "none of the 1 pictures can be read" in err


# -- second opinions -----------------------------------------------------------------------------------


def seen_by(tagger: Tagger, data: Path) -> Seen:
    task = RetrievalTask(data, rerank=3, batch_size=4)
    found, failed = look(
        tagger,
        read_captions(data),
        TextTags(tagger.vocabulary, packaged(), parse_lines),
        task,
        keep_tokens=True,
    )
    assert failed == ["03.png"]
    return found


PAIRS = np.argwhere(np.random.default_rng(0).random((7, 14)) < 0.6)


def test_matching_asks_every_pair_with_its_own_picture_and_tags(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tagger = Tagger.from_pretrained(model, device="cpu", threads=1)
    seen = seen_by(tagger, data)
    first = np.linspace(-1, 1, len(PAIRS), dtype=np.float32)
    monkeypatch.setattr(module, "_TOGETHER", 3)
    found = by_match(tagger, seen, PAIRS, first)
    for number in (0, 5, len(PAIRS) - 1):
        picture, text = PAIRS[number]
        guides = tagger.alignment.guides(tagger.vocabulary, seen.scores[[picture]])
        alone = tagger.alignment.match(
            seen.tokens[picture][None], guides, [seen.texts[text]], np.array([[0, 0]])
        )
        assert found[number] == pytest.approx(alone[0] + first[number], abs=1e-4)
    assert measure(seen.pairs(tagger, "recognised").similarity, seen.owner).mean > 0


def test_labels_ask_texts_as_tags(data: Path) -> None:
    class Asked:
        def ask(self, tokens: Any, texts: list[str]) -> Any:
            assert len(tokens) == 1
            return np.array([[0.5 if text == SENTENCES[0] else 0.0 for text in texts]], np.float32)

    texts = tuple(SENTENCES)
    seen = Seen(
        images=(),
        vectors=np.zeros((2, 1), np.float32),
        scores=np.zeros((2, 1), np.float32),
        tokens=(np.zeros((1, 1), np.float32),) * 2,
        texts=texts,
        owner=np.zeros(5, np.int64),
        text_vectors=np.zeros((5, 1), np.float32),
        said=(),
    )
    pairs = np.array([[0, 0], [0, 1], [1, 0], [1, 4]])
    found = by_labels(Asked(), seen, pairs, np.zeros(4, np.float32))  # type: ignore[arg-type]
    assert found[[0, 2]].tolist() == [0.0, 0.0] and (found[[1, 3]] < -10).all()
    assert np.isfinite(found).all()


def test_a_task_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a file at"):
        RetrievalTask(tmp_path / "none.jsonl")
