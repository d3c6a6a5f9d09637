"""Tags as ``.txt`` sidecars, as trainers of picture models read them: one line, pieces between separators.

Knows the line, and what happens to one that is there already. Refuses to know which rows are asked for.
Every file written is noted first (`taglens.collection.provenance`), so that `untag_folder` can take it back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from taglens.collection.provenance import Entry, Journal, digest, note
from taglens.collection.rows_in import StoredRow
from taglens.collection.writers.choosing import Account, is_plain, key, score_of
from taglens.collection.writers.files import (
    Pictures,
    RowError,
    Taken,
    for_one,
    in_archive,
    inside_file,
    is_there,
    put,
    read_sidecar,
    require_folder,
    shown,
)
from taglens.errors import DataError, UsageError
from taglens.results import Tag

OnExisting = Literal["skip", "append", "overwrite"]
LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class TextForm:
    """How a line is made.

    Attributes:
        separator: between pieces.
        prefix: first pieces, such as a trigger word; may hold separators.
        with_caption: the row's caption, if it has one, between prefix and tags; not where text is appended to.
        on_existing: a file that is there is left alone, gets what it lacks at its end, or is replaced.
    """

    separator: str = ", "
    prefix: str = ""
    with_caption: bool = False
    on_existing: OnExisting = "skip"

    def __post_init__(self) -> None:
        if not self.separator or not (self.separator.isspace() or is_plain(self.separator)):
            raise UsageError(f"--separator must be text on one line, such as ', '; found {self.separator!r}")
        if self.separator.isspace() and self.separator != " ":
            raise UsageError(
                f"--separator must be a space or hold more than spaces; found {self.separator!r}"
            )
        if self.on_existing not in ("skip", "append", "overwrite"):
            raise UsageError(f"--on-existing is {self.on_existing!r}; expected skip, append or overwrite")
        if self.prefix and not is_plain(self.prefix):
            raise UsageError("--prefix must be text on one line")

    @property
    def mark(self) -> str:
        """What no piece may hold."""
        return self.separator.strip() or self.separator

    def pieces(self, text: str) -> list[str]:
        """The pieces of a line."""
        return [piece.strip() for piece in text.split(self.mark) if piece.strip()]


def line_of(row: StoredRow, form: TextForm, account: Account) -> tuple[list[str], list[Tag]]:
    """The pieces before the tags, and the tags that fit on a line; each name once."""
    head = form.pieces(form.prefix)
    if form.with_caption and row.prediction.caption:
        head += form.pieces(" ".join(row.prediction.caption.split()))
    tags: dict[str, Tag] = {}
    for tag in row.prediction.tags or ():
        if not is_plain(tag.name):
            account.dropped["the name does not fit on a line"] += 1
        elif form.mark in tag.name:
            account.dropped["the name contains the separator"] += 1
        else:
            tags.setdefault(key(tag.name), tag)
    return head, list(tags.values())


def added_to(
    text: str, wanted: Sequence[str], form: TextForm, *, first: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """A line with what it lacks: ``first`` in front, ``wanted`` at its end; and which pieces those are.

    What stands there keeps its order and spelling; a piece counts as there in another case, or with underscores.
    """
    there = {key(piece) for piece in form.pieces(text)}
    front = _lacking(first, there)
    back = _lacking(wanted, there)
    body = text.strip()
    body = body.removesuffix(form.mark).rstrip() if back else body
    return form.separator.join(part for part in (*front, body, *back) if part), [*front, *back]


def _lacking(pieces: Iterable[str], there: set[str]) -> list[str]:
    lacking = []
    for piece in pieces:
        if key(piece) not in there:
            there.add(key(piece))
            lacking.append(piece)
    return lacking


def without(text: str, pieces: Sequence[str], form: TextForm) -> str:
    """A line less these pieces, each taken once, from its end; a line that holds none of them is as it was."""
    left = form.pieces(text)
    for piece in pieces:
        if piece in left:
            last = len(left) - 1 - left[::-1].index(piece)
            del left[last]
    return text if len(left) == len(form.pieces(text)) else form.separator.join(left)


# -- writing ---------------------------------------------------------------------------------------


def write_text(
    rows: Iterable[StoredRow], out: Path | None, *, form: TextForm, pictures: Pictures, account: Account
) -> None:
    """``NAME.txt`` for every ``NAME.jpg``: beside it, or below ``out`` in the same folders.

    A picture whose file cannot be written is a failure; the others go on.
    """
    for row, place in places(rows, out, pictures=pictures, account=account, suffix=".txt"):
        try:
            _write_one(row, place, form, account)
        except RowError as error:
            account.fail(row.prediction.source, str(error))


def places(
    rows: Iterable[StoredRow], out: Path | None, *, pictures: Pictures, account: Account, suffix: str
) -> Iterator[tuple[StoredRow, Path]]:
    """Where each row's sidecar goes. Of two pictures that would share one, the second is a failure."""
    with contextlib.closing(Taken()) as taken:
        for row in rows:
            source = row.prediction.source
            try:
                place = sidecar_place(row, out, pictures=pictures).with_suffix(suffix)
                other = taken.claim(place, source)
                if other != source:
                    raise RowError(f"would share {shown(place)} with {other}; rename one of them")
                if out is not None:
                    require_folder(out, place)
                yield row, place
            except RowError as error:
                account.fail(source, str(error))


def sidecar_place(row: StoredRow, out: Path | None, *, pictures: Pictures) -> Path:
    """The picture's own place, or the one below ``out`` that corresponds to it. Raises RowError."""
    if out is not None:
        return out / pictures.within(row.path)
    picture = pictures.find(row.path)
    if not is_there(picture):
        if (archive := inside_file(picture)) is not None:
            raise RowError(in_archive(archive))
        raise RowError(
            "is not there, so nothing is written beside it; say where the pictures are: --pictures FOLDER, "
            "or where sidecars go: --out FOLDER"
        )
    return picture


def _write_one(row: StoredRow, place: Path, form: TextForm, account: Account) -> None:
    before = read_sidecar(place, limit=LONGEST)
    if before is not None and form.on_existing == "skip":
        account.skipped["with a .txt (--on-existing append adds to it)"] += 1
        return
    if before is not None and place.name == Path(row.path).name:
        raise RowError("has the suffix .txt itself and would be replaced")
    head, tags = line_of(row, form, account)
    names = [tag.name for tag in tags]
    if before is None or form.on_existing == "overwrite":
        after, added = added_to("", names, form, first=head)
    else:
        after, added = added_to(_one_line(before, place), names, form, first=form.pieces(form.prefix))
    content = after.encode()
    count = len(set(added) & set(names))
    if before is not None and (content == before or (not added and form.on_existing == "append")):
        account.written += 1
        account.unchanged += 1
        return
    one = row.prediction
    entry = Entry(
        name=place.name,
        before=before,
        after=digest(content),
        added=tuple(added),
        separator=form.separator,
        model=one.model,
        vocabulary=one.vocabulary,
        replaced=before is not None and form.on_existing == "overwrite",
        tags=tuple(
            {"id": tag.id, "name": tag.name, "score": score_of(tag)} for tag in tags if tag.name in added
        ),
    )
    try:
        note(place.parent, entry)
        put(place, content)
    except OSError as error:
        raise for_one(error, place) from None
    account.written += 1
    account.tags += count


def _one_line(content: bytes, place: Path) -> str:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise RowError(f"{shown(place)} is not UTF-8; convert it, or --on-existing skip") from None
    if len(text.splitlines()) > 1:
        raise RowError(
            f"{shown(place)} has several lines, and which one to add to is not known; --on-existing skip"
        )
    return text


# -- taking back -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Undone:
    """What was taken back so far.

    Attributes:
        restored: files that are again what they were, byte for byte.
        removed: files that an export had made, and that are gone.
        cleaned: files edited since, from which only the added tags were taken.
        kept: edited files that an export had overwritten; what they were before stays in the journal.
    """

    restored: int = 0
    removed: int = 0
    cleaned: int = 0
    kept: int = 0


def untag_folder(
    folder: Path, undone: Undone, *, names: Iterable[str] | None = None, model: str | None = None
) -> None:
    """Take back what `write_text` wrote in one folder. A file that cannot be done does not keep the others from it.

    Args:
        names: only these files; None: all that the journal names.
        model: only tags of this model, by name or ``name@fingerprint``.

    Raises:
        DataError: the journal is damaged, or a file cannot be read or written.
    """
    journal = Journal.open(folder)
    changes: dict[str, Mapping[int, Entry | None]] = {}
    failures: list[str] = []
    known = journal.names
    try:
        for name in known if names is None else [name for name in names if name in known]:
            entries = journal.entries(name)
            done = {index for index, one in enumerate(entries) if is_model(one.model, model)}
            try:
                changes[name] = _take_back(folder / name, entries, done, undone)
            except (RowError, OSError) as error:
                failures.append(str(error))
    finally:
        if any(changes.values()):
            journal.change(changes)
    if failures:
        more = f" (and {len(failures) - 1} more files)" if len(failures) > 1 else ""
        raise DataError(f"cannot take back what was written in {shown(folder)}: {failures[0]}{more}")


def is_model(ref: str, wanted: str | None) -> bool:
    """Whether ``name@fingerprint`` is the wanted model, given like that or by its name."""
    return wanted is None or wanted in (ref, ref.partition("@")[0])


def _take_back(
    path: Path, entries: Sequence[Entry], chosen: set[int], undone: Undone
) -> dict[int, Entry | None]:
    """Bring one file back, newest entry first; returns what becomes of entries, None for those that are done.

    What an entry added may stand in the file, and in what later entries that stay say was there before them; up to
    the first of these that replaced it all.
    """
    there = read_sidecar(path, limit=2 * LONGEST)
    left = dict(enumerate(entries))
    # What was there before each entry that stays; the file as it is comes last.
    states: dict[int, bytes | None] = {len(entries): there}
    exact = True
    for index in range(len(entries) - 1, -1, -1):
        entry = left.pop(index)
        if index not in chosen:
            exact = False
            left[index], states[index] = entry, entry.before
            continue
        above = states[min(states)]
        edited = above is not None and above != entry.before and digest(above) != entry.after
        exact = exact and not edited
        _take_out(entry, left, states)
        earlier = entries[index - 1].after if index else ""
        own = entry.before is not None and digest(entry.before) not in (earlier, entry.after)
        if edited and entry.replaced and entry.before and own:
            left[index], states[index] = replace(entry, added=(), tags=()), entry.before
    content = states.pop(len(entries))
    undone.kept += any(index in left for index in chosen)
    if content is None and there is not None:
        path.unlink()
        undone.removed += 1
    elif content is not None and content != there:
        put(path, content)
        undone.restored += exact
        undone.cleaned += not exact
    now = {index: replace(entry, before=states[index]) for index, entry in left.items()}
    return {index: now.get(index) for index, entry in enumerate(entries) if now.get(index) != entry}


def _take_out(entry: Entry, left: dict[int, Entry], states: dict[int, bytes | None]) -> None:
    """Take an entry out of all that came after it, up to an entry that replaced everything."""
    below: int | None = None
    for place in sorted(states):
        old = states[place]
        new = old
        if old is not None and old != entry.before:
            new = entry.before if digest(old) == entry.after else _less(old, entry)
        states[place] = new
        if below is not None and old is not None and new is not None and left[below].after == digest(old):
            left[below] = replace(left[below], after=digest(new))
        if place in left and left[place].replaced:
            return
        below = place


def _less(content: bytes, entry: Entry) -> bytes | None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    left = without(text, entry.added, TextForm(separator=entry.separator))
    return None if not left.strip() and entry.before is None else left.encode()
