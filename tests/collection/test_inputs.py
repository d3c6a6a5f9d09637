"""What a person types becomes every item that a run must account for: files, folders, patterns, braces."""

from __future__ import annotations

import base64
import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile import write_hostile, write_hostile_places
from taglens import images
from taglens.collection.inputs import Item, braces, open_inputs, signature_of
from taglens.collection.items import LocalFile, is_picture
from taglens.containers import SNIFFED_BYTES
from taglens.errors import ImageError, UsageError
from taglens.inference.sources import Skipped, Source, Unopened, expand

JPEG = b"\xff\xd8\xff\xe0" + bytes(60)
posix = pytest.mark.skipif(os.name != "posix", reason="names and special files of POSIX systems")
MAX = 1 << 20


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str, content: bytes = JPEG) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def run(*arguments: str | Path, column: str | None = None) -> list[Item]:
    return list(open_inputs([os.fspath(argument) for argument in arguments], column=column))


def pictures(items: list[Item]) -> list[str]:
    return [item.source for item in items if item.skipped is None and item.failure is None]


def failures(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.source, item.failure.type) for item in items if item.failure is not None]


def error_of(item: Item, max_bytes: int = MAX) -> ImageError:
    with pytest.raises(ImageError) as caught:
        item.where.read(max_bytes)
    return caught.value


# -- files, folders, patterns ----------------------------------------------------------------------


def test_the_hostile_corpus_is_accounted_for_as_by_the_walk(tmp_path: Path) -> None:
    write_hostile(tmp_path)
    items = run(tmp_path)
    expected = list(expand([tmp_path]))
    assert [item.source for item in items] == [
        found.source.shown if isinstance(found, Unopened) else found.shown for found in expected
    ]
    for item, found in zip(items, expected, strict=True):
        assert (item.skipped is None) == isinstance(found, Source)
        if isinstance(found, Skipped):
            assert item.skipped == found.reason
        elif isinstance(found, Source):
            size = found.path.stat().st_size
            assert item.signature == signature_of(found.path) != ""
            assert item.path == found.path
            if size:
                assert item.where.read(MAX) == found.path.read_bytes()
            else:
                assert error_of(item).type == "empty"


def test_what_a_picture_is_agrees_with_the_reader(tmp_path: Path) -> None:
    for path in write_hostile(tmp_path).values():
        if path.is_file():
            assert is_picture(path.read_bytes()[:SNIFFED_BYTES]) == images.is_image_file(path)


def test_hostile_names_links_and_pipes_end_and_are_all_accounted_for(tmp_path: Path) -> None:
    given_, passed = write_hostile_places(tmp_path)
    items = run(tmp_path)
    assert sum(item.skipped is None for item in items) == given_
    assert sum(item.skipped is not None for item in items) == passed
    for item in items:
        item.source.encode("utf-8")
        assert pickle.loads(pickle.dumps(item)) == item
        if item.skipped is None and item.failure is None:
            assert len(item.where.read(MAX)) > 100
            raw = os.fsencode(item.path or "")
            shown = base64.b64decode(item.source_bytes) if item.source_bytes else item.source.encode()
            assert shown == raw


def test_order_and_what_is_typed_is_kept(here: Path) -> None:
    touch("d/b.jpg", "d/a.jpg", "z.jpg")
    assert pictures(run("z.jpg", "./d", "d/b*.jpg")) == ["z.jpg", "./d/a.jpg", "./d/b.jpg", "d/b.jpg"]


def test_a_typed_file_is_given_whatever_it_holds_and_a_missing_one_is_a_failure(here: Path) -> None:
    touch("notes.md", content=b"text")
    items = run("notes.md", "missing.jpg", "d/*.jpg", "", "x" * 5000, "a\0b")
    assert pictures(items) == ["notes.md"]
    assert [kind for _, kind in failures(items)] == ["not_found"] * 5
    assert all("\0" not in item.failure.message for item in items if item.failure)


@posix
def test_pipes_devices_sockets_and_folders_never_wait(here: Path) -> None:
    os.mkfifo("pipe.jpg")
    os.mkfifo("pipe.tar")
    os.mkfifo("pipe.csv")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        items = run("pipe.jpg", "socket.jpg", "/dev/zero", "pipe.tar", "pipe.csv", "*.tar", "@pipe.csv")
    assert [kind for _, kind in failures(items)] == ["not_image"] * 7
    assert error_of(Item("d", None, "", LocalFile(str(here)))).type == "not_image"


@posix
def test_what_takes_a_files_place_after_the_listing(here: Path) -> None:
    touch("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    items = run(".")
    Path("a.jpg").unlink()
    Path("b.jpg").unlink()
    os.mkfifo("b.jpg")
    Path("c.jpg").write_bytes(b"")
    Path("d.jpg").write_bytes(JPEG * 3)
    assert [error_of(item).type for item in items[:3]] == ["not_found", "not_image", "empty"]
    assert items[3].where.read(MAX) == JPEG * 3
    assert items[4].where.read(MAX) == JPEG


def test_the_limit_is_respected_before_everything_is_read(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("big.jpg").open("wb") as file:
        file.write(JPEG)
        file.truncate(1 << 40)  # holes; reading them would take hours
    with Path("big.bin").open("wb") as file:
        file.truncate(1 << 40)
    touch("fits.jpg", content=JPEG + bytes(100 - len(JPEG)))
    big, no_picture, fits = run("big.jpg", "big.bin", "fits.jpg")
    asked: list[int] = []
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, n: asked.append(n) or read(fd, n))
    assert error_of(big).type == "too_large"
    assert error_of(no_picture).type == "not_image"
    assert sum(asked) <= 2 * SNIFFED_BYTES
    assert len(fits.where.read(100)) == 100
    assert error_of(fits, 99).type == "too_large"


def test_a_file_that_grows_meanwhile_gives_what_was_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("a.jpg")
    (item,) = run("a.jpg")
    read = os.read

    def growing(descriptor: int, length: int) -> bytes:
        data = read(descriptor, length)
        if data:
            with Path("a.jpg").open("ab") as file:
                file.write(bytes(100))
        return data

    monkeypatch.setattr(os, "read", growing)
    assert error_of(item, 500).type == "too_large"


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(here: Path) -> None:  # pragma: no cover - not as root
    touch("a.jpg", "locked/b.jpg")
    Path("a.jpg").chmod(0)
    Path("locked").chmod(0)
    try:
        item, locked, inside = run("a.jpg", "locked", "locked/b.jpg")
        assert error_of(item).type == "permission"
        assert [locked.failure and locked.failure.type, inside.failure and inside.failure.type] == [
            "permission",
            "permission",
        ]
    finally:
        Path("locked").chmod(0o700)


def test_refusals_of_the_system_become_the_contracts_types(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch("a.jpg", "locked/b.jpg")
    item = run("a.jpg")[0]
    for fault, expected in [
        (PermissionError(13, "Permission denied"), "permission"),
        (FileNotFoundError(2, "No such file"), "not_found"),
        (OSError(5, "Input/output error"), "truncated"),
        (MemoryError(), "too_large"),
    ]:

        def refuse(*_: object, fault: Exception = fault, **__: object) -> int:
            raise fault

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            assert error_of(item).type == expected
    scandir = os.scandir

    def locked(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert failures(run(".")) == [("./locked", "permission")]


def test_the_stream_is_lazy(here: Path) -> None:
    touch("a.jpg", "b/c.jpg")
    stream = open_inputs(["a.jpg", "b"])
    assert next(stream).source == "a.jpg"
    Path("b/c.jpg").rename("b/d.jpg")
    assert next(stream).source == "b/d.jpg"


def test_a_found_file_is_looked_at_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(*(f"d/{number}.jpg" for number in range(20)))
    counts = {"stat": 0, "open": 0}
    stat_, open_ = os.stat, os.open

    def counting_stat(*arguments: object, **options: object) -> os.stat_result:
        counts["stat"] += 1
        return stat_(*arguments, **options)  # type: ignore[call-overload,no-any-return]

    def counting_open(*arguments: object, **options: object) -> int:
        counts["open"] += 1
        return open_(*arguments, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "stat", counting_stat)
    monkeypatch.setattr(os, "open", counting_open)
    assert len(run("d")) == 20
    assert counts["open"] == 20 and counts["stat"] <= 20 + 5


def test_a_signature_changes_with_the_content(here: Path) -> None:
    touch("a.jpg")
    first = signature_of("a.jpg")
    assert first == run("a.jpg")[0].signature == signature_of(Path("a.jpg"))
    touch("a.jpg", content=JPEG + b"x")
    second = signature_of("a.jpg")
    os.utime("a.jpg", ns=(1, 1))
    assert len({first, second, signature_of("a.jpg")}) == 3
    assert signature_of("missing") == signature_of("a\0b") == ""


def test_file_addresses_are_paths(here: Path) -> None:
    touch("two words.jpg")
    for address in (f"file://{here}/two%20words.jpg", f"file://localhost{here}/two%20words.jpg"):
        (item,) = run(address)
        assert item.path == here / "two words.jpg" and item.source == str(here / "two words.jpg")


def test_calls_that_cannot_be_meant(here: Path) -> None:
    touch("a.jpg")
    with pytest.raises(UsageError, match="none is given"):
        open_inputs(["a.jpg"], column="image")
    with pytest.raises(UsageError, match=r"'\.zip'"):
        open_inputs(["@names.zip"])
    assert pictures(list(open_inputs("a.jpg"))) == ["a.jpg"]


# -- braces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("{000..003}.tar", ["000.tar", "001.tar", "002.tar", "003.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..6..3}", ["0", "3", "6"]),
        ("{a,b}/{1..2}.tar", ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]),
        ("x{a,}", ["xa", "x"]),
        ("{a,b{1..2}c}d", ["ad", "b1cd", "b2cd"]),
        ("{x{1,2}y}", ["{x1y}", "{x2y}"]),
        ("{a{1,2}", ["{a1", "{a2"]),
        ("{plain}{}{a..}", ["{plain}{}{a..}"]),
    ],
)
def test_braces(typed: str, expected: list[str]) -> None:
    assert list(braces(typed)) == expected


def test_braces_are_endless_without_being_held() -> None:
    names: Iterator[str] = braces("s3://b/{0..999999999999}.tar")
    assert [next(names), next(names)] == ["s3://b/0.tar", "s3://b/1.tar"]


@given(st.integers(0, 300), st.integers(0, 300))
def test_ranges_of_equal_width_sort_as_they_come(first: int, last: int) -> None:
    low, high = sorted((first, last))
    names = list(braces(f"{{{low:04d}..{high:04d}}}"))
    assert names == sorted(names) and len(names) == high - low + 1


def test_braces_in_arguments(here: Path) -> None:
    touch("1.jpg", "2.jpg", "{1..2}.png")
    assert pictures(run("{1..2}.jpg")) == ["1.jpg", "2.jpg"]
    assert failures(run("{2..3}.jpg")) == [("3.jpg", "not_found")]
    assert pictures(run("{1..2}.png")) == ["{1..2}.png"]
    assert pictures(run("{1,2}.j*")) == ["1.jpg", "2.jpg"]
