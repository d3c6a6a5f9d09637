"""Lists of pictures: the right column, every row, and nothing lost where a row or the list is bad."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taglens.collection.inputs import Item, open_inputs
from taglens.collection.lists import COLUMNS, Form, read_names
from taglens.errors import DataError, MissingExtraError, UsageError
from taglens.results import Prediction

JPEG = b"\xff\xd8\xff\xe0" + bytes(60)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a few pictures in ``d``."""
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    for name in ("a.jpg", "b.jpg", "c, d.jpg"):
        Path("d", name).write_bytes(JPEG)
    return tmp_path


def run(*arguments: str, column: str | None = None) -> list[Item]:
    return list(open_inputs(arguments, column=column))


def told(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.source, item.failure.type if item.failure else "") for item in items]


def names(content: bytes, form: Form, column: str | None = None) -> list[str | None]:
    return [name.text for name in read_names(io.BytesIO(content), form, shown="list", column=column)]


# -- forms and columns -----------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", 'id,image\n1,a.jpg\n2,"c, d.jpg"\n3,gone.jpg\n'),
        ("l.tsv", 'image\tcaption\r\na.jpg\ta "quoted\r\nc, d.jpg\tb\r\ngone.jpg\t\r\n'),
        ("l.jsonl", '{"image": "a.jpg"}\n\n{"x": 1, "image": "c, d.jpg"}\n{"image": "gone.jpg"}'),
        ("l.txt", "\ufeffa.jpg\r\n\r\nc, d.jpg\ngone.jpg\n"),
    ],
)
def test_every_form_relative_to_the_list(here: Path, name: str, content: str, pack: bool) -> None:
    raw = content.encode()
    path = f"d/{name}.gz" if pack else f"d/{name}"
    Path(path).write_bytes(gzip.compress(raw) if pack else raw)
    expected = [("d/a.jpg", ""), ("d/c, d.jpg", ""), ("d/gone.jpg", "not_found")]
    for argument in (path, f"@{path}", f"{here}/{path}", f"d/*{Path(name).suffix}{'.gz' if pack else ''}"):
        items = run(argument)
        prefix = f"{here}/" if argument.startswith("/") else ""
        assert told(items) == [(prefix + source, failure) for source, failure in expected]
        assert items[0].where.read(1000) == JPEG and items[0].signature


@pytest.mark.parametrize("chosen", COLUMNS)
def test_columns_are_found_in_their_order_and_in_any_case(chosen: str) -> None:
    later = COLUMNS[COLUMNS.index(chosen) :]
    for spelled in (chosen, chosen.upper(), f" {chosen.title()} "):
        heading = ["caption", *reversed(later[1:]), spelled]
        row = [*("no" for _ in heading[1:]), "yes"]
        assert names(f"{','.join(heading)}\n{','.join(row)}\n".encode(), "csv") == ["yes"]


def test_a_named_column_decides_and_a_wrong_one_names_those_found(here: Path) -> None:
    Path("l.csv").write_text("image,other\nno.jpg,d/a.jpg\n")
    assert told(run("l.csv", column="other")) == [("d/a.jpg", "")]
    with pytest.raises(UsageError, match=r"expected a column 'Image'.*found 'image', 'other'.*--column"):
        open_inputs(["l.csv"], column="Image")
    Path("m.csv").write_text("img;caption\n")
    with pytest.raises(UsageError, match=r"image, path.*found 'img;caption'.*--column"):
        open_inputs(["d", "m.csv"])
    Path("l.txt").write_text("d/a.jpg\n")
    with pytest.raises(UsageError, match="leave out the column"):
        open_inputs(["l.txt"], column="image")


def test_a_list_by_another_name(here: Path) -> None:
    Path("names").write_text("d/a.jpg\n")
    assert told(run("@names")) == [("d/a.jpg", "")]
    # What is named like an argument for a list, and exists, is that file.
    Path("@names").write_bytes(JPEG)
    assert told(run("@names")) == [("@names", "")]
    assert told(run("@gone", "gone.csv", "no/*.csv")) == [
        ("gone", "not_found"),
        ("gone.csv", "not_found"),
        ("no/*.csv", "not_found"),
    ]
    assert told(run("d/names.csv/x")) == [("d/names.csv/x", "not_found")]


CELL = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), max_size=20)


@settings(max_examples=80)
@given(st.lists(st.tuples(CELL.filter(str.strip), CELL), min_size=1))
def test_tables_as_the_standard_library_writes_them(rows: list[tuple[str, str]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("path", "caption"), *rows])
    assert names(buffer.getvalue().encode(), "csv") == [name for name, _ in rows]
    lines = "".join(json.dumps({"caption": caption, "path": name}) + "\n" for name, caption in rows)
    assert names(lines.encode(), "jsonl") == [name for name, _ in rows]


@settings(max_examples=80)
@given(st.lists(st.binary(min_size=1).filter(lambda raw: not set(raw) & {0, 10, 13} and raw.strip())))
def test_plain_lines_keep_every_byte(lines: list[bytes]) -> None:
    content = b"first\n" + b"".join(line + b"\n" for line in lines)
    assert [os.fsencode(name or "") for name in names(content, "lines")] == [b"first", *lines]


@pytest.mark.skipif(os.name != "posix", reason="names are text on this system")
def test_names_that_are_not_utf8(here: Path) -> None:
    raw = b"caf\xe9.jpg"
    try:
        Path(os.fsdecode(raw)).write_bytes(JPEG)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    Path("l.txt").write_bytes(raw + b"\n")
    Path("l.csv").write_bytes(b"image\n" + raw + b"\n")
    for name in ("l.txt", "l.csv"):
        (item,) = run(name)
        assert item.source == "caf\ufffd.jpg" and base64.b64decode(item.source_bytes or "") == raw
        assert item.where.read(1000) == JPEG


# -- our own rows ----------------------------------------------------------------------------------


def test_rows_of_taglens_name_what_was_typed(here: Path) -> None:
    odd = os.fsdecode(b"d/\xff.jpg")
    Path(odd).write_bytes(JPEG)
    with tarfile.open("d/x.tar", "w") as archive:
        info = tarfile.TarInfo("m.jpg")
        info.size = len(JPEG)
        archive.addfile(info, io.BytesIO(JPEG))
    first = run("d/a.jpg", odd, "d/x.tar", "d/gone.jpg", "s3x:/no.jpg")
    Path("store").mkdir()
    with Path("store/000000.jsonl").open("w") as file:
        for item in first:
            prediction = Prediction(
                item.source,
                None,
                None,
                None,
                "m@1",
                "v@1",
                error=item.failure,
                source_bytes=item.source_bytes,
            )
            file.write(prediction.to_json() + "\n")
    assert run("store/000000.jsonl") == first


def test_members_of_archives_can_be_named(here: Path) -> None:
    with tarfile.open("d/x.tar", "w") as archive:
        for content in (b"1", b"2"):
            info = tarfile.TarInfo("m.jpg")
            info.size = 1
            archive.addfile(info, io.BytesIO(content))
    Path("x.tar").mkdir()
    Path("x.tar/real.jpg").write_bytes(JPEG)
    Path("l.txt").write_text("d/x.tar/m.jpg#2\nd/x.tar/no.jpg\nx.tar/real.jpg\nd/x.tar/m.jpg\n")
    items = run("l.txt")
    assert told(items) == [
        ("d/x.tar/m.jpg#2", ""),
        ("d/x.tar/no.jpg", "not_found"),
        ("x.tar/real.jpg", ""),
        ("d/x.tar/m.jpg", ""),
    ]
    assert [items[0].where.read(9), items[3].where.read(9)] == [b"2", b"1"]


# -- bad rows and bad lists ------------------------------------------------------------------------


def test_rows_without_a_name_are_failures_in_their_place(here: Path) -> None:
    Path("l.jsonl").write_text(
        '{"image": "d/a.jpg"}\n{"image": null}\nnot json\n[1]\n{}\n{"image": "  "}\n{"image": 7}\n'
        '{"image": "\\ud800"}\n{"image": "d/b\\u0000.jpg"}\n{"image": "d"}\n{"image": "d/b.jpg"}\n'
    )
    items = run("l.jsonl")
    assert told(items) == [
        ("d/a.jpg", ""),
        *((f"l.jsonl#{line}", "not_found") for line in range(2, 9)),
        ("d/b\0.jpg", "not_found"),
        ("d", "not_image"),
        ("d/b.jpg", ""),
    ]
    Path("l.csv").write_text("image,x\nd/a.jpg,1\nd/b.jpg\nd/c, d.jpg,1\n,2\n\nd/b.jpg,3\n")
    assert told(run("l.csv")) == [
        ("d/a.jpg", ""),
        ("l.csv#3", "not_found"),
        ("l.csv#4", "not_found"),
        ("l.csv#5", "not_found"),
        ("d/b.jpg", ""),
    ]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("l.csv", b"", "empty"),
        ("l.jsonl", b"\n \n", "empty"),
        ("l.jsonl", b"image,path\n", "JSON"),
        ("l.csv", "image\na.jpg\n".encode("utf-16"), "UTF-16"),
        ("l.csv.gz", b"\x1f\x8b\x08garbage", "copy it anew"),
        ("l.parquet", b"PAR1 no", "Parquet"),
        ("l.csv", b"image," + b"x" * 200_000, "copy it anew"),
    ],
)
def test_what_is_no_list_is_refused_at_once(here: Path, name: str, content: bytes, found: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="no pyarrow")
    Path(name).write_bytes(content)
    with pytest.raises(DataError, match=found):
        open_inputs([name])


def test_a_list_that_breaks_off_gives_its_whole_rows_first(here: Path) -> None:
    rows = "image\n" + "".join(f"d/{number:09d}{os.urandom(20).hex()}.jpg\n" for number in range(4000))
    packed = gzip.compress(rows.encode())
    Path("l.csv.gz").write_bytes(packed[: len(packed) // 2])
    items = run("l.csv.gz")
    assert 100 < len(items) < 4000
    assert items[-1].failure is not None and items[-1].failure.type == "truncated"
    assert [item.source for item in items[:-1]] == rows.split("\n")[1 : len(items)]


def test_a_line_of_any_length_is_not_held(here: Path) -> None:
    with gzip.open("l.txt.gz", "wb", compresslevel=1) as file:
        file.write(b"d/a.jpg\n")
        for _ in range(20):
            file.write(bytes(1 << 20))
    assert told(run("l.txt.gz")) == [("d/a.jpg", ""), ("l.txt.gz#1", "truncated")]


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.sampled_from(["csv", "tsv", "jsonl", "lines"]))
def test_noise_is_rows_or_refused(noise: bytes, form: Form) -> None:
    try:
        names(noise, form)
    except (DataError, UsageError) as error:
        assert "list" in str(error)


# -- Parquet ---------------------------------------------------------------------------------------


def test_parquet(here: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="no pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow")
    values = ["a.jpg", None, "gone.jpg", "c, d.jpg"]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.binary()):
        raw = [value.encode() if value and kind == pyarrow.binary() else value for value in values]
        table = pyarrow.table({"TEXT": ["x"] * 4, "URL": pyarrow.array(raw, kind)})
        parquet.write_table(table, "d/l.parquet", row_group_size=2)
        assert told(run("d/l.parquet")) == [
            ("d/a.jpg", ""),
            ("d/l.parquet#2", "not_found"),
            ("d/gone.jpg", "not_found"),
            ("d/c, d.jpg", ""),
        ]
    table = pyarrow.table({"image": [{"bytes": b"", "path": "a.jpg"}], "n": [1]})
    parquet.write_table(table, "d/l.parquet")
    for column in (None, "n"):
        with pytest.raises(UsageError, match=r"found (struct|int64).*--column"):
            open_inputs(["d/l.parquet"], column=column)
    content = Path("d/l.parquet").read_bytes()
    Path("d/cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="copy it anew"):
        open_inputs(["d/cut.parquet"])


def test_a_damaged_page_of_parquet_ends_the_list(here: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="no pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow")
    table = pyarrow.table({"path": [f"{number}.jpg" for number in range(20_000)]})
    parquet.write_table(table, "l.parquet", row_group_size=5000, compression="gzip")
    content = bytearray(Path("l.parquet").read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 2000] = bytes(2000)
    Path("l.parquet").write_bytes(content)
    items = run("l.parquet")
    assert items[-1].failure is not None and items[-1].failure.type == "truncated"
    assert [item.source for item in items[:-1]] == [f"{number}.jpg" for number in range(len(items) - 1)]
    assert len(items) > 4000


def test_parquet_without_its_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("l.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"taglens\[parquet\]"):
        open_inputs(["l.parquet"])


# -- texts beside pictures ---------------------------------------------------------------------------


def test_a_text_beside_its_picture_is_no_list_unless_called_one(here: Path) -> None:
    Path("d/a.txt").write_text("person, my holiday")
    Path("d/b.jpg.txt").write_text("dog")
    Path("d/list.txt").write_text("a.jpg\n")
    typed = sorted(str(path) for path in Path("d").iterdir())
    items = run(*typed)
    assert [item.source for item in items if item.skipped is None] == [
        "d/a.jpg",
        "d/b.jpg",
        "d/c, d.jpg",
        "d/a.jpg",
    ]
    assert [item.source for item in items if item.skipped == "not_image"] == ["d/a.txt", "d/b.jpg.txt"]
    assert told(run("@d/a.txt")) == [("d/person, my holiday", "not_found")]
