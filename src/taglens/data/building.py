"""Making shards: a corpus file becomes a folder that `taglens.data.shards` reads.

Knows how a killed build goes on where it stood. Refuses to know how tags are found (a `Labeller` is passed
in) and pixels beyond "does it decode".

A shard is a fixed run of its split's labelled rows, so what it holds depends on nothing built before it: any
shard may be missing and is made again byte for byte. A row whose picture fails leaves a gap, not a shift.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from taglens.data.labelling import Labeller
from taglens.data.shards import (
    FAILURES,
    FORMAT_VERSION,
    INDEX,
    VOCABULARY,
    Receipt,
    Scope,
    ShardPlan,
    ShardSettings,
    document,
    load_receipt,
    receipt_path,
    sha256_of,
    write_whole,
)
from taglens.data.sources import Row, read_rows
from taglens.errors import DataError, ImageError, MismatchError, UsageError
from taglens.results import Failure, to_line
from taglens.vocabulary import Vocabulary

UNSPLIT = "all"  # the shards of rows that name no split

_SHARD = re.compile(r".+-\d{6}\.(tar|receipt\.json)(\.part)?")
_OURS = re.compile(_SHARD.pattern + r"|(vocabulary\.jsonl|failures\.jsonl|shards\.json)(\.part)?")
_OTHER = "Choose another folder, or build again with --overwrite."
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did.

    Attributes:
        written, skipped: shards made now, and found finished.
        samples, failed: over all shards; unlabelled: rows with ``labels: null``, left out.
        splits: split -> samples.
        unmatched: name -> rows that gave it and found no tag, most frequent first.
    """

    directory: Path
    configuration: str
    written: int
    skipped: int
    samples: int
    failed: int
    unlabelled: int
    splits: Mapping[str, int]
    unmatched: Mapping[str, int]


def build_shards(
    source: Path,
    out: Path,
    *,
    vocabulary: Vocabulary,
    label: Labeller,
    settings: ShardSettings,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BuildReport:
    """Turn a corpus file into shards; shards whose receipt is there and fits are kept.

    Failed pictures of kept shards stay failed: ``overwrite=True`` looks at them again. ``progress`` is called
    with rows done and rows in all after each row.

    Raises:
        DataError: a malformed row (before anything is written), or no labelled row at all.
        MismatchError: ``out`` holds shards of another configuration, and ``overwrite`` is False.
        UsageError: ``out`` holds other files and no shards.
    """
    total = unlabelled = 0
    for row in read_rows(source):
        total += 1
        unlabelled += not row.labelled
    if total == unlabelled:
        raise DataError(f"{source}: none of its {total} rows is labelled, nothing to build")

    plan = ShardPlan.of(source, vocabulary=vocabulary, settings=settings)
    out.mkdir(parents=True, exist_ok=True)
    _refuse_foreign_folder(out)
    if overwrite:
        for path in out.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink()
    else:
        _refuse_other_configuration(out, plan, vocabulary)
    vocabulary.save(out / VOCABULARY)

    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    receipts: list[Receipt] = []
    written = 0
    for name, split, rows in _chunks(source, settings.samples_per_shard, tick):
        receipt = _finished(out, name, plan)
        if receipt is None:
            receipt = _write_shard(
                out, name, split=split, rows=rows, label=label, plan=plan, vocabulary=vocabulary, tick=tick
            )
            written += 1
        else:
            for _ in rows:
                tick()
        receipts.append(receipt)

    receipts.sort(key=lambda receipt: receipt.shard)
    failed = sorted((row for receipt in receipts for row in receipt.failed), key=lambda row: int(row["row"]))
    write_whole(out / FAILURES, "".join(to_line(row) + "\n" for row in failed).encode())
    splits: Counter[str] = Counter()
    unmatched: Counter[str] = Counter()
    for receipt in receipts:
        splits[receipt.split] += receipt.count
        unmatched.update(receipt.unmatched)
    frequent = dict(sorted(unmatched.items(), key=lambda item: (-item[1], item[0])))
    index = {
        "taglens_shards": FORMAT_VERSION,
        "configuration": plan.configuration,
        "plan": asdict(plan),
        "samples": sum(splits.values()),
        "failed": len(failed),
        "unlabelled": unlabelled,
        "splits": dict(sorted(splits.items())),
        "unmatched": frequent,
        "scope": _scope(vocabulary, receipts, settings.scope),
        "shards": [receipt.shard for receipt in receipts],
    }
    write_whole(out / INDEX, document(index))
    return BuildReport(
        directory=out,
        configuration=plan.configuration,
        written=written,
        skipped=len(receipts) - written,
        samples=sum(splits.values()),
        failed=len(failed),
        unlabelled=unlabelled,
        splits=dict(sorted(splits.items())),
        unmatched=frequent,
    )


def _chunks(source: Path, size: int, skipped: Callable[[], None]) -> Iterator[tuple[str, str, list[Row]]]:
    """(shard name, split, rows): each split's labelled rows in order, ``size`` at a time."""
    waiting: dict[str, list[Row]] = {}
    numbers: Counter[str] = Counter()

    def take(split: str) -> tuple[str, str, list[Row]]:
        name = f"{split}-{numbers[split]:06d}"
        numbers[split] += 1
        return name, split, waiting.pop(split)

    for row in read_rows(source):
        if not row.labelled:
            skipped()
            continue
        split = row.split or UNSPLIT
        rows = waiting.setdefault(split, [])
        rows.append(row)
        if len(rows) == size:
            yield take(split)
    for split in sorted(waiting):
        yield take(split)


def _write_shard(
    out: Path,
    name: str,
    *,
    split: str,
    rows: list[Row],
    label: Labeller,
    plan: ShardPlan,
    vocabulary: Vocabulary,
    tick: Callable[[], None],
) -> Receipt:
    path = out / f"{name}.tar"
    beside = path.with_name(path.name + ".part")
    counts: Counter[int] = Counter()
    unmatched: Counter[str] = Counter()
    failed: list[dict[str, Any]] = []
    with beside.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                labels = label(row)
                unmatched.update(labels.unmatched)
                try:
                    image = _usable_bytes(row)
                except ImageError as error:
                    failure = Failure.of(error)
                    failed.append({"row": row.index, "image": row.image, "error": asdict(failure)})
                else:
                    counts.update(labels.columns)
                    key = f"{row.index:09d}"
                    told = {
                        "captions": list(row.captions or ()),
                        "tags": [vocabulary[column].id for column in sorted(labels.columns)],
                        "split": split,
                        "source": row.image,
                    }
                    _add(tar, key + _suffix(row.image), image)
                    _add(tar, key + ".json", to_line(told).encode())
                tick()
        file.flush()
        os.fsync(file.fileno())
    receipt = Receipt(
        shard=name,
        split=split,
        count=len(rows) - len(failed),
        rows=len(rows),
        bytes=beside.stat().st_size,
        sha256=sha256_of(beside),
        vocabulary=vocabulary.fingerprint,
        configuration=plan.configuration,
        first_row=rows[0].index,
        last_row=rows[-1].index,
        failed=tuple(failed),
        tags={vocabulary[column].id: counts[column] for column in sorted(counts)},
        unmatched=dict(sorted(unmatched.items())),
    )
    beside.replace(path)
    write_whole(receipt_path(out, name), document(asdict(receipt)))
    return receipt


def _usable_bytes(row: Row) -> bytes:
    """The picture file's bytes, if they decode in full. Raises ImageError."""
    from taglens.images import load

    try:
        load(row.path)
        return row.path.read_bytes()
    except ImageError as error:
        # Named as the corpus names it: the same failure reads the same wherever the corpus lies.
        message = str(error).replace(repr(str(row.path)), repr(row.image))
        raise ImageError(error.type, message, source=row.image) from None
    except OSError as error:
        message = f"{row.image!r}: could not be read to its end ({error.strerror}); copy it anew"
        raise ImageError("truncated", message, source=row.image) from None


def _suffix(image: str) -> str:
    """The member's suffix, by the file's own: readers of the format choose a decoder by it."""
    suffix = PurePosixPath(image).suffix.lower()
    if suffix == ".jpeg":
        return ".jpg"
    return suffix if _SUFFIX.fullmatch(suffix) and suffix != ".json" else ".img"


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # TarInfo's own defaults (mtime 0, uid 0, no owner's name) are what makes two builds equal.
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _refuse_foreign_folder(out: Path) -> None:
    """A corpus or a home folder must not gain shards, nor lose a file of its own to ``overwrite``."""
    names = sorted(path.name for path in out.iterdir())
    if INDEX in names or any(_SHARD.fullmatch(name) for name in names):
        return
    foreign = [name for name in names if not name.endswith(".part") and name != VOCABULARY]
    if foreign:
        raise UsageError(
            f"{out} holds {foreign[0]} and no shards: expected an empty folder or one of shards; name another"
        )


def _refuse_other_configuration(out: Path, plan: ShardPlan, vocabulary: Vocabulary) -> None:
    for path in [*sorted(out.glob("*.receipt.json")), out / INDEX]:
        try:
            found = json.loads(path.read_bytes())["configuration"]
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError):
            continue  # damaged: its shard is made again
        if found != plan.configuration:
            raise MismatchError(
                f"{path} belongs to a build with another source, vocabulary or settings",
                expected=f"configuration {plan.configuration}",
                found=str(found),
                cure=_OTHER,
            )
    told = out / VOCABULARY
    if told.exists():
        other = Vocabulary.load(told)
        if other.fingerprint != vocabulary.fingerprint:
            raise MismatchError(
                f"{told} is another vocabulary", expected=vocabulary.ref, found=other.ref, cure=_OTHER
            )


def _finished(out: Path, name: str, plan: ShardPlan) -> Receipt | None:
    """The receipt of a shard that needs no work, or None."""
    try:
        receipt = load_receipt(receipt_path(out, name))
        size = (out / f"{name}.tar").stat().st_size
    except (DataError, OSError):
        return None
    fits = receipt.configuration == plan.configuration and receipt.bytes == size and receipt.shard == name
    return receipt if fits else None


def _scope(vocabulary: Vocabulary, receipts: list[Receipt], scope: Scope) -> list[str]:
    if scope == "all":
        return vocabulary.ids
    named = {id for receipt in receipts for id in receipt.tags}
    return [id for id in vocabulary.ids if id in named]
