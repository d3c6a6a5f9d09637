"""XMP sidecars on disk: which one is used, that pictures and strangers' files are left alone, and exiftool's view."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image
from writer_rows import account, row, stored

from taglens.collection.writers import files
from taglens.collection.writers.files import Pictures
from taglens.collection.writers.sidecars import (
    ExifTool,
    Folder,
    embed_xmp,
    untag_embedded,
    untag_xmp,
    write_xmp,
)
from taglens.collection.writers.text import Undone
from taglens.collection.writers.untag import untag
from taglens.collection.writers.xmp import RDF, XmpForm
from taglens.errors import DataError, UsageError

MINE = (
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag><rdf:li>mine</rdf:li></rdf:Bag></dc:subject>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), "red").save("a.jpg")
    os.utime("a.jpg", (1, 1))
    return tmp_path


def export(*rows: dict[str, object], out: Path | None = None, **options: object) -> list[str]:
    counted, failures = account()
    form = XmpForm()
    write_xmp(stored(*rows), out, form=form, pictures=Pictures(), account=counted, **options)  # type: ignore[arg-type]
    return [reason for _, reason in failures]


def subjects(path: str | Path) -> list[str]:
    items = ET.parse(path).findall(f".//{{http://purl.org/dc/elements/1.1/}}subject/*/{{{RDF}}}li")
    return [item.text or "" for item in items]


def undo(path: str | Path = ".", **options: object) -> Undone:
    undone = Undone()
    reasons: list[str] = []
    untag(Path(path), undone=undone, on_failure=lambda _, why: reasons.append(why), **options)  # type: ignore[arg-type]
    assert not reasons
    return undone


def test_the_picture_and_its_times_are_left_alone(here: Path) -> None:
    content = Path("a.jpg").read_bytes()
    assert not export(row("a.jpg", "cat"))
    assert subjects("a.jpg.xmp") == ["cat"]
    assert Path("a.jpg").read_bytes() == content and Path("a.jpg").stat().st_mtime == 1
    assert undo() == Undone(removed=1)
    assert [path.name for path in here.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize("name", ["a.xmp", "a.jpg.xmp", "A.XMP"])
def test_the_sidecar_that_is_there_is_used(here: Path, name: str) -> None:
    Path(name).write_text(MINE)
    Path(name).chmod(0o640)
    assert not export(row("a.jpg", "cat"))
    assert sorted(path.name for path in here.iterdir()) == sorted([name, "a.jpg"])
    assert subjects(name) == ["mine", "cat"] and Path(name).stat().st_mode & 0o777 == 0o640
    undo(name)
    assert Path(name).read_text() == MINE


def test_of_two_the_full_name_is_used(here: Path) -> None:
    for name in ("a.xmp", "a.jpg.xmp"):
        Path(name).write_text(MINE)
    export(row("a.jpg", "cat"))
    assert Path("a.xmp").read_text() == MINE and subjects("a.jpg.xmp") == ["mine", "cat"]


def test_a_short_name_beside_a_raw_file_is_the_raw_files(here: Path) -> None:
    Path("a.xmp").write_text(MINE)
    Path("a.CR2").write_bytes(b"raw")
    export(row("a.jpg", "cat"))
    assert Path("a.xmp").read_text() == MINE and subjects("a.jpg.xmp") == ["cat"]
    undo("a.CR2")
    assert Path("a.xmp").read_text() == MINE


def test_new_files_by_the_stem(here: Path) -> None:
    assert not export(row("a.jpg", "cat"), name="stem")
    assert subjects("a.xmp") == ["cat"]
    assert undo("a.jpg") == Undone(removed=1)
    Path("a.png").write_bytes(b"other")
    assert "share" in export(row("a.jpg", "cat"), name="stem")[0]
    assert "share" in export(row("x.jpg", "cat"), row("x.png", "dog"), out=Path("out"), name="stem")[0]
    with pytest.raises(UsageError, match="--xmp-name"):
        export(row("a.jpg", "cat"), name="both")


def test_a_sidecar_that_has_all_is_not_written(here: Path) -> None:
    export(row("a.jpg", "cat"))
    os.utime("a.jpg.xmp", (1, 1))
    counted, _ = account()
    write_xmp(stored(row("a.jpg", "cat")), None, form=XmpForm(), pictures=Pictures(), account=counted)
    assert (counted.written, counted.unchanged) == (1, 1)
    assert Path("a.jpg.xmp").stat().st_mtime == 1


def test_no_tags_no_sidecar(here: Path) -> None:
    assert not export(row("a.jpg"))
    assert not Path("a.jpg.xmp").exists()


@pytest.mark.parametrize("content", [b"junk", b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', b"<a/>", b""])
def test_a_sidecar_that_cannot_be_read_is_left_alone(here: Path, content: bytes) -> None:
    Path("a.jpg.xmp").write_bytes(content)
    Image.new("RGB", (8, 8)).save("b.jpg")
    (reason,) = export(row("a.jpg", "cat"), row("b.jpg", "cat"))
    assert "left alone" in reason
    assert Path("a.jpg.xmp").read_bytes() == content and subjects("b.jpg.xmp") == ["cat"]


def test_a_link_is_left_alone(here: Path) -> None:
    Path("other.xml").write_text(MINE)
    Path("a.jpg.xmp").symlink_to("other.xml")
    (reason,) = export(row("a.jpg", "cat"))
    assert "link" in reason and Path("other.xml").read_text() == MINE
    undo()


def test_below_another_folder(here: Path) -> None:
    assert not export(row("x/a.jpg", "cat"), out=Path("out"))
    assert subjects("out/x/a.jpg.xmp") == ["cat"]
    assert "outside" in export(row("../a.jpg", "cat"), out=Path("out"))[0]
    assert undo("out") == Undone(removed=1)


def test_two_pictures_that_would_share_a_file_in_a_mixed_list(here: Path) -> None:
    rows = [row("x/a.jpg", "cat"), row("y/b.jpg", "cat"), row("x/a.png", "dog")]
    (reason,) = export(*rows, out=Path("out"), name="stem")
    assert "another picture" in reason and subjects("out/x/a.xmp") == ["cat"]


def test_names_that_xml_cannot_hold_are_counted(here: Path) -> None:
    counted, _ = account()
    rows = stored(row("a.jpg", "cat", "a\x01b", "\ufffe"))
    write_xmp(rows, None, form=XmpForm(), pictures=Pictures(), account=counted)
    assert subjects("a.jpg.xmp") == ["cat"] and dict(counted.dropped) == {"XML cannot hold its name": 2}


def test_a_full_disk_leaves_the_old_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.jpg.xmp").write_text(MINE)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        export(row("a.jpg", "cat"))
    assert Path("a.jpg.xmp").read_text() == MINE
    assert sorted(path.name for path in here.iterdir()) == ["a.jpg", "a.jpg.xmp"]


def test_a_folder_is_listed_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: looked.append(path) or listing(path))
    for number in range(9):
        Path(f"{number}.jpg").write_bytes(b"picture")
    assert not export(*(row(f"{number}.jpg", "cat") for number in range(9)))
    assert len(looked) == 1
    folder = Folder()
    assert folder.find(Path("nowhere/a.jpg")) is None


def test_taking_back_leaves_strangers_alone(here: Path) -> None:
    for name, content in {"b.xmp": "junk", "c.xmp": MINE, "d.txt": "mine"}.items():
        Path(name).write_text(content)
    assert undo() == Undone()
    assert Path("b.xmp").read_text() == "junk" and Path("c.xmp").read_text() == MINE
    Path("b.xmp").write_text("junk about taglens")
    with pytest.raises(DataError, match="well-formed"):
        untag_xmp(Path("b.xmp"), Undone())
    with pytest.raises(UsageError, match="does not exist"):
        undo("nowhere")


def test_taking_back_one_model(here: Path) -> None:
    export(row("a.jpg", "cat"))
    export(row("a.jpg", "dog", model="other@1"))
    assert undo(model="toy") == Undone(restored=1)
    assert subjects("a.jpg.xmp") == ["dog"]
    assert undo(model="none") == Undone()
    assert undo("a.jpg", model="other@1") == Undone(removed=1) and not Path("a.jpg.xmp").exists()


# -- exiftool -------------------------------------------------------------------------------------------


@pytest.fixture
def exiftool() -> ExifTool:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    return ExifTool.find()


def read(*arguments: str) -> dict[str, object]:
    done = subprocess.run(["exiftool", "-j", "-struct", *arguments], capture_output=True, check=True)
    (found,) = json.loads(done.stdout)
    return dict(found)


def test_without_exiftool_embedding_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="not on the PATH"):
        ExifTool.find()


def test_exiftool_reads_what_was_written(here: Path, exiftool: ExifTool) -> None:
    export(row("a.jpg", "cat", "Ünï <&> 语"))
    found = read("-XMP:all", "a.jpg.xmp")
    assert found["Subject"] == ["cat", "Ünï <&> 语"]
    assert found["HierarchicalSubject"] == ["taglens|cat", "taglens|Ünï <&> 语"]
    assert found["TagsList"] == ["taglens/cat", "taglens/Ünï <&> 语"]
    first = found["Tags"][0]  # type: ignore[index]
    assert (first["Id"], first["Score"], first["Model"]) == ("object:cat", 0.9, "toy@0123456789ab")


def test_taking_back_what_exiftool_has_rewritten(here: Path, exiftool: ExifTool) -> None:
    export(row("a.jpg", "cat"))
    change = ["-XMP-dc:Subject+=mine", "-XMP:Rating=4", "-XMP-dc:Title=A title"]
    subprocess.run(["exiftool", "-q", "-overwrite_original", *change, "a.jpg.xmp"], check=True)
    assert undo() == Undone(restored=1)
    found = read("-XMP:all", "a.jpg.xmp")
    assert (found["Subject"], found["Rating"], found["Title"]) == ("mine", 4, "A title") or found[
        "Subject"
    ] == ["mine"]
    assert "Tags" not in found and "TagsList" not in found


def test_inside_a_picture_and_out_again(here: Path, exiftool: ExifTool) -> None:
    name = "-two words, line\nbreak.jpg"
    shutil.copy2("a.jpg", f"./{name}")
    content = Path(name).read_bytes()
    counted, failures = account()
    embed_xmp(
        stored(row(f"./{name}", "cat")), form=XmpForm(), pictures=Pictures(), account=counted, tool=exiftool
    )
    assert not failures and counted.written == 1
    assert Path(name).stat().st_mtime == 1
    assert b"taglens/cat" in Path(name).read_bytes()
    with Image.open(name) as picture:
        picture.load()
    embed_xmp(
        stored(row(f"./{name}", "cat")), form=XmpForm(), pictures=Pictures(), account=counted, tool=exiftool
    )
    assert counted.unchanged == 1
    undone = Undone()
    untag_embedded(Path(f"./{name}"), undone, tool=exiftool)
    assert undone == Undone(removed=1)
    assert Path(name).read_bytes() == content and Path(name).stat().st_mtime == 1


def test_embedding_keeps_the_xmp_of_others(here: Path, exiftool: ExifTool) -> None:
    subprocess.run(["exiftool", "-q", "-overwrite_original", "-XMP-dc:Subject=mine", "a.jpg"], check=True)
    counted, _ = account()
    embed_xmp(
        stored(row("a.jpg", "cat")), form=XmpForm(), pictures=Pictures(), account=counted, tool=exiftool
    )
    assert read("-XMP:Subject", "a.jpg")["Subject"] == ["mine", "cat"]
    assert undo(tool=exiftool) == Undone(restored=1)
    assert read("-XMP:all", "a.jpg")["Subject"] in ("mine", ["mine"])


def test_a_picture_that_exiftool_refuses_is_a_failure(here: Path, exiftool: ExifTool) -> None:
    Path("b.jpg").write_bytes(b"junk")
    counted, failures = account()
    embed_xmp(
        stored(row("b.jpg", "cat")), form=XmpForm(), pictures=Pictures(), account=counted, tool=exiftool
    )
    ((_, reason),) = failures
    assert "exiftool refused" in reason and Path("b.jpg").read_bytes() == b"junk"
