"""From two pictures to the published captions, by a tiny Tag2Text that is converted, saved, bundled and loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from taglens.inference.captioning import Search
from taglens.inference.export import export
from taglens.inference.tagger import Tagger
from taglens.language.vocabulary_files import read_vocabulary
from taglens.language.wordpiece import WordPiece
from taglens.models.captioner import SpecialPieces
from taglens.models.checkpoint import captioner_from_pretrained, from_pretrained
from taglens.models.convert import convert
from taglens.models.published import read_published, save_converted, vocabulary_of

torch.set_num_threads(1)

PICTURES = {"img0": ["im0.png"], "img1": ["im1.png"], "batch2": ["im0.png", "im1.png"]}
USER_TAGS = ("man", "dog", "grass")
# name -> how it is searched for, and the tags that a user gives.
RUNS: dict[str, tuple[Search, tuple[str, ...] | None]] = {
    "beam3_len30": (Search(), None),
    "beam3_len50": (Search(max_length=50), None),
    "greedy_len30": (Search(beams=1), None),
    "beam3_rep1.3": (Search(repetition_penalty=1.3), None),
    "beam5_min4": (Search(beams=5, min_length=4), None),
    "user_tags": (Search(max_length=50), USER_TAGS),
}
EVERY = list(product(("torch", "onnx"), PICTURES, RUNS))


@dataclass(frozen=True)
class Golden:
    """What was stored of the published model, and our taggers by the engine they run in."""

    taggers: dict[str, Tagger]
    stored: dict[str, Any]
    pictures: Path


@pytest.fixture(scope="module")
def golden(shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Golden:
    folder = tmp_path_factory.mktemp("golden-captions")
    model, bundle = folder / "model", folder / "bundle"
    words = shared("golden/tokenizer/small_vocab.txt")
    pieces = WordPiece.load(words)
    special = SpecialPieces(len(pieces), pieces.pad, pieces.sep, pieces.dec, pieces.enc)
    converted = convert(read_published(shared("golden/tag2text_tiny_384/state.safetensors")), pieces=special)
    names = read_vocabulary(shared("published/tag2text_ori_tag_list.txt")).vocabulary
    vocabulary = vocabulary_of(converted, names).vocabulary
    save_converted(converted, vocabulary, model, name="tiny", pieces=words.read_bytes())

    recognizer, vocabulary, name = from_pretrained(model)
    captioner = captioner_from_pretrained(model, recognizer)
    export(
        recognizer,
        vocabulary,
        bundle,
        name=name,
        captioner=captioner,
        pieces=(model / "vocab.txt").read_bytes(),
        half=False,
    )
    meta = json.loads(shared("golden/tag2text_tiny_384/meta.json").read_text("utf-8"))
    taggers = {
        "torch": Tagger.from_pretrained(model, engine="torch", device="cpu"),
        "onnx": Tagger.from_pretrained(bundle, engine="onnx", device="cpu", threads=1),
    }
    return Golden(taggers, meta["captions"], shared("golden/preprocess"))


@pytest.mark.parametrize(("engine", "pictures", "run"), EVERY)
def test_stored_captions(engine: str, pictures: str, run: str, golden: Golden) -> None:
    search, tags = RUNS[run]
    paths = [golden.pictures / name for name in PICTURES[pictures]]
    rows = list(golden.taggers[engine].caption(paths, tags=tags, search=search))
    expected = golden.stored[f"{pictures}.{run}"]
    assert [row.caption for row in rows] == expected["captions"]
    assert [" | ".join(row.guide_tags or ()) for row in rows] == expected["tags"]
    scores = [one.score for row in rows for one in row.captions or ()]
    assert len(scores) == len(paths)
    if expected["scores"] is not None:
        assert scores == pytest.approx(expected["scores"], abs=1e-3)


def test_no_stored_run_is_left_out_and_each_is_run_as_it_was(golden: Golden) -> None:
    assert golden.stored.keys() == {f"{pictures}.{run}" for pictures, run in product(PICTURES, RUNS)}
    for name, stored in golden.stored.items():
        search, tags = RUNS[name.partition(".")[2]]
        asked = dict(stored["kwargs"])
        given = asked.pop("tag_input", None)
        assert (None if given is None else set(given)) == (None if tags is None else {" | ".join(tags)})
        assert Search(beams=asked.pop("num_beams", 3), **asked) == search


def test_the_stored_captions_tell_runs_apart(golden: Golden) -> None:
    """Where all runs gave one text, agreeing with them would show nothing."""
    for pictures in PICTURES:
        found = {tuple(golden.stored[f"{pictures}.{run}"]["captions"]) for run in RUNS}
        assert len(found) >= 4, pictures
    assert sum(stored["scores"] is not None for stored in golden.stored.values()) >= 12


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_tagging_beside_captions(engine: str, golden: Golden) -> None:
    paths = [golden.pictures / name for name in PICTURES["batch2"]]
    rows = list(golden.taggers[engine](paths, caption=True))
    expected = golden.stored["batch2.beam3_len30"]
    assert [row.caption for row in rows] == expected["captions"]
    assert [set(row.names) for row in rows] == [set(tags.split(" | ")) for tags in expected["tags"]]
