"""Labelled pictures in numbered tar files, each with a receipt: the folder's form, and reading it.

Knows what stands where and whether it belongs together. Refuses to know how shards are made
(`taglens.data.building`), pixels, and batches.

    DIR/vocabulary.jsonl            what the tag ids mean
    DIR/train-000000.tar            KEY.jpg + KEY.json, pair after pair
    DIR/train-000000.receipt.json   counts, size, sha256, vocabulary, configuration; written after its tar
    DIR/failures.jsonl              the rows whose picture cannot be used
    DIR/shards.json                 what was asked for, which tags were in scope, totals; written last

A KEY.json holds {"captions", "tags", "split", "source"}.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from taglens.data.sources import SourceForm
from taglens.errors import DataError, MismatchError, UsageError
from taglens.vocabulary import Vocabulary

FORMAT_VERSION = 1
INDEX = "shards.json"
VOCABULARY = "vocabulary.jsonl"
FAILURES = "failures.jsonl"

Scope = Literal["all", "labels"]

_AGAIN = "Delete this shard's receipt and run the same build again."


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture.

    Attributes:
        key: the row's number in its corpus, nine digits.
        image: the file's bytes, unchanged.
        tags: ids, parents included, by rising column.
        source: the picture as the corpus names it.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    tags: tuple[str, ...]
    split: str
    source: str


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How a corpus becomes shards.

    Attributes:
        absent: how far a tag in scope that a sample lacks counts as negative: 1 negative, 0 unknown.
        scope: the tags that the corpus could have named. "all": every one; "labels": those it named at least
            once. Others are unknown for its samples, whatever ``absent`` says.
        samples_per_shard: rows a shard is made of.
        labeller: name and version of what finds the tags; another one makes another configuration.

    Raises:
        UsageError: a value outside its range.
    """

    absent: float
    scope: Scope
    samples_per_shard: int = 1000
    labeller: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.absent <= 1.0:
            raise UsageError(f"absent is {self.absent}: expected 0 (unknown) to 1 (negative)")
        if self.scope not in ("all", "labels"):
            raise UsageError(f"scope is {self.scope!r}: expected all or labels")
        if self.samples_per_shard < 1:
            raise UsageError(f"samples_per_shard is {self.samples_per_shard}: expected 1 or more")

    @classmethod
    def for_form(cls, form: SourceForm, *, labeller: str = "") -> ShardSettings:
        """The usual reading: five captions that leave a tag out speak against it, a label list does not."""
        if form == "captions":
            return cls(absent=1.0, scope="all", labeller=labeller)
        return cls(absent=0.0, scope="labels", labeller=labeller)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What a build was asked for. Two builds with one ``configuration`` give the same bytes.

    Attributes:
        source: the corpus file's name; source_sha256: of its bytes. The pictures are not hashed.
        vocabulary: ``name@fingerprint``.
        naming_sha256: of what the fingerprint leaves out and labelling depends on: synonyms, parents, counts.
    """

    source: str
    source_sha256: str
    vocabulary: str
    naming_sha256: str
    settings: ShardSettings

    @property
    def configuration(self) -> str:
        identity = json.dumps([FORMAT_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    @classmethod
    def of(cls, source: Path, *, vocabulary: Vocabulary, settings: ShardSettings) -> ShardPlan:
        naming = json.dumps([[e.id, e.synonyms, e.parents, e.count] for e in vocabulary])
        return cls(
            source=source.name,
            source_sha256=sha256_of(source),
            vocabulary=vocabulary.ref,
            naming_sha256=hashlib.sha256(naming.encode()).hexdigest(),
            settings=settings,
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one tar holds.

    Attributes:
        count: samples in it; rows: labelled rows it was made of (``count`` + failures).
        bytes, sha256: of the tar.
        vocabulary: fingerprint.
        first_row, last_row: positions in the corpus.
        failed: ``{"row", "image", "error": {"type", "message"}}`` each.
        tags: id -> samples that have it, by rising column.
        unmatched: name -> rows that gave it and found no tag.
    """

    shard: str
    split: str
    count: int
    rows: int
    bytes: int
    sha256: str
    vocabulary: str
    configuration: str
    first_row: int
    last_row: int
    failed: tuple[Mapping[str, Any], ...] = ()
    tags: Mapping[str, int] = field(default_factory=dict)
    unmatched: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardSet:
    """A finished folder of shards.

    Attributes:
        scope: rising columns that the corpus could have named; the others are unknown for its samples.
        splits: split -> samples.
        receipts: by shard name.
    """

    directory: Path
    vocabulary: Vocabulary
    plan: ShardPlan
    scope: list[int]
    splits: dict[str, int]
    receipts: tuple[Receipt, ...]
    failed: int
    unlabelled: int
    unmatched: dict[str, int]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.directory.resolve().name

    @property
    def absent_weight(self) -> float:
        """Weight in [0, 1] of "not there" for a tag in scope that a sample lacks."""
        return self.plan.settings.absent

    @classmethod
    def open(cls, directory: Path) -> ShardSet:
        """Read the index, the vocabulary and the receipts; look at each tar's size, not into it.

        Raises:
            DataError: not a finished folder of shards, or a tar is missing or of another size.
            MismatchError: vocabulary, receipts and index do not belong together.
        """
        path = directory / INDEX
        index = _load_document(
            path, cure="Build it, or let the interrupted build finish: run the same command again."
        )
        try:
            if index["taglens_shards"] != FORMAT_VERSION:
                raise DataError(
                    f"{path} has format {index['taglens_shards']!r}; this release reads {FORMAT_VERSION}"
                )
            settings = ShardSettings(**index["plan"]["settings"])
            plan = ShardPlan(**{**index["plan"], "settings": settings})
            names = [str(name) for name in index["shards"]]
            splits = {str(split): int(count) for split, count in index["splits"].items()}
            unmatched = {str(name): int(count) for name, count in index["unmatched"].items()}
            failed, unlabelled = int(index["failed"]), int(index["unlabelled"])
            scope_ids = [str(id) for id in index["scope"]]
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise DataError(f"{path} is damaged ({error!r}): build again with --overwrite") from None
        vocabulary = Vocabulary.load(directory / VOCABULARY)
        vocabulary.require(plan.vocabulary.rpartition("@")[2], what=str(path))
        receipts = []
        for name in names:
            receipt = load_receipt(receipt_path(directory, name))
            if receipt.configuration != plan.configuration:
                raise MismatchError(
                    f"{receipt_path(directory, name)} and {path} are of different builds",
                    expected=f"configuration {plan.configuration}",
                    found=receipt.configuration,
                    cure="Build again with --overwrite.",
                )
            vocabulary.require(receipt.vocabulary, what=str(receipt_path(directory, name)))
            tar = directory / f"{name}.tar"
            size = tar.stat().st_size if tar.is_file() else None
            if size != receipt.bytes:
                found = "no file" if size is None else f"{size} bytes"
                raise DataError(f"{tar}: expected {receipt.bytes} bytes, found {found}. {_AGAIN}")
            receipts.append(receipt)
        return cls(
            directory=directory,
            vocabulary=vocabulary,
            plan=plan,
            scope=[vocabulary.position(id) for id in scope_ids],
            splits=splits,
            receipts=tuple(receipts),
            failed=failed,
            unlabelled=unlabelled,
            unmatched=unmatched,
        )

    def tag_counts(self, split: str | None = None) -> dict[str, int]:
        """Tag id -> samples that have it, by rising column; tags that none has are left out."""
        counts: Counter[str] = Counter()
        for receipt in self.receipts:
            if split is None or receipt.split == split:
                counts.update(receipt.tags)
        return dict(sorted(counts.items(), key=lambda item: self.vocabulary.position(item[0])))

    def samples(self, split: str) -> Iterator[Sample]:
        """The samples of a split, in corpus order.

        Raises:
            UsageError: no such split, at once.
            DataError: a tar is damaged, when the reading comes to it.
        """
        if split not in self.splits:
            raise UsageError(
                f"{self.directory} has no split {split!r}; it has {', '.join(sorted(self.splits))}"
            )
        chosen = [receipt for receipt in self.receipts if receipt.split == split]
        return (sample for receipt in chosen for sample in self.read(receipt))

    def read(self, receipt: Receipt) -> Iterator[Sample]:
        """The samples of one shard. Raises DataError when its tar is damaged."""
        path = self.directory / f"{receipt.shard}.tar"
        count = 0
        try:
            with tarfile.open(path, mode="r:") as tar:
                members = iter(tar)
                for picture in members:
                    told = next(members, None)
                    key = picture.name.partition(".")[0]
                    if told is None or told.name != f"{key}.json":
                        raise DataError(f"{path}: {picture.name} has no {key}.json after it. {_AGAIN}")
                    image = _content(tar, picture)
                    sample = _sample(key, image, json.loads(_content(tar, told)), self.vocabulary)
                    count += 1
                    yield sample
        except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}). {_AGAIN}") from None
        if count != receipt.count:
            raise DataError(f"{path}: expected {receipt.count} samples, found {count}. {_AGAIN}")

    def verify(self) -> None:
        """Compare every tar's sha256 with its receipt's.

        Raises:
            DataError: names each tar that differs.
        """
        damaged = []
        for receipt in self.receipts:
            path = self.directory / f"{receipt.shard}.tar"
            if not path.is_file() or sha256_of(path) != receipt.sha256:
                damaged.append(path.name)
        if damaged:
            raise DataError(f"{self.directory}: {', '.join(damaged)} differ from their receipts. {_AGAIN}")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is not a file")
    return file.read()


def _sample(key: str, image: bytes, told: Any, vocabulary: Vocabulary) -> Sample:
    tags = tuple(told["tags"])
    unknown = [tag for tag in tags if tag not in vocabulary]
    if unknown:
        raise ValueError(f"{key}.json names {unknown[0]!r}, which {vocabulary.ref} lacks")
    return Sample(key, image, tuple(told["captions"]), tags, str(told["split"]), str(told["source"]))


def receipt_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.receipt.json"


def load_receipt(path: Path) -> Receipt:
    document = _load_document(path, cure="Run the same build again.")
    try:
        receipt = Receipt(**{**document, "failed": tuple(document["failed"])})
        int(receipt.count), int(receipt.bytes)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error!r}): delete it and run the same build again") from None
    return receipt


def _load_document(path: Path, *, cure: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. {cure}") from None
    except ValueError:
        raise DataError(f"{path} is not JSON. {cure}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a JSON object. {cure}")
    return document


def document(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def write_whole(path: Path, content: bytes) -> None:
    """All of it or nothing: beside, to the disk, renamed."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
