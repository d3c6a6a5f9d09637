"""The table of published files, the addresses of hubs, the cache's place, the extra."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="pip install 'taglens[hub]'")

from taglens.errors import MissingExtraError, UsageError
from taglens.hub.catalogue import SOURCES, RemoteFile, Source
from taglens.hub.lookup import Hub, require_hub
from taglens.hub.pull import default_cache


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_table_is_whole(source: Source) -> None:
    for file in source.files().values():
        assert len(file.commit) == 40 and len(file.sha256) == 64 and file.size > 0
        assert set(file.commit + file.sha256) <= set("0123456789abcdef")
    assert list(source.files())[-1] == "checkpoint"


@pytest.mark.parametrize(
    "name",
    [
        "ram_tag_list.txt",
        "ram_tag_list_threshold.txt",
        "ram_tag_list_chinese.txt",
        "tag2text_ori_tag_list.txt",
    ],
)
def test_lists_are_those_of_the_release(name: str, shared: Callable[[str], Path]) -> None:
    content = shared(f"published/{name}").read_bytes()
    listed = {file.name: file for source in SOURCES.values() for file in source.files().values()}[name]
    assert (len(content), hashlib.sha256(content).hexdigest()) == (listed.size, listed.sha256)


@pytest.mark.parametrize("path", ["../a", "/a", "a/../b", "", "a//b", "./a"])
def test_paths_do_not_leave_a_repository(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        RemoteFile("hub", "owner/model", "c" * 40, path, 1, "0" * 64, None)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'taglens\[hub\]'"):
        require_hub()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAGLENS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache() == Path("/x/taglens")
    monkeypatch.setenv("TAGLENS_CACHE", "/y")
    assert default_cache() == Path("/y")


@pytest.mark.parametrize(
    "endpoint", ["http://me:pass@127.0.0.1", "ftp://127.0.0.1", "127.0.0.1", "file:///a"]
)
def test_endpoints_that_are_none(endpoint: str) -> None:
    with pytest.raises(UsageError) as error:
        Hub.connect(endpoint, offline=True)
    assert "pass@" not in str(error.value)
