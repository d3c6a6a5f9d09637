"""The data engine on plain colours: what is wrong goes, what is missing comes, and all can be taken back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import colours
from taglens.collection.runs import TooManyFailuresError
from taglens.data.building import build_shards
from taglens.data.labelling import label_from_names
from taglens.data.shards import ShardSet, ShardSettings
from taglens.errors import DataError, MismatchError, UsageError
from taglens.inference.engines import Output
from taglens.inference.tagger import Tagger
from taglens.training.data_engine import Job, redo, run, undo
from taglens.training.engine_cleaning import Cleaning, backward, forward
from taglens.training.engine_generate import Known
from taglens.training.engine_regions import SlidingCrops
from taglens.vocabulary import Entry, Vocabulary

CLEANING = Cleaning(kinds=("attribute",), least_pictures=10, share=0.1, trust=0.5)
QUARTERS = SlidingCrops(((1.0, 1), (0.5, 2)))
WRONG = (3, 11, 17)


class Writing(Tagger):
    """The tagger of colours, which also says the brightest colour of a picture in a sentence."""

    @property
    def writes(self) -> bool:
        return True

    def sentences(self, output: Output, *, threshold: float | None = None) -> list[str]:
        return [f"A {colours.NAMES[int(row[:3].argmax())]} wall ." for row in output.scores]


def tagger(engine: colours.Colours | None = None) -> Writing:
    return Writing(engine or colours.Colours(), colours.VOCABULARY, ref="colours@0", side=colours.SIDE)


def paint(path: Path, colour: tuple[int, int, int], patch: tuple[int, int, int] | None = None) -> None:
    pixels = np.tile(np.array(colour, np.uint8), (48, 64, 1))
    if patch is not None:
        pixels[:24, :32] = patch
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """30 pictures said to be red: 25 are, two only in a corner, and three are blue; 12 more are green."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(42):
        name = f"p/{number:02d}.png"
        shade = int(random.integers(190, 230))
        if number >= 30:
            paint(tmp_path / name, (10, shade, 10))
        elif number in WRONG:
            paint(tmp_path / name, (10, 10, shade))
        elif number in (5, 6):
            paint(tmp_path / name, (0, 30, 60), patch=(shade, 0, 0))
        else:
            paint(tmp_path / name, (shade, 10, 10))
        labels = ["green", "moss"] if number >= 30 else ["red"]
        rows.append({"image": name, "labels": labels, "split": "train"})
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def job(corpus: Path, *more: Path, engine: colours.Colours | None = None, **options: Any) -> Job:
    usual = {"cleaning": CLEANING, "regions": QUARTERS, "piece": 15, "batch_size": 8}
    return Job((corpus, *more), tagger(engine), **{**usual, **options})


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def given_tags(folder: Path) -> list[set[str]]:
    """Per picture what the corpus said, from what was kept of it."""
    found = []
    for path in sorted((folder / "generated").glob("*.jsonl")):
        for row in rows(path):
            found.append({label.tag for label in Known.of(row).labels if label.own})
    return found


def test_planted_wrong_labels_go_and_missing_ones_come(corpus: Path, tmp_path: Path) -> None:
    report = run(job(corpus), tmp_path / "out")
    cleaned = [set(row["tags"]) for row in rows(tmp_path / "out" / "labels.jsonl")]
    for number in range(30):
        red = "attribute:red" in cleaned[number]
        if number in WRONG:
            assert not red and "attribute:blue" in cleaned[number]
    decided = rows(tmp_path / "out" / "decisions.jsonl")
    gone = [row for row in decided if row["change"] == "removed"]
    red = {row["row"]: row for row in gone if row["tag"] == "attribute:red"}
    # The share of 30 is three, and the three blue ones lie farthest out; they disagree too.
    assert sorted(red) == list(WRONG)
    assert all(row["why"] == ["outlier", "disagrees"] for row in red.values())
    by_name = {row["name"]: row for row in report["tags"]}
    assert (by_name["red"]["given"], by_name["red"]["cleaned"]) == (30, 27)
    assert by_name["blue"]["given"] == 0 and by_name["blue"]["merged"] == 3
    page = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "attribute:red removed: p/03.png" in page


def test_a_small_thing_is_found_in_its_corner(corpus: Path, tmp_path: Path) -> None:
    run(job(corpus), tmp_path / "out")
    generated = [
        Known.of(row) for path in sorted((tmp_path / "out/generated").glob("*.jsonl")) for row in rows(path)
    ]
    label = next(label for label in generated[5].labels if label.tag == "attribute:red")
    assert label.score is not None and label.score < 0.3, "the whole picture does not say so"
    assert "attribute:red" in rows(tmp_path / "out" / "labels.jsonl")[5]["tags"]


def test_every_label_has_its_origins(corpus: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text(
        json.dumps({"image": "p/00.png", "captions": ["A green door ."], "split": "train"}) + "\n", "utf-8"
    )
    run(job(corpus, captions), tmp_path / "out")
    known = Known.of(rows(tmp_path / "out" / "generated" / "000000.jsonl")[0])
    assert {label.tag: label.origins for label in known.labels} == {
        "attribute:red": ("given", "generated-tag", "generated-caption"),
        "attribute:green": ("parsed",),
        "attribute:dark": ("generated-tag",),
    }
    first = rows(tmp_path / "out" / "captions.jsonl")[0]
    assert first["captions"] == ["A green door .", "A red wall ."]
    assert first["origins"] == ["given", "generated"]
    row = rows(tmp_path / "out" / "labels.jsonl")[0]
    assert row["tags"] and len(row["tags"]) == len(row["origins"]) == len(row["kind"]) == len(row["scores"])


def test_names_that_are_no_tag_stay(corpus: Path, tmp_path: Path) -> None:
    run(job(corpus), tmp_path / "out")
    last = rows(tmp_path / "out" / "labels.jsonl")[-1]
    assert last["labels"][-1] == "moss" and last["tags"][-1] is None and last["origins"][-1] == ["given"]


def test_decisions_lead_there_and_back(corpus: Path, tmp_path: Path) -> None:
    run(job(corpus), tmp_path / "out")
    decided = rows(tmp_path / "out" / "decisions.jsonl")
    cleaned = [set(row["tags"]) - {None} for row in rows(tmp_path / "out" / "labels.jsonl")]
    for number, given in enumerate(given_tags(tmp_path / "out")):
        own = [row for row in decided if row["row"] == number]
        assert forward(given, own) == cleaned[number]
        assert backward(cleaned[number], own) == given
    assert {row["change"] for row in decided} == {"added", "removed"}


def test_undo_restores_exactly(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(job(corpus), out)
    before = files(out)
    cleaned = rows(out / "labels.jsonl")

    undo(out, ["red"])
    merged = rows(out / "labels.jsonl")
    for number, (old, new) in enumerate(zip(cleaned, merged, strict=True)):
        back = set(new["tags"]) - set(old["tags"])
        assert back == ({"attribute:red"} if number in WRONG else set())
    restored = dict(zip(merged[3]["tags"], merged[3]["origins"], strict=True))
    assert restored["attribute:red"] == ["given"]

    report = undo(out, to="given")
    assert report["stages"]["cleaned"] == report["stages"]["given"]
    source = rows(corpus)
    assert [row["labels"] for row in rows(out / "labels.jsonl")] == [row["labels"] for row in source]
    assert all(each == ["given"] for row in rows(out / "labels.jsonl") for each in row["origins"])
    with pytest.raises(UsageError, match="every tag was taken back"):
        redo(out, ["red"])

    redo(out)
    assert files(out) == before
    undo(out, ["attribute:red"], to="given")
    run(job(corpus), out)
    assert all("attribute:red" in row["tags"] for row in rows(out / "labels.jsonl")[:30]), "a run respects it"
    redo(out, ["red"])
    assert files(out) == before
    with pytest.raises(UsageError, match="'purple' is no tag"):
        undo(out, ["purple"])


@pytest.mark.parametrize("after", [0, 20, 42, 60])
def test_a_killed_run_goes_on_to_the_same_bytes(corpus: Path, tmp_path: Path, after: int) -> None:
    class KilledError(BaseException):
        pass

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run(job(corpus), straight)
    calls = 0

    def watch(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KilledError

    with pytest.raises(KilledError):
        run(job(corpus), killed, watch=watch)
    (killed / "labels.jsonl.77-abcd.part").write_text("half")
    with pytest.raises(UsageError, match="no finished data engine"):
        undo(killed)
    run(job(corpus), killed)
    assert files(killed) == files(straight)


def test_finished_work_is_not_done_again(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(job(corpus), out)
    before = files(out)
    engine = colours.Colours()
    run(job(corpus, engine=engine), out)
    assert engine.looked == 0 and files(out) == before
    # A damaged piece is made anew, and only that one.
    (out / "generated" / "000001.jsonl").write_bytes(b"{}\n")
    run(job(corpus, engine=engine), out)
    assert engine.looked == 15 and files(out) == before
    # So is one of which a picture changed, with what was seen of its regions.
    paint(corpus.parent / "p" / "00.png", (0, 0, 250))
    run(job(corpus, engine=engine), out)
    assert engine.looked == 2 * 15 + 5 * 15
    tags = rows(out / "labels.jsonl")[0]["tags"]
    assert "attribute:blue" in tags and "attribute:red" not in tags


def test_another_configuration_is_refused_with_the_cure(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(job(corpus), out)
    before = files(out)
    with pytest.raises(MismatchError, match=r"looked at otherwise.*threshold 0.4.*another folder"):
        run(job(corpus, threshold=0.4), out)
    with pytest.raises(MismatchError, match=r"cleaned otherwise.*share 0\.2.*--clean-again"):
        run(job(corpus, cleaning=Cleaning(kinds=("attribute",), least_pictures=10, share=0.2)), out)
    assert files(out) == before
    engine = colours.Colours()
    other = Cleaning(kinds=("attribute",), least_pictures=10, share=0.2)
    report = run(job(corpus, cleaning=other, engine=engine), out, clean_again=True)
    assert engine.looked == 0 and report["removed_because"]["outlier"] > 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"other things than a data engine \(letter.txt\)"):
        run(job(corpus), tmp_path / "other")
    assert files(tmp_path / "other") == {"letter.txt": b"dear"}


def test_unreadable_pictures_are_rows_with_their_error(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "p" / "02.png").write_bytes(b"no picture")
    (tmp_path / "p" / "31.png").unlink()
    out = tmp_path / "out"
    report = run(job(corpus), out)
    assert report["failed"] == 2 and report["pictures"] == 42
    failed = {row["row"]: row["error"]["type"] for row in rows(out / "errors.jsonl")}
    assert failed == {2: "not_image", 31: "not_found"}
    row = rows(out / "labels.jsonl")[2]
    assert row["labels"] is None and row["error"]["type"] == "not_image"
    with pytest.raises(TooManyFailuresError, match="2 pictures cannot be read"):
        run(job(corpus, max_failures=1), tmp_path / "other")


def test_shards_read_what_was_written(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "p" / "02.png").write_bytes(b"no picture")
    out = tmp_path / "deep" / "out"
    out.parent.mkdir()
    run(job(corpus), out)
    words = colours.VOCABULARY
    shards = tmp_path / "shards"
    build_shards(
        out / "labels.jsonl",
        shards,
        vocabulary=words,
        label=label_from_names(words),
        settings=ShardSettings.for_form("labels"),
    )
    for row in rows(out / "labels.jsonl"):
        assert not Path(row["image"]).is_absolute() and (out / row["image"]).is_file()
    samples = list(ShardSet.open(shards).samples("train"))
    wanted = [set(row["tags"]) - {None} for row in rows(out / "labels.jsonl") if row["labels"] is not None]
    assert [set(sample.tags) for sample in samples] == wanted and len(samples) == 41


def test_a_tag_that_the_model_misses_is_not_cleaned_by_its_word(corpus: Path, tmp_path: Path) -> None:
    believing = Cleaning(kinds=("attribute",), least_pictures=10, share=0.0, trust=0.0, agree=0.95)
    report = run(job(corpus, cleaning=believing), tmp_path / "believing")
    assert report["removed_because"]["disagrees"] > 30, "no region reaches 0.95"
    doubting = Cleaning(kinds=("attribute",), least_pictures=10, share=0.0, trust=0.5, agree=0.95)
    report = run(job(corpus, cleaning=doubting), tmp_path / "doubting")
    assert report["removed_because"] == {} and set(report["tags_judged"]) == {"doubtful", "few"}


@pytest.mark.parametrize("rule", ["both", "outliers", "regions"])
def test_rules_take_what_they_say(corpus: Path, tmp_path: Path, rule: Any) -> None:
    options = {"kinds": ("attribute",), "least_pictures": 10, "share": 0.05, "trust": 0.5}
    run(job(corpus, cleaning=Cleaning(rule=rule, **options)), tmp_path / rule)
    run(job(corpus, cleaning=Cleaning(rule="either", **options)), tmp_path / "either")
    why = [
        {
            (row["row"], row["tag"]): set(row["why"])
            for row in rows(path / "decisions.jsonl")
            if "region" in row
        }
        for path in (tmp_path / rule, tmp_path / "either")
    ]
    keep = {"both": {"outlier", "disagrees"}, "outliers": {"outlier"}, "regions": {"disagrees"}}[rule]
    assert why[0] == {place: reasons for place, reasons in why[1].items() if keep <= reasons}
    assert why[1] != why[0] and why[0]


def test_spared_origins_stay(corpus: Path, tmp_path: Path) -> None:
    spare = Cleaning(kinds=("attribute",), least_pictures=10, share=0.1, trust=0.5, spare=("given",))
    report = run(job(corpus, cleaning=spare), tmp_path / "out")
    removed = [row for row in rows(tmp_path / "out" / "decisions.jsonl") if row["change"] == "removed"]
    assert removed and all("given" not in row["origins"] for row in removed)
    assert report["kept_because_spared_or_implied"] >= 3


def test_what_a_staying_tag_implies_stays(tmp_path: Path, corpus: Path) -> None:
    entries = [
        Entry("red", "attribute", threshold=0.3),
        Entry("green", "attribute", threshold=0.3),
        Entry("blue", "attribute", threshold=0.3, parents=("attribute:dark",)),
        Entry("dark", "attribute", threshold=0.3),
    ]
    words = Vocabulary(entries, name="implied")
    writer = Writing(colours.Colours(), words, ref="colours@0", side=colours.SIDE)
    share = Cleaning(kinds=("attribute",), least_pictures=3, share=0.9, trust=0.0, agree=1.0, spare=())
    run(Job((corpus,), writer, cleaning=share), tmp_path / "out")
    gone = [row for row in rows(tmp_path / "out" / "decisions.jsonl") if row["change"] == "removed"]
    assert gone
    for row in rows(tmp_path / "out" / "labels.jsonl"):
        tags = set(row["tags"]) - {None}
        assert tags == {words[c].id for c in words.with_parents(words.position(tag) for tag in tags)}


def slow_measure(
    labels: Sequence[set[str]], truth: Sequence[set[str]], classes: Sequence[str]
) -> tuple[float, float]:
    """Overall precision and recall, label by label."""
    right = given = wanted = 0
    for tag in classes:
        if all(tag in row for row in truth) or not any(tag in row for row in truth):
            continue
        for row, true in zip(labels, truth, strict=True):
            right += tag in row and tag in true
            given += tag in row
            wanted += tag in true
    return right / given, right / wanted


def test_a_yardstick_measures_and_decides_nothing(corpus: Path, tmp_path: Path) -> None:
    yardstick = tmp_path / "truth.jsonl"
    real = ["green" if n >= 30 else "blue" if n in WRONG else "red" for n in range(40)]
    told = [{"image": f"p/{n:02d}.png", "labels": [name, "unheard of"]} for n, name in enumerate(real)]
    yardstick.write_text("".join(json.dumps(row) + "\n" for row in told), "utf-8")
    report = run(job(corpus), tmp_path / "with", truth=yardstick)
    plain = run(job(corpus), tmp_path / "without")
    assert plain["truth"] is None
    for name in ("labels.jsonl", "decisions.jsonl"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    truth = [{f"attribute:{name}"} for name in real]
    classes = ["attribute:red", "attribute:green", "attribute:blue"]
    given = given_tags(tmp_path / "with")[:40]
    cleaned = [set(row["tags"]) for row in rows(tmp_path / "with" / "labels.jsonl")][:40]
    for stage, labels in (("given", given), ("cleaned", cleaned)):
        measured = report["truth"][stage]
        assert (measured["OP"], measured["OR"]) == pytest.approx(
            slow_measure(labels, truth, classes), abs=1e-6
        )
    assert report["truth"]["pictures"] == 40 and report["truth"]["tags"] == 3
    assert report["truth"]["removed_of_given"]["rightly"] == 3
    assert report["truth"]["cleaned"]["OP"] > report["truth"]["given"]["OP"]
    assert "Against the yardstick (40 pictures, 3 tags)" in (tmp_path / "with" / "report.md").read_text(
        "utf-8"
    )
    yardstick.write_text(json.dumps({"image": "elsewhere.png", "labels": ["red"]}) + "\n", "utf-8")
    with pytest.raises(DataError, match="speaks of none"):
        run(job(corpus), tmp_path / "with", truth=yardstick)


def test_what_cannot_be_meant_is_refused(corpus: Path, tmp_path: Path) -> None:
    plain = colours.tagger()
    with pytest.raises(UsageError, match="writes no captions"):
        Job((corpus,), plain)
    Job((corpus,), plain, captions=False)
    with pytest.raises(UsageError, match="one of each"):
        run(job(corpus, corpus), tmp_path / "out")
    with pytest.raises(UsageError, match="no picture of split 'val'"):
        run(job(corpus, split="val"), tmp_path / "out")
    for wrong in ({"kinds": ("thing",)}, {"rule": "any"}, {"spare": ("me",)}, {"share": 1.0}, {"trust": 2.0}):
        with pytest.raises(UsageError):
            Cleaning(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threshold is 2"):
        job(corpus, threshold=2.0)
