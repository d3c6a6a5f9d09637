"""``taglens train enhance`` on a model of transformers, tiny and of chance: the whole way, and what it refuses."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny_transformers as tiny
from taglens.cli.main import start

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("peft") is None,
    reason="transformers or peft is not installed: pip install 'taglens[vlm]'",
)


def enhance(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit:
        start(["train", "enhance", "--images", "pictures", "--out", "run", *map(str, arguments)])
    return int(exit.value.code or 0)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(10):
        pixels = rng.integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def test_adapters_come_out_that_fit_the_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from taglens.training.vlm_host import open_host

    folder = tiny.smolvlm(here / "model")
    options = ("--steps", 2, "--batch-size", 4, "--held", 1, "--rank", 2, "--alpha", 4, "--keep-last")
    assert enhance("--model", "model", *options, "--prompt", "a picture of", "--device", "cpu") == 0
    told = capsys.readouterr().err
    assert "9 pictures learned from, 1 held out" in told and "load_adapter(ADAPTER), or peft" in told
    host = open_host(folder, device="cpu", rank=2, alpha=4.0)
    fresh = host.adapter_state()
    host.load_adapter(here / "run" / "adapter")
    trained = host.adapter_state()
    assert all(not value.any() for name, value in fresh.items() if "lora_B" in name)
    assert all(value.any() for name, value in trained.items() if "lora_B" in name)
    kept = json.loads((here / "run" / "adapter" / "taglens.json").read_text())
    assert (kept["base"], kept["trained"]["steps"]) == (host.fingerprint, 2)
    # The same folder goes on only with the same question.
    assert enhance("--model", "model", *options, "--device", "cpu") == 2
    assert "asked" in capsys.readouterr().err


def test_options_of_other_models_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.smolvlm(here / "model")
    assert enhance("--model", "model", "--adapt", "self_attention") == 2
    assert "model is a model of transformers" in capsys.readouterr().err
    (here / "other").mkdir()
    assert enhance("--model", "other", "--prompt", "a") == 2
    assert "--prompt belongs to a model of transformers" in capsys.readouterr().err
