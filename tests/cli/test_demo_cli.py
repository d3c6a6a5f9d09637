from __future__ import annotations

import json
import sys
import webbrowser
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_tagger import FakeTagger
from PIL import Image

from taglens.cli import demo
from taglens.cli.main import start
from taglens.errors import DataError, MissingExtraError


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("taglens.inference.tagger")
    module.Tagger = FakeTagger  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "taglens.inference.tagger", module)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for scikit-image's folder, with three of the photographs. The current folder is empty."""
    package = tmp_path / "skimage"
    (package / "data").mkdir(parents=True)
    for name, colour in (
        ("rocket.jpg", "blue"),
        ("coffee.png", "red"),
        ("chelsea.png", "brown"),
        ("cell.png", "red"),
    ):
        Image.new("RGB", (30, 20), colour).save(package / "data" / name)
    spec = ModuleSpec("skimage", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    monkeypatch.setattr(demo, "find_spec", lambda name: spec)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return package


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        start(["demo", *arguments])
    out, err = capsys.readouterr()
    return int(exit.value.code or 0), out, err


def test_rows_page_and_what_comes_next(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "--json")
    assert status == 0
    assert [json.loads(line)["source"] for line in out.splitlines()] == [
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
    ]
    page = Path("taglens-demo.html").resolve()
    assert str(page) in err and "taglens tag your-photo.jpg" in err
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == 3 and "fake@0123456789ab" in text


def test_the_listing_and_another_place(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--out", "other.html")
    assert status == 0
    assert "coffee.png  30 × 20\n  1.0000  object     red thing" in out
    assert [path.name for path in Path().iterdir()] == ["other.html"]


def test_the_browser_is_asked_only_when_wanted(
    wheel: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def refuse(url: str) -> bool:
        opened.append(url)
        return False

    monkeypatch.setattr(webbrowser, "open", refuse)
    assert run(capsys)[0] == 0
    assert not opened
    status, _, err = run(capsys, "--open")
    assert status == 0
    assert opened == [Path("taglens-demo.html").resolve().as_uri()]
    assert "open the page by hand" in err


def test_without_scikit_image(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError):
        demo.photographs()
    status, out, err = run(capsys)
    assert (status, out) == (2, "")
    assert "pip install 'taglens[demo]'" in err


def test_with_a_wheel_that_carries_none(wheel: Path) -> None:
    for path in (wheel / "data").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"chelsea\.png"):
        demo.photographs()
    # Newer releases keep them in a sister package.
    sister = wheel.with_name("_skimage2") / "data"
    sister.mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(sister / "coffee.png")
    assert demo.photographs() == [sister / "coffee.png"]


def test_the_installed_wheel_carries_all_of_them() -> None:
    pytest.importorskip("skimage", reason="needs scikit-image")
    found = demo.photographs()
    assert [path.name for path in found] == list(demo.PHOTOGRAPHS)


def test_scikit_image_is_found_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("imported")

    monkeypatch.delitem(sys.modules, "skimage", raising=False)
    if demo.find_spec("skimage") is None:
        pytest.skip("needs scikit-image")
    before = set(sys.modules)
    demo.photographs()
    assert "skimage" not in set(sys.modules) - before
