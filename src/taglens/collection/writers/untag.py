"""Taking back what exports wrote into sidecars: files, folders or pictures in, counts out.

Knows what an argument means. Refuses to know how a text or an XMP packet goes back to what it was
(`taglens.collection.writers.text`, `taglens.collection.writers.sidecars`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from taglens.collection.provenance import JOURNAL
from taglens.collection.writers.files import shown
from taglens.collection.writers.sidecars import SUFFIX, ExifTool, Folder, untag_embedded, untag_xmp
from taglens.collection.writers.text import Undone, untag_folder
from taglens.errors import DataError, UsageError
from taglens.images import is_image_file


def untag(
    source: Path,
    *,
    undone: Undone,
    on_failure: Callable[[str, str], None],
    model: str | None = None,
    tool: ExifTool | None = None,
) -> None:
    """Take back all that exports added at one place, and nothing else.

    Args:
        source: a folder (all below it, hidden ones aside), a sidecar, or a picture (its sidecars).
        on_failure: told of each file that could not be done; the others go on.
        model: only tags of this model, by name or ``name@fingerprint``.
        tool: also look inside pictures.

    Raises:
        UsageError: there is no such file.
    """
    if not source.exists():
        raise UsageError(f"{shown(source)} does not exist; name a folder, a sidecar or a picture")
    if source.is_dir():
        for path in _sidecars(source, pictures=tool is not None):
            _one(path, undone, on_failure, model, tool)
        return
    suffix = source.suffix.lower()
    if suffix in (SUFFIX, ".txt"):
        _one(source, undone, on_failure, model, tool)
        return
    folder = Folder()
    folder.look(source.parent)
    full = source.with_name(source.name + SUFFIX)
    # Sidecars called after the stem may be another file's, where there is one of that name.
    shared = [] if folder.is_shared(source) else [source.with_suffix(SUFFIX), source.with_suffix(".txt")]
    for path in (full, *shared, source):
        if path.is_file():
            _one(path, undone, on_failure, model, tool)


def _one(
    path: Path,
    undone: Undone,
    on_failure: Callable[[str, str], None],
    model: str | None,
    tool: ExifTool | None,
) -> None:
    try:
        if path.name == JOURNAL:
            untag_folder(path.parent, undone, model=model)
        elif path.suffix.lower() == ".txt":
            untag_folder(path.parent, undone, names=[path.name], model=model)
        elif path.suffix.lower() == SUFFIX:
            untag_xmp(path, undone, model=model)
        elif tool is not None:
            untag_embedded(path, undone, tool=tool, model=model)
    except DataError as error:
        on_failure(shown(path), str(error))


def _sidecars(folder: Path, *, pictures: bool) -> Iterator[Path]:
    """Journals, XMP files and, if asked for, pictures below a folder; sorted, links to folders not followed."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(where, name)
            hidden = name.startswith(".") and name != JOURNAL
            if hidden or path.is_symlink():
                continue
            if (
                name == JOURNAL
                or path.suffix.lower() == SUFFIX
                or (pictures and path.suffix.lower() != ".txt" and is_image_file(path))
            ):
                yield path
