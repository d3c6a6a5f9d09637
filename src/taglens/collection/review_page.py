"""A vocabulary to one HTML file in which a person decides about its tags, offline.

Knows the page's frame and what its script is given. Tag names and captions are hostile text: they stand in the page
as JSON only, in which no character can end the element that holds it, and the script shows them as text. The page's
own security policy forbids every request and every script or style but its own (by hash).
Refuses to know what a decision does (`taglens.language.vocabulary_decisions` applies the file that the page gives).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from html import escape
from pathlib import Path
from typing import Any

from taglens.collection.review_script import SCRIPT
from taglens.collection.review_style import STYLE
from taglens.errors import UsageError
from taglens.language.vocabulary_decisions import FORMAT_VERSION
from taglens.language.vocabulary_review import Review, ReviewedTag
from taglens.language.word_lists import PARSED_KINDS

# What could end the script element, open a comment in it, or end a line in an old reader of JSON.
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_review(review: Review, out: Path) -> Path:
    """Write the page; equal reviews give equal bytes.

    Returns:
        ``out``, replaced only when the page is complete.

    Raises:
        UsageError: ``out`` is a folder, or lies in one that does not exist.
    """
    require_page(out)
    put_page(_page(review), out)
    return out


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


def page_data(review: Review) -> dict[str, Any]:
    """What the script is given; rows of ``tags`` stand in the vocabulary's order.

    Keys of a tag are one letter or two, since there are thousands of them: ``i`` id, ``n`` name, ``k`` kind, ``f``
    captions that name it, ``c`` the vocabulary's count; and where there are any ``s`` synonyms, ``p`` parents, ``h``
    hidden, ``x`` examples [before, word, after], ``r`` near tags [column, why, close], ``a`` advice [decision, why,
    column or kind].
    """
    return {
        "format": FORMAT_VERSION,
        "vocabulary": {"name": review.vocabulary.name, "fingerprint": review.vocabulary.fingerprint},
        "texts": review.texts,
        "kinds": list(PARSED_KINDS),
        "tags": [_tag(tag) for tag in review.tags],
    }


def _tag(tag: ReviewedTag) -> dict[str, Any]:
    entry, proposal = tag.entry, tag.proposal
    row: dict[str, Any] = {
        "i": entry.id,
        "n": entry.name,
        "k": entry.kind,
        "f": tag.frequency,
        "c": entry.count,
        "s": list(entry.synonyms),
        "p": [parent.partition(":")[2] for parent in entry.parents],
        "h": int(entry.hidden),
        "x": [[example.before, example.word, example.after] for example in tag.examples],
        "r": [[near.column, near.why, int(near.close)] for near in tag.near],
        "a": None,
    }
    if proposal is not None:
        target = proposal.kind if proposal.into is None else proposal.into
        row["a"] = [proposal.decision, proposal.why, target]
    return {key: value for key, value in row.items() if value or key in "infkc"}


def _page(review: Review) -> str:
    title = f"{review.vocabulary.name}: review"
    policy = (
        f"default-src 'none'; style-src {hashed(STYLE)}; script-src {hashed(SCRIPT)}; base-uri 'none'; "
        "form-action 'none'"
    )
    kinds = "".join(
        f'<button type="button" class="kind {kind}" data-k="{kind}" aria-pressed="true">{kind}</button>'
        for kind in sorted({tag.entry.kind for tag in review.tags}, key=_kind_order)
    )
    said = f"{review.vocabulary.ref} · {len(review.tags):,} tags · {review.texts:,} captions"
    return _FRAME.format(
        policy=policy,
        title=escape(title),
        said=escape(said),
        kinds=kinds,
        style=STYLE,
        script=SCRIPT,
        data=embedded(page_data(review)),
    )


def _kind_order(kind: str) -> tuple[int, str]:
    return (PARSED_KINDS.index(kind) if kind in PARSED_KINDS else len(PARSED_KINDS), kind)


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
<div class="score"><p><b id="decided">0</b> of <span id="all">0</span> decided</p>
<progress id="bar" value="0" max="1" aria-label="Tags decided"></progress></div>
<div class="file">
<button type="button" id="save" class="main">Download decisions</button>
<button type="button" id="open">Open…</button>
<button type="button" id="clear">Clear all</button>
<input type="file" id="pick" accept=".json,application/json" hidden>
</div>
</div>
<form class="tools" role="search">
<label class="find"><span>Filter <kbd>/</kbd></span><input id="find" type="search" autocomplete="off" \
spellcheck="false" placeholder="name or synonym"></label>
<label><span>Sort by</span><select id="sort">
<option value="often">frequency, falling</option><option value="rare">frequency, rising</option>
<option value="name">name</option><option value="open">undecided first</option>
<option value="advice">proposals first</option></select></label>
<label><span>Show</span><select id="show">
<option value="all">all tags</option><option value="open">undecided</option><option value="done">decided</option>
<option value="advice">with a proposal</option><option value="near">with near-duplicates</option>
<option value="never">named by no caption</option></select></label>
<div class="kinds" role="group" aria-label="Kinds of tags">{kinds}</div>
</form>
<div class="bar"><p id="count" role="status"></p>
<button type="button" id="accept" hidden></button>
<details class="keys"><summary>Keys</summary><p><kbd>↓</kbd> <kbd>↑</kbd> next, previous tag · <kbd>K</kbd> keep · \
<kbd>D</kbd> deny · <kbd>A</kbd> accept the proposal · <kbd>M</kbd> merge · <kbd>R</kbd> rename · <kbd>C</kbd> \
change kind · <kbd>U</kbd> undo · <kbd>←</kbd> <kbd>→</kbd> page · <kbd>/</kbd> filter</p></details></div>
</header>
<p id="note" role="alert" hidden></p>
<main id="tags" aria-label="Tags"></main>
<p id="empty" hidden>No tag fits these filters.</p>
<nav id="pages" aria-label="Pages"><button type="button" id="back">← Previous</button>
<span id="page"></span><button type="button" id="next">Next →</button></nav>
<datalist id="names"></datalist>
<noscript><p>This page needs JavaScript, which it brings along: allow scripts for this file.</p></noscript>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
