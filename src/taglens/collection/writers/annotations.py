"""Rows as annotation files: COCO, Datumaro, FiftyOne, Label Studio, Hugging Face ImageFolder.

Knows each format's fields, and where the tag's id, score, model and vocabulary go in it. Refuses to know pictures:
their names are written, they are not opened.

Labels get their numbers in the order of their first appearance. What a format wants as two lists is written as two
streams, so that only the labels are held in memory, never the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from taglens import __version__
from taglens.collection.rows_in import LONGEST_LINE, StoredRow
from taglens.collection.writers.choosing import Account, annotated_by, is_plain, is_scored, score_of
from taglens.collection.writers.files import INDEX, Pictures, RowError, appearing, spill
from taglens.errors import UsageError
from taglens.results import Tag, significant, to_line
from taglens.staging import staged

Named = Callable[[StoredRow], str]
LOCAL_FILES = "/data/local-files/?d="
_FIFTYONE = ("data.json", "labels.json")
_NOT_UTF8 = "has a name that is not UTF-8, which JSON cannot hold"


def named_by(pictures: Pictures) -> Named:
    """How a row's picture is called in a file: relative to the pictures' folder if one is given, else as typed."""
    if pictures.folder is None:
        return lambda row: row.prediction.source

    def inside(row: StoredRow) -> str:
        return pictures.within(row.path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    return inside


class _List:
    """The items of a JSON list, one a line, written as they come."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._empty = stream, True

    def add(self, item: Any, *, name: str | None = None) -> None:
        """One more; ``name`` makes it an object's field."""
        begin = "" if self._empty else ",\n"
        label = "" if name is None else json.dumps(name, ensure_ascii=False) + ": "
        self._stream.write((begin + label + json.dumps(item, ensure_ascii=False, allow_nan=False)).encode())
        self._empty = False


class _Labels:
    """Tags to numbers from ``first``, in the order in which they are met. One number per id."""

    def __init__(self, first: int) -> None:
        self._first = first
        self.met: dict[str, tuple[int, Tag]] = {}

    def number(self, tag: Tag) -> int:
        return self.met.setdefault(tag.id, (self._first + len(self.met), tag))[0]

    def names(self) -> list[tuple[int, str, Tag]]:
        """(number, name, tag) of each; a name that stands for two ids carries its kind, as "train (action:train)"."""
        count: dict[str, int] = {}
        for _, tag in self.met.values():
            count[tag.name] = count.get(tag.name, 0) + 1
        return [
            (number, tag.name if count[tag.name] == 1 else f"{tag.name} ({tag.id})", tag)
            for number, tag in self.met.values()
        ]


def _origin(row: StoredRow, tag: Tag) -> dict[str, Any]:
    """What is kept of a tag wherever a format has a place for free fields."""
    one = row.prediction
    return {
        "id": tag.id,
        "kind": tag.kind,
        **_score(tag, "score"),
        "model": one.model,
        "vocabulary": one.vocabulary,
        **annotated_by(row, tag),
        "by": "taglens",
    }


def _score(tag: Tag, field: str) -> dict[str, float]:
    """A field with the score, where the tag has one."""
    score = score_of(tag)
    return {} if score is None else {field: score}


def _name(row: StoredRow, named: Named, account: Account) -> str | None:
    try:
        return named(row)
    except RowError as error:
        account.fail(row.prediction.source, str(error))
        return None


def write_coco(rows: Iterable[StoredRow], out: Path, *, named: Named, account: Account) -> None:
    """One COCO JSON: image-level tags as annotations without a box (what readers call the labels task).

    Annotations carry ``score`` and, in ``attributes``, where the tag comes from. Ids begin at 1.
    """
    labels, annotations = _Labels(1), 0
    with appearing(out) as stream, spill(out) as second:
        info = {"description": "image tags", "contributor": f"taglens {__version__}"}
        stream.write(b'{\n"info": ' + json.dumps(info).encode() + b',\n"licenses": [],\n"images": [\n')
        images, marks = _List(stream), _List(second)
        number = 0
        for row in rows:
            if (name := _name(row, named, account)) is None:
                continue
            number += 1
            one = row.prediction
            size = {} if one.width is None else {"width": one.width, "height": one.height}
            images.add({"id": number, "file_name": name, **size})
            for tag in one.tags or ():
                annotations += 1
                marks.add(
                    {
                        "id": annotations,
                        "image_id": number,
                        "category_id": labels.number(tag),
                        **_score(tag, "score"),
                        "attributes": _origin(row, tag),
                    }
                )
            account.written += 1
        stream.write(b'\n],\n"annotations": [\n')
        _append(second, stream)
        stream.write(b'\n],\n"categories": [\n')
        categories = _List(stream)
        for category, label, tag in labels.names():
            categories.add({"id": category, "name": label, "supercategory": tag.kind})
        stream.write(b"\n]\n}\n")
    account.tags += annotations


def _append(spilled: BinaryIO, stream: BinaryIO) -> None:
    spilled.seek(0)
    shutil.copyfileobj(spilled, stream, 1 << 20)


def write_datumaro(rows: Iterable[StoredRow], out: Path, *, named: Named, account: Account) -> None:
    """One Datumaro JSON; an item's id is its picture's name with the suffix, so that two never share one."""
    labels = _Labels(0)
    with appearing(out) as stream:
        head = {"dm_format_version": "1.0", "media_type": 2, "infos": {"author": f"taglens {__version__}"}}
        stream.write(json.dumps(head)[:-1].encode() + b',\n"items": [\n')
        items = _List(stream)
        for row in rows:
            if (name := _name(row, named, account)) is None:
                continue
            one = row.prediction
            marks = [
                {
                    "id": position,
                    "type": "label",
                    "group": 0,
                    "label_id": labels.number(tag),
                    "attributes": _origin(row, tag),
                }
                for position, tag in enumerate(one.tags or ())
            ]
            image: dict[str, Any] = {"path": name}
            if one.width is not None:
                image["size"] = [one.height, one.width]
            items.add({"id": name, "annotations": marks, "attr": {}, "image": image})
            account.tags += len(marks)
            account.written += 1
        stream.write(b'\n],\n"categories": {"label": {"attributes": [], "label_groups": [], "labels": [\n')
        categories = _List(stream)
        for _, label, _tag in labels.names():
            categories.add({"name": label, "parent": "", "attributes": []})
        stream.write(b"\n]}}\n}\n")


def write_fiftyone(
    rows: Iterable[StoredRow], out: Path, *, pictures: Pictures, account: Account, overwrite: bool = False
) -> None:
    """A folder that FiftyOne reads as a FiftyOneImageClassificationDataset: ``labels.json`` and ``data.json``.

    ``data.json`` says where the pictures are, so none is copied. Keys are the rows' numbers, because FiftyOne cuts
    keys at their last dot. ``taglens-export.json`` beside them says what was written, so that a later export may
    replace it.

    Args:
        overwrite: replace these two even if they are not what an earlier export wrote.

    Raises:
        UsageError: they are not, or ``out`` is a file.
    """
    if not overwrite and not out.is_file():
        _require_ours(out)
    try:
        with staged(out, last="labels.json") as folder:
            _write_fiftyone(rows, folder, pictures, account)
            index = {"taglens_export": 1, "files": {name: _sum(folder / name) for name in _FIFTYONE}}
            (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    except FileExistsError:
        raise UsageError(f"--out {out} is a file; name a folder") from None


def _require_ours(out: Path) -> None:
    """Raises UsageError where a file would be replaced that is not as an earlier export left it."""
    try:
        sums = json.loads((out / INDEX).read_text(encoding="utf-8"))["files"]
        known = {name: sums.get(name) for name in _FIFTYONE}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = {}
    if not known and os.path.lexists(out / INDEX):
        raise UsageError(f"{out} holds another export; name another folder, or replace it: --overwrite")
    for name in _FIFTYONE:
        path = out / name
        if os.path.lexists(path) and (not path.is_file() or _sum(path) != known.get(name)):
            raise UsageError(
                f"{path} is there and is not what an export left; name another folder, or replace it: --overwrite"
            )


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_fiftyone(rows: Iterable[StoredRow], folder: Path, pictures: Pictures, account: Account) -> None:
    names: set[str] = set()
    with (folder / "labels.json").open("wb") as first, (folder / "data.json").open("wb") as second:
        first.write(b'{\n"labels": {\n')
        second.write(b"{\n")
        targets, places = _List(first), _List(second)
        for row in rows:
            try:
                place = pictures.find(row.path).absolute().as_posix()
                place.encode()
            except RowError as error:
                account.fail(row.prediction.source, str(error))
                continue
            except UnicodeEncodeError:
                account.fail(row.prediction.source, _NOT_UTF8)
                continue
            tags = row.prediction.tags or ()
            places.add(place, name=f"{row.number:09d}")
            labels = [
                {"label": tag.name, **_score(tag, "confidence"), "attributes": _origin(row, tag)}
                for tag in tags
            ]
            targets.add(labels, name=f"{row.number:09d}")
            names.update(tag.name for tag in tags)
            account.tags += len(tags)
            account.written += 1
        first.write(b'\n},\n"classes": ' + json.dumps(sorted(names), ensure_ascii=False).encode() + b"\n}\n")
        second.write(b"\n}\n")


def write_labelstudio(
    rows: Iterable[StoredRow], out: Path, *, named: Named, account: Account, address: str = LOCAL_FILES
) -> None:
    """Tasks with predictions for Label Studio, and beside them ``NAME.config.xml``, the labelling that they fit.

    Scores of single tags, which its choices cannot hold, stand in the task's data under ``taglens``; a prediction's
    own score is their mean.

    Args:
        address: what stands before a picture's name to make it an address Label Studio can open.
    """
    names: dict[str, None] = {}
    with appearing(config_of(out)) as config:
        with appearing(out) as stream:
            stream.write(b"[\n")
            tasks = _List(stream)
            for row in rows:
                if (name := _name(row, named, account)) is None:
                    continue
                tasks.add(_task(row, address + quote(name, safe="/")))
                tags = row.prediction.tags or ()
                names.update(dict.fromkeys(tag.name for tag in tags))
                account.tags += len(tags)
                account.written += 1
            stream.write(b"\n]\n")
        choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names if is_plain(name))
        config.write(
            (
                '<View>\n  <Image name="image" value="$image"/>\n'
                f'  <Choices name="tags" toName="image" choice="multiple">\n{choices}  </Choices>\n</View>\n'
            ).encode()
        )


def config_of(out: Path) -> Path:
    """Where the labelling for tasks in ``out`` goes."""
    return out.with_name(out.stem + ".config.xml")


def _task(row: StoredRow, address: str) -> dict[str, Any]:
    one = row.prediction
    tags = one.tags or ()
    data = {
        "image": address,
        "source": one.source,
        "taglens": [{"name": t.name, **_origin(row, t)} for t in tags],
    }
    if not tags:
        return {"data": data, "predictions": []}
    result = {
        "from_name": "tags",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": list(dict.fromkeys(tag.name for tag in tags))},
    }
    scores = [tag.score for tag in tags if is_scored(tag)]
    mean = {"score": significant(sum(scores) / len(scores))} if scores else {}
    return {"data": data, "predictions": [{"model_version": one.model, **mean, "result": [result]}]}


def write_hf(
    rows: Iterable[StoredRow], out: Path, *, pictures: Pictures, account: Account, overwrite: bool = False
) -> None:
    """``metadata.jsonl`` for the folder that holds the pictures, as ``load_dataset("imagefolder")`` reads it.

    Args:
        out: the folder, or the file in it.
        pictures: what relative names are relative to; pictures outside ``out``'s folder are failures, because the
            format cannot name them.
        overwrite: replace a ``metadata.jsonl`` whoever wrote it.

    Raises:
        UsageError: a ``metadata.jsonl`` is there that was not written here: it may hold somebody's captions.
    """
    if out.is_dir():
        out = out / "metadata.jsonl"
    if out.name != "metadata.jsonl":
        raise UsageError(
            f"--out {out}: expected the pictures' folder, or its metadata.jsonl, which is read by name"
        )
    if not overwrite and os.path.lexists(out) and not _ours(out):
        raise UsageError(
            f"{out} is there and was not written by taglens; move it away first, or replace it: --overwrite"
        )
    home = Pictures(out.parent)
    with appearing(out) as stream:
        for row in rows:
            one = row.prediction
            tags = one.tags or ()
            try:
                name = home.within(str(pictures.find(row.path).absolute()))
                name.encode()
            except RowError:
                account.fail(one.source, f"is not in {out.parent}, where metadata.jsonl can name it")
                continue
            except UnicodeEncodeError:
                account.fail(one.source, _NOT_UTF8)
                continue
            value = {
                "file_name": name,
                "tags": [tag.name for tag in tags],
                "tag_scores": [significant(tag.score) for tag in tags],
                "tag_ids": [tag.id for tag in tags],
                "tag_kinds": [tag.kind for tag in tags],
                "caption": one.caption,
                "tag_model": one.model,
                "tag_vocabulary": one.vocabulary,
            }
            stream.write((to_line(value) + "\n").encode())
            account.tags += len(tags)
            account.written += 1


_HF = {"file_name", "tags", "tag_scores", "tag_ids", "tag_kinds", "caption", "tag_model", "tag_vocabulary"}


def _ours(path: Path) -> bool:
    """Whether every line has the fields that are written here and no others; so has a file without a byte."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            try:
                row = json.loads(line)
            except ValueError:
                return False
            if not isinstance(row, dict) or row.keys() != _HF:
                return False
    return True
