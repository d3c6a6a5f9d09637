from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taglens.collection.page import THUMBNAIL_SIDE, thumbnail, write_page
from taglens.errors import ImageError, UsageError
from taglens.results import Failure, Kind, Prediction, Tag

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>&'"


def tag(name: str, score: float, kind: Kind = "object") -> Tag:
    return Tag(f"{kind}:{name}", name, kind, score)


def prediction(source: str = "a.jpg", *tags: Tag, notes: tuple[str, ...] = ()) -> Prediction:
    return Prediction(source, 64, 48, tags, model="m@1", vocabulary="v@1", notes=notes)


def failure(source: str, message: str) -> Prediction:
    return Prediction(
        source, None, None, None, model="m@1", vocabulary="v@1", error=Failure("not_image", message)
    )


def pixels(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and the text inside style and script."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in self.raw:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        (self.raw[self._open[-1]] if self._open else self.words).append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]


def write(tmp_path: Path, *rows: tuple[Prediction, object]) -> Page:
    out = tmp_path / "page.html"
    assert write_page(iter(rows), out, title=HOSTILE, card="model m@1") == out  # type: ignore[arg-type]
    return Page(out)


def test_cards_stand_in_order_with_tags_and_scores(tmp_path: Path) -> None:
    page = write(
        tmp_path,
        (
            prediction(
                "dir/b.jpg", tag("dog", 0.912), tag("beach", 0.5, "scene"), notes=("first frame of 3",)
            ),
            pixels(),
        ),
        (prediction("a.jpg"), pixels()),
    )
    assert len(page.all("article")) == 2
    assert [found["title"] for found in page.all("bdi") if "title" in found] == ["dir/b.jpg", "a.jpg"]
    tags = page.all("li")
    assert [found["class"] for found in tags] == ["tag object p91", "tag scene p50"]
    assert [found["data-s"] for found in tags] == ["0.9120", "0.5000"]
    words = " ".join(page.words)
    assert "2 pictures" in words and "first frame of 3" in words and "no tag reaches" in words
    assert [found["alt"] for found in page.all("img")] == [
        "Picture tagged dog, beach",
        "Picture a.jpg, without tags",
    ]
    assert {found["data-k"] for found in page.all("button") if "data-k" in found} == {"object", "scene"}


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = write(
        tmp_path,
        (prediction(HOSTILE, tag(HOSTILE, 0.5, "typed"), notes=(HOSTILE,)), pixels()),
        (prediction("b.jpg", tag(HOSTILE, 0.5, "typed")), pixels()),
        (failure(HOSTILE + "2", HOSTILE), b"no picture"),
    )
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 2
    assert not [
        name for _, found in page.elements for name in found if name.startswith("on") or name == "style"
    ]
    assert " ".join(page.words).count("alert(1)") >= 5
    assert {found["data-n"] for found in page.all("li")} == {HOSTILE.casefold()}


def test_nothing_is_requested_and_the_policy_fits_what_is_there(tmp_path: Path) -> None:
    page = write(tmp_path, (prediction("a.jpg", tag("dog", 0.5)), pixels()))
    (policy,) = [found["content"] for found in page.all("meta") if "http-equiv" in found]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for kind in ("style", "script"):
        (text,) = page.raw[kind]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert not re.search(r"https?:|@import|url\(|fetch\(|eval\(|innerHTML", text)
    sources = [
        value
        for _, found in page.elements
        for key, value in found.items()
        if key in ("src", "href", "srcset")
    ]
    assert sources and all(value.startswith("data:image/jpeg;base64,") for value in sources)


def test_an_error_is_a_card_with_its_reason(tmp_path: Path) -> None:
    page = write(tmp_path, (failure("x.jpg", "is no picture; convert it"), tmp_path / "x.jpg"))
    assert [found["class"] for found in page.all("article")] == ["card failed"]
    words = " ".join(page.words)
    assert "not image" in words and "is no picture; convert it" in words and "1 failed" in words


def test_a_picture_gone_since_is_still_a_card(tmp_path: Path) -> None:
    page = write(tmp_path, (prediction("a.jpg", tag("dog", 0.5)), tmp_path / "gone.jpg"))
    assert not page.all("img")
    assert "no preview" in " ".join(page.words)
    assert len(page.all("li")) == 1


@pytest.mark.parametrize(
    ("height", "width"), [(30, 20), (480, 480), (481, 100), (3000, 2000), (1, 2000), (2000, 1)]
)
def test_thumbnails_are_small_and_keep_proportions(height: int, width: int) -> None:
    data, across, down = thumbnail(pixels(height, width))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.width, image.height) == (across, down)
        assert image.format == "JPEG" and not image.getexif()
    assert max(across, down) == min(max(height, width), THUMBNAIL_SIDE)
    if min(across, down) > 20:
        assert across / down == pytest.approx(width / height, rel=0.05)


def test_thumbnails_are_turned_and_forget_the_place(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N", 2: (48.0, 0.0, 0.0)}
    Image.fromarray(pixels(40, 80)).save(path, exif=exif)
    data, across, down = thumbnail(path)
    assert (across, down) == (40, 80)
    assert b"Exif" not in data
    assert thumbnail(path.read_bytes()) == (data, across, down)
    with pytest.raises(ImageError):
        thumbnail(b"no picture")


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("before")

    def rows() -> Iterator[tuple[Prediction, np.ndarray]]:
        yield prediction(), pixels()
        assert out.read_text() == "before"
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_page(rows(), out, title="t", card="c")
    assert out.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_rows_are_taken_one_at_a_time(tmp_path: Path) -> None:
    """The card of one picture is written before the next is asked for, so that memory does not grow."""
    sizes = []

    def rows() -> Iterator[tuple[Prediction, np.ndarray]]:
        for _ in range(40):
            yield prediction("a.jpg", tag("dog", 0.5)), pixels(200, 200)
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))

    write_page(rows(), tmp_path / "page.html", title="t", card="c")
    assert sizes[-1] > sizes[10] > 0


@pytest.mark.parametrize("out", ["missing/page.html", "."])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, out: str) -> None:
    def rows() -> Iterator[tuple[Prediction, Path]]:
        raise AssertionError("started working")
        yield

    with pytest.raises(UsageError, match="folder that exists"):
        write_page(rows(), tmp_path / out, title="t", card="c")


def test_no_pictures(tmp_path: Path) -> None:
    page = write(tmp_path)
    assert "0 pictures" in " ".join(page.words)
