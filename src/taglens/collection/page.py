"""Predictions to one HTML file that a person can look through, offline, and send on.

Knows the page's layout, and how to keep it safe: file names and tag names are hostile text, and the page's
own security policy forbids every request and every script or style but its own (by hash). Refuses to know
where predictions come from.

The cards go to disk as they come, beside the page, so that memory does not grow with the pictures; what
stands above them (counts, frequent tags) is known last and written first; then the file is renamed into
place. Shapes: h, w a picture's height and width.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy.typing as npt

from taglens.collection.page_parts import SCRIPT, STYLE
from taglens.errors import ImageError, UsageError
from taglens.images import load
from taglens.results import Kind, Prediction, Tag

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL_SIDE = 480
FREQUENT_TAGS = 24
SUGGESTED_TAGS = 2000
ALT_TAGS = 8

KIND_NAMES: dict[Kind, str] = {
    "object": "objects",
    "scene": "scenes",
    "attribute": "attributes",
    "action": "actions",
    "typed": "typed",
}

Picture = bytes | Path | npt.NDArray[Any]


@dataclass(slots=True)
class _Seen:
    """What the head of the page says about the cards below it."""

    pictures: int = 0
    failed: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)
    names: Counter[tuple[str, Kind]] = field(default_factory=Counter)


def write_page(rows: Iterable[tuple[Prediction, Picture]], out: Path, *, title: str, card: str) -> Path:
    """Write one self-contained page, a card for each row, in order.

    Args:
        rows: predictions with their pictures (a path, a file's bytes, or an array [h, w, 3]); read once.
        out: the file to write; replaced only when the page is complete.
        title: the page's heading.
        card: one line about the model.

    Returns:
        ``out``.

    Raises:
        UsageError: ``out`` is a folder, or lies in one that does not exist or cannot be written to.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"cannot write the page to {out}: expected a file name in a folder that exists")
    cards, whole = (out.with_name(f"{out.name}.{os.getpid()}.{part}.part") for part in ("cards", "page"))
    seen = _Seen()
    try:
        try:
            stream = cards.open("w", encoding="utf-8", errors="replace", newline="\n")
        except OSError as error:
            raise UsageError(
                f"cannot write the page to {out}: {error.strerror}; choose another folder"
            ) from None
        with stream:
            for prediction, picture in rows:
                stream.write(_card(prediction, picture))
                _count(seen, prediction)
        with whole.open("w", encoding="utf-8", errors="replace", newline="\n") as page:
            page.write(_head(title, card, seen))
            with cards.open(encoding="utf-8", newline="\n") as written:
                shutil.copyfileobj(written, page, 1 << 20)
            _write_end(page, seen)
        whole.replace(out)
    finally:
        cards.unlink(missing_ok=True)
        whole.unlink(missing_ok=True)
    return out


def _count(seen: _Seen, prediction: Prediction) -> None:
    seen.pictures += 1
    seen.failed += prediction.error is not None
    for tag in prediction.tags or ():
        seen.kinds[tag.kind] += 1
        seen.names[tag.name, tag.kind] += 1


# -- one card --------------------------------------------------------------------------------------


def thumbnail(picture: Picture, *, side: int = THUMBNAIL_SIDE) -> tuple[bytes, int, int]:
    """A JPEG no longer than ``side`` pixels on either side, with its width and height.

    Nothing of the original file is carried over: no EXIF, so no place and no owner.

    Raises:
        ImageError: the picture cannot be read.
    """
    from PIL import Image as Images

    pixels = load(picture, at_least=side // 2).pixels
    image: Image.Image = Images.fromarray(pixels)
    image.thumbnail((side, side), Images.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True, progressive=True)
    return buffer.getvalue(), image.width, image.height


def _picture_html(prediction: Prediction, picture: Picture) -> str:
    try:
        data, width, height = thumbnail(picture)
    except ImageError:
        return '<div class="missing" role="img" aria-label="no preview">no preview</div>'
    named = ", ".join(prediction.names[:ALT_TAGS])
    alt = f"Picture tagged {named}" if named else f"Picture {prediction.source}, without tags"
    return (
        f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode("ascii")}" width="{width}" '
        f'height="{height}" alt="{escape(alt)}" loading="lazy" decoding="async">'
    )


def _tag_html(tag: Tag) -> str:
    percent = round(100 * min(max(tag.score, 0.0), 1.0))
    return (
        f'<li class="tag {tag.kind} p{percent}" data-n="{escape(tag.name.casefold())}" '
        f'data-s="{tag.score:.4f}" title="{tag.kind}, score {tag.score:.4f}">'
        f'<span class="n"><bdi>{escape(tag.name)}</bdi></span>'
        f'<span class="vh">{tag.kind}</span><span class="s">{tag.score:.2f}</span></li>'
    )


def _card(prediction: Prediction, picture: Picture) -> str:
    name = f'<h2><bdi title="{escape(prediction.source)}">{escape(_short(prediction.source))}</bdi></h2>'
    if prediction.error is not None:
        kind = escape(prediction.error.type.replace("_", " "))
        why = f'<p class="why">{escape(prediction.error.message)}</p>'
        return (
            '<article class="card failed">\n'
            f'<div class="stage"><div class="missing"><b>{kind}</b></div></div>\n'
            f'<div class="text">{name}{why}</div>\n</article>\n'
        )
    parts = [f'<article class="card">\n<div class="stage">{_picture_html(prediction, picture)}</div>\n']
    parts.append(f'<div class="text">{name}<p class="size">{prediction.width} × {prediction.height}')
    parts.extend(f" · {escape(note)}" for note in prediction.notes)
    parts.append("</p>")
    if prediction.caption is not None:
        parts.append(f'<p class="caption">{escape(prediction.caption)}</p>')
    if prediction.tags:
        parts.append('<ol class="tags">' + "".join(map(_tag_html, prediction.tags)) + "</ol>")
    else:
        parts.append('<p class="none">no tag reaches its threshold</p>')
    parts.append("</div>\n</article>\n")
    return "".join(parts)


def _short(source: str) -> str:
    """The last part of a path, which is what a card has room for."""
    return source.replace("\\", "/").rstrip("/").rpartition("/")[2] or source


# -- around the cards ------------------------------------------------------------------------------


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'"


def _head(title: str, card: str, seen: _Seen) -> str:
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; "
        "base-uri 'none'; form-action 'none'"
    )
    pictures = f"{seen.pictures} picture{'' if seen.pictures == 1 else 's'}"
    failed = f' · <span class="bad">{seen.failed} failed</span>' if seen.failed else ""
    kinds = "".join(
        f'<button type="button" class="kind {kind}" data-k="{kind}" aria-pressed="true">{name} '
        f"<span>{seen.kinds[kind]}</span></button>"
        for kind, name in KIND_NAMES.items()
        if seen.kinds[kind]
    )
    frequent = "".join(
        f'<button type="button" class="often {kind}" data-n="{escape(name.casefold())}">'
        f"<bdi>{escape(name)}</bdi> <span>{count}</span></button>"
        for (name, kind), count in seen.names.most_common(FREQUENT_TAGS)
        if count > 1
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="taglens">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<div class="title"><h1>{escape(title)}</h1>
<p><span id="count" role="status">{pictures}</span>{failed} · {escape(card)}</p></div>
<form class="tools" role="search">
<label class="find"><span>Tags</span><input id="find" type="search" list="names" autocomplete="off" \
spellcheck="false" placeholder="dog, grass"></label>
<label class="least"><span>Score from <output id="shown">0.00</output></span><input id="least" type="range" \
min="0" max="1" step="0.01" value="0"></label>
<div class="kinds" role="group" aria-label="Kinds of tags">{kinds}</div>
</form>
{f'<div class="frequent" role="group" aria-label="Frequent tags">{frequent}</div>' if frequent else ""}
</header>
<main id="cards">
"""


def _write_end(page: TextIO, seen: _Seen) -> None:
    page.write('</main>\n<p id="empty" class="empty" hidden>No picture fits these filters.</p>\n')
    page.write('<datalist id="names">')
    names = dict.fromkeys(name for (name, _), _ in seen.names.most_common(SUGGESTED_TAGS))
    page.writelines(f'<option value="{escape(name)}">' for name in names)
    page.write(f"</datalist>\n<script>{SCRIPT}</script>\n</body>\n</html>\n")
