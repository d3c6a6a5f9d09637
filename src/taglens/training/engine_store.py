"""The folder of a data engine: what was asked for, finished pieces with their receipts, one writer at a time.

Knows names, sums and which configurations go together. Refuses to know pictures, tags and what stands in a piece.

    OUT/engine.json                    what is done with which corpus; totals once all is there
    OUT/vocabulary.jsonl               what the tag ids mean
    OUT/generated/000000.jsonl         what is known of each picture (`taglens.training.engine_generate`)
    OUT/looks/000000.npz               each tag's best region (`taglens.training.engine_looks`)
    OUT/.../000000.receipt.json        sums; written after its piece: one without a receipt does not count
    OUT/decisions.jsonl                every label added, every label removed, and why
    OUT/labels.jsonl, captions.jsonl   the outcome
    OUT/errors.jsonl                   pictures that could not be read
    OUT/undone.json                    what a person took back
    OUT/truth.jsonl                    of a yardstick, what concerns these pictures
    OUT/report.json, report.md         before and after

Nothing in the folder tells the time: a run that was killed and went on ends in the same bytes as one that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taglens.collection.store import digest, replace
from taglens.errors import DataError, MismatchError, UsageError
from taglens.results import to_line

FORMAT_VERSION = 1
ENGINE, VOCABULARY, UNDONE, TRUTH = "engine.json", "vocabulary.jsonl", "undone.json", "truth.jsonl"
LABELS, CAPTIONS, DECISIONS, ERRORS = "labels.jsonl", "captions.jsonl", "decisions.jsonl", "errors.jsonl"
REPORT, PAGE = "report.json", "report.md"
GENERATED, LOOKS = "generated", "looks"
_OURS = {
    ENGINE,
    VOCABULARY,
    UNDONE,
    TRUTH,
    LABELS,
    CAPTIONS,
    DECISIONS,
    ERRORS,
    REPORT,
    PAGE,
    GENERATED,
    LOOKS,
}
# What `replace` leaves of a file when it is killed.
_HALF = re.compile(r".+\.\d+-[0-9a-f]+\.part")
_SUFFIX = {GENERATED: ".jsonl", LOOKS: ".npz"}


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that the outcome depends on beside the pictures.

    Attributes:
        looking: what needs the model: another one needs another folder.
        cleaning: what follows from what was seen: may be done again.
    """

    looking: Mapping[str, Any]
    cleaning: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Of what needs the model."""
        return digest([FORMAT_VERSION, dict(self.looking)])[:12]


@dataclass(slots=True)
class EngineStore:
    """One such folder; made when something is first written."""

    folder: Path

    # -- what was asked for ----------------------------------------------------------------------------

    def configuration(self) -> tuple[Configuration, Mapping[str, Any] | None] | None:
        """What engine.json says, with the totals of a finished run; None where there is none.

        Raises:
            DataError: it cannot be read, or is of another release.
        """
        path = self.folder / ENGINE
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}; name another folder") from None
        if not isinstance(row, dict) or row.get("taglens_engine") != FORMAT_VERSION:
            raise DataError(f"{path} was not written by taglens engine of this release; name another folder")
        try:
            return Configuration(dict(row["looking"]), dict(row["cleaning"])), row["totals"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is incomplete ({error!r}); name another folder") from None

    def require(self, wanted: Configuration, *, clean_again: bool = False) -> None:
        """Refuse a folder that holds other things, or work that was asked for otherwise.

        Args:
            clean_again: other ways of cleaning are welcome.

        Raises:
            UsageError: a file, or a folder of other things.
            MismatchError: another configuration; the message names what differs.
            DataError: engine.json cannot be read.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--out {self.folder} is a file; name a folder")
        there = self.configuration()
        if there is None:
            names = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
            strange = [name for name in names if not _HALF.fullmatch(name) and name != VOCABULARY]
            if strange:
                raise UsageError(
                    f"--out {self.folder} holds other things than a data engine ({strange[0]}); name a new folder"
                )
            return
        for name, old, new, cure in (
            ("looked at", there[0].looking, wanted.looking, "Name another folder, or give the same options."),
            (
                "cleaned",
                there[0].cleaning,
                wanted.cleaning,
                (
                    "Clean it again with --clean-again, which looks at no picture; name another folder; or give the "
                    "same options."
                ),
            ),
        ):
            now = json.loads(json.dumps(dict(new)))
            if now != old and not (name == "cleaned" and clean_again):
                keys = sorted(key for key in old.keys() | now.keys() if old.get(key) != now.get(key))
                raise MismatchError(
                    f"{self.folder} holds pictures {name} otherwise",
                    expected=", ".join(f"{key} {json.dumps(old.get(key))[:60]}" for key in keys[:4]),
                    found=", ".join(f"{key} {json.dumps(now.get(key))[:60]}" for key in keys[:4]),
                    cure=cure,
                )

    def write_configuration(self, configuration: Configuration, totals: Mapping[str, Any] | None) -> None:
        row = {
            "taglens_engine": FORMAT_VERSION,
            "fingerprint": configuration.fingerprint,
            "looking": dict(configuration.looking),
            "cleaning": dict(configuration.cleaning),
            "totals": None if totals is None else dict(totals),
        }
        self.write_document(ENGINE, row)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; a killed one leaves no lock behind, and what it left half-written goes.

        Raises:
            UsageError: another is at work.
        """
        for name in (GENERATED, LOOKS):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # no such lock on this system
            yield
            return
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"another engine is writing {self.folder}; wait for it") from None
            for folder in (self.folder, self.folder / GENERATED, self.folder / LOOKS):
                for path in folder.glob("*.part"):
                    if _HALF.fullmatch(path.name):
                        path.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)

    # -- pieces ----------------------------------------------------------------------------------------

    def piece(self, stage: str, number: int) -> Path:
        return self.folder / stage / f"{number:06d}{_SUFFIX[stage]}"

    def finished(self, stage: str, number: int, of: str) -> bytes | None:
        """A finished piece's content, or None where it is to be made.

        Args:
            of: digest of what it is made of; one of other things is made again.
        """
        try:
            receipt = json.loads(self._receipt(stage, number).read_bytes())
            content = self.piece(stage, number).read_bytes()
        except (OSError, ValueError):
            return None
        good = isinstance(receipt, dict) and receipt.get("of") == of
        return content if good and receipt.get("sha256") == hashlib.sha256(content).hexdigest() else None

    def write_piece(
        self, stage: str, number: int, content: bytes, *, of: str, about: Mapping[str, Any]
    ) -> None:
        """A piece and then its receipt."""
        self._receipt(stage, number).unlink(missing_ok=True)
        replace(self.piece(stage, number), content)
        sha256 = hashlib.sha256(content).hexdigest()
        row = {"stage": stage, "piece": number, "of": of, "sha256": sha256, **about}
        replace(self._receipt(stage, number), (json.dumps(row, indent=1) + "\n").encode())

    def _receipt(self, stage: str, number: int) -> Path:
        return self.folder / stage / f"{number:06d}.receipt.json"

    # -- other files -----------------------------------------------------------------------------------

    def write_rows(self, name: str, rows: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> None:
        replace(self.folder / name, b"".join((to_line(row) + "\n").encode() for row in rows))

    def write_document(self, name: str, value: Mapping[str, Any]) -> None:
        replace(self.folder / name, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())

    def write_text(self, name: str, text: str) -> None:
        replace(self.folder / name, text.encode())

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The rows of a file of ours; none where it is missing. Raises DataError: it is damaged."""
        path = self.folder / name
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        row = json.loads(line)
                    except ValueError:
                        raise DataError(
                            f"{path}, line {number} is damaged; run the same engine again, and it is made anew"
                        ) from None
                    yield row
        except FileNotFoundError:
            return
