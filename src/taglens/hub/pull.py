"""A published model into a folder: look, check the room, fetch, verify, have it converted, put it in place whole.

Knows the order of things and what must hold before the next. The conversion is passed in. Downloads stand in a cache
of this program under their commit, as ``.part`` until they are whole and their checksum is right; the folder appears
by one renaming, with ``source.json`` in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from taglens import __version__
from taglens.errors import DownloadError, UsageError
from taglens.hub.catalogue import RELEASE_HOST, RemoteFile, Source
from taglens.hub.download import checksum, fetch
from taglens.hub.lookup import COMMIT, SHA256, Hub, hub_cache_folder, in_hub_cache

SOURCE = "source.json"
# Left free on the disk, and for what is small.
SPARE = 64 << 20
# Roles of files that are read once, to be converted.
_LARGE = frozenset(("checkpoint", "text:tower"))
Verified = Literal["pinned", "given", "stated", "nothing"]

Convert = Callable[[Mapping[str, Path], Path], None]


def default_cache() -> Path:
    """TAGLENS_CACHE, or taglens in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("TAGLENS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taglens"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user decided.

    Attributes:
        revision: branch, tag or commit of the checkpoint; None: the pinned commit.
        sha256: of the checkpoint; None: the pinned one, or what the hub states for another revision.
        lists: a folder with the original release's lists, or an address instead of their host.
        keep: leave the weights in the cache.
    """

    out: Path
    revision: str | None = None
    sha256: str | None = None
    lists: str | None = None
    offline: bool = False
    keep: bool = False
    cache: Path = field(default_factory=default_cache)

    def __post_init__(self) -> None:
        if self.out.name in ("", ".."):
            raise UsageError(f"--out {self.out}: name the folder itself")
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise UsageError(f"--sha256 {self.sha256!r}: expected 64 hex digits in lower case")
        if self.revision is not None and (
            not self.revision or ".." in self.revision or self.revision[0] in "-/"
        ):
            raise UsageError(f"--revision {self.revision!r}: expected a branch, a tag or a commit")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file as it must be: of the table, or of the revision that was asked for.

    Attributes:
        size, sha256: None where nobody says.
        verified: who says ``sha256``.
    """

    file: RemoteFile
    commit: str
    size: int | None
    sha256: str | None
    verified: Verified

    def __str__(self) -> str:
        return f"{self.file.name} of {self.file.repository}@{self.commit[:7]}"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was done.

    Attributes:
        present: the folder was there already, of the same files.
        row: what source.json says.
    """

    out: Path
    present: bool
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pull:
    """One pull; ``run`` does it.

    Attributes:
        say: told sentences.
        progress: told a file's name, its bytes here and in all.
    """

    source: Source
    wishes: Wishes
    hub: Hub
    convert: Convert
    say: Callable[[str], None]
    progress: Callable[[str, int, int | None], None] = lambda name, done, size: None

    def run(self) -> Pulled:
        """Do everything that is not done yet.

        Raises:
            DownloadError: a file cannot be had, or is another than it should be.
            UsageError: the place is taken, or the disk too small.
        """
        out = self.wishes.out
        with _locked(self.wishes.cache):
            checkpoint = self._checkpoint()
            if (row := _present(out, self.source, checkpoint)) is not None:
                return Pulled(out, True, row)
            wanted = {
                role: checkpoint if role == "checkpoint" else _pinned(file)
                for role, file in self.source.files().items()
            }
            here = self._gather(wanted)
            row = self._row(wanted, here)
            self._place(here, row)
            for role in _LARGE & wanted.keys():
                self._tidy(self._path(wanted[role]))
        return Pulled(out, False, row)

    def _tidy(self, weights: Path) -> None:
        """Gigabytes that nothing reads any more go, unless this pull or an earlier one was to keep them."""
        kept = weights.with_name(weights.name + ".kept")
        if self.wishes.keep and weights.is_file():
            kept.touch()
        elif not kept.exists():
            weights.unlink(missing_ok=True)

    # -- what is wanted ------------------------------------------------------------------------------

    def _checkpoint(self) -> Wanted:
        """The checkpoint of the pinned revision or of another, with the checksum that it must have."""
        file, asked = self.source.checkpoint, self.wishes.revision
        wanted = _pinned(file)
        if asked is not None and asked != file.commit:
            commit, size, stated = self._resolve(asked)
            self.say(f"{file.repository}: revision {asked} is commit {commit}")
            wanted = Wanted(file, commit, size, stated, "nothing" if stated is None else "stated")
        if self.wishes.sha256 is not None:
            wanted = replace(wanted, sha256=self.wishes.sha256, verified="given")
        return wanted

    def _resolve(self, revision: str) -> tuple[str, int | None, str | None]:
        file = self.source.checkpoint
        if not self.wishes.offline:
            stated = self.hub.look_up(file.repository, file.path, revision)
            return stated.commit, stated.size, stated.sha256
        if COMMIT.fullmatch(revision):
            return revision, None, None
        found = in_hub_cache(file.repository, file.path, revision)
        if found is None:
            raise DownloadError(
                f"offline, and nothing here says which commit revision {revision!r} of {file.repository} is; give "
                f"the commit, or fetch it where there is a network: {self._command()}"
            )
        return found[1], None, None

    def _command(self) -> str:
        revision = f" --revision {self.wishes.revision}" if self.wishes.revision else ""
        return f"taglens pull {self.source.name}{revision} --keep"

    # -- files ---------------------------------------------------------------------------------------

    def _path(self, wanted: Wanted) -> Path:
        file = wanted.file
        return (
            self.wishes.cache / "pull" / file.repository.replace("/", "--") / wanted.commit / Path(file.path)
        )

    def _gather(self, wanted: dict[str, Wanted]) -> dict[str, tuple[Path, str]]:
        """Role -> where the verified file is, and its checksum. Fetches what is missing."""
        here: dict[str, tuple[Path, str]] = {}
        missing: dict[str, Wanted] = {}
        for role, one in wanted.items():
            found = self._find(one)
            if found is None:
                missing[role] = one
            else:
                here[role] = found
        if missing and self.wishes.offline:
            raise DownloadError(
                f"offline, and not here: {', '.join(map(str, missing.values()))} (looked in {self.wishes.cache} and "
                f"{hub_cache_folder()}); fetch it where there is a network: {self._command()}"
            )
        self._check_room([wanted[role] for role in sorted(_LARGE & wanted.keys())], missing)
        for role, one in missing.items():
            here[role] = self._fetch(one)
        return here

    def _find(self, wanted: Wanted) -> tuple[Path, str] | None:
        """A file that is here and right: in this program's cache, the folder of lists, the hub's cache."""
        places = [self._path(wanted)]
        if (folder := self._lists_folder()) is not None and wanted.file.place == "release":
            places.append(folder / wanted.file.name)
        if wanted.file.place == "hub":
            found = in_hub_cache(wanted.file.repository, wanted.file.path, wanted.commit)
            places += [] if found is None else [found[0]]
        for path in places:
            if path.is_file():
                sha256 = checksum(path)
                if wanted.sha256 in (None, sha256):
                    return path, sha256
                self.say(f"{path} is left alone: its checksum is {sha256}, expected {wanted.sha256}")
        return None

    def _lists_folder(self) -> Path | None:
        lists = self.wishes.lists
        return None if lists is None or "://" in lists else Path(lists)

    def _fetch(self, wanted: Wanted) -> tuple[Path, str]:
        file, path = wanted.file, self._path(wanted)
        part = path.with_name(path.name + ".part")
        if file.place == "hub":
            url, token = self.hub.url(file.repository, file.path, wanted.commit), self.hub.token
            wanted = self._compared(wanted)
        else:
            lists = self.wishes.lists
            host = lists if lists is not None and "://" in lists else RELEASE_HOST
            url, token = file.release_url(host), None
        begun = part.stat().st_size if part.exists() else 0
        size = "" if wanted.size is None else f", {wanted.size:,} bytes"
        self.say(f"fetching {wanted}{size}" + (f", from byte {begun:,} on" if begun else ""))
        fetch(
            url,
            part,
            size=wanted.size,
            token=token,
            report=lambda done: self.progress(file.name, done, wanted.size),
            sleep=self.hub.sleep,
        )
        sha256 = checksum(part)
        if wanted.sha256 not in (None, sha256):
            part.unlink()
            raise DownloadError(
                f"{wanted}: expected sha256 {wanted.sha256}, got {sha256}; the download is thrown away: run the "
                "command again, and if this repeats, what the server sends is another file"
            )
        part.replace(path)
        return path, sha256

    def _compared(self, wanted: Wanted) -> Wanted:
        """Ask the hub before fetching: a file that it states to be another one is not fetched."""
        stated = self.hub.look_up(wanted.file.repository, wanted.file.path, wanted.commit)
        for what, ours, theirs in (
            ("sha256", wanted.sha256, stated.sha256),
            ("bytes", wanted.size, stated.size),
        ):
            if ours is not None and theirs is not None and ours != theirs:
                raise DownloadError(
                    f"{wanted}: expected {what} {ours}, {self.hub.endpoint} states {theirs}; not fetched"
                )
        return replace(wanted, size=stated.size if wanted.size is None else wanted.size)

    # -- room ----------------------------------------------------------------------------------------

    def _check_room(self, weights: Sequence[Wanted], missing: Mapping[str, Wanted]) -> None:
        """What is still to come, and a model as large as the weights it is made of, must fit."""
        cache, out = _existing(self.wishes.cache), _existing(self.wishes.out.parent)
        fetched = 0
        for one in missing.values():
            part = self._path(one).with_name(one.file.name + ".part")
            fetched += max((one.size or 0) - (part.stat().st_size if part.exists() else 0), 0)
        model = sum(one.size or 0 for one in weights)
        needs = {cache: fetched}
        if cache.stat().st_dev == out.stat().st_dev:
            needs[cache] += model
        else:
            needs[out] = model
        for folder, need in needs.items():
            free = shutil.disk_usage(folder).free
            if need + SPARE > free:
                raise UsageError(
                    f"the disk of {folder} has {free / 1e9:.1f} GB free and {(need + SPARE) / 1e9:.1f} GB are "
                    "needed (for the download and the converted model); make room, or set TAGLENS_CACHE to a "
                    "folder on another disk"
                )

    # -- the folder ----------------------------------------------------------------------------------

    def _row(self, wanted: Mapping[str, Wanted], here: Mapping[str, tuple[Path, str]]) -> dict[str, Any]:
        return {
            "taglens_source": 1,
            "source": self.source.name,
            "taglens": __version__,
            "files": [
                {
                    "role": role,
                    "place": one.file.place,
                    "repository": one.file.repository,
                    "commit": one.commit,
                    "path": one.file.path,
                    "bytes": here[role][0].stat().st_size,
                    "sha256": here[role][1],
                    "verified": one.verified,
                    "licence": one.file.licence,
                }
                for role, one in wanted.items()
            ],
        }

    def _place(self, here: Mapping[str, tuple[Path, str]], row: Mapping[str, Any]) -> None:
        """Convert beside the place and rename: the folder is there whole, or not at all."""
        out = self.wishes.out
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out.parent / f".{out.name}.pulling"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            self.convert({role: path for role, (path, _) in here.items()}, beside)
            for role, (path, _) in here.items():
                kind, _, name = role.partition(":")
                if kind == "beside":
                    shutil.copyfile(path, beside / name)
            text = json.dumps(row, indent=2, ensure_ascii=False) + "\n"
            (beside / SOURCE).write_text(text, encoding="utf-8")
            if out.is_dir():
                out.rmdir()
            beside.replace(out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _pinned(file: RemoteFile) -> Wanted:
    return Wanted(file, file.commit, file.size, file.sha256, "pinned")


def _present(out: Path, source: Source, checkpoint: Wanted) -> dict[str, Any] | None:
    """source.json of a folder that is what would be made; None where nothing stands. Raises UsageError otherwise."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    lacks = False
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        row: dict[str, Any] = json.loads((out / SOURCE).read_text(encoding="utf-8"))
        (was,) = (file for file in row["files"] if file["role"] == "checkpoint")
        same = row["source"] == source.name and was["commit"] == checkpoint.commit
        if same and checkpoint.sha256 in (None, was["sha256"]):
            there = {file["role"] for file in row["files"]}
            if all(f"text:{part}" in there for part in source.text):
                return row
            lacks = True
    if lacks:
        raise UsageError(
            f"--out {out} is there already, without what reads any tag (--no-text); name a new folder, or remove it"
        )
    raise UsageError(
        f"--out {out} is there already and holds something else; name a new folder, or remove it"
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One pull at a time in a cache; a killed one leaves no lock behind."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "pull.lock").open("a") as file:
        try:
            import fcntl
        except ImportError:
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another pull is at work in {cache}; wait until it is done") from None
        yield
