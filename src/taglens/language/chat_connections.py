"""A server's connections, which another thread can cut: so that nobody waits for a server that never answers.

Knows sockets. A thread that waits in one cannot be ended, but it wakes when the socket is shut down under it.
Refuses to know what is sent over them, and when they are to be cut (`taglens.language.chat_server`).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref
from collections.abc import Mapping
from typing import Any


class Connections:
    """Those that one client opens; a client's request hook is `watch`."""

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_cut = False

    def watch(self, request: Any) -> None:
        """Learn of the connection that a request opens, by the HTTP client's ``trace`` extension."""
        request.extensions["trace"] = self._traced

    def cut(self) -> None:
        """Shut down all that are open, and each that is opened from now on."""
        with self._lock:
            self._is_cut = True
            known = list(self._sockets)
        for one in known:
            _shut(one)

    def _traced(self, event: str, info: Mapping[str, Any]) -> None:
        # TCP first and encryption over it are two streams; the second takes the first one's socket away.
        if not event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            return
        found = info["return_value"].get_extra_info("socket")
        if not isinstance(found, socket.socket):
            return
        with self._lock:
            self._sockets.add(found)
            is_cut = self._is_cut
        if is_cut:
            _shut(found)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was closed meanwhile
        # Of an encrypted one the plain socket below: saying goodbye would write from a second thread.
        socket.socket.shutdown(one, socket.SHUT_RDWR)
