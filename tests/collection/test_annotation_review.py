"""An annotation exported, reviewed and measured: by rows written here, without a model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from taglens.collection.annotated import read_annotated
from taglens.collection.annotation_decisions import apply_in_place, apply_to, read_decisions, undo
from taglens.collection.annotation_review import Only, cards, write_annotation_review
from taglens.collection.rows_in import read_rows
from taglens.collection.writers.choosing import Account, Choice
from taglens.collection.writers.export import Order, export
from taglens.errors import DataError, UsageError
from taglens.evaluation.annotation_report import Meeting, look_alikes, report, suspicion_rows, suspicions

HOSTILE = '</script><img src=x onerror="alert(1)">'


def row(image: str, labels: list[str] | None, **about: Any) -> dict[str, Any]:
    given = labels or []
    provenance = {
        "model": "seer",
        "strategy": "full",
        "vocabulary": "words@123",
        "dropped": [],
        "dropped_kind": None,
        "unsettled": [],
        "stages": ["yes_no"] * len(given),
        "votes": [[1, 1]] * len(given),
        **about,
    }
    provenance["dropped_kind"] = ["object"] * len(provenance["dropped"])
    error = {"type": "no_answer", "message": "none"} if labels is None else None
    size = {"width": 8, "height": 6}
    return {
        "image": f"../pictures/{image}",
        "source": f"pictures/{image}",
        **size,
        "signature": "x",
        "labels": labels,
        "kind": ["object"] * len(given),
        "provenance": provenance,
        "error": error,
    }


ROWS = [
    row("a.png", ["cat", "mat"], dropped=["dog"], votes=[[2, 3], [3, 3]]),
    row("b.png", ["wolf"], unsettled=["mat"]),
    row("c.png", None),
    row("d.png", ["dog", HOSTILE]),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for name in "abd":
        Image.new("RGB", (8, 6), "teal").save(f"pictures/{name}.png")
    write(Path("out"), ROWS)
    return Path("out")


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "annotation.json").write_text('{"taglens_annotation": 1, "configuration": {}}')
    (folder / "labels.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))


def exported(folder: Path, format: Any, **options: Any) -> tuple[Path, Account]:
    out, account = Path(f"exported-{format}"), Account()
    export(read_rows(folder), Order(format=format, out=out, **options), account=account)
    return out, account


# -- exports ---------------------------------------------------------------------------------------


def test_coco_has_labels_with_their_origin_and_no_score(folder: Path) -> None:
    out, account = exported(folder, "coco")
    content = json.loads(out.read_text())
    assert [image["file_name"] for image in content["images"]] == [
        f"pictures/{n}.png" for n in ("a", "b", "d")
    ]
    assert content["images"][0]["width"] == 8 and account.left_out == 1
    assert not any("score" in one or "score" in one["attributes"] for one in content["annotations"])
    first = content["annotations"][0]["attributes"]
    assert (first["strategy"], first["stage"], first["votes"]) == ("full", "yes_no", [2, 3])
    assert first["model"] == "seer"


def test_other_formats_leave_the_score_out_too(folder: Path) -> None:
    lines = exported(folder, "csv")[0].read_text().splitlines()
    assert lines[0].endswith("score,model,vocabulary,strategy,stage,votes")
    assert lines[1] == "pictures/a.png,8,6,,object:cat,cat,object,,seer,words@123,full,yes_no,2/3"
    tasks = json.loads(exported(folder, "labelstudio")[0].read_text())
    (prediction,) = tasks[0]["predictions"]
    assert prediction["model_version"] == "seer" and "score" not in prediction
    out, _ = exported(folder, "fiftyone")
    (label, *_) = json.loads((out / "labels.json").read_text())["labels"]["000000000"]
    assert label["label"] == "cat" and "confidence" not in label
    places = json.loads((out / "data.json").read_text())
    assert all(Path(place).is_file() for place in places.values()), "found from the folder of the annotation"


def test_jsonl_is_an_annotation_again(folder: Path) -> None:
    out, _ = exported(folder, "jsonl", choice=Choice(exclude=frozenset({"mat"})))
    again = list(read_annotated(out))
    assert [mark.name for mark in again[0].given or ()] == ["cat"]
    assert (again[0].given or ())[0].votes == (2, 3) and Path(again[0].path).is_file()


def test_what_goes_by_scores_is_refused(folder: Path) -> None:
    for format in ("xmp", "webdataset"):
        with pytest.raises(UsageError, match="states a score"):
            exported(folder, format)
    with pytest.raises(UsageError, match="go by scores"):
        exported(folder, "coco", choice=Choice(threshold=0.5))
    with pytest.raises(UsageError, match="go by scores"):
        exported(folder, "coco", choice=Choice(top=1))


def test_a_picture_done_again_counts_once_in_its_place(folder: Path) -> None:
    write(folder, [*ROWS, row("a.png", ["hat"])])
    found = list(read_annotated(folder))
    assert [each.source for each in found] == [each["source"] for each in ROWS]
    assert [mark.name for mark in found[0].given or ()] == ["hat"]
    write(folder, [{**ROWS[0], "kind": ["object"]}])
    with pytest.raises(DataError, match=r"line 1.*a kind for each of 2"):
        list(read_annotated(folder))


# -- the page --------------------------------------------------------------------------------------


def test_the_page_shows_what_was_asked_for_and_names_stay_data(folder: Path) -> None:
    found = cards(read_annotated(folder), Only())
    written = write_annotation_review(found, Path("p.html"), title="</title><b>")
    text = Path("p.html").read_text()
    assert (written.pictures, written.marks, written.unseen) == (3, 7, 0)
    assert len(re.findall(r"<script\b", text)) == 2 and "<img" not in text and "<b>:" not in text
    assert "img-src data:;" in text and not re.findall(r"https?://|\bon[a-z]+=\"|innerHTML", text)
    assert text.count('"p":"/9j/') == 3, "small copies, inside the page"
    only = cards(read_annotated(folder), Only.of(["dropped", "unsettled"]))
    assert [[one.mark.name for one in card.shown] for card in only] == [["dog"], ["mat"]]
    named = cards(read_annotated(folder), Only.of(["DOG"]))
    assert [(card.row.source[-5:], card.shown[0].state) for card in named] == [
        ("a.png", "dropped"),
        ("d.png", "given"),
    ]
    with pytest.raises(UsageError, match="--only unicorn"):
        cards(read_annotated(folder), Only.of(["unicorn"]))


# -- decisions -------------------------------------------------------------------------------------


def decisions(folder: Path, **verdicts: dict[str, list[str]]) -> Path:
    state = {each.source: each.state for each in read_annotated(folder)}
    rows = [
        {
            "source": f"pictures/{name}.png",
            "state": state[f"pictures/{name}.png"],
            **{key: [{"name": each, "kind": "object"} for each in names] for key, names in said.items()},
        }
        for name, said in verdicts.items()
    ]
    path = Path("decisions.json")
    path.write_text(json.dumps({"taglens_review": 1, "decisions": rows}))
    return path


def test_decisions_change_rows_and_are_undone_to_the_byte(folder: Path) -> None:
    before = (folder / "labels.jsonl").read_bytes()
    said = read_decisions([decisions(folder, a={"accept": ["dog", "mat"], "reject": ["cat"]})])
    applied = apply_in_place(folder, said)
    assert (applied.pictures, applied.added, applied.removed) == (1, 1, 1)
    first, *others = read_annotated(folder)
    assert [(mark.name, mark.stage, mark.votes) for mark in first.given or ()] == [
        ("mat", "review", None),
        ("dog", "review", None),
    ]
    assert [mark.name for mark in first.dropped] == ["cat"]
    assert b"".join(each.line for each in others) in before
    again = apply_in_place(folder, said)
    assert again.pictures == 0 and again.stale == ["pictures/a.png"], "the labels are others by now"
    assert undo(folder).restored == 1 and (folder / "labels.jsonl").read_bytes() == before
    with pytest.raises(UsageError, match="no review"):
        undo(folder)


def test_a_row_that_changed_after_a_review_stays_on_undo(folder: Path) -> None:
    verdicts = decisions(folder, a={"reject": ["cat"]}, b={"accept": ["mat"]})
    apply_in_place(folder, read_decisions([verdicts]))
    write(folder, [row("a.png", ["hat"]), *map(json.loads, lines(folder)[1:])])
    done = undo(folder)
    assert done.restored == 1 and done.changed_since == ("pictures/a.png",)
    assert [json.loads(line)["labels"] for line in lines(folder)[:2]] == [["hat"], ["wolf"]]


def lines(folder: Path) -> list[str]:
    return (folder / "labels.jsonl").read_text().splitlines()


def test_another_file_finds_the_same_pictures(folder: Path) -> None:
    before = (folder / "labels.jsonl").read_bytes()
    Path("far/away").mkdir(parents=True)
    said = read_decisions([decisions(folder, b={"accept": ["mat"]}, c={"accept": ["mat"]})])
    applied = apply_to(folder, said, Path("far/away/labels.jsonl"))
    assert applied.unknown == ["pictures/c.png"] and applied.pictures == 1
    assert (folder / "labels.jsonl").read_bytes() == before
    there = list(read_annotated(Path("far/away/labels.jsonl")))
    assert [each.path for each in there] == [each.path for each in read_annotated(folder)]
    with pytest.raises(UsageError, match="the file that is read"):
        apply_to(folder, said, folder / "labels.jsonl")


@pytest.mark.parametrize(
    "content",
    ["[]", '{"taglens_review": 2, "decisions": []}', '{"taglens_review": 1, "decisions": [{"source": "a"}]}'],
)
def test_files_that_are_no_decisions(folder: Path, content: str) -> None:
    Path("bad.json").write_text(content)
    with pytest.raises(DataError):
        read_decisions([Path("bad.json")])


# -- figures and suspicions ------------------------------------------------------------------------


def truth(**labels: list[str]) -> Path:
    path = Path("truth.jsonl")
    rows = [{"image": f"pictures/{name}.png", "labels": said} for name, said in labels.items()]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_figures_stages_and_confusions(folder: Path) -> None:
    (folder / "concepts.jsonl").write_text(json.dumps({"name": "wolf", "look_alikes": ["dog"]}) + "\n")
    meeting = Meeting(folder, truth(a=["cat", "dog"], b=["dog", "mat"], d=["dog", "wolf"], e=["cat"]))
    near = look_alikes(meeting, [folder / "concepts.jsonl"])
    found = report(meeting, alike=near)
    row = found.to_dict()
    # "dog" is everywhere, so that OP and OR leave it out: cat, mat and wolf are given, and cat is right.
    assert (row["images"], row["left_out"], row["classes"]) == (3, 1, 4)
    assert row["OP"] == row["OR"] == pytest.approx(1 / 3, abs=1e-6)
    assert row["stages"]["yes_no"] == {"labels": 4, "right": 2, "precision": 0.5}
    assert row["dropped"] == {"labels": 1, "rightly": 0, "wrongly": 1}
    assert row["missing"] == {"never_proposed": 2, "dropped": 1, "unsettled": 1}
    first = row["confusions"][0]
    assert first == {"said": "wolf", "truth": "dog", "pictures": 1, "instead": 1, "look_alikes": True}
    assert all(not each["look_alikes"] for each in row["confusions"][1:])


def test_suspicions_rank_by_voices_and_leave_out_what_is_unsettled(folder: Path) -> None:
    meeting = Meeting(folder, truth(a=["cat", "dog"], b=["dog", "mat"], d=["dog"]))
    found = suspicions(meeting)
    said = {(source[-5], one.mark.name): one for source, several in found.items() for one in several}
    assert set(said) == {("a", "mat"), ("a", "dog"), ("b", "wolf"), ("b", "dog")} - {("b", "wolf")}
    assert said["a", "mat"].said and said["a", "mat"].state == "given"
    assert said["a", "dog"].state == "dropped" and said["b", "dog"].state == "absent"
    assert said["a", "dog"].rank > said["b", "dog"].rank, "denied when asked counts more than never proposed"
    write(Path("other"), [row("a.png", ["mat", "dog"]), row("b.png", ["mat"])])
    backed = {one.mark.name: one for one in suspicions(meeting, [Path("other")])["pictures/a.png"]}
    assert backed["mat"].rank > said["a", "mat"].rank and backed["dog"].rank < said["a", "dog"].rank
    rows = suspicion_rows(meeting, found, most=2)
    assert len(rows) == 2 and rows[0]["rank"] >= rows[1]["rank"]
    assert {each["suspicion"] for each in suspicion_rows(meeting, found)} == {"label_missing", "label_wrong"}
    shown = cards(read_annotated(folder), Only.of(["suspected"]), suspicions=found)
    assert [one.mark.name for card in shown for one in card.shown].count("dog") == 2
