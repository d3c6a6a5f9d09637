"""WebDataset tars: pictures and tags together, the same bytes each time, nothing of others replaced."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from writer_rows import account, row, stored

from taglens.collection.writers.files import Pictures
from taglens.collection.writers.tars import INDEX, write_webdataset
from taglens.errors import UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        Image.new("RGB", (4 + number, 4)).save(f"{number}.JPG", "JPEG")
    Image.new("RGB", (4, 4)).save("a.b.jpg", "WEBP")
    return tmp_path


ROWS = [row(f"{number}.JPG", "cat") for number in range(5)] + [row("a.b.jpg", "dog")]


def export(*rows: dict[str, Any], out: str = "out", **options: Any) -> list[tuple[str, str]]:
    counted, failures = account()
    write_webdataset(stored(*rows), Path(out), pictures=Pictures(), account=counted, **options)
    assert counted.failed == len(failures) == len(rows) - counted.written
    return failures


def content(out: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out).iterdir()}


def test_pictures_and_tags_stand_together(here: Path) -> None:
    assert not export(*ROWS, shard_size=4)
    members: list[tuple[str, bytes]] = []
    for name in ("000000.tar", "000001.tar"):
        with tarfile.open(Path("out", name)) as tar:
            members += [(one.name, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
    assert [name for name, _ in members][:2] == ["000000000.jpg", "000000000.json"]
    assert [name for name, _ in members][-2:] == ["000000005.webp", "000000005.json"]
    for number, one in enumerate(ROWS):
        assert members[2 * number][1] == Path(one["source"]).read_bytes()
        found = json.loads(members[2 * number + 1][1])
        assert (found["source"], found["tags"], found["model"]) == (one["source"], one["tags"], one["model"])
    assert json.loads(Path("out", INDEX).read_text()) == {
        "taglens_export": 1,
        "complete": True,
        "shards": {"000000.tar": 4, "000001.tar": 2},
    }


def test_the_same_rows_give_the_same_bytes(here: Path) -> None:
    export(*ROWS, out="one")
    export(*ROWS, out="two")
    assert content("one") == content("two")


def test_exporting_again_leaves_no_old_shard(here: Path) -> None:
    export(*ROWS, shard_size=1)
    assert len(content("out")) == 7
    export(*ROWS, shard_size=3)
    assert sorted(content("out")) == ["000000.tar", "000001.tar", INDEX]


def test_a_killed_export_is_marked_and_can_be_made_again(here: Path) -> None:
    def rows():  # type: ignore[no-untyped-def]
        yield from stored(*ROWS)
        raise KeyboardInterrupt

    counted, _ = account()
    with pytest.raises(KeyboardInterrupt):
        write_webdataset(rows(), Path("out"), pictures=Pictures(), account=counted, shard_size=4)
    assert sorted(content("out")) == ["000000.tar", INDEX]
    assert json.loads(Path("out", INDEX).read_text())["complete"] is False
    export(*ROWS, shard_size=4)
    export(*ROWS, out="other", shard_size=4)
    assert content("out") == content("other")


def test_a_tar_that_no_export_wrote_is_kept(here: Path) -> None:
    export(*ROWS)
    Path("out/000100.tar").write_bytes(b"mine")
    before = content("out")
    with pytest.raises(UsageError, match=r"000100\.tar"):
        export(*ROWS)
    assert content("out") == before
    Path("out/000100.tar").rename("out/mine.tar")
    export(*ROWS)
    assert sorted(content("out")) == ["000000.tar", "mine.tar", INDEX]


def test_members_of_tars_are_refused_by_name(here: Path) -> None:
    Path("t.tar").write_bytes(b"archive")
    ((source, why),) = export(row("t.tar/A/p003.jpg"))
    assert source == "t.tar/A/p003.jpg" and why.startswith("is a member of t.tar") and "unpack" in why


def test_a_picture_that_is_gone_or_another_now_is_a_failure(here: Path) -> None:
    digest = hashlib.sha256(Path("0.JPG").read_bytes()).hexdigest()
    rows = [row("0.JPG", sha256=digest), row("1.JPG", sha256=digest), row("gone.jpg")]
    assert [(source, why.split(";")[0]) for source, why in export(*rows)] == [
        ("1.JPG", "has changed since it was tagged"),
        ("gone.jpg", "cannot read gone.jpg: No such file or directory"),
    ]


def test_a_folder_of_others_is_refused(here: Path) -> None:
    Path("out").mkdir()
    Path("out/000000.tar").write_bytes(b"mine")
    with pytest.raises(UsageError, match="other things"):
        export(*ROWS)
    with pytest.raises(UsageError, match="is a file"):
        export(*ROWS, out="0.JPG")
    with pytest.raises(UsageError, match="shard-size"):
        export(*ROWS, shard_size=0)
    assert Path("out/000000.tar").read_bytes() == b"mine"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the tar open
def test_webdataset_reads_it(here: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    export(*ROWS)
    found = list(webdataset.WebDataset("out/000000.tar", shardshuffle=False).decode("pil"))
    assert [one["json"]["source"] for one in found] == [one["source"] for one in ROWS]
    assert found[2]["jpg"].size == (6, 4)
