"""Shards: what goes in comes out, a killed build ends byte-equal, no row is lost silently."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taglens.cli.shards import build as build_command
from taglens.cli.shards import show as show_command
from taglens.data.building import BuildReport, build_shards
from taglens.data.labelling import Labeller, Labels, label_from_names
from taglens.data.shards import ShardSet, ShardSettings
from taglens.data.sources import Row, read_captions
from taglens.errors import DataError, MismatchError, TaglensError, UsageError, VocabularyError
from taglens.vocabulary import Entry, Vocabulary

VOCABULARY = Vocabulary(
    [
        Entry("animal", "object"),
        Entry("dog", "object", parents=("object:animal",)),
        Entry("cat", "object", parents=("object:animal",)),
        Entry("boat", "object"),
        Entry("red", "attribute"),
    ],
    name="pets",
)
SETTINGS = ShardSettings(absent=0.0, scope="labels", samples_per_shard=3, labeller="names")
NAMES = ["dog", "cat", "red", "elf"]


def picture(number: int, form: str = "PNG") -> bytes:
    """A picture that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (5, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Eleven rows: train, val and no split mixed, one without labels, one with an empty list."""
    folder = tmp_path / "corpus"
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(11):
        image = f"images/{number}.{'PNG' if number % 2 else 'jpeg'}"
        (folder / image).write_bytes(picture(number, "PNG" if number % 2 else "JPEG"))
        labels = [NAMES[number % 4], NAMES[number // 4]]
        split = "val" if number % 4 == 3 else "train"
        rows.append({"image": image, "labels": labels, "split": split})
    rows[4]["labels"] = None
    rows[5]["labels"] = []
    del rows[10]["split"]
    return write(folder / "labels.jsonl", rows)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def build(corpus: Path, out: Path, **changes: Any) -> BuildReport:
    arguments: dict[str, Any] = {
        "vocabulary": VOCABULARY,
        "label": label_from_names(VOCABULARY),
        "settings": SETTINGS,
        **changes,
    }
    return build_shards(corpus, out, **arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# -- round trip --------------------------------------------------------------------------------------


def test_what_goes_in_comes_out(corpus: Path, tmp_path: Path) -> None:
    report = build(corpus, tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    # The slow twin: the corpus read line by line, tags worked out by hand.
    implied = {"dog": [0, 1], "cat": [0, 2], "red": [4], "elf": []}
    seen = 0
    for split in ("train", "val", "all"):
        expected = [
            (number, row)
            for number, row in enumerate(rows_of(corpus))
            if row["labels"] is not None and row.get("split", "all") == split
        ]
        samples = list(shards.samples(split))
        assert len(samples) == shards.splits[split] == report.splits[split] == len(expected)
        for sample, (number, row) in zip(samples, expected, strict=True):
            columns = sorted({column for name in row["labels"] for column in implied[name]})
            assert sample.key == f"{number:09d}"
            assert sample.image == (corpus.parent / row["image"]).read_bytes()
            assert sample.tags == tuple(VOCABULARY[column].id for column in columns)
            assert (sample.captions, sample.split, sample.source) == ((), split, row["image"])
            seen += 1
    assert seen == report.samples == 10
    assert report.unlabelled == shards.unlabelled == 1
    assert report.failed == shards.failed == 0
    assert shards.vocabulary.ids == VOCABULARY.ids
    assert shards.name == "out"
    shards.verify()


def test_totals_agree_with_the_samples(corpus: Path, tmp_path: Path) -> None:
    report = build(corpus, tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    for split in shards.splits:
        counted = Counter(tag for sample in shards.samples(split) for tag in sample.tags)
        assert shards.tag_counts(split) == dict(counted)
    assert list(shards.tag_counts()) == [id for id in VOCABULARY.ids if id in shards.tag_counts()]
    lacking = sum("elf" in row["labels"] for row in rows_of(corpus) if row["labels"])
    assert shards.unmatched == report.unmatched == {"elf": lacking}
    assert [receipt.count for receipt in shards.receipts] == [1, 3, 3, 1, 2]
    assert all(receipt.rows == receipt.count for receipt in shards.receipts)


def test_tars_are_plain_webdataset_without_owner_or_time(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [
        "000000000.jpg",
        "000000000.json",
        "000000001.png",
        "000000001.json",
        "000000002.jpg",
        "000000002.json",
    ]
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.isreg()


def test_receipts_tell_the_truth(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = build(corpus, out)
    for path in out.glob("*.receipt.json"):
        receipt = json.loads(path.read_bytes())
        tar = (out / f"{receipt['shard']}.tar").read_bytes()
        assert receipt["bytes"] == len(tar)
        assert receipt["sha256"] == hashlib.sha256(tar).hexdigest()
        assert receipt["vocabulary"] == VOCABULARY.fingerprint
        assert receipt["configuration"] == report.configuration
        assert 0 <= receipt["first_row"] <= receipt["last_row"] < 11


def test_progress_counts_every_row_once(corpus: Path, tmp_path: Path) -> None:
    for _ in range(2):  # built, then found finished
        calls: list[tuple[int, int]] = []
        build(corpus, tmp_path / "out", progress=lambda done, total, calls=calls: calls.append((done, total)))
        assert calls == [(n, 11) for n in range(1, 12)]


# -- absent tags and scope ---------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [0.0, 0.25, 1.0])
def test_absent_weight_is_kept(corpus: Path, tmp_path: Path, absent: float) -> None:
    build(corpus, tmp_path / "out", settings=replace(SETTINGS, absent=absent))
    assert ShardSet.open(tmp_path / "out").absent_weight == absent


def test_scope_is_what_the_corpus_names_or_everything(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "some")
    build(corpus, tmp_path / "every", settings=replace(SETTINGS, scope="all"))
    assert [VOCABULARY[c].name for c in ShardSet.open(tmp_path / "some").scope] == [
        "animal",
        "dog",
        "cat",
        "red",
    ]
    assert ShardSet.open(tmp_path / "every").scope == list(range(len(VOCABULARY)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"absent": -0.1},
        {"absent": 1.5},
        {"absent": float("nan")},
        {"scope": "some"},
        {"samples_per_shard": 0},
    ],
)
def test_settings_refuse_nonsense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        replace(SETTINGS, **wrong)


def test_usual_settings_by_form() -> None:
    assert (ShardSettings.for_form("captions").absent, ShardSettings.for_form("captions").scope) == (
        1.0,
        "all",
    )
    assert (ShardSettings.for_form("labels").absent, ShardSettings.for_form("labels").scope) == (
        0.0,
        "labels",
    )


# -- killed and started again ------------------------------------------------------------------------


class Killed(BaseException):
    """As abrupt as an interrupt: nothing in the library may catch it."""


def killed_after(rows: int) -> Labeller:
    label = label_from_names(VOCABULARY)
    left = rows

    def dying(row: Row) -> Labels:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return label(row)

    return dying


@pytest.mark.parametrize("rows", range(10))
def test_killed_at_any_row_the_next_run_ends_byte_equal(corpus: Path, tmp_path: Path, rows: int) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    whole = build(corpus, straight)
    with pytest.raises(Killed):
        build(corpus, broken, label=killed_after(rows))
    with pytest.raises(DataError, match="run the same command again"):
        ShardSet.open(broken)
    report = build(corpus, broken)
    assert contents(broken) == contents(straight)
    assert report.written + report.skipped == whole.written
    assert replace(report, directory=straight, written=whole.written, skipped=0) == whole
    # Rows 0, 1 and 2 are the first train shard; the fourth call finds it finished.
    assert (report.skipped > 0) == (rows >= 3)


def test_a_finished_build_labels_nothing_again(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "out")
    before = contents(tmp_path / "out")
    report = build(corpus, tmp_path / "out", label=killed_after(0))
    assert (report.written, report.skipped) == (0, 5)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    "victim", ["train-000001.receipt.json", "train-000001.tar", "shards.json", "val-000000.tar"]
)
@pytest.mark.parametrize("harm", ["delete", "cut", "part"])
def test_lost_and_cut_files_are_made_again(corpus: Path, tmp_path: Path, victim: str, harm: str) -> None:
    out = tmp_path / "out"
    build(corpus, out)
    before = contents(out)
    path = out / victim
    if harm == "delete":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.rename(path.with_name(path.name + ".part"))
    with pytest.raises(DataError):
        ShardSet.open(out)
    report = build(corpus, out)
    assert contents(out) == before
    assert report.written == (0 if victim == "shards.json" else 1)


# -- another configuration ---------------------------------------------------------------------------


def other_vocabulary(**changes: Any) -> Vocabulary:
    entries = [replace(entry, **changes) if entry.name == "cat" else entry for entry in VOCABULARY]
    return Vocabulary(entries, name="pets")


@pytest.mark.parametrize(
    "change",
    [
        {"settings": replace(SETTINGS, absent=0.5)},
        {"settings": replace(SETTINGS, scope="all")},
        {"settings": replace(SETTINGS, samples_per_shard=4)},
        {"settings": replace(SETTINGS, labeller="names 2")},
        {"vocabulary": other_vocabulary(name="feline")},
        # What the fingerprint leaves out decides labels too.
        {"vocabulary": other_vocabulary(synonyms=("kitten",))},
        {"vocabulary": other_vocabulary(parents=())},
        {"vocabulary": other_vocabulary(count=7)},
    ],
)
def test_another_configuration_is_refused_and_overwritten_on_demand(
    corpus: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    first = build(corpus, out)
    before = contents(out)
    with pytest.raises(MismatchError, match="--overwrite") as caught:
        build(corpus, out, **change)
    assert first.configuration in str(caught.value)
    assert contents(out) == before
    second = build(corpus, out, overwrite=True, **change)
    assert second.configuration in str(caught.value)
    build(corpus, tmp_path / "fresh", **change)
    assert contents(out) == contents(tmp_path / "fresh")


def test_an_edited_corpus_is_another_configuration(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "out")
    write(corpus, rows_of(corpus)[:-1])
    with pytest.raises(MismatchError):
        build(corpus, tmp_path / "out")
    assert build(corpus, tmp_path / "out", overwrite=True).samples == 9
    assert not list((tmp_path / "out").glob("all-*"))


def test_thresholds_and_descriptions_are_no_configuration(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "out")
    edited = other_vocabulary(threshold=0.3, descriptions=("It purrs.",))
    assert build(corpus, tmp_path / "out", vocabulary=edited).written == 0
    assert ShardSet.open(tmp_path / "out").vocabulary[2].threshold == 0.3


def test_an_unfinished_build_with_another_vocabulary_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        build(corpus, tmp_path / "out", label=killed_after(0))
    with pytest.raises(MismatchError, match="--overwrite"):
        build(corpus, tmp_path / "out", vocabulary=other_vocabulary(name="feline"))


def test_a_folder_of_other_files_is_refused(corpus: Path) -> None:
    before = contents(corpus.parent / "images")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="empty folder"):
            build(corpus, corpus.parent, overwrite=overwrite)
    assert contents(corpus.parent / "images") == before
    assert sorted(path.name for path in corpus.parent.iterdir()) == ["images", "labels.jsonl"]


def test_overwrite_leaves_files_that_are_not_its_own(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "out")
    (tmp_path / "out" / "NOTES.txt").write_text("mine", encoding="utf-8")
    build(corpus, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "NOTES.txt").read_text(encoding="utf-8") == "mine"


# -- pictures that fail ------------------------------------------------------------------------------


def test_failed_pictures_are_counted_and_told(corpus: Path, tmp_path: Path) -> None:
    images = corpus.parent / "images"
    (images / "0.jpeg").unlink()
    (images / "1.PNG").write_bytes(b"hello, I am text")
    (images / "3.PNG").write_bytes(b"")
    whole = (images / "9.PNG").read_bytes()
    (images / "9.PNG").write_bytes(whole[: len(whole) // 2])
    report = build(corpus, tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    told = rows_of(tmp_path / "out" / "failures.jsonl")
    assert [(row["row"], row["image"], row["error"]["type"]) for row in told] == [
        (0, "images/0.jpeg", "not_found"),
        (1, "images/1.PNG", "not_image"),
        (3, "images/3.PNG", "empty"),
        (9, "images/9.PNG", "truncated"),
    ]
    for row in told:
        assert row["image"] in row["error"]["message"]
        assert str(tmp_path) not in row["error"]["message"]
    assert report.failed == shards.failed == 4
    assert report.samples == 6
    keys = {sample.key for split in shards.splits for sample in shards.samples(split)}
    assert keys == {f"{number:09d}" for number in (2, 5, 6, 7, 8, 10)}
    assert sum(receipt.rows for receipt in shards.receipts) == 10


def test_failures_survive_a_restart_and_do_not_shift_shards(corpus: Path, tmp_path: Path) -> None:
    (corpus.parent / "images" / "0.jpeg").unlink()
    build(corpus, tmp_path / "straight")
    with pytest.raises(Killed):
        build(corpus, tmp_path / "broken", label=killed_after(8))
    assert build(corpus, tmp_path / "broken").failed == 1
    assert contents(tmp_path / "broken") == contents(tmp_path / "straight")
    (corpus.parent / "images" / "0.jpeg").write_bytes(picture(0, "JPEG"))
    assert build(corpus, tmp_path / "broken").failed == 1
    assert build(corpus, tmp_path / "broken", overwrite=True).failed == 0


def test_a_shard_may_hold_nothing(corpus: Path, tmp_path: Path) -> None:
    for path in (corpus.parent / "images").iterdir():
        path.unlink()
    report = build(corpus, tmp_path / "out")
    assert (report.samples, report.failed) == (0, 10)
    assert list(ShardSet.open(tmp_path / "out").samples("train")) == []


# -- sources that cannot be built --------------------------------------------------------------------


def test_a_malformed_row_stops_before_anything_is_written(corpus: Path, tmp_path: Path) -> None:
    corpus.write_text(corpus.read_text(encoding="utf-8") + '{"image": "x.jpg"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 12"):
        build(corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_labelled_is_refused(corpus: Path, tmp_path: Path) -> None:
    write(corpus, [{"image": "images/0.jpeg", "labels": None}])
    with pytest.raises(DataError, match="none of its 1 rows"):
        build(corpus, tmp_path / "out")


# -- damaged folders ---------------------------------------------------------------------------------


@pytest.fixture
def built(corpus: Path, tmp_path: Path) -> Path:
    build(corpus, tmp_path / "built")
    return tmp_path / "built"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "changes", "error"),
    [
        ("shards.json", {"taglens_shards": 99}, DataError),
        ("shards.json", {"plan": {}}, DataError),
        ("shards.json", {"plan": None}, DataError),
        ("shards.json", {"splits": [1]}, DataError),
        ("shards.json", {"scope": ["object:elf"]}, VocabularyError),
        ("shards.json", {"shards": ["train-000009"]}, DataError),
        ("val-000000.receipt.json", {"configuration": "other"}, MismatchError),
        ("val-000000.receipt.json", {"vocabulary": "other"}, MismatchError),
        ("val-000000.receipt.json", {"bytes": 3}, DataError),
        ("val-000000.receipt.json", {"stray": 3}, DataError),
        ("val-000000.receipt.json", {"failed": None}, DataError),
    ],
)
def test_open_names_what_is_wrong(
    built: Path, file: str, changes: dict[str, Any], error: type[TaglensError]
) -> None:
    edit(built / file, **changes)
    with pytest.raises(error):
        ShardSet.open(built)


def test_open_refuses_another_vocabulary_and_a_folder_without_shards(built: Path, tmp_path: Path) -> None:
    other_vocabulary(name="feline").save(built / "vocabulary.jsonl")
    with pytest.raises(MismatchError, match=VOCABULARY.fingerprint):
        ShardSet.open(built)
    with pytest.raises(DataError, match="cannot read"):
        ShardSet.open(tmp_path)


def test_a_flipped_byte_is_found_by_verify(built: Path) -> None:
    tar = built / "val-000000.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    shards = ShardSet.open(built)  # the size still fits
    with pytest.raises(DataError, match=r"val-000000\.tar differ"):
        shards.verify()


def repack(tar: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """Write a tar again with other members, and a receipt that agrees with its size."""
    with tarfile.open(tar) as old:
        members = [(member.name, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
    with tarfile.open(tar, "w") as new:
        for name, content in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    edit(tar.with_name(tar.name.replace(".tar", ".receipt.json")), bytes=tar.stat().st_size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members[:-2], "expected 2 samples, found 1"),
        (lambda members: members[:-1], "no 000000007.json"),
        (lambda members: members[1:], "after it"),
        (lambda members: [members[0], (members[1][0], b"{"), *members[2:]], "damaged"),
        (lambda members: [members[0], (members[1][0], b"[]"), *members[2:]], "damaged"),
        (lambda members: [members[0], (members[1][0], b"{}"), *members[2:]], "damaged"),
        (
            lambda members: [
                members[0],
                (members[1][0], b'{"captions": [], "tags": ["object:elf"], "split": "val", "source": "x"}'),
                *members[2:],
            ],
            "object:elf",
        ),
    ],
)
def test_a_damaged_tar_is_named_when_read(built: Path, change: Any, message: str) -> None:
    repack(built / "val-000000.tar", change)
    shards = ShardSet.open(built)
    with pytest.raises(DataError, match=message):
        list(shards.samples("val"))


def test_a_cut_or_scrambled_tar_is_named_when_read(built: Path) -> None:
    tar = built / "val-000000.tar"
    whole = tar.read_bytes()
    for content in (whole[:700], b"\1" * len(whole), b""):
        tar.write_bytes(content)
        edit(built / "val-000000.receipt.json", bytes=len(content))
        with pytest.raises(DataError, match=r"val-000000\.tar"):
            list(ShardSet.open(built).samples("val"))


def test_an_unknown_split_is_refused_at_once(built: Path) -> None:
    with pytest.raises(UsageError, match="all, train, val"):
        ShardSet.open(built).samples("test")


# -- captions and the commands -----------------------------------------------------------------------


def test_command_builds_labels_and_reports_failures(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    VOCABULARY.save(tmp_path / "v.jsonl")
    out = tmp_path / "out"
    arguments: dict[str, Any] = {"vocabulary": tmp_path / "v.jsonl", "out": out}
    assert build_command(corpus.parent, **arguments) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "10 samples (all 1, train 7, val 2)" in said.err
    assert "elf" in said.err
    assert ShardSet.open(out).absent_weight == 0.0
    (corpus.parent / "images" / "0.jpeg").unlink()
    assert build_command(corpus.parent, **arguments, overwrite=True, absent="0.25", scope="all") == 1
    assert "failures.jsonl" in capsys.readouterr().err
    shards = ShardSet.open(out)
    assert (shards.absent_weight, len(shards.scope)) == (0.25, len(VOCABULARY))
    with pytest.raises(MismatchError):
        build_command(corpus.parent, **arguments, absent="negative")


@pytest.mark.parametrize("absent", ["maybe", "1.5", "nan", "-1", ""])
def test_command_refuses_nonsense(corpus: Path, tmp_path: Path, absent: str) -> None:
    VOCABULARY.save(tmp_path / "v.jsonl")
    with pytest.raises(UsageError, match="--absent"):
        build_command(corpus, vocabulary=tmp_path / "v.jsonl", out=tmp_path / "out", absent=absent)
    with pytest.raises(UsageError, match="scope"):
        build_command(corpus, vocabulary=tmp_path / "v.jsonl", out=tmp_path / "out", scope="none")
    assert not (tmp_path / "out").exists()


def test_command_shows(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_command(built) == 0
    shown = capsys.readouterr().out
    for piece in (
        "train 7",
        VOCABULARY.ref,
        "object:animal 8",
        "4 tags",
        "unknown",
        "0 failed, 1 unlabelled",
    ):
        assert piece in shown
    assert show_command(built, json=True, verify=True) == 0
    said = capsys.readouterr()
    row = json.loads(said.out)
    assert said.out.count("\n") == 1
    assert (row["samples"], row["shards"], row["scope"]) == (10, 5, 4)
    assert row["splits"] == {"all": 1, "train": 7, "val": 2}
    assert "agree" in said.err


def test_flickr8k_rows_by_the_command(shared: Callable[[str], Path], tmp_path: Path) -> None:
    source = shared("data/flickr8k/captions.jsonl")
    first = source.read_text(encoding="utf-8").splitlines()[:12]
    rows = [json.loads(line) for line in first]
    for row in rows:
        row["image"] = str(source.parent / row["image"])
    corpus = write(tmp_path / "captions.jsonl", rows)
    words = ["dog", "girl", "dress", "grass", "water"]
    vocabulary = Vocabulary(
        [
            *(Entry(word, "object") for word in words),
            Entry("black", "attribute"),
            Entry("climb", "action"),
        ]
    )
    vocabulary.save(tmp_path / "v.jsonl")
    assert (
        build_command(corpus, vocabulary=tmp_path / "v.jsonl", out=tmp_path / "out", samples_per_shard=5) == 0
    )
    shards = ShardSet.open(tmp_path / "out")
    assert shards.absent_weight == 1.0
    samples = {sample.source: sample for split in shards.splits for sample in shards.samples(split)}
    assert len(samples) == 12
    for row in read_captions(corpus):
        sample = samples[row.image]
        assert sample.captions == row.captions
        assert sample.image == row.path.read_bytes()
        for tag in sample.tags:
            if tag.startswith("object:"):
                assert tag.removeprefix("object:")[:3] in " ".join(sample.captions).casefold()
    girl = samples[str(source.parent / "images/1000268201_693b08cb0e.jpg")]
    assert {"object:girl", "object:dress", "action:climb"} <= set(girl.tags)
    assert "object:dog" not in girl.tags
