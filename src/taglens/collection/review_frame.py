"""The frame of a page in which a person decides, offline: one file that brings along all that it needs.

Knows what such pages have in common, and how hostile text is kept from becoming part of one: it stands there as JSON
only, in which no character can end the element that holds it. The page's own security policy forbids every request
and every script or style but its own (by hash). Refuses to know what is decided about.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from taglens.errors import UsageError

# What could end the script element, open a comment in it, or end a line in an old reader of JSON.
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True, slots=True)
class Frame:
    """What one kind of page has of its own.

    Attributes:
        one: what is decided about, in one word.
        of: what stands behind the count of all, such as " labels".
        list, listed: the id of the element that holds the cards, and what a screen reader calls it.
        find: what can be searched for.
        tools: HTML behind the search field, to the end of the head; `escape` what is not its own.
        pictures: whether there are pictures inside the page.
    """

    one: str
    of: str
    list: str
    listed: str
    find: str
    tools: str
    style: str
    script: str
    pictures: bool = False

    def page(self, title: str, said: str, data: Any) -> str:
        """The whole page.

        Args:
            title, said: any text.
            data: what the script is given, any JSON.
        """
        policy = "default-src 'none'; " + ("img-src data:; " if self.pictures else "")
        policy += f"style-src {hashed(self.style)}; script-src {hashed(self.script)}; "
        policy += "base-uri 'none'; form-action 'none'"
        return _FRAME.format(
            policy=policy,
            title=escape(title),
            said=escape(said),
            of=self.of,
            decided=f"{self.one.capitalize()}s decided",
            find=self.find,
            tools=self.tools,
            list=self.list,
            listed=self.listed,
            one=self.one,
            style=self.style,
            script=self.script,
            data=embedded(data),
        )


def require_page(out: Path) -> None:
    """Raises UsageError where no page can be written: ``out`` is a folder, or lies in one that does not exist."""
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"cannot write the page to {out}: expected a file name in a folder that exists")


def put_page(page: str, out: Path) -> None:
    """A page's text as a file, replaced only when it is complete. Raises as `require_page`."""
    require_page(out)
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        beside.write_text(page, encoding="utf-8", newline="\n")
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)


def embedded(value: Any) -> str:
    """JSON that a script element can hold, whatever its texts are."""
    data = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half characters cannot be written as UTF-8; in JSON they are an escape like any other.
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in data.translate(_UNSAFE))


def hashed(text: str) -> str:
    """A style or script as a security policy names it."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'"


_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="taglens">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<div class="top">
<div class="title"><h1><bdi>{title}</bdi></h1><p>{said}</p></div>
<div class="score"><p><b id="decided">0</b> of <span id="all">0</span>{of} decided</p>
<progress id="bar" value="0" max="1" aria-label="{decided}"></progress></div>
<div class="file">
<button type="button" id="save" class="main">Download decisions</button>
<button type="button" id="open">Open…</button>
<button type="button" id="clear">Clear all</button>
<input type="file" id="pick" accept=".json,application/json" hidden>
</div>
</div>
<form class="tools" role="search">
<label class="find"><span>Filter <kbd>/</kbd></span><input id="find" type="search" autocomplete="off" \
spellcheck="false" placeholder="{find}"></label>
{tools}
</header>
<p id="note" role="alert" hidden></p>
<main id="{list}" aria-label="{listed}"></main>
<p id="empty" hidden>No {one} fits these filters.</p>
<nav id="pages" aria-label="Pages"><button type="button" id="back">← Previous</button>
<span id="page"></span><button type="button" id="next">Next →</button></nav>
<noscript><p>This page needs JavaScript, which it brings along: allow scripts for this file.</p></noscript>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
