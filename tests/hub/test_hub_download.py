"""One file over HTTP: goes on where it was cut, gives up honestly, keeps the token to itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hub_server import FakeHub

from taglens.errors import DownloadError
from taglens.hub import download
from taglens.hub.download import TRIES, checksum, fetch

CONTENT = bytes(range(256)) * 500
SECRET = "hf_secretsecretsecret"
KEY = "owner/model/weights.pth"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(large={KEY: CONTENT}).running() as hub:
        yield hub


@pytest.fixture
def slept() -> list[float]:
    return []


def get(hub: FakeHub, part: Path, slept: list[float], **options: Any) -> None:
    options.setdefault("size", len(CONTENT))
    fetch(f"{hub.url}/owner/model/resolve/{hub.commit}/weights.pth", part, sleep=slept.append, **options)


def test_whole_in_one_go(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    part = tmp_path / "deep" / "weights.pth.part"
    told: list[int] = []
    get(hub, part, slept, report=told.append)
    assert part.read_bytes() == CONTENT and told[-1] == len(CONTENT) and slept == []
    assert [one.role for one in hub.gets()] == ["hub", "files"]


@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["known", "unknown"])
def test_goes_on_where_the_connection_was_cut(
    size: int | None, hub: FakeHub, tmp_path: Path, slept: list[float]
) -> None:
    hub.cuts = [40_000, 20_000, 0]
    get(hub, tmp_path / "p", slept, size=size)
    assert (tmp_path / "p").read_bytes() == CONTENT
    asked = [one.headers.get("Range") for one in hub.gets() if one.role == "files"]
    assert asked == [None, "bytes=40000-", "bytes=60000-", "bytes=60000-"]
    assert len(slept) == 3


def test_goes_on_with_what_an_earlier_process_left(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    (tmp_path / "p").write_bytes(CONTENT[:777])
    get(hub, tmp_path / "p", slept)
    assert (tmp_path / "p").read_bytes() == CONTENT
    assert hub.gets()[-1].headers["Range"] == "bytes=777-"


def test_whole_already(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    (tmp_path / "p").write_bytes(CONTENT)
    get(hub, tmp_path / "p", slept)
    assert hub.seen == []


def test_longer_than_it_may_be_begins_anew(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    (tmp_path / "p").write_bytes(CONTENT + b"more")
    get(hub, tmp_path / "p", slept)
    assert (tmp_path / "p").read_bytes() == CONTENT


def test_a_server_without_ranges_begins_anew(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    hub.ranges = False
    (tmp_path / "p").write_bytes(b"x" * 777)
    get(hub, tmp_path / "p", slept)
    assert (tmp_path / "p").read_bytes() == CONTENT


def test_passing_troubles_are_waited_out(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    hub.statuses = [500, 429, 503]
    get(hub, tmp_path / "p", slept)
    assert (tmp_path / "p").read_bytes() == CONTENT and slept == [2.0, 4.0, 8.0]


def test_gives_up_and_keeps_what_came(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    (tmp_path / "p").write_bytes(CONTENT[:777])
    hub.statuses = [500] * TRIES
    with pytest.raises(DownloadError, match=r"answers 500, 5 times in a row; the 777 bytes .* again"):
        get(hub, tmp_path / "p", slept)
    assert (tmp_path / "p").read_bytes() == CONTENT[:777]


def test_nobody_there(tmp_path: Path, slept: list[float]) -> None:
    with FakeHub().running() as hub:
        url = hub.url
    with pytest.raises(DownloadError, match="no answer"):
        fetch(f"{url}/a/b", tmp_path / "p", size=1, sleep=slept.append)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("status", "says"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "no such file"), (410, "410")]
)
def test_final_answers_are_not_repeated(
    status: int, says: str, hub: FakeHub, tmp_path: Path, slept: list[float]
) -> None:
    hub.statuses = [status]
    with pytest.raises(DownloadError, match=says):
        get(hub, tmp_path / "p", slept)
    assert slept == [] and len(hub.seen) == 1


def test_more_than_the_file_has(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    with pytest.raises(DownloadError, match="more than the 1,000 bytes"):
        get(hub, tmp_path / "p", slept, size=1000)
    assert not (tmp_path / "p").exists() or (tmp_path / "p").stat().st_size <= 1000


def test_the_token_goes_to_its_own_host_alone(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    hub.token = SECRET
    get(hub, tmp_path / "p", slept, token=SECRET)
    told = {one.role: one.headers.get("Authorization") for one in hub.seen}
    assert told == {"hub": f"Bearer {SECRET}", "files": None}


def test_the_token_stays_with_its_host_across_redirects(
    hub: FakeHub, tmp_path: Path, slept: list[float]
) -> None:
    hub.token, hub.location = SECRET, "/owner/model/commit/list.txt"
    hub.small["owner/model/list.txt"] = CONTENT
    get(hub, tmp_path / "p", slept, token=SECRET)
    assert [one.headers.get("Authorization") for one in hub.gets()] == [f"Bearer {SECRET}"] * 2


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:text/plain,a"])
def test_sent_on_to_something_else(location: str, hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    hub.location = location
    with pytest.raises(DownloadError):
        get(hub, tmp_path / "p", slept)
    assert not (tmp_path / "p").exists()


def test_only_http(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="only http"):
        fetch("file:///etc/passwd", tmp_path / "p", size=None)


def test_signatures_are_not_shown(hub: FakeHub, tmp_path: Path, slept: list[float]) -> None:
    hub.statuses = [404]
    with pytest.raises(DownloadError) as error:
        fetch(f"{hub.url}/a/b?Signature=abc", tmp_path / "p", size=1)
    assert "abc" not in str(error.value)


def test_a_full_disk(
    hub: FakeHub, tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file on a disk that is full from byte 3 on."""

        def __init__(self, file: IO[bytes]) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, chunk: bytes) -> None:
            self.file.write(chunk[:3])
            raise OSError(errno.ENOSPC, "No space left on device")

    writing = download._writing
    monkeypatch.setattr(download, "_writing", lambda part, have: Full(writing(part, have)))
    with pytest.raises(DownloadError, match="disk is full"):
        get(hub, tmp_path / "p", slept)
    monkeypatch.undo()
    get(hub, tmp_path / "p", slept)
    assert (tmp_path / "p").read_bytes() == CONTENT and hub.gets()[-1].headers["Range"] == "bytes=3-"


def test_checksum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
