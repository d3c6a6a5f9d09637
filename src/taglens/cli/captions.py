"""What the commands that read caption files share: checks before the long work, and its progress line.

Knows options and the terminal. Refuses to know what is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from taglens.cli.console import ProgressLine
from taglens.errors import UsageError
from taglens.language.corpora import Texts, caption_rows


class CaptionProgress(ProgressLine):
    """The progress line of captions; ``tell`` counts those of a row that is done."""

    def tell(self, texts: int) -> None:
        for _ in range(texts):
            self.advance()

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts, each counted as it goes by."""
        for text in texts:
            yield text
            self.advance()


def require_files(option: str, paths: Iterable[Path], *, pipes: bool = False) -> None:
    """Raise UsageError for a path that is no file; a pipe, which can be read only once, counts with ``pipes``."""
    for path in paths:
        if not (path.is_file() or (pipes and path.exists() and not path.is_dir())):
            raise UsageError(f"{option}: expected a file at {path}, found none; check the path")


def require_folder(option: str, path: Path | None) -> None:
    """Raise UsageError where a file cannot be written, before the work that would be lost."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UsageError(f"{option} {path}: expected a file name in a folder that exists; create it first")


def require_workers(workers: int) -> None:
    if workers < 0:
        raise UsageError(f"--workers must be 0 (one per processor) or more, found {workers}")


def texts_of(path: Path, *, split: str | None) -> Iterator[Texts]:
    """The captions of every row that has some."""
    return (texts for _, texts in caption_rows(path, split=split) if texts is not None)


@contextmanager
def caption_progress(paths: Sequence[Path], *, split: str | None) -> Iterator[CaptionProgress]:
    """A progress line over all captions of the files, which are read through first.

    A malformed row is so found before the long work, not in its middle.

    Raises:
        DataError: a file cannot be read, or a row is not a row of captions.
        UsageError: there is no caption in any of them.
    """
    total = sum(len(texts) for path in paths for texts in texts_of(path, split=split))
    if paths and not total:
        named = ", ".join(map(str, paths))
        within = f" of split {split!r}" if split else ""
        raise UsageError(f"no caption{within} in {named}: check the files{' and --split' if split else ''}")
    line = CaptionProgress(total)
    try:
        yield line
    finally:
        line.clear()
