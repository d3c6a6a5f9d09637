"""Warnings of one thread dropped while it works, and nobody else's.

Knows the filters of the whole process, and how one stays there that fits a thread only. Refuses to know what warns.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast


class _OnQuietThread:
    """Stands where a warnings filter has its pattern; matches on threads inside `quiet` only."""

    def __init__(self) -> None:
        self.state = threading.local()

    def match(self, _text: str) -> bool:
        return getattr(self.state, "is_quiet", False)


_HERE = _OnQuietThread()
_QUIET_FILTER = ("ignore", _HERE, Warning, None, 0)
_FILTERS_LOCK = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings raised by this thread, meanwhile.

    `warnings.catch_warnings` swaps the filters of the whole process, so that threads undo each other. Here
    one filter stays, first in line, and matches nothing except on a thread inside such a block.
    """
    with _FILTERS_LOCK:
        filters = cast("list[object]", warnings.filters)
        if not filters or filters[0] is not _QUIET_FILTER:
            filters[:] = [_QUIET_FILTER, *(entry for entry in filters if entry is not _QUIET_FILTER)]
    _HERE.state.is_quiet = True
    try:
        yield
    finally:
        _HERE.state.is_quiet = False
