"""The folder that a run leaves: rows and features by the shard, each with a receipt; whole or not there.

Knows names, sums and how to replace a file without a moment in between. Refuses to know pictures and models
(`taglens.collection.runs`).

    STORE/run.json                      what is done with which pictures; totals, once all shards are there
    STORE/shards/000000.jsonl           a row per picture, in input order
    STORE/shards/000000.features.npz    what a model made of the pictures, on request (`taglens.collection.features`)
    STORE/shards/000000.receipt.json    counts and sums; written last: a shard without one does not count
    STORE/before/                       what is being written over, as it was, until the run that does so is complete

Nothing in a store tells the time: a run that was killed and went on ends in the same bytes as one that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from taglens.errors import DataError, UsageError
from taglens.results import to_line

FORMAT_VERSION = 1
RUN, SHARDS, BEFORE = "run.json", "shards", "before"
_RECEIPT = re.compile(r"(\d{6,})\.receipt\.json")
# What `replace` leaves of a file when it is killed; nobody else's `.part`.
_HALF = re.compile(r"(?:run\.json|\d{6,}\.(?:jsonl|features\.npz|receipt\.json))\.\d+-[0-9a-f]+\.part")
_PIECE = re.compile(r"(\d{6,})\.(?:jsonl|features\.npz|receipt\.json)")


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a finished shard holds.

    Attributes:
        pictures, failed: rows, and those with an error.
        inputs: digest of the names and signatures of its pictures.
        configuration: fingerprint of what was done with them.
        seen: what the features depend on (the model, the side); whatever else changes, they stay good.
        rows_sha256, features_sha256: of the files; None where there are no features.
    """

    shard: int
    pictures: int
    failed: int
    inputs: str
    configuration: str
    seen: str
    rows_sha256: str
    features_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RunFile:
    """What ``run.json`` says.

    Attributes:
        sources: as typed.
        configuration: everything that a row depends on beside its picture.
        totals: None until every shard is there.
    """

    sources: tuple[str, ...]
    configuration: Mapping[str, Any]
    totals: Mapping[str, Any] | None = None

    @property
    def fingerprint(self) -> str:
        return digest(self.configuration)[:12]

    def to_dict(self) -> dict[str, Any]:
        return {
            "taglens_run": FORMAT_VERSION,
            "sources": list(self.sources),
            "configuration": dict(self.configuration),
            "fingerprint": self.fingerprint,
            "totals": None if self.totals is None else dict(self.totals),
        }


@dataclass(slots=True)
class Store:
    """One such folder; made when something is first written."""

    folder: Path
    _lock: int | None = field(default=None, repr=False)

    # -- what stands there -------------------------------------------------------------------------

    def run(self) -> RunFile | None:
        """run.json, or None where the folder is no store yet. Raises DataError for one that cannot be read."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file; name a folder for the store")
        return self._run_file(self.folder / RUN)

    def earlier(self) -> RunFile | None:
        """The run whose rows are being written over; the store's own where none are."""
        return self._run_file(self.folder / BEFORE / RUN) or self.run()

    def _run_file(self, path: Path) -> RunFile | None:
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}") from None
        if not isinstance(row, dict) or row.get("taglens_run") != FORMAT_VERSION:
            raise DataError(f"{path} was not written by taglens run of this release; name another folder")
        try:
            return RunFile(tuple(row["sources"]), dict(row["configuration"]), row["totals"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} is incomplete ({error}); name another folder, or remove this one"
            ) from None

    def receipts(self) -> dict[int, Receipt]:
        """The finished shards by number, ascending; a damaged receipt counts as none."""
        return self._receipts(SHARDS)

    def known_receipts(self) -> dict[int, Receipt]:
        """The same, but of the rows that an earlier run left, where these are being written over."""
        return dict(sorted({**self._receipts(SHARDS), **self._receipts(BEFORE)}.items()))

    def _receipts(self, folder: str) -> dict[int, Receipt]:
        found = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in (self.folder / folder).iterdir():
                if match := _RECEIPT.fullmatch(path.name):
                    receipt = self._receipt(int(match[1]), folder)
                    if receipt is not None:
                        found[receipt.shard] = receipt
        return dict(sorted(found.items()))

    def _receipt(self, shard: int, folder: str = SHARDS) -> Receipt | None:
        try:
            row = json.loads(self.receipt_path(shard, folder).read_text(encoding="utf-8"))
            receipt = Receipt(**row)
        except (OSError, ValueError, TypeError):
            return None
        # Sums are not compared here: `lines` does when a shard is read.
        return receipt if receipt.shard == shard and self.rows_path(shard, folder).is_file() else None

    def rows_path(self, shard: int, folder: str = SHARDS) -> Path:
        return self.folder / folder / f"{shard:06d}.jsonl"

    def features_path(self, shard: int, folder: str = SHARDS) -> Path:
        return self.folder / folder / f"{shard:06d}.features.npz"

    def receipt_path(self, shard: int, folder: str = SHARDS) -> Path:
        return self.folder / folder / f"{shard:06d}.receipt.json"

    def known_folder(self, shard: int) -> str:
        """Where what an earlier run left of this shard stands now."""
        return BEFORE if self.receipt_path(shard, BEFORE).is_file() else SHARDS

    def lines(self, receipt: Receipt, folder: str = SHARDS) -> list[bytes]:
        """A finished shard's rows as they stand. Raises DataError where they are not what the receipt says."""
        path = self.rows_path(receipt.shard, folder)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from None
        if hashlib.sha256(content).hexdigest() != receipt.rows_sha256:
            raise DataError(
                f"{path} is not what its receipt says: it was cut or edited; remove "
                f"{self.receipt_path(receipt.shard, folder)} and run the same command again, and this shard is made "
                "anew"
            )
        return content.splitlines(keepends=True)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, in order. Raises DataError for a damaged shard."""
        for receipt in self.receipts().values():
            for line in self.lines(receipt):
                yield json.loads(line)

    def known_rows(self) -> Iterator[dict[str, Any]]:
        """Every row of the earlier run, see `known_receipts`. Raises DataError for a damaged shard."""
        for receipt in self.known_receipts().values():
            for line in self.lines(receipt, self.known_folder(receipt.shard)):
                yield json.loads(line)

    # -- writing -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """One writer at a time, or several that share the work; a killed one leaves no lock behind.

        Raises:
            UsageError: another is at work.
        """
        (self.folder / SHARDS).mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # no such lock on this system
            yield
            return
        handle = os.open(self.folder / SHARDS, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    f"another run is writing {self.folder}; wait until it is done, or share the work from the start: "
                    "--part 0/2, --part 1/2"
                ) from None
            if not shared:
                self._sweep()
            yield
        finally:
            os.close(handle)

    def _sweep(self) -> None:
        """Remove what a killed run left half-written."""
        for folder in (self.folder, self.folder / SHARDS, self.folder / BEFORE):
            for path in folder.glob("*.part"):
                if _HALF.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def write_run(self, run: RunFile) -> None:
        text = json.dumps(run.to_dict(), indent=2, ensure_ascii=False) + "\n"
        if any("\ud800" <= one <= "\udfff" for one in text):
            # A name that is no UTF-8: escaped, it is what it was when it is read again.
            text = json.dumps(run.to_dict(), indent=2) + "\n"
        replace(self.folder / RUN, text.encode())

    def set_aside(self, shard: int) -> None:
        """Keep a finished shard that is about to be written over, and the run it belongs to, until `forget`.

        What is there already is older, and stays.
        """
        if self._receipt(shard) is None or self.receipt_path(shard, BEFORE).exists():
            return
        (self.folder / BEFORE).mkdir(exist_ok=True)
        _link(self.rows_path(shard), self.rows_path(shard, BEFORE))
        if self.features_path(shard).exists():
            _link(self.features_path(shard), self.features_path(shard, BEFORE))
        _link(self.receipt_path(shard), self.receipt_path(shard, BEFORE))

    def set_run_aside(self) -> None:
        """Keep run.json beside the shards that will be written over, until `forget`; an older one stays."""
        if (self.folder / RUN).exists():
            (self.folder / BEFORE).mkdir(exist_ok=True)
            if not (self.folder / BEFORE / RUN).exists():
                _link(self.folder / RUN, self.folder / BEFORE / RUN)

    def forget(self) -> None:
        """Remove what was kept of an earlier run: the store is complete without it."""
        shutil.rmtree(self.folder / BEFORE, ignore_errors=True)

    def write_shard(
        self, receipt: Receipt, rows: Sequence[Mapping[str, Any] | bytes], features: bytes | None
    ) -> Receipt:
        """Write a shard; ``receipt`` without its sums. Returns it with them."""
        content = b"".join(
            row if isinstance(row, bytes) else (to_line(row) + "\n").encode("utf-8") for row in rows
        )
        self.receipt_path(receipt.shard).unlink(missing_ok=True)
        replace(self.rows_path(receipt.shard), content)
        if features is None:
            self.features_path(receipt.shard).unlink(missing_ok=True)
        else:
            replace(self.features_path(receipt.shard), features)
        whole = Receipt(
            **{
                **asdict(receipt),
                "rows_sha256": hashlib.sha256(content).hexdigest(),
                "features_sha256": None if features is None else hashlib.sha256(features).hexdigest(),
            }
        )
        replace(self.receipt_path(receipt.shard), (json.dumps(asdict(whole), indent=2) + "\n").encode())
        return whole

    def drop_from(self, shard: int) -> None:
        """Remove shards from this number on: the collection has become smaller. Receipts go first."""
        found = [path for path in (self.folder / SHARDS).iterdir() if _PIECE.fullmatch(path.name)]
        beyond = [path for path in found if int(path.name.partition(".")[0]) >= shard]
        for path in sorted(beyond, key=lambda path: (not _RECEIPT.fullmatch(path.name), path.name)):
            path.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Put a file in place at once: beside it, to the disk, renamed. What was half-written goes on any failure."""
    # Two machines may have processes of one number, and write into one folder.
    beside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the disk has no such thing. Whole or not there."""
    beside = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
    beside.replace(target)


def open_store(folder: str | os.PathLike[str]) -> Store:
    """A store that is there. Raises DataError where none is."""
    store = Store(Path(folder))
    if store.run() is None:
        raise DataError(
            f"{folder} is no store: {RUN} is missing; make one: taglens run SOURCE --out {folder}"
        )
    return store
