"""Text sidecars: what a line becomes, what is never lost, and the way back."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writer_rows import account, row, stored, write_rows

from taglens.collection.provenance import JOURNAL, Journal
from taglens.collection.writers import files, text
from taglens.collection.writers.choosing import key
from taglens.collection.writers.files import Pictures
from taglens.collection.writers.text import TextForm, Undone, added_to, untag_folder, without, write_text
from taglens.errors import DataError, UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"picture")
    return tmp_path


def export(
    *rows: dict[str, object], out: Path | None = None, folder: Path | None = None, **form: object
) -> list[str]:
    """Write rows; the reasons of failures."""
    counted, failures = account()
    write_text(stored(*rows), out, form=TextForm(**form), pictures=Pictures(folder), account=counted)  # type: ignore[arg-type]
    assert counted.failed == len(failures)
    return [reason for _, reason in failures]


def undo(folder: Path = Path(), **options: object) -> Undone:
    undone = Undone()
    untag_folder(folder, undone, **options)  # type: ignore[arg-type]
    return undone


# -- a line -----------------------------------------------------------------------------------------


def test_a_new_line_is_prefix_caption_tags_without_an_end(here: Path) -> None:
    export(
        row("a.jpg", "cat", "red car", caption="A cat,\nsitting"), prefix="sks person, ", with_caption=True
    )
    assert Path("a.txt").read_bytes() == b"sks person, A cat, sitting, cat, red car"
    assert Path("a.jpg").read_bytes() == b"picture"


def test_what_does_not_fit_on_a_line_is_counted(here: Path) -> None:
    counted, _ = account()
    rows = stored(row("a.jpg", "cat", "a,b", "line\nbreak", "Cat"))
    write_text(rows, None, form=TextForm(), pictures=Pictures(), account=counted)
    assert Path("a.txt").read_text() == "cat"
    assert dict(counted.dropped) == {
        "the name contains the separator": 1,
        "the name does not fit on a line": 1,
    }


def test_a_separator_of_ones_own(here: Path) -> None:
    export(row("a.jpg", "cat", "a,b"), separator=" | ")
    export(row("b.jpg", "black_cat", "red car"), separator=" ")
    assert Path("a.txt").read_text() == "cat | a,b"
    assert Path("b.txt").read_text() == "black_cat"


@pytest.mark.parametrize(
    "options", [{"separator": ""}, {"separator": "\n"}, {"prefix": "a\nb"}, {"on_existing": "x"}]
)
def test_a_form_that_cannot_be_meant(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TextForm(**options)  # type: ignore[arg-type]


PIECES = st.lists(
    st.text(st.characters(categories=["L", "N"]) | st.sampled_from(" _'"), min_size=1), max_size=6
)


@given(PIECES, PIECES, PIECES)
def test_adding_keeps_what_is_there_and_never_doubles(
    there: list[str], wanted: list[str], first: list[str]
) -> None:
    form = TextForm()
    text = form.separator.join(one.strip() for one in there if one.strip())
    wanted, first = ([one.strip() for one in given if one.strip()] for given in (wanted, first))
    after, added = added_to(text, wanted, form, first=first)
    assert text in after
    assert {key(one) for one in (*wanted, *first)} <= {key(one) for one in form.pieces(after)}
    assert added_to(after, wanted, form, first=first) == (after, [])
    assert without(after, added, form) == text


def test_what_is_taken_out_is_the_last_of_its_kind() -> None:
    assert without("cat, mine, cat", ["cat"], TextForm()) == "cat, mine"
    assert without("cat,mine ,  dog", ["sofa"], TextForm()) == "cat,mine ,  dog"


# -- a file that is there -----------------------------------------------------------------------------


def test_by_default_a_file_that_is_there_is_left_alone(here: Path) -> None:
    Path("a.txt").write_bytes(b"mine\r\n")
    os.utime("a.txt", (1, 1))
    counted, _ = account()
    write_text(stored(row("a.jpg", "cat")), None, form=TextForm(), pictures=Pictures(), account=counted)
    assert Path("a.txt").read_bytes() == b"mine\r\n" and Path("a.txt").stat().st_mtime == 1
    assert (counted.written, sum(counted.skipped.values())) == (0, 1)
    assert not Path(JOURNAL).exists()


def test_append_adds_what_is_missing_at_the_end(here: Path) -> None:
    Path("a.txt").write_bytes(b"\xef\xbb\xbfzebra, Red_Car,\r\n")
    export(row("a.jpg", "cat", "red car"), on_existing="append", prefix="sks")
    assert Path("a.txt").read_text() == "sks, zebra, Red_Car, cat"
    assert undo() == Undone(restored=1)
    assert Path("a.txt").read_bytes() == b"\xef\xbb\xbfzebra, Red_Car,\r\n"
    assert not Path(JOURNAL).exists()


def test_appending_nothing_new_writes_nothing(here: Path) -> None:
    Path("a.txt").write_bytes(b"cat\n")
    os.utime("a.txt", (1, 1))
    export(row("a.jpg", "cat"), on_existing="append")
    assert Path("a.txt").stat().st_mtime == 1 and not Path(JOURNAL).exists()


@pytest.mark.parametrize(("content", "why"), [(b"one\ntwo", "several lines"), (b"\xff\xfe", "not UTF-8")])
def test_append_refuses_what_it_does_not_understand(here: Path, content: bytes, why: str) -> None:
    Path("a.txt").write_bytes(content)
    (reason,) = export(row("a.jpg", "cat"), on_existing="append")
    assert why in reason and Path("a.txt").read_bytes() == content


@pytest.mark.parametrize("content", [b"mine, mine too\n", b"\xff\xfe\x00", b""])
def test_overwrite_can_be_undone_to_the_byte(here: Path, content: bytes) -> None:
    Path("a.txt").write_bytes(content)
    export(row("a.jpg", "cat"), on_existing="overwrite")
    assert Path("a.txt").read_text() == "cat"
    undo()
    assert Path("a.txt").read_bytes() == content


def test_a_link_is_neither_followed_nor_replaced(here: Path) -> None:
    Path("secret").write_text("keep")
    Path("a.txt").symlink_to("secret")
    for mode in ("append", "overwrite"):
        (reason,) = export(row("a.jpg", "cat"), on_existing=mode)
        assert "link" in reason
    assert Path("secret").read_text() == "keep" and Path("a.txt").is_symlink()


def test_a_picture_called_txt_is_not_replaced(here: Path) -> None:
    Path("photo.txt").write_bytes(b"picture")
    (reason,) = export(row("photo.txt", "cat"), on_existing="overwrite")
    assert "suffix" in reason and Path("photo.txt").read_bytes() == b"picture"


def test_two_pictures_that_would_share_a_file(here: Path) -> None:
    Path("a.png").write_bytes(b"other")
    (reason,) = export(row("a.jpg", "cat"), row("a.png", "dog"), on_existing="append")
    assert "a.jpg" in reason and Path("a.txt").read_text() == "cat"


@pytest.mark.parametrize("mode", ["overwrite", "append"])
def test_two_that_would_share_a_file_in_a_mixed_list(here: Path, mode: str) -> None:
    rows = [row(name, name[2:]) for name in ("x/a.jpg", "y/b.jpg", "x/a.png", "y/a.jpg", "x/a.jpg")]
    (reason,) = export(*rows, out=Path("out"), on_existing=mode)
    assert "with x/a.jpg" in reason and Path("out/x/a.txt").read_text() == "a.jpg"


def test_a_member_of_a_tar_has_no_sidecar(here: Path) -> None:
    Path("t.tar").write_bytes(b"archive")
    (reason,) = export(row("t.tar/A/p003.jpg", "cat"))
    assert reason.startswith("is a member of t.tar")


def test_a_picture_that_is_gone_has_no_sidecar(here: Path) -> None:
    (reason,) = export(row("gone.jpg", "cat"))
    assert "--pictures" in reason and not Path("gone.txt").exists()


# -- another folder ------------------------------------------------------------------------------------


def test_below_another_folder_in_the_same_folders(here: Path) -> None:
    export(row("x/y/c.jpg", "cat"), row("./a.jpg", "dog"), out=Path("out"))
    assert Path("out/x/y/c.txt").read_text() == "cat" and Path("out/a.txt").read_text() == "dog"
    undone = Undone()
    untag_folder(Path("out/x/y"), undone)
    assert undone.removed == 1 and not list(Path("out/x/y").iterdir())


@pytest.mark.parametrize("source", ["../c.jpg", "/etc/c.jpg", "x/../../c.jpg", "..", "/", "x/.."])
def test_names_cannot_lead_out_of_the_folder(here: Path, source: str) -> None:
    (reason,) = export(row(source, "cat"), out=Path("out"))
    assert "outside" in reason
    assert sorted(path.name for path in here.rglob("*")) == ["a.jpg", "b.jpg"]
    (reason,) = export(row(source, "cat"), folder=here)
    assert "outside" in reason


def test_a_linked_folder_does_not_lead_out_either(here: Path) -> None:
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    Path("out/x").symlink_to(here / "elsewhere")
    for name in ("x/c.jpg", "x/new/folder/c.jpg"):
        (reason,) = export(row(name, "cat"), out=Path("out"))
        assert "link" in reason and not list(Path("elsewhere").iterdir())


def test_absolute_names_below_the_pictures_folder(here: Path) -> None:
    export(row(str(here / "x" / "c.jpg"), "cat"), out=Path("out"), folder=here)
    assert Path("out/x/c.txt").read_text() == "cat"


def test_a_name_that_is_not_utf8(here: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        Path(name).write_bytes(b"picture")
    except OSError:
        pytest.skip("this file system has no such names")
    export(row("caf\ufffd.jpg", "cat", source_bytes="Y2Fm6S5qcGc="))
    assert Path(os.fsdecode(b"caf\xe9.txt")).read_text() == "cat"
    assert undo() == Undone(removed=1)


def test_a_name_with_a_line_break(here: Path) -> None:
    Path("line\nbreak.jpg").write_bytes(b"picture")
    export(row("line\nbreak.jpg", "cat"))
    assert Path("line\nbreak.txt").read_text() == "cat"
    assert undo() == Undone(removed=1)


# -- the way back -------------------------------------------------------------------------------------


def test_several_exports_are_taken_back_at_once(here: Path) -> None:
    Path("a.txt").write_text("mine")
    export(row("a.jpg", "cat"), on_existing="append")
    export(row("a.jpg", "cat", "dog", model="other@1"), on_existing="append")
    export(row("a.jpg", "sofa"), on_existing="overwrite")
    assert Path("a.txt").read_text() == "sofa"
    assert undo() == Undone(restored=1)
    assert Path("a.txt").read_text() == "mine"


def test_an_edited_file_loses_only_our_tags(here: Path) -> None:
    export(row("a.jpg", "cat", "dog"), row("b.jpg", "cat"))
    Path("a.txt").write_text("cat, mine, dog, dog")
    assert undo() == Undone(cleaned=1, removed=1)
    assert Path("a.txt").read_text() == "mine, dog"


def test_an_edited_file_that_was_overwritten_keeps_its_past(here: Path) -> None:
    Path("a.txt").write_text("precious words")
    export(row("a.jpg", "cat"), on_existing="overwrite")
    Path("a.txt").write_text("cat, new")
    assert undo() == Undone(cleaned=1, kept=1)
    assert Path("a.txt").read_text() == "new"
    (entry,) = Journal.open(Path()).entries("a.txt")
    assert entry.before == b"precious words"


def test_what_somebody_deleted_stays_deleted(here: Path) -> None:
    export(row("a.jpg", "cat"))
    Path("a.txt").unlink()
    assert undo() == Undone() and not Path("a.txt").exists() and not Path(JOURNAL).exists()


def test_only_one_models_tags(here: Path) -> None:
    export(row("a.jpg", "cat"))
    export(row("a.jpg", "dog", model="other@1"), on_existing="append")
    assert undo(model="toy") == Undone(cleaned=1)
    assert Path("a.txt").read_text() == "dog"
    assert undo(model="toy@0") == Undone()
    undo(model="other@1")
    assert not Path(JOURNAL).exists()


def test_what_replaced_a_models_tags_is_not_that_models(here: Path) -> None:
    export(row("a.jpg", "person", "clothes"))
    export(row("a.jpg", "person", "clothes", "wear", model="other@1"), on_existing="overwrite")
    assert undo(model="toy") == Undone()
    assert Path("a.txt").read_text() == "person, clothes, wear"
    (entry,) = Journal.open(Path()).entries("a.txt")
    assert entry.model == "other@1" and entry.before is None
    assert undo(model="other") == Undone(removed=1)
    assert not Path("a.txt").exists() and not Path(JOURNAL).exists()


def test_the_last_of_several_models_takes_the_file_with_it(here: Path) -> None:
    export(row("a.jpg", "cat"))
    export(row("a.jpg", "dog", model="other@1"), on_existing="append")
    undo(model="toy")
    assert Path("a.txt").read_text() == "dog"
    assert undo() == Undone(removed=1)


def test_a_kept_past_is_told_again_and_takes_no_tag_twice(here: Path) -> None:
    Path("a.txt").write_text("precious words")
    export(row("a.jpg", "cat"), on_existing="overwrite")
    Path("a.txt").write_text("cat, new")
    undo()
    Path("a.txt").write_text("cat, new")
    assert undo() == Undone(kept=1)
    assert Path("a.txt").read_text() == "cat, new"


@settings(max_examples=60)
@given(
    st.none() | st.sampled_from([b"cat, mine", b"mine,\n", b"", b"Dog"]),
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["cat", "dog", "sofa", "mine"]), min_size=1, max_size=3),
            st.sampled_from(["append", "overwrite"]),
            st.sampled_from(["one", "two", "three"]),
        ),
        max_size=5,
    ),
    st.permutations(["one", "two", "three"]),
    st.integers(0, 3),
)
def test_models_are_taken_back_in_any_order_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory,
    before: bytes | None,
    rounds: list[tuple[list[str], str, str]],
    order: list[str],
    alone: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.jpg").write_bytes(b"picture")
    if before is not None:
        (folder / "a.txt").write_bytes(before)
    for names, mode, model in rounds:
        export(row("a.jpg", *dict.fromkeys(names), model=f"{model}@1"), folder=folder, on_existing=mode)
    for model in order[:alone]:
        undo(folder, model=model)
    undo(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a.jpg"] + ["a.txt"] * (before is not None)
    assert before is None or (folder / "a.txt").read_bytes() == before


@settings(max_examples=40)
@given(
    st.none() | st.binary(max_size=30) | st.sampled_from([b"cat, mine", b"mine,\n", b"Dog"]),
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["cat", "dog", "sofa", "mine"]), max_size=3),
            st.sampled_from(["append", "overwrite"]),
        ),
        max_size=4,
    ),
)
def test_any_exports_are_taken_back_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory, before: bytes | None, rounds: list[tuple[list[str], str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.jpg").write_bytes(b"picture")
    if before is not None:
        (folder / "a.txt").write_bytes(before)
    for names, mode in rounds:
        export(row("a.jpg", *dict.fromkeys(names)), folder=folder, on_existing=mode)
    undo(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a.jpg"] + ["a.txt"] * (before is not None)
    assert before is None or (folder / "a.txt").read_bytes() == before


# -- what goes wrong ------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.txt").write_text("mine")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        export(row("a.jpg", "cat"), on_existing="append")
    assert Path("a.txt").read_text() == "mine"
    assert not list(here.glob("*.part")) and not list(here.glob(".*.part"))


def test_a_name_that_the_system_cannot_hold_fails_alone(here: Path) -> None:
    long = "x" * 251 + ".jpg"
    reasons = export(
        row("y" * 300 + ".jpg", "cat"), row("z/" + long, "cat"), row("a.jpg", "cat"), out=Path("out")
    )
    assert len(reasons) == 1 and "too long" in reasons[0]
    assert Path("out/a.txt").read_text() == "cat"
    assert "not there" in export(row("y" * 300 + ".jpg", "cat"))[0]


def test_a_file_that_cannot_be_taken_back_does_not_keep_the_others(here: Path) -> None:
    export(row("a.jpg", "cat"), row("b.jpg", "cat"))
    Path("a.txt").unlink()
    Path("a.txt").symlink_to("a.jpg")
    with pytest.raises(DataError, match="link"):
        undo()
    assert not Path("b.txt").exists() and Path("a.txt").is_symlink()
    assert Journal.open(Path()).names == ["a.txt"]


def test_killed_between_the_note_and_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.txt").write_text("mine")

    def killed(path: Path, content: bytes) -> None:
        assert Journal.open(path.parent).names == [path.name]
        raise KeyboardInterrupt

    for content, mode in (("mine", "append"), ("cat, mine", "overwrite")):
        Path("a.txt").write_text(content)
        with monkeypatch.context() as patch:
            patch.setattr(text, "put", killed)
            with pytest.raises(KeyboardInterrupt):
                export(row("a.jpg", "cat"), on_existing=mode)
        assert undo() == Undone()
        assert Path("a.txt").read_text() == content and not Path(JOURNAL).exists()
    Path("a.txt").write_text("mine")
    export(row("a.jpg", "cat"), on_existing="append")
    undo()
    assert Path("a.txt").read_text() == "mine"


def test_a_line_that_a_kill_cut_is_closed_and_passed_over(here: Path) -> None:
    export(row("a.jpg", "cat"))
    whole = Path(JOURNAL).read_bytes()
    for length in range(1, len(whole) - 1):
        Path(JOURNAL).write_bytes(whole + whole[:length])
        Path("b.txt").unlink(missing_ok=True)
        export(row("b.jpg", "dog"))
        assert Journal.open(Path()).names == ["a.txt", "b.txt"]
    undo()
    assert sorted(path.name for path in here.iterdir()) == ["a.jpg", "b.jpg"]


def test_a_damaged_or_hostile_journal_is_refused(here: Path) -> None:
    export(row("a.jpg", "cat"))
    line = json.loads(Path(JOURNAL).read_text())
    for change in (
        {"file": "../a.txt"},
        {"file": "/etc/passwd"},
        {"file": ".."},
        {"file": "a.jpg"},
        {"added": None},
    ):
        changed = {**line, **change}
        changed["taglens_export"] = changed.pop("taglens_export")
        Path(JOURNAL).write_text(json.dumps(changed) + "\n")
        with pytest.raises(DataError, match="byte 0"):
            undo()


KILLED = """
import sys, itertools
from pathlib import Path
from taglens.collection.rows_in import read_rows
from taglens.collection.writers.export import Order, export
from taglens.collection.writers.choosing import Account
from taglens.collection.writers.text import TextForm
seen = itertools.count()
def beat():
    if next(seen) == 20:
        print("now", flush=True)
        sys.stdin.read()
export(read_rows(Path("rows.jsonl")), Order("txt", text=TextForm(on_existing="append")), account=Account(on_row=beat))
"""


def test_a_killed_export_goes_on_and_is_taken_back(here: Path) -> None:
    names = [f"{number:03d}" for number in range(40)]
    for name in names:
        Path(f"{name}.jpg").write_bytes(b"picture")
        Path(f"{name}.txt").write_text(f"mine {name}")
    write_rows(Path("rows.jsonl"), [row(f"{name}.jpg", "cat") for name in names])
    source = Path(files.__file__).parents[3]
    worker = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None and worker.stdout.readline() == b"now\n"
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    contents = [Path(f"{name}.txt").read_text() for name in names]
    assert contents == [f"mine {name}" + ", cat" * (number < 20) for number, name in enumerate(names)]
    export(*(row(f"{name}.jpg", "cat") for name in names), on_existing="append")
    assert all(Path(f"{name}.txt").read_text() == f"mine {name}, cat" for name in names)
    assert undo() == Undone(restored=40)
    assert all(Path(f"{name}.txt").read_text() == f"mine {name}" for name in names)
