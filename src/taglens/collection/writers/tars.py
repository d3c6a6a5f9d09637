"""Rows and their pictures as WebDataset tars.

Knows the tar's layout: ``NUMBER.jpg`` and ``NUMBER.json`` after each other, the same bytes on every run. Refuses to
know pixels: a picture's bytes go in as they are, and its suffix tells what they are only if its content does not.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from taglens.collection.rows_in import StoredRow
from taglens.collection.writers.choosing import Account
from taglens.collection.writers.files import (
    INDEX,
    Pictures,
    RowError,
    appearing,
    in_archive,
    inside_file,
    put,
    shown,
)
from taglens.errors import UsageError
from taglens.results import to_line

_SHARD = re.compile(r"\d{6,}\.tar")
_SIGNS = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)


def write_webdataset(
    rows: Iterable[StoredRow], out: Path, *, pictures: Pictures, account: Account, shard_size: int = 1000
) -> None:
    """Numbered tars in a folder; ``taglens-export.json`` names them, and says whether it was finished.

    A picture that is gone, or that is not the one that was tagged, is a failure.

    Args:
        shard_size: pictures per tar.

    Raises:
        UsageError: ``shard_size`` is less than 1, or the folder holds other things than such an export.
    """
    if shard_size < 1:
        raise UsageError(f"--shard-size must be 1 or more, found {shard_size}")
    older = _require_place(out)
    out.mkdir(parents=True, exist_ok=True)
    samples = _samples(rows, pictures, account)
    names: dict[str, int] = {}
    _write_index(out, older, complete=False)
    while group := next(samples, None):
        name = f"{len(names):06d}.tar"
        names[name] = 0
        # Listed before it is there: what a kill leaves is known to be ours.
        _write_index(out, older | names, complete=False)
        with (
            appearing(out / name) as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            while group is not None:
                row, picture = group
                key = f"{row.number:09d}"
                _add(tar, f"{key}.{_kind(row.path, picture)}", picture)
                _add(tar, f"{key}.json", (to_line(_annotation(row)) + "\n").encode())
                names[name] += 1
                account.written += 1
                account.tags += len(row.prediction.tags or ())
                group = next(islice(samples, 1), None) if names[name] < shard_size else None
    for name in older.keys() - names.keys():
        (out / name).unlink(missing_ok=True)
    _write_index(out, names, complete=True)


def _write_index(out: Path, shards: dict[str, int], *, complete: bool) -> None:
    index = {"taglens_export": 1, "complete": complete, "shards": shards}
    put(out / INDEX, (json.dumps(index, indent=1) + "\n").encode())


def _require_place(out: Path) -> dict[str, int]:
    """The tars that an earlier export has listed, finished or killed; others are somebody's."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    there = {path.name for path in out.iterdir()} if out.exists() else set()
    if not there:
        return {}
    try:
        index = json.loads((out / INDEX).read_text(encoding="utf-8"))
        ours = index["taglens_export"] == 1 and isinstance(index["shards"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UsageError(f"--out {out} holds other things than such an export; name a new folder")
    tars = {name for name in there if _SHARD.fullmatch(name)}
    if strangers := sorted(tars - index["shards"].keys()):
        raise UsageError(
            f"--out {out} holds {strangers[0]}, which no export has written and which would be read with it; move it "
            "away, or name a new folder"
        )
    return dict.fromkeys(sorted(tars), 0)


def _samples(
    rows: Iterable[StoredRow], pictures: Pictures, account: Account
) -> Iterator[tuple[StoredRow, bytes]]:
    for row in rows:
        try:
            path = pictures.find(row.path)
            content = path.read_bytes()
        except RowError as error:
            account.fail(row.prediction.source, str(error))
        except OSError as error:
            archive = inside_file(path)
            reason = f"cannot read {shown(path)}: {error.strerror}"
            account.fail(row.prediction.source, reason if archive is None else in_archive(archive))
        else:
            if row.sha256 is not None and hashlib.sha256(content).hexdigest() != row.sha256:
                account.fail(row.prediction.source, "has changed since it was tagged; tag it again")
            else:
                yield row, content


def _kind(path: str, content: bytes) -> str:
    for sign, kind in _SIGNS:
        if content.startswith(sign):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    suffix = Path(path).suffix[1:].lower()
    return suffix if suffix.isascii() and suffix.isalnum() else "img"


def _annotation(row: StoredRow) -> dict[str, Any]:
    value = row.prediction.to_dict()
    del value["error"]
    value["by"] = "taglens"
    return value


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
