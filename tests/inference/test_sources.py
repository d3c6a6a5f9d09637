from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taglens.errors import UsageError
from taglens.inference.sources import Found, Skipped, Source, Unopened, expand, shown_name

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights on this system")


def by_name(path: Path) -> bool:
    """A stand-in for looking inside: the tests here are about names and places."""
    return path.suffix == ".jpg"


def run(*arguments: str | Path, max_depth: int | None = None) -> list[Found]:
    return list(expand(arguments, is_image=by_name, max_depth=max_depth))


def shown(found: list[Found]) -> list[str]:
    return [item.shown for item in found if isinstance(item, Source)]


def skipped(found: list[Found]) -> list[tuple[str, str]]:
    return [(item.shown, item.reason) for item in found if isinstance(item, Skipped)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


# -- as typed --------------------------------------------------------------------------------------


def test_a_typed_file_is_given_whatever_it_is(here: Path) -> None:
    touch("a.jpg", "notes.txt")
    found = run("./a.jpg", "notes.txt", "missing.jpg")
    assert shown(found) == ["./a.jpg", "notes.txt", "missing.jpg"]
    assert all(isinstance(item, Source) and item.explicit for item in found)


@pytest.mark.parametrize("typed", ["photos", "./photos", "photos/", "../{here}/photos", "{absolute}/photos"])
def test_a_found_file_is_shown_as_typed_and_joined(here: Path, typed: str) -> None:
    touch("photos/sub/b.jpg", "photos/a.jpg")
    typed = typed.format(here=here.name, absolute=here)
    expected = [f"{typed.rstrip('/')}/{name}" for name in ("a.jpg", "sub/b.jpg")]
    found = run(typed)
    assert shown(found) == expected
    assert all(isinstance(item, Source) and not item.explicit and item.path.is_file() for item in found)


def test_the_current_folder(here: Path) -> None:
    touch("a.jpg")
    assert shown(run(".")) == ["./a.jpg"]


def test_arguments_keep_order_and_repeats(here: Path) -> None:
    touch("b.jpg", "a.jpg", "d/c.jpg")
    assert shown(run("b.jpg", "d", "a.jpg", "b.jpg")) == ["b.jpg", "d/c.jpg", "a.jpg", "b.jpg"]


def test_an_empty_name_is_not_the_current_folder(here: Path) -> None:
    touch("a.jpg")
    (item,) = run("")
    assert isinstance(item, Unopened) and item.failure.type == "not_found"


def test_expansion_is_lazy(here: Path) -> None:
    touch("a.jpg")

    def arguments() -> Iterator[str]:
        yield "a.jpg"
        raise AssertionError("asked for too much")

    assert next(expand(arguments(), is_image=by_name)) == Source.of("a.jpg")


def test_a_single_name_is_not_read_letter_by_letter(here: Path) -> None:
    touch("a.jpg")
    assert shown(list(expand("a.jpg"))) == ["a.jpg"]
    assert shown(list(expand(Path("a.jpg")))) == ["a.jpg"]


# -- folders ---------------------------------------------------------------------------------------


def test_what_is_no_image_is_skipped_and_reported(here: Path) -> None:
    touch("d/a.jpg", "d/notes.txt", "d/sub/clip.mov")
    found = run("d")
    assert shown(found) == ["d/a.jpg"]
    assert skipped(found) == [("d/notes.txt", "not_image"), ("d/sub/clip.mov", "not_image")]


def test_hidden_names_are_skipped_unless_typed(here: Path) -> None:
    touch("d/.secret.jpg", "d/.thumbs/t.jpg", "d/a.jpg")
    found = run("d")
    assert shown(found) == ["d/a.jpg"]
    assert skipped(found) == [("d/.secret.jpg", "hidden"), ("d/.thumbs", "hidden")]
    assert shown(run("d/.secret.jpg", "d/.thumbs")) == ["d/.secret.jpg", "d/.thumbs/t.jpg"]


def test_an_empty_file_counts_by_its_name(here: Path) -> None:
    Path("d").mkdir()
    Path("d/a.jpeg").touch()
    Path("d/marker").touch()
    found = list(expand(["d"]))
    assert shown(found) == ["d/a.jpeg"]
    assert skipped(found) == [("d/marker", "not_image")]


def test_a_text_with_an_image_name_is_skipped(here: Path) -> None:
    touch("d/notes.jpg")
    assert skipped(list(expand(["d"]))) == [("d/notes.jpg", "not_image")]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(
        st.lists(st.sampled_from(["a", "b", "A", "a-b", "a.b", "é", "z z"]), min_size=1, max_size=3).map(
            tuple
        )
    )
)
def test_order_is_that_of_sorted_paths(
    tmp_path_factory: pytest.TempPathFactory, names: set[tuple[str, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for parts in names:
        file = folder.joinpath(*(f"{part}.d" for part in parts[:-1]), parts[-1] + ".jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    # The slow twin: everything, sorted afterwards.
    expected = sorted(path for path in folder.rglob("*.jpg") if path.is_file())
    assert [Path(name) for name in shown(run(folder))] == expected
    assert [Path(name) for name in shown(run(f"{folder}/**/*.jpg"))] == expected


def test_depth_limit(here: Path) -> None:
    touch("d/a.jpg", "d/one/b.jpg", "d/one/two/c.jpg")
    assert shown(run("d", max_depth=1)) == ["d/a.jpg"]
    found = run("d", max_depth=2)
    assert shown(found) == ["d/a.jpg", "d/one/b.jpg"]
    assert skipped(found) == [("d/one/two", "too_deep")]
    with pytest.raises(UsageError, match="max_depth"):
        run("d", max_depth=0)


def test_a_folder_that_cannot_be_listed_is_reported(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("d/a.jpg", "d/locked/b.jpg", "d/z.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for arguments in (["d"], ["d/*/*.jpg", "d/*.jpg"], ["d/**/*.jpg"]):
        found = run(*arguments)
        assert sorted(shown(found)) == ["d/a.jpg", "d/z.jpg"]
        (item,) = [item for item in found if isinstance(item, Unopened)]
        assert item.source.shown == "d/locked"
        assert item.failure.type == "permission"
        assert "d/locked" in item.failure.message and "permissions" in item.failure.message


# -- links and special files -----------------------------------------------------------------------


@needs_links
def test_links_that_form_a_circle_end(here: Path) -> None:
    touch("d/sub/a.jpg")
    Path("d/sub/up").symlink_to("..")
    Path("d/sub/self").symlink_to("self")
    Path("d/again").symlink_to("sub")
    found = run("d")
    assert shown(found) == ["d/sub/a.jpg"]
    assert set(skipped(found)) == {("d/again", "linked"), ("d/sub/self", "not_image"), ("d/sub/up", "linked")}
    assert shown(run("d/**/*.jpg")) == ["d/sub/a.jpg"]


@needs_links
def test_a_linked_folder_elsewhere_is_entered_once(here: Path) -> None:
    touch("elsewhere/a.jpg", "d/.store/b.jpg")
    Path("elsewhere/back").symlink_to(here / "elsewhere")
    Path("d/first").symlink_to(here / "elsewhere")
    Path("d/second").symlink_to(here / "elsewhere")
    Path("d/unhidden").symlink_to(".store")
    found = run("d")
    assert shown(found) == ["d/first/a.jpg", "d/unhidden/b.jpg"]
    assert skipped(found)[1:] == [("d/first/back", "linked"), ("d/second", "linked")]


@needs_links
def test_linked_files_are_followed_and_lost_pictures_reported(here: Path) -> None:
    touch("elsewhere/a.jpg")
    Path("d").mkdir()
    Path("d/a.jpg").symlink_to(here / "elsewhere/a.jpg")
    Path("d/lost.jpg").symlink_to("nowhere.jpg")
    Path("d/lost.txt").symlink_to("nowhere.txt")
    found = run("d")
    assert shown(found) == ["d/a.jpg", "d/lost.jpg"]
    assert skipped(found) == [("d/lost.txt", "not_image")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_never_opened(here: Path) -> None:
    Path("d").mkdir()
    os.mkfifo("d/pipe.jpg")

    def must_not_look(path: Path) -> bool:
        raise AssertionError(f"would wait for ever on {path}")

    assert skipped(list(expand(["d"], is_image=must_not_look))) == [("d/pipe.jpg", "not_image")]


# -- patterns --------------------------------------------------------------------------------------


def test_a_name_that_exists_is_no_pattern(here: Path) -> None:
    touch("photo[1].jpg", "photo1.jpg", "dir[x]/a.jpg")
    assert shown(run("photo[1].jpg")) == ["photo[1].jpg"]
    assert shown(run("photo[12].jpg")) == ["photo1.jpg"]
    assert shown(run("dir[x]")) == ["dir[x]/a.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("./*.jpg", ["./a.jpg", "./b.jpg"]),
        ("?.jpg", ["a.jpg", "b.jpg"]),
        ("[b-z].jpg", ["b.jpg"]),
        ("[!b].jpg", ["a.jpg"]),
        ("*/*.jpg", ["d/c.jpg"]),
        ("d/*.jpg", ["d/c.jpg"]),
        ("*/e/*", ["d/e/f.jpg"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "d/c.jpg", "d/e/f.jpg"]),
        ("**/e/*.jpg", ["d/e/f.jpg"]),
        ("d/**/**/*.jpg", ["d/c.jpg", "d/e/f.jpg"]),
        ("d/**", ["d/c.jpg", "d/e/f.jpg"]),
        # A folder that fits is walked, and its files are not given again when they fit too.
        ("d*", ["d/c.jpg", "d/e/f.jpg"]),
        ("**/*", ["a.jpg", "b.jpg", "d/c.jpg", "d/e/f.jpg"]),
        (".h*.jpg", [".hidden.jpg"]),
    ],
)
def test_patterns(here: Path, pattern: str, expected: list[str]) -> None:
    touch("a.jpg", "b.jpg", ".hidden.jpg", "d/c.jpg", "d/e/f.jpg", "d/notes.txt")
    found = run(pattern)
    assert shown(found) == expected
    assert not any(item.explicit for item in found if isinstance(item, Source))


def test_an_absolute_pattern(here: Path) -> None:
    touch("d/c.jpg")
    assert shown(run(f"{here}/*/*.jpg")) == [f"{here}/d/c.jpg"]


@pytest.mark.parametrize("pattern", ["*.png", "nowhere/*.jpg", "a.jpg/*", "**/x*"])
def test_a_pattern_that_fits_nothing_is_reported(here: Path, pattern: str) -> None:
    touch("a.jpg")
    (item,) = run(pattern)
    assert isinstance(item, Unopened)
    assert item.failure.type == "not_found"
    assert pattern in item.failure.message


# -- names that are not UTF-8 ----------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="names are text on this system")
def test_undecodable_names_are_shown_and_kept(here: Path) -> None:
    raw = b"d\xff/caf\xe9.jpg"
    path = Path(os.fsdecode(raw))
    try:
        path.parent.mkdir()
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for argument in (os.fsdecode(b"d\xff"), os.fsdecode(raw), os.fsdecode(b"d\xff/*.jpg")):
        (item,) = run(argument)
        assert isinstance(item, Source)
        assert item.shown == "d\ufffd/caf\ufffd.jpg"
        assert item.source_bytes is not None and base64.b64decode(item.source_bytes) == raw
        assert item.path.read_bytes() == b"x"


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_shown_names_lose_nothing_unnoticed(raw: bytes) -> None:
    text, encoded = shown_name(os.fsdecode(raw))
    text.encode("utf-8")  # no surrogates
    assert (base64.b64decode(encoded) if encoded is not None else text.encode("utf-8")) == raw


def test_source_of_keeps_the_typed_form() -> None:
    assert Source.of("./a//b.jpg").shown == "./a//b.jpg"
    assert Source.of(PurePath("a/b.jpg")) == Source(Path("a/b.jpg"), "a/b.jpg")
