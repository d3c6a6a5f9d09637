"""``taglens pull`` from outside, against a hub in this process: from tiny published models to tags."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("huggingface_hub", reason="pip install 'taglens[hub]'")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "hub"))

from hub_server import COMMIT, FakeHub
from huggingface_hub import constants

import clip_tower
from taglens.cli.console import ProgressLine
from taglens.cli.main import start
from taglens.cli.pull import _Progress
from taglens.hub import catalogue
from taglens.hub.catalogue import RemoteFile, Source
from taglens.language.clip_pieces import ClipPieces

Run = Callable[..., tuple[int, str, str]]
FAMILIES = {
    "ram-plus": ("RAM++", "ram_plus_tiny_384"),
    "ram": ("RAM", "ram_tiny_384"),
    "tag2text": ("Tag2Text", "tag2text_tiny_384"),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAGLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with FakeHub().running() as hub:
        yield hub


@pytest.fixture
def run(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            start([*map(str, arguments)])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return run


def served(hub: FakeHub, place: Any, repository: str, path: str, content: bytes) -> RemoteFile:
    (hub.large if path.endswith((".pth", ".bin")) else hub.small)[f"{repository}/{path}"] = content
    digest = hashlib.sha256(content).hexdigest()
    return RemoteFile(place, repository, COMMIT, path, len(content), digest, None)


def clip_files(hub: FakeHub, folder: Path) -> dict[str, RemoteFile]:
    """A small text tower and its pieces, as the hub keeps CLIP's."""
    torch.save(clip_tower.hub_state(), folder / "pytorch_model.bin")
    ClipPieces(clip_tower.MERGES).save(folder / "vocab.json", folder / "merges.txt")
    names = {"tower": "pytorch_model.bin", "vocabulary": "vocab.json", "merges": "merges.txt"}
    return {
        part: served(hub, "hub", "owner/clip", name, (folder / name).read_bytes())
        for part, name in names.items()
    }


@pytest.fixture
def tiny(
    hub: FakeHub,
    shared: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """The table's models, small and on the fake hub; model -> what the original says of the first picture."""
    sources, expected = {}, {}
    for name, (family, folder) in FAMILIES.items():
        meta = json.loads(shared(f"golden/{folder}/meta.json").read_text("utf-8"))
        state = shared(f"golden/{folder}/state.safetensors").read_bytes()
        code, translations, thresholds, beside = f"owner/code-{name}", {}, None, {}
        if name == "tag2text":
            tags = shared("published/tag2text_ori_tag_list.txt").read_bytes()
            words = shared("golden/tokenizer/small_vocab.txt").read_bytes()
            beside["vocab.txt"] = served(hub, "hub", "owner/words", "vocab.txt", words)
        else:
            tags = "\n".join(meta["tag_list"]).encode()
            numbers = "\n".join(map(str, meta["class_threshold"])).encode()
            thresholds = served(hub, "release", code, "data/thresholds.txt", numbers)
            chinese = "\n".join(meta["tag_list_chinese"]).encode()
            translations["zh"] = served(hub, "release", code, "data/zh.txt", chinese)
        sources[name] = Source(
            name,
            family,
            served(hub, "hub", f"owner/{name}", "tiny.pth", state),
            served(hub, "release", code, "data/tags.txt", tags),
            thresholds,
            translations,
            beside,
            {} if name == "tag2text" else clip_files(hub, tmp_path_factory.mktemp("clip")),
        )
        expected[name] = meta
    monkeypatch.setattr(catalogue, "SOURCES", sources)
    return expected


@pytest.mark.parametrize("model", FAMILIES)
def test_from_the_hub_to_tags(
    model: str, tiny: dict[str, Any], hub: FakeHub, run: Run, shared: Callable[[str], Path]
) -> None:
    status, out, err = run("pull", model, "--endpoint", hub.url, "--lists", hub.url, "--json")
    assert status == 0, err
    row = json.loads(out)
    assert (row["model"], row["folder"], row["present"]) == (model, model, False)
    assert {one["verified"] for one in row["files"]} == {"pinned"}
    assert json.loads((Path(model) / "source.json").read_text())["files"] == row["files"]
    assert f"fetching tiny.pth of owner/{model}@c0ffee0" in err and "sha256" in err
    assert (Path(model) / "vocab.txt").is_file() == (model == "tag2text")

    picture = shared("golden/preprocess/im0.png")
    status, out, err = run("tag", picture, "--model", model, "--json")
    assert status == 0, err
    names = {tag["name"] for tag in json.loads(out)["tags"]}
    if model != "tag2text":
        assert names == set(tiny[model]["tags"][0].split(" | "))
    status, out, _ = run("pull", model, "--endpoint", hub.url, "--offline", "--json")
    assert (status, json.loads(out)["present"]) == (0, True)
    if model == "tag2text":
        status, _, err = run("bundle", model, "--out", "bundle")
        assert status == 0 and "writes captions" in err, err
        expected = tiny[model]["captions"]["img0.beam3_len30"]
        for folder in (model, "bundle"):
            status, out, err = run("caption", picture, "--model", folder, "--json")
            assert status == 0, err
            row = json.loads(out)
            assert [row["caption"]] == expected["captions"]
            assert [" | ".join(row["guide_tags"])] == expected["tags"]
    else:
        status, _, err = run("caption", picture, "--model", model)
        assert status == 2 and "writes no captions" in err


def test_any_tag_unless_it_was_left_out(
    tiny: dict[str, Any], hub: FakeHub, run: Run, shared: Callable[[str], Path]
) -> None:
    where = ("--endpoint", hub.url, "--lists", hub.url)
    status, out, err = run("pull", "ram-plus", *where, "--json")
    assert status == 0 and "reads any tag: pytorch_model.bin of owner/clip@c0ffee0" in err, err
    assert "text:tower" in {one["role"] for one in json.loads(out)["files"]}
    assert not list(Path("cache").rglob("pytorch_model.bin*"))
    ask = ("tag", shared("golden/preprocess/im0.png"), "--tags", "singing dogs", "--threshold", 0, "--json")
    status, out, err = run(*ask, "--model", "ram-plus")
    assert status == 0, err
    assert [tag["id"] for tag in json.loads(out)["tags"]] == ["typed:singing dogs"]

    status, _, err = run("pull", "ram-plus", *where, "--no-text", "--out", "silent")
    assert status == 0 and "reads any tag" not in err
    assert len(hub.gets("pytorch_model.bin")) == 2  # the hub's answer and the file, of the first pull alone
    status, _, err = run(*ask, "--model", "silent")
    assert status == 2 and "singing dogs" in err
    status, _, err = run("pull", "ram-plus", *where, "--out", "silent")
    assert status == 2 and "--no-text" in err


def test_another_family_is_refused(
    tiny: dict[str, Any], hub: FakeHub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hub.large, "owner/ram/tiny.pth", hub.large["owner/ram-plus/tiny.pth"])
    sha256 = hashlib.sha256(hub.large["owner/ram/tiny.pth"]).hexdigest()
    sources = dict(catalogue.SOURCES)
    checkpoint = served(hub, "hub", "owner/ram", "tiny.pth", hub.large["owner/ram-plus/tiny.pth"])
    sources["ram"] = Source(
        "ram", "RAM", checkpoint, sources["ram-plus"].tags, sources["ram-plus"].thresholds, {}, {}
    )
    monkeypatch.setattr(catalogue, "SOURCES", sources)
    status, _, err = run("pull", "ram", "--endpoint", hub.url, "--lists", hub.url, "--sha256", sha256)
    assert status == 2 and "holds RAM++, expected RAM" in err and not Path("ram").exists()


def test_unknown_names_and_offline(hub: FakeHub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, err = run("pull", "swin", "--offline")
    assert status == 2 and "expected one of ram-plus, ram, tag2text" in err
    status, out, err = run("pull", "ram-plus", "--offline")
    assert (status, out) == (2, "") and "ram_plus_swin_large_14m.pth" in err
    assert "taglens pull ram-plus --keep" in err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, _, err = run("pull", "ram-plus", "--endpoint", hub.url)
    assert status == 2 and "offline" in err and hub.seen == []


def test_without_the_package(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    status, _, err = run("pull", "ram")
    assert status == 2 and "pip install 'taglens[hub]'" in err and not Path("ram").exists()


def test_in_a_process_of_its_own(hub: FakeHub, tmp_path: Path) -> None:
    """Where nothing else has loaded the parts of the package that a pull reads."""
    command = (
        "from taglens.cli.main import start; start(['pull', 'ram', '--revision', 'main', '--endpoint', '{}'])"
    )
    source = str(Path(__file__).resolve().parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", command.format(hub.url)],
        env={**os.environ, "PYTHONPATH": source, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "no such repository, or not for this HF_TOKEN" in done.stderr


def test_the_line_counts_what_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    times = iter(range(100))
    progress = _Progress(
        lambda total, unit: ProgressLine(total, unit=unit, stream=screen, clock=lambda: float(next(times)))
    )
    for done in (8_192, 500_000, 3_000_000, 12_000_000):
        progress("a.txt", done, 12_000_000)
    progress("b.pth", 40_000_000, 50_000_000)
    progress("b.pth", 45_000_000, 50_000_000)
    progress("c", 5_000_000, None)
    progress("c", 9_000_000, None)
    progress.clear()
    shown = screen.getvalue()
    for part in ("3/12", "12/12", "MB of a.txt", "5/10", "MB of b.pth", "4 MB"):
        assert part in shown
