"""A pull from beginning to end against a hub in this process: what is fetched, checked, refused and left behind."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("huggingface_hub", reason="pip install 'taglens[hub]'")

from hub_server import COMMIT, FakeHub
from huggingface_hub import constants

from taglens.errors import DownloadError, UsageError
from taglens.hub import pull as pulling
from taglens.hub.catalogue import RemoteFile, Source
from taglens.hub.download import TRIES
from taglens.hub.lookup import Hub
from taglens.hub.pull import Pull, Pulled, Wishes

WEIGHTS, TAGS, WORDS = os.urandom(300_000), b"cat\ndog\n", b"[PAD]\n"
SECRET = "hf_secretsecretsecret"
OTHER = "d" * 40


def remote(place: Any, repository: str, path: str, content: bytes) -> RemoteFile:
    digest = hashlib.sha256(content).hexdigest()
    return RemoteFile(place, repository, COMMIT, path, len(content), digest, "Apache-2.0")


SOURCE = Source(
    "tiny",
    "RAM",
    remote("hub", "owner/model", "weights.pth", WEIGHTS),
    remote("release", "owner/code", "data/tags.txt", TAGS),
    None,
    {},
    {"vocab.txt": remote("hub", "owner/words", "vocab.txt", WORDS)},
)


@dataclass
class Desk:
    """A place to pull to, with everything that a pull says and does."""

    hub: FakeHub
    folder: Path
    said: list[str] = field(default_factory=list)
    converted: list[dict[str, bytes]] = field(default_factory=list)
    fails: BaseException | None = None

    @property
    def out(self) -> Path:
        return self.folder / "model"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def checkpoint(self) -> Path:
        return self.cache / "pull" / "owner--model" / COMMIT / "weights.pth"

    def convert(self, files: Mapping[str, Path], folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        assert folder.name.startswith(".")
        if self.fails is not None:
            raise self.fails
        self.converted.append({role: path.read_bytes() for role, path in files.items()})

    def pull(self, source: Source = SOURCE, **wishes: Any) -> Pulled:
        wishes = {"out": self.out, "cache": self.cache, "lists": self.hub.url} | wishes
        offline = bool(wishes.get("offline"))
        hub = replace(Hub.connect(self.hub.url, offline=offline), sleep=lambda _: None)
        return Pull(source, Wishes(**wishes), hub, self.convert, self.said.append).run()

    def left(self) -> list[str]:
        """Everything in the folder that is no lock and no empty folder."""
        paths = (str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())
        return sorted(path for path in paths if not path.endswith(".lock"))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub = FakeHub(
        large={"owner/model/weights.pth": WEIGHTS},
        small={"owner/code/data/tags.txt": TAGS, "owner/words/vocab.txt": WORDS},
    )
    with hub.running():
        yield Desk(hub, tmp_path)


# -- all is well -------------------------------------------------------------------------------------


def test_a_model_folder_with_its_source(desk: Desk) -> None:
    pulled = desk.pull()
    assert desk.converted == [{"tags": TAGS, "beside:vocab.txt": WORDS, "checkpoint": WEIGHTS}]
    assert sorted(path.name for path in desk.out.iterdir()) == ["config.json", "source.json", "vocab.txt"]
    row = json.loads((desk.out / "source.json").read_text())
    assert row == pulled.row and not pulled.present
    assert [one["role"] for one in row["files"]] == ["tags", "beside:vocab.txt", "checkpoint"]
    assert row["files"][-1] == {
        "role": "checkpoint",
        "place": "hub",
        "repository": "owner/model",
        "commit": COMMIT,
        "path": "weights.pth",
        "bytes": len(WEIGHTS),
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "verified": "pinned",
        "licence": "Apache-2.0",
    }


def test_the_checkpoint_goes_and_the_small_files_stay(desk: Desk) -> None:
    desk.pull()
    assert not [path for path in desk.left() if "weights" in path or ".part" in path]
    assert [path for path in desk.left() if path.startswith("cache")] == [
        f"cache/pull/owner--code/{COMMIT}/data/tags.txt",
        f"cache/pull/owner--words/{COMMIT}/vocab.txt",
    ]


def test_kept_it_serves_offline_and_stays(desk: Desk) -> None:
    desk.pull(keep=True)
    desk.hub.seen.clear()
    desk.pull(out=desk.folder / "second", offline=True)
    assert (desk.folder / "second" / "source.json").read_bytes() == (desk.out / "source.json").read_bytes()
    assert desk.hub.seen == [] and desk.checkpoint.is_file()


def test_again_there_is_nothing_to_do(desk: Desk) -> None:
    first = desk.pull()
    desk.hub.seen.clear()
    again = desk.pull()
    assert again.present and again.row == first.row and desk.hub.seen == [] and len(desk.converted) == 1


def test_an_empty_folder_is_a_place(desk: Desk) -> None:
    desk.out.mkdir()
    desk.pull()
    assert (desk.out / "source.json").is_file()


def test_what_other_programs_fetched_is_used(desk: Desk) -> None:
    place = desk.folder / "hub-cache" / "models--owner--model" / "snapshots" / COMMIT / "weights.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(WEIGHTS)
    desk.pull()
    assert desk.hub.gets("weights.pth") == [] and place.is_file()


def test_lists_from_a_folder(desk: Desk) -> None:
    (desk.folder / "lists").mkdir()
    (desk.folder / "lists" / "tags.txt").write_bytes(TAGS)
    desk.pull(lists=str(desk.folder / "lists"))
    assert desk.hub.gets("tags.txt") == []


# -- what reads any tag ------------------------------------------------------------------------------

TOWER, VOCAB = os.urandom(50_000), b"{}"
READING = replace(
    SOURCE,
    text={
        "tower": remote("hub", "owner/clip", "pytorch_model.bin", TOWER),
        "vocabulary": remote("hub", "owner/clip", "vocab.json", VOCAB),
    },
)


@pytest.fixture
def clip(desk: Desk) -> Path:
    """Where the tower stands in the cache while it is needed."""
    desk.hub.large["owner/clip/pytorch_model.bin"] = TOWER
    desk.hub.small["owner/clip/vocab.json"] = VOCAB
    return desk.cache / "pull" / "owner--clip" / COMMIT / "pytorch_model.bin"


def test_a_tower_is_fetched_checked_and_converted_with_the_rest(desk: Desk, clip: Path) -> None:
    row = desk.pull(READING).row
    (files,) = desk.converted
    assert (files["text:tower"], files["text:vocabulary"]) == (TOWER, VOCAB)
    assert [one["role"] for one in row["files"]][-3:] == ["text:tower", "text:vocabulary", "checkpoint"]
    assert {one["verified"] for one in row["files"]} == {"pinned"}
    # Read once, it goes; the small file stays. Nothing is copied as it is.
    assert not clip.exists() and clip.with_name("vocab.json").is_file()
    assert not (desk.out / "vocab.json").exists()
    desk.pull(READING, out=desk.folder / "second", keep=True)
    assert clip.is_file()
    desk.pull(READING, out=desk.folder / "third", offline=True)
    assert clip.is_file()


def test_another_tower_is_not_fetched(desk: Desk, clip: Path) -> None:
    desk.hub.large["owner/clip/pytorch_model.bin"] = TOWER[::-1]
    with pytest.raises(DownloadError, match=r"pytorch_model\.bin of owner/clip.*not fetched"):
        desk.pull(READING)
    assert not desk.out.exists() and not clip.exists()


def test_a_folder_without_it_is_not_the_same(desk: Desk, clip: Path) -> None:
    desk.pull()
    with pytest.raises(UsageError, match="without what reads any tag"):
        desk.pull(READING)
    desk.pull(READING, out=desk.folder / "whole")
    assert desk.pull(out=desk.folder / "whole").present  # it can all that is asked, and more


# -- revisions and checksums -------------------------------------------------------------------------


def test_a_branch_is_resolved_said_and_written(desk: Desk) -> None:
    pinned_elsewhere = replace(SOURCE, checkpoint=replace(SOURCE.checkpoint, commit=OTHER, sha256="0" * 64))
    row = desk.pull(pinned_elsewhere, revision="main").row
    assert (row["files"][-1]["commit"], row["files"][-1]["verified"]) == (COMMIT, "stated")
    assert f"owner/model: revision main is commit {COMMIT}" in desk.said


def test_nothing_to_compare_with_is_said(desk: Desk) -> None:
    desk.hub.small["owner/model/weights.pth"] = desk.hub.large.pop("owner/model/weights.pth")
    row = desk.pull(revision="main").row
    assert row["files"][-1]["verified"] == "nothing"
    assert row["files"][-1]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()


def test_a_given_checksum_counts(desk: Desk) -> None:
    row = desk.pull(revision="main", sha256=hashlib.sha256(WEIGHTS).hexdigest()).row
    assert row["files"][-1]["verified"] == "given"
    with pytest.raises(DownloadError, match="not fetched"):
        desk.pull(out=desk.folder / "b", sha256="0" * 64)
    assert len(desk.hub.gets("weights.pth")) == 2 and not (desk.folder / "b").exists()


def test_another_file_is_not_fetched(desk: Desk) -> None:
    desk.hub.large["owner/model/weights.pth"] = WEIGHTS[::-1]
    with pytest.raises(DownloadError, match=r"expected sha256 .* states .*not fetched"):
        desk.pull()
    assert desk.hub.gets("weights.pth") == [] and not desk.out.exists()


def test_damaged_on_the_way(desk: Desk) -> None:
    desk.hub.sent["weights.pth"] = WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
    with pytest.raises(DownloadError, match=r"expected sha256 .* got .* thrown away"):
        desk.pull()
    assert not [path for path in desk.left() if "weights" in path] and not desk.out.exists()
    desk.hub.sent.clear()
    desk.pull()
    assert desk.out.exists()


def test_a_damaged_cache_is_left_alone_and_said(desk: Desk) -> None:
    desk.checkpoint.parent.mkdir(parents=True)
    desk.checkpoint.write_bytes(b"rot")
    desk.pull()
    assert desk.converted[0]["checkpoint"] == WEIGHTS
    assert any("left alone" in said for said in desk.said)


@pytest.mark.parametrize("out", [".", "..", "a/.."])
def test_a_place_without_a_name(out: str) -> None:
    with pytest.raises(UsageError, match="name the folder"):
        Wishes(Path(out))


@pytest.mark.parametrize(
    "wish", [{"sha256": "abc"}, {"revision": "../../x"}, {"revision": ""}, {"revision": "-x"}]
)
def test_wishes_that_cannot_be_meant(wish: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Wishes(Path("out"), **wish)


# -- offline -----------------------------------------------------------------------------------------


def test_offline_names_what_is_missing_and_the_command(desk: Desk) -> None:
    with pytest.raises(DownloadError) as error:
        desk.pull(offline=True)
    text = str(error.value)
    for part in (
        "tags.txt of owner/code",
        "vocab.txt",
        "weights.pth of owner/model@c0ffee0",
        "taglens pull tiny --keep",
    ):
        assert part in text
    assert desk.hub.seen == [] and not desk.out.exists()


def test_offline_does_not_guess_a_branch(desk: Desk) -> None:
    with pytest.raises(DownloadError, match=r"which commit revision 'main'.* --revision main --keep"):
        desk.pull(offline=True, revision="main")


def test_offline_reads_a_branch_from_the_hub_cache(desk: Desk) -> None:
    desk.pull(out=desk.folder / "first")
    home = desk.folder / "hub-cache" / "models--owner--model"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    (home / "snapshots" / COMMIT).mkdir(parents=True)
    (home / "snapshots" / COMMIT / "weights.pth").write_bytes(WEIGHTS)
    assert desk.pull(offline=True, revision="main").row["files"][-1]["commit"] == COMMIT


# -- bad days ----------------------------------------------------------------------------------------


def test_a_second_run_goes_on(desk: Desk) -> None:
    desk.pull(out=desk.folder / "warm")  # the small files
    desk.hub.seen.clear()
    desk.hub.cuts = [100_000] + [0] * TRIES
    with pytest.raises(DownloadError, match="100,000 bytes that came are kept"):
        desk.pull()
    assert not desk.out.exists() and not desk.checkpoint.exists()
    desk.hub.cuts = []
    desk.pull()
    assert desk.hub.gets("weights.pth")[-1].headers["Range"] == "bytes=100000-"
    assert any("from byte 100,000 on" in said for said in desk.said)


def test_the_hub_is_out_of_order_for_a_moment(desk: Desk) -> None:
    desk.hub.statuses = [500, 503]
    desk.pull()
    assert desk.out.exists()


def test_the_hub_stays_out_of_order(desk: Desk) -> None:
    desk.pull(out=desk.folder / "warm")
    desk.hub.statuses = [500] * TRIES
    with pytest.raises(DownloadError, match=r"answers 500, 5 times in a row.*--offline"):
        desk.pull()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"repository": "owner/none"}, "no such repository, or not for this HF_TOKEN"),
        ({"commit": OTHER}, "no such revision"),
        ({"path": "other.pth"}, "no such file"),
    ],
    ids=["repository", "revision", "file"],
)
def test_not_there(change: dict[str, str], says: str, desk: Desk) -> None:
    with pytest.raises(DownloadError, match=says):
        desk.pull(replace(SOURCE, checkpoint=replace(SOURCE.checkpoint, **change)))
    assert not desk.out.exists()


def test_not_a_hub(desk: Desk) -> None:
    desk.hub.commit = "../../../../tmp/escaped"
    with pytest.raises(DownloadError, match="does not answer as a hub"):
        desk.pull(revision="main")
    assert desk.left() == []


def test_nobody_answers(desk: Desk) -> None:
    with FakeHub().running() as other:
        url = other.url
    desk.pull(out=desk.folder / "warm")
    with pytest.raises(DownloadError, match="does not answer"):
        desk.hub.url = url
        desk.pull()


def test_a_small_disk_is_noticed_before(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=pulling.SPARE + 600_000))
    with pytest.raises(UsageError, match=r"GB free and .* GB are needed"):
        desk.pull()
    assert desk.hub.seen == [] and not desk.out.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=pulling.SPARE + 700_000))
    desk.pull()


def test_a_failed_conversion_leaves_nothing_but_the_download(desk: Desk) -> None:
    desk.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        desk.pull()
    assert not desk.out.exists() and desk.checkpoint.is_file()
    assert not [path for path in desk.left() if not path.startswith("cache")]
    desk.fails = None
    desk.hub.seen.clear()
    desk.pull()
    assert desk.hub.gets("weights.pth") == [] and not desk.checkpoint.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "other model", "other revision"])
def test_a_place_that_is_taken(kind: str, desk: Desk) -> None:
    if kind == "file":
        desk.out.write_text("mine")
    elif kind == "folder":
        desk.out.mkdir()
        (desk.out / "mine").write_text("mine")
    else:
        desk.pull()
    before = desk.left()
    source = replace(SOURCE, name="other") if kind == "other model" else SOURCE
    if kind == "other revision":
        source = replace(SOURCE, checkpoint=replace(SOURCE.checkpoint, commit=OTHER))
    with pytest.raises(UsageError, match="name a new folder"):
        desk.pull(source)
    assert desk.left() == before


def test_one_pull_at_a_time(desk: Desk) -> None:
    with pulling._locked(desk.cache), pytest.raises(UsageError, match="another pull is at work"):
        desk.pull()


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_hub_pull import SOURCE
from taglens.hub.catalogue import RemoteFile
from taglens.hub.lookup import Hub
from taglens.hub.pull import Pull, Wishes
import json
from dataclasses import replace
source = replace(SOURCE, checkpoint=RemoteFile(**json.loads(sys.argv[4])),
                 tags=RemoteFile(**json.loads(sys.argv[5])), beside={})
wishes = Wishes(Path(sys.argv[2]) / "model", cache=Path(sys.argv[2]) / "cache", lists=sys.argv[3])
Pull(source, wishes, Hub.connect(sys.argv[3]), lambda files, folder: folder.mkdir(), print).run()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_it_leaves_nothing_that_looks_finished(desk: Desk) -> None:
    desk.hub.slow = 0.05
    row = {name: getattr(SOURCE.checkpoint, name) for name in RemoteFile.__slots__}
    tags = {name: getattr(SOURCE.tags, name) for name in RemoteFile.__slots__}
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            KILLED,
            str(Path(__file__).parent),
            str(desk.folder),
            desk.hub.url,
            json.dumps(row),
            json.dumps(tags),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stdout=subprocess.DEVNULL,
    )
    part = desk.checkpoint.with_name("weights.pth.part")
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 4096) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    begun = part.stat().st_size
    assert 4096 < begun < len(WEIGHTS) and not desk.out.exists() and not desk.checkpoint.exists()
    desk.hub.slow = 0
    desk.pull()
    assert desk.hub.gets("weights.pth")[-1].headers["Range"] == f"bytes={begun}-"
    assert desk.converted[0]["checkpoint"] == WEIGHTS


# -- tokens ------------------------------------------------------------------------------------------


def test_the_token_of_the_environment_is_used_and_seen_nowhere(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    desk.hub.small.pop("owner/words/vocab.txt")
    source = replace(SOURCE, beside={})
    lists = desk.folder / "lists"
    lists.mkdir()
    (lists / "tags.txt").write_bytes(TAGS)
    desk.hub.token = SECRET
    desk.pull(source, lists=str(lists), keep=True)
    assert {one.headers.get("Authorization") for one in desk.hub.seen if one.role == "files"} == {None}
    errors = []
    desk.hub.token = "another"
    for out, wishes in {"b": {"revision": "main"}, "c": {"revision": COMMIT[:8]}}.items():
        with pytest.raises(DownloadError, match="HF_TOKEN") as error:
            desk.pull(source, out=desk.folder / out, lists=str(lists), **wishes)
        errors.append(repr(error.value) + str(error.value.__cause__))
    everything = [*desk.said, *errors, caplog.text, *capfd.readouterr()]
    everything += [path.read_bytes().decode("latin-1") for path in desk.folder.rglob("*") if path.is_file()]
    assert not [text for text in everything if SECRET in text]


def test_without_a_token_the_cure_is_named(desk: Desk) -> None:
    desk.pull(out=desk.folder / "warm")
    desk.hub.token = SECRET
    with pytest.raises(DownloadError, match=r"answers 401: .* set HF_TOKEN"):
        desk.pull()


def test_lists_are_asked_for_without_the_token(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    desk.pull()
    assert {one.headers.get("Authorization") for one in desk.hub.gets("tags.txt")} == {None}
