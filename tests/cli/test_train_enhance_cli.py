"""From pictures alone to an adapter, to captions with it and to a merged model, on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import small_aligner as small
import small_host
from taglens.cli.main import app
from taglens.inference.tagger import Tagger
from taglens.models.lora import load_adapter


def taglens(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


def rows(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


SMALL = (
    "--steps", 3, "--batch-size", 4, "--rank", 4, "--alpha", 8, "--lr", 0.05, "--mapper-epochs", 1,
    "--mapper-width", 8, "--keep-last", "--device", "cpu",
)  # fmt: skip
# Of captions as random as these nothing can be told.
LOOSE = {"distinct": 0.0, "words": 0.0, "most_words": 1e6, "empty": 1.0, "spread": 0.0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, one of them cut short and one file that is none; a model; adapters for it. Never to be changed."""
    from taglens.training import zero_label_settings
    from taglens.training.collapse import Limits

    place = tmp_path_factory.mktemp("enhance")
    paths = small_host.pictures(place / "pictures", 13)
    paths[5].write_bytes(paths[5].read_bytes()[:-40])
    (place / "pictures" / "notes.txt").write_text("no picture")
    shutil.copytree(small.made(tmp_path_factory) / "model", place / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            zero_label_settings.EnhanceConfig,
            "__init__",
            _loosely(zero_label_settings.EnhanceConfig, Limits(**LOOSE)),
        )
        result = taglens(
            "train", "enhance", "--model", place / "model", "--images", place / "pictures", "--out",
            place / "run", *SMALL,
        )  # fmt: skip
    (place / "said.txt").write_text(result.stderr)
    return place


def _loosely(config: type, limits: object) -> object:
    plain = config.__init__  # type: ignore[misc]

    def made(self: object, **given: object) -> None:
        plain(self, **({"limits": limits} | given))

    return made


def test_it_says_what_it_left_out_and_how_it_went(place: Path) -> None:
    said = (place / "said.txt").read_text()
    assert "passed over: 1 of the files" in said
    assert "1 pictures cannot be read and are left out, the first: " in said
    assert "005.png" in said
    assert "12 pictures; held-out captions are scored by the aligner of aligned@" in said
    assert "11 pictures learned from, 1 held out: score " in said
    assert "taglens caption --model" in said
    assert {"adapter", "mapper", "log.jsonl", "report.json"} <= {
        path.name for path in (place / "run").iterdir()
    }


def test_captions_with_the_adapter(place: Path) -> None:
    pictures = sorted((place / "pictures").glob("*.png"))[:4]
    plain = rows(taglens("caption", *pictures, "--model", place / "model", "--json"))
    adapted = rows(
        taglens(
            "caption", *pictures, "--model", place / "model", "--adapter", place / "run" / "adapter", "--json"
        )
    )
    adapter = load_adapter(place / "run" / "adapter")
    assert {row["model"] for row in adapted} == {f"aligned+enhanced@{adapter.fingerprint}"}
    assert [row["guide_tags"] for row in adapted] == [row["guide_tags"] for row in plain]
    assert [row["caption"] for row in adapted] != [row["caption"] for row in plain]


def test_tags_and_comparing_stay_as_they_are(place: Path) -> None:
    plain = Tagger.from_pretrained(place / "model")
    adapted = Tagger.from_pretrained(place / "model", adapter=place / "run" / "adapter")
    picture = place / "pictures" / "000.png"
    one, other = (next(iter(tagger.embed([picture], keep_tokens=True))) for tagger in (plain, adapted))
    assert one.vector is not None and other.vector is not None
    assert (one.vector == other.vector).all()
    texts = ["a dog on grass", "a boat"]
    assert (plain.embed_text(texts) == adapted.embed_text(texts)).all()
    assert one.tokens is not None
    import numpy as np

    pairs = np.array([[0, 0], [0, 1]])
    matched = [
        tagger.alignment.match(one.tokens[None], [["dog"]], texts, pairs) for tagger in (plain, adapted)
    ]
    assert (matched[0] == matched[1]).all()


def test_merged_writes_as_adapted_and_can_be_exported(place: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    result = taglens(
        "train", "merge", "--model", place / "model", "--adapter", place / "run" / "adapter", "--out", merged
    )
    assert "does without that" in result.stderr
    pictures = sorted((place / "pictures").glob("*.png"))[:4]
    adapted = Tagger.from_pretrained(place / "model", adapter=place / "run" / "adapter")
    expected = [row.caption for row in adapted.caption(pictures)]
    assert [row.caption for row in Tagger.from_pretrained(merged).caption(pictures)] == expected
    assert not (merged / "aligner.safetensors").exists()
    config = json.loads((merged / "config.json").read_text())
    assert config["name"] == "aligned+enhanced"
    assert config["merged"]["adapter"] == load_adapter(place / "run" / "adapter").fingerprint
    taglens("bundle", merged, "--out", tmp_path / "bundle", "--full")
    bundled = Tagger.from_pretrained(tmp_path / "bundle")
    assert [row.caption for row in bundled.caption(pictures)] == expected


def test_adapting_self_attention_alone_keeps_the_aligner(place: Path, tmp_path: Path) -> None:
    taglens(
        "train", "enhance", "--model", place / "model", "--images", place / "pictures", "--out", tmp_path / "run",
        *SMALL, "--adapt", "self_attention", "--tags-signal", 0.5, "--latent-signal", 0, "--until", 1,
        "--lr", 1e-4,
    )  # fmt: skip
    adapter = tmp_path / "run" / "adapter"
    assert load_adapter(adapter).config.parts == ("self_attention",)
    merged = tmp_path / "merged"
    result = taglens(
        "train", "merge", "--model", place / "model", "--adapter", adapter, "--out", merged, "--name", "x"
    )
    assert "does without" not in result.stderr
    texts = ["a dog on grass"]
    one, other = (Tagger.from_pretrained(folder).embed_text(texts) for folder in (place / "model", merged))
    assert (one == other).all()
    kept = load_file(merged / "model.safetensors")
    assert all(
        torch.equal(value, kept[key])
        for key, value in load_file(place / "model" / "model.safetensors").items()
    )


def test_adapters_of_another_model_are_refused(place: Path, tmp_path: Path) -> None:
    other, adapter = small.save(tmp_path / "other", seed=1), place / "run" / "adapter"
    picture = place / "pictures" / "000.png"
    base = load_adapter(adapter).base
    for command in (
        ("caption", picture, "--model", other, "--adapter", adapter),
        ("train", "merge", "--model", other, "--adapter", adapter, "--out", tmp_path / "m"),
    ):
        said = taglens(*command, status=2).stderr
        assert f"expected {base}" in said
        assert "another model than aligned@" in said
    assert not (tmp_path / "m").exists()


def test_what_cannot_be_meant_is_refused(place: Path, tmp_path: Path) -> None:
    adapter, picture = place / "run" / "adapter", place / "pictures" / "000.png"
    bundle = small.bundle(tmp_path / "bundle")
    said = taglens("caption", picture, "--model", bundle, "--adapter", adapter, status=2).stderr
    assert "takes no adapter" in said
    assert "taglens train merge" in said
    enhance = ("train", "enhance", "--model", place / "model", "--out", tmp_path / "out")
    images = ("--images", place / "pictures")
    for more, says in (
        (("--images", tmp_path / "nowhere"), "nowhere"),
        ((*images, "--limit", 7), "6 pictures can be read of 7; expected 8"),
        ((*images, "--batch-size", 12), "a batch holds 12"),
        ((*images, "--captions", tmp_path / "none.jsonl"), "--captions: expected a file"),
        ((*images, "--adapt", "head"), "no part 'head'"),
        ((*images, "--latent-signal", 0), "nothing to learn from"),
    ):
        assert says in taglens(*enhance, *more, status=2).stderr
    assert not (tmp_path / "out").exists()
    said = taglens("train", "enhance", "--model", bundle, *images, "--out", tmp_path / "out", status=2).stderr
    assert "not on an exported bundle" in said
    merging = ("train", "merge", "--model", place / "model", "--adapter", adapter, "--out", place / "model")
    assert "is the model itself" in taglens(*merging, status=2).stderr
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    assert "holds other things" in taglens(*merging[:-1], other, status=2).stderr
    assert [each.name for each in other.iterdir()] == ["mine.txt"]


def test_a_mapper_of_peoples_captions(place: Path, tmp_path: Path) -> None:
    told = tmp_path / "captions.jsonl"
    lines = [
        {
            "image": str(place / "pictures" / f"{n:03d}.png"),
            "captions": ["a red dog", "dog on grass"],
            "split": split,
        }
        for n, split in ((0, "train"), (1, "train"), (5, "train"), (2, "val"))
    ]
    told.write_text("".join(json.dumps(line) + "\n" for line in lines))
    taglens(
        "train", "enhance", "--model", place / "model", "--images", place / "pictures", "--out", tmp_path / "run",
        *SMALL, "--captions", told, "--until", 1, "--lr", 1e-4, "--contrast", 0.1,
    )  # fmt: skip
    settings = json.loads((tmp_path / "run" / "report.json").read_text())
    assert settings["captions"] is not None
    assert settings["contrast"] == 0.1
