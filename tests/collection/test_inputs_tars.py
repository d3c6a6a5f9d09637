"""Members of archives: every whole one, none twice, nothing outside; and the rest of a cut archive as one failure."""

from __future__ import annotations

import base64
import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from taglens.collection.inputs import Item, open_inputs, signature_of
from taglens.collection.items import LocalFile
from taglens.collection.tars import TarMember, members
from taglens.errors import ImageError

JPEG = b"\xff\xd8\xff\xe0" + bytes(60)
MAX = 1 << 20
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar_bytes(entries: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of plain files."""
    return special([(named(name, len(content)), content) for name, content in entries], format)


def named(name: str, size: int = 0, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in values.items():
        setattr(info, key, value)
    return info


def special(entries: list[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=format, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of(content: bytes, name: str = "x.tar") -> list[Item]:
    Path(name).write_bytes(content)
    return list(open_inputs([name]))


def given_(items: list[Item]) -> dict[str, bytes]:
    return {
        item.source: item.where.read(MAX) for item in items if item.failure is None and item.skipped is None
    }


def lost(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.source, item.failure.type) for item in items if item.failure is not None]


def error_of(item: Item, max_bytes: int = MAX) -> ImageError:
    with pytest.raises(ImageError) as caught:
        item.where.read(max_bytes)
    return caught.value


NAMES = st.one_of(
    st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=40),
    st.binary(min_size=1, max_size=40)
    .filter(lambda raw: not set(raw) & {0, ord("/")})
    .map(lambda raw: raw.decode("utf-8", errors="surrogateescape")),
    st.text("ab", min_size=90, max_size=300),
).map(lambda name: "p" + name + ".jpg")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.lists(st.tuples(NAMES, st.binary(min_size=1, max_size=1500)), max_size=6),
    format=st.sampled_from(["gnu", "pax"]),
)
@example(entries=[("p" + "é" * 60 + ".jpg", b"x" * 512)], format="pax")
def test_the_same_members_as_the_standard_library_finds(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes]], format: str
) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(tar_bytes(entries, FORMATS[format]))
    items = list(members(LocalFile(str(path))))
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as archive:
        expected = [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    assert len(items) == len(expected) == len(entries)
    assert len({item.source_bytes or item.source for item in items}) == len(items)
    seen: set[str] = set()
    for item, (name, content) in zip(items, expected, strict=True):
        assert item.failure is None and item.skipped is None and item.path is None
        raw = base64.b64decode(item.source_bytes) if item.source_bytes else item.source.encode()
        whole = os.fsencode(f"{path}/{name}")
        assert raw == whole if name not in seen else raw.startswith(whole + b"#")
        seen.add(name)
        assert pickle.loads(pickle.dumps(item)).where.read(MAX) == content
        assert item.signature.startswith(signature_of(path) + ":")


@pytest.mark.parametrize("format", FORMATS)
def test_long_names_and_prefixes(here: Path, format: str) -> None:
    folder = "/".join(["folder"] * 14)
    entries = [(f"{folder}/a.jpg", JPEG), ("b.jpg", JPEG * 20)]
    assert given_(of(tar_bytes(entries, FORMATS[format]))) == {
        f"x.tar/{name}": content for name, content in entries
    }


def test_every_cut_gives_the_whole_members_and_one_failure(here: Path) -> None:
    entries = [("a.jpg", JPEG), ("n" * 120 + ".jpg", JPEG * 10), ("c.jpg", JPEG * 3)]
    content = tar_bytes(entries)
    ends = []
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        ends = [info.offset_data + info.size for info in archive]
        end_mark = archive.offset
    names = [f"x.tar/{name}" for name, _ in entries]
    for length in [
        *range(0, end_mark + 512, 37),
        *ends,
        *(end - 1 for end in ends),
        end_mark,
        end_mark + 512,
    ]:
        items = of(content[:length])
        whole = sum(end <= length for end in ends)
        assert list(given_(items)) == names[:whole], length
        if length >= end_mark + 512:
            assert lost(items) == []
        else:
            kind = "empty" if length == 0 else "truncated"
            assert lost(items) == [("x.tar", kind)], length
            message = items[-1].failure.message if items[-1].failure else ""
            assert not length or f"after {whole} " in message or f"member {whole + 1} " in message


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 6 * 512), noise=st.binary(min_size=1, max_size=600))
def test_damage_never_raises_and_never_goes_unnoticed_in_a_header(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    entries = [("a.jpg", JPEG), ("l" * 150 + ".jpg", JPEG), ("c.jpg", JPEG)]
    content = tar_bytes(entries, tarfile.GNU_FORMAT)
    damaged = content[:at] + noise + content[at + len(noise) :]
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(damaged)
    items = list(members(LocalFile(str(path))))
    for item in items:
        item.source.encode("utf-8")
        if item.failure is None and item.skipped is None:
            try:
                assert len(item.where.read(MAX)) <= len(damaged)
            except ImageError as error:
                assert error.type == "empty"
    kept = sum(item.failure is None for item in items)
    assert kept == len(entries) or any(item.failure for item in items) or b"\0" * 512 in damaged[: at + 1100]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=1600))
def test_noise_is_one_failure(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(noise)
    items = list(members(LocalFile(str(path))))
    if len(noise) >= 512 and not noise[:512].strip(b"\0"):
        assert items == []  # an archive of nothing
    else:
        assert len(items) == 1 and items[0].failure is not None


def test_zeros_where_members_were_are_no_end_mark(here: Path) -> None:
    content = tar_bytes([("a.jpg", JPEG)])
    assert lost(of(content + bytes(1 << 20))) == []
    items = of(content + bytes(5 << 20))
    assert list(given_(items)) == ["x.tar/a.jpg"] and lost(items) == [("x.tar", "truncated")]


def test_names_that_repeat_stay_apart(here: Path) -> None:
    entries = [
        (name, JPEG + bytes([index])) for index, name in enumerate(["a.jpg", "a.jpg", "a.jpg#2", "a.jpg"])
    ]
    found = given_(of(tar_bytes(entries)))
    assert list(found) == ["x.tar/a.jpg", "x.tar/a.jpg#2", "x.tar/a.jpg#2#2", "x.tar/a.jpg#3"]
    assert list(found.values()) == [content for _, content in entries]


def test_pictures_by_content_or_name_and_the_rest_counted(here: Path) -> None:
    entries = [
        ("000.jpg", JPEG),
        ("000.json", b"{}"),
        ("000.cls", b"7"),
        ("no-suffix", JPEG),
        ("text.jpg", b"no picture"),
        ("empty.png", b""),
        ("empty", b""),
        ("._000.jpg", JPEG),
        (".git/x.jpg", JPEG),
        ("./dot.jpg", JPEG),
        ("drawing.svg", b"<svg xmlns='x'>"),
    ]
    items = of(tar_bytes(entries))
    assert [item.source for item in items if item.skipped is None] == [
        f"x.tar/{name}" for name in ("000.jpg", "no-suffix", "text.jpg", "empty.png", "./dot.jpg")
    ]
    assert [(item.source, item.skipped) for item in items if item.skipped] == [
        ("x.tar/000.json", "not_image"),
        ("x.tar/000.cls", "not_image"),
        ("x.tar/empty", "not_image"),
        ("x.tar/._000.jpg", "hidden"),
        ("x.tar/.git/x.jpg", "hidden"),
        ("x.tar/drawing.svg", "not_image"),
    ]
    assert error_of(next(item for item in items if item.source.endswith("empty.png"))).type == "empty"


def test_links_devices_and_folders_lead_nowhere(here: Path) -> None:
    Path("secret.jpg").write_bytes(JPEG)
    entries = [
        (named("folder.jpg/", type=tarfile.DIRTYPE), b""),
        (named("soft.jpg", type=tarfile.SYMTYPE, linkname="../secret.jpg"), b""),
        (named("hard.jpg", type=tarfile.LNKTYPE, linkname="/etc/passwd"), b""),
        (named("pipe.jpg", type=tarfile.FIFOTYPE), b""),
        (named("device.jpg", type=tarfile.CHRTYPE), b""),
        (named("../../up.jpg", len(JPEG)), JPEG),
        (named("/etc/root.jpg", len(JPEG)), JPEG),
    ]
    items = of(special(entries))
    assert given_(items) == {"x.tar/../../up.jpg": JPEG, "x.tar//etc/root.jpg": JPEG}
    assert all(item.path is None for item in items)
    assert [item.skipped for item in items if item.skipped] == ["linked", "linked", "not_image", "not_image"]


def test_archives_joined_end_to_end_are_read_on(here: Path) -> None:
    first, second = tar_bytes([("a.jpg", JPEG)]), tar_bytes([("b.jpg", JPEG)])
    assert list(given_(of(first + second))) == ["x.tar/a.jpg", "x.tar/b.jpg"]
    assert list(given_(of(first + b"noise" * 300))) == ["x.tar/a.jpg"]


def test_a_header_of_any_size_is_not_read(here: Path) -> None:
    header = bytearray(tar_bytes([("a.jpg", b"")], tarfile.USTAR_FORMAT)[:512])
    header[156:157] = b"x"
    header[124:136] = b"\x80" + (1 << 40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with Path("x.tar").open("wb") as file:
        file.write(header)
        file.truncate(1 << 41)
    (item,) = open_inputs(["x.tar"])
    assert item.failure is not None and "header of 1,099,511,627,776 bytes" in item.failure.message


def test_files_with_holes_are_refused_and_what_follows_is_given(here: Path) -> None:
    # As GNU tar stores them: the map in the header, then only the data.
    header = bytearray(tar_bytes([("holes.jpg", JPEG)], tarfile.GNU_FORMAT)[:512])
    header[156:157] = b"S"
    header[482] = 0
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = JPEG + bytes(-len(JPEG) % 512)
    items = of(bytes(header) + data + tar_bytes([("b.jpg", JPEG)]))
    assert lost(items) == [("x.tar/holes.jpg", "unsupported")]
    assert list(given_(items)) == ["x.tar/b.jpg"]


def test_compressed_archives_are_refused_with_the_cure(here: Path) -> None:
    content = gzip.compress(tar_bytes([("a.jpg", JPEG)]))
    (item,) = of(content, "x.tar.gz")
    assert (
        item.failure is not None and item.failure.type == "unsupported" and "gunzip" in item.failure.message
    )
    assert lost(of(content, "y.tar")) == [("y.tar", "unsupported")]
    Path("z.tgz").write_bytes(content)
    assert lost(list(open_inputs(["*.tgz"]))) == [("z.tgz", "unsupported")]


def test_patterns_open_archives_and_folders_pass_over_them(here: Path) -> None:
    Path("d").mkdir()
    for number in range(3):
        Path(f"d/{number:03d}.tar").write_bytes(tar_bytes([("a.jpg", JPEG)]))
    Path("d/empty.tar").touch()
    Path("d/b.jpg").write_bytes(JPEG)
    sources = [f"d/{number:03d}.tar/a.jpg" for number in range(3)]
    items = list(open_inputs(["d/*.tar"]))
    assert list(given_(items)) == sources and lost(items) == [("d/empty.tar", "empty")]
    assert list(given_(list(open_inputs(["d/{000..002}.tar"])))) == sources
    in_folder = list(open_inputs(["d"]))
    assert list(given_(in_folder)) == ["d/b.jpg"]
    assert sum(item.skipped == "not_image" for item in in_folder) == 4


def test_an_archive_that_changes_after_the_listing(here: Path) -> None:
    entries = [("a.jpg", JPEG), ("b.jpg", JPEG * 2)]
    first, second = of(tar_bytes(entries))
    assert error_of(second, 100).type == "too_large"
    with Path("x.tar").open("ab") as file:  # grown: what was there is there
        file.write(bytes(512))
    assert second.where.read(MAX) == JPEG * 2
    assert isinstance(second.where, TarMember)
    with Path("x.tar").open("r+b") as file:
        file.truncate(second.where.offset + 10)
    assert error_of(second).type == "truncated"
    Path("x.tar").write_bytes(tar_bytes([("other.jpg", JPEG), *entries]))
    assert error_of(first).type == error_of(second).type == "not_found"
    Path("x.tar").unlink()
    assert error_of(first).type == "not_found"


def test_a_member_is_read_without_the_archive(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (item,) = of(tar_bytes([("a.jpg", JPEG)]) + bytes(1 << 20))
    asked: list[int] = []
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, n: asked.append(n) or read(fd, n))
    item.where.read(MAX)
    assert sum(asked) == 512 + len(JPEG)
