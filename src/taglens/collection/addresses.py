"""Addresses of pictures elsewhere: what is one, and how it is shown without its secrets.

Knows the form ``scheme://…``, users and passwords in front of a host, signed queries. Refuses to know networks.
"""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

# Two letters at least: a drive's one is none.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+://)[^/?#]*@")
WEB: Final = frozenset({"http", "https"})
_LOCAL: Final = frozenset({"file", "local"})

# Names that a signature's parts go by with S3, Google, Azure, CDNs and home-made servers.
_SECRET = re.compile(
    r"sig|token|key|secret|pass|pwd|auth|credential|expires|policy|hmac|hash|jwt|session|access|cookie"
    r"|^x-(amz|goog|ms|oss)-|^(se|sp|sv|sr|st|skoid|sktid|code|oh|oe|user)$",
    re.IGNORECASE,
)
# What no size, number or date of an ordinary query reaches.
_LONG: Final = 24


def scheme_of(name: str) -> str | None:
    """The scheme of an address in lower case; None for anything else."""
    match = _ADDRESS.match(name)
    return match[1].lower() if match else None


def local_path(address: str) -> str | None:
    """The path that ``file:///…`` names on this machine; None for other addresses."""
    if scheme_of(address) not in _LOCAL:
        return None
    _, _, rest = address.partition("://")
    if rest.startswith("localhost/"):
        rest = rest.removeprefix("localhost")
    # As bytes, because percent signs may stand for bytes that are no UTF-8.
    path = unquote(rest, errors="surrogateescape")
    # file:///C:/pictures
    return path[1:] if os.name == "nt" and re.match(r"/[A-Za-z]:", path) else path


def shown_address(address: str) -> str:
    """An address without user, password and fragment, and without its query if any part of that may be a secret.

    A query counts as secret when one of its names looks like a part of a signature, or one of its values is long.
    """
    scheme = scheme_of(address)
    bare = _USER.sub(r"\1", address)
    if scheme in WEB:
        bare = bare.partition("#")[0]
    path, mark, query = bare.partition("?")
    if not mark:
        return bare
    # In other addresses a question mark is a pattern's, and a slash may follow it.
    if scheme not in WEB and "=" not in query:
        return bare
    parts = parse_qsl(query, keep_blank_values=True)
    secret = not parts or any(_SECRET.search(name) or len(value) >= _LONG for name, value in parts)
    return path if secret else bare


def file_part(address: str) -> str:
    """What an address ends in, where its suffix says what it is: its path without query and fragment."""
    if scheme_of(address) in WEB:
        try:
            return urlsplit(address).path
        except ValueError:
            return ""
    return address
