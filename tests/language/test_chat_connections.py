"""Connections that are cut under whoever waits in them."""

from __future__ import annotations

import socket
from types import SimpleNamespace

from taglens.language.chat_connections import Connections


def opened(connections: Connections, one: socket.socket) -> None:
    """A request that opens this connection, as the HTTP client tells of it."""
    request = SimpleNamespace(extensions={})
    connections.watch(request)
    stream = SimpleNamespace(get_extra_info={"socket": one}.get)
    request.extensions["trace"]("connection.connect_tcp.started", {})
    request.extensions["trace"]("connection.connect_tcp.complete", {"return_value": stream})


def test_what_is_open_is_shut_and_what_was_closed_is_no_trouble() -> None:
    ours, theirs = socket.socketpair()
    gone, _ = pair = socket.socketpair()
    connections = Connections()
    with ours, theirs:
        opened(connections, ours)
        opened(connections, gone)
        for each in pair:
            each.close()
        connections.cut()
        assert theirs.recv(1) == b""
        assert ours.recv(1) == b""


def test_a_connection_that_opens_after_the_cut_is_shut_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connections = Connections()
        connections.cut()
        opened(connections, ours)
        assert theirs.recv(1) == b""
