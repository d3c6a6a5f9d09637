"""Folders whose files appear together or not at all.

Knows files and the order in which they take their places; refuses to know what is in them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from taglens.errors import UsageError

# Inside the folder, so that nothing has to cross from one disk to another; a name that nobody else gives, because
# what an earlier attempt left there is removed.
STAGE = ".taglens-staged"


@contextlib.contextmanager
def staged(folder: Path, *, last: str) -> Iterator[Path]:
    """A place to write a folder's files, which take theirs when the block ends well.

    Until then what was there before stays whole. An error leaves nothing of the block, nor folders that were made for
    it; a kill leaves the place itself, which the next attempt clears.

    Args:
        last: the file by which the folder counts as complete: of an older content it goes first, of the new it
            comes last.

    Raises:
        OSError: what the block or the moving raised, with the folder's name and the cure.
    """
    stage = folder / STAGE
    made: list[Path] = []
    placed: list[Path] = []
    try:
        for each in reversed((folder, *folder.parents)):
            if not each.exists():
                each.mkdir()
                made.append(each)
        if stage.exists():
            shutil.rmtree(stage)
        stage.mkdir()
        yield stage
        (folder / last).unlink(missing_ok=True)
        for path in sorted(stage.iterdir(), key=lambda path: path.name == last):
            placed.append(folder / path.name)
            path.replace(placed[-1])
        stage.rmdir()
    except BaseException as error:
        shutil.rmtree(stage, ignore_errors=True)
        if made:
            for path in placed:
                path.unlink(missing_ok=True)
        for each in reversed(made):
            with contextlib.suppress(OSError):
                each.rmdir()
        if isinstance(error, OSError):
            raise OSError(
                f"cannot write {folder}: {error.strerror or error}; nothing new is left there: make room, or name "
                "another folder"
            ) from error
        raise


def require_place(folder: Path, *, what: str, holds: Callable[[Path], bool]) -> None:
    """Look, before long work, whether a folder can be written without harm to anything else.

    Args:
        what: "a model", for the message.
        holds: whether a folder with files in it is one of these, which may be replaced.

    Raises:
        UsageError: there is a file in the way, no right to write, or a folder that holds other things.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; name a folder")
    above = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not above.is_dir():
        raise UsageError(f"--out {folder} cannot be made: {above} is a file; name another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"--out {folder}: there is no right to write in {above}; name another folder")
    # What a killed attempt left is no obstacle.
    if above == folder and any(each.name != STAGE for each in folder.iterdir()) and not holds(folder):
        raise UsageError(f"--out {folder} holds other things than {what}; name a new folder")
