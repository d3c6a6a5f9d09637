"""Published weights that are whole become a model; all else is refused, with the reason, and nothing is written."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import published_weights as published
from taglens.errors import ModelError, TaglensError, UsageError
from taglens.inference.engines import TorchEngine
from taglens.inference.tagger import Tagger
from taglens.models.checkpoint import from_pretrained
from taglens.models.convert import convert
from taglens.models.published import numbered_tags, read_published, save_converted, vocabulary_of
from taglens.models.resampling import resized_bias
from taglens.vocabulary import Entry, Vocabulary

State = dict[str, Tensor]


def whole(state: State, folder: Path) -> Path:
    """A .pth file as the original release writes it."""
    path = folder / "weights.pth"
    torch.save({"model": state}, path)
    return path


# -- what is converted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "family"),
    [
        (published.ram(), "RAM++"),
        (published.ram(plus=False), "RAM"),
        (published.tag2text(), "Tag2Text"),
    ],
    ids=["RAM++", "RAM", "Tag2Text"],
)
@torch.no_grad()
def test_a_family_is_told_by_its_keys(state: State, family: str, tmp_path: Path) -> None:
    converted = convert(state)
    assert converted.family == family
    model = converted.model()
    given = torch.rand(3, 3, converted.config.side, converted.config.side)
    found = model(given).logits
    assert found.shape == (3, converted.config.tags) and found.isfinite().all()
    assert (found[0] - found[1]).abs().max() > 1e-4
    vocabulary = vocabulary_of(converted, numbered_tags(converted, name="numbered")).vocabulary
    save_converted(converted, vocabulary, tmp_path / "model", name="small")
    again, known, name = from_pretrained(tmp_path / "model")
    assert (name, known.fingerprint, known.strict) == ("small", vocabulary.fingerprint, True)
    kept, state = again.state_dict(), model.state_dict()
    assert kept.keys() == state.keys() and all(torch.equal(kept[key], state[key]) for key in state)
    assert torch.allclose(again(given).logits, found, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("nested", [True, False])
def test_both_kinds_of_file_are_read(suffix: str, nested: bool, tmp_path: Path) -> None:
    state, path = published.ram(), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": state} if nested else state, path)
    else:
        save_file(state, path)
    read = read_published(path)
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_noted(kind: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(kind) for key, value in published.ram().items()}
    converted = convert(read_published(whole(state, tmp_path)))
    floats = [value for value in converted.state.values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float32}
    assert any(str(kind) in note and "float32" in note for note in converted.notes)


def test_the_old_name_of_the_head_is_known() -> None:
    state = published.ram()
    old = {key.replace("tagging_head", "vision_multi"): value for key, value in state.items()}
    left, right = convert(old).state, convert(state).state
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in right)


def test_buffers_of_the_encoder_are_dropped() -> None:
    state = published.ram()
    extra = {
        "visual_encoder.layers.0.blocks.1.attn_mask": torch.zeros(4, 4, 4),
        "visual_encoder.layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.long),
    }
    assert convert(state | extra).dropped.keys() == extra.keys()


@pytest.mark.parametrize("window", [1, 2, 3, 7, 12])
def test_sizes_follow_the_shapes(window: int) -> None:
    swin = {"width": 8, "depths": (1, 2, 1), "heads": (2, 1, 4), "window": window}
    config = convert(published.ram(swin, tags=3, labels=20, width=8, ffn=24)).config
    assert config.side == 4 * 4 * window and config.encoder.depths == (1, 2, 1)
    assert (config.tags, config.token_width, config.decoder.width, config.decoder.ffn_width) == (3, 20, 8, 24)


# -- another side ------------------------------------------------------------------------------------


def test_another_side_takes_other_windows() -> None:
    state = published.ram()
    converted = convert(state, side=48)
    assert (converted.config.side, converted.config.encoder.window) == (48, 6)
    for key, table in convert(state).state.items():
        wide = resized_bias(table, 6) if key.endswith(".table") else table
        assert torch.equal(converted.state[key], wide), key
    assert any("interpolated" in note for note in converted.notes)
    assert converted.model()(torch.rand(1, 3, 48, 48)).logits.shape == (1, 5)
    with pytest.raises(ModelError, match="multiple of 8"):
        convert(state, side=50)


# -- what is refused ---------------------------------------------------------------------------------


def without(key: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if name != key}


def altered(key: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: state | {key: change(state[key])}


def poisoned(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[1] = value
        return tensor

    return change


QUERY = "tagging_head.encoder.layer.0.crossattention.self.query.weight"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda state: {"layer.weight": torch.ones(2), "layer.bias": torch.ones(2)},
            "layer.bias, layer.weight",
        ),
        (lambda state: {}, "expected the key names"),
        (lambda state: state | {"text_proj.weight": torch.ones(2, 2)}, "1 keys belong to no part.*text_proj"),
        (lambda state: state | {"tag_encoder.x.weight": torch.ones(2)}, "tag_encoder.x.weight"),
        (
            lambda state: state | {"visual_encoder.blocks.0.norm1.weight": torch.ones(2)},
            "two encoders, Swin .* and a plain vision transf",
        ),
        (without(QUERY), "decoder.layers.0.attention.query.weight"),
        (without("visual_encoder.norm.bias"), "encoder.norm.bias"),
        (without("image_proj.weight"), "image_proj.weight is missing"),
        (without("tagging_head.encoder.layer.0.intermediate.dense.weight"), "intermediate.dense.weight"),
        (altered(QUERY, lambda value: value[:, :-1]), "query.weight \\[16, 15\\] instead of \\[16, 16\\]"),
        (altered("label_embed", lambda value: value[:-1]), "254 rows.*51 descriptions"),
        (altered("label_embed", lambda value: value[None]), "expected 2 dimensions"),
        (altered("fc.weight", lambda value: value.long()), "int64"),
        (altered("fc.weight", poisoned(math.nan)), "not finite: fc.weight"),
        (altered("image_proj.bias", poisoned(math.inf)), "not finite: image_proj.bias"),
        (
            altered(
                "visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table",
                lambda value: torch.zeros(25, 1),
            ),
            "one size of window",
        ),
    ],
)
def test_what_does_not_fit_is_refused(damage: Callable[[State], State], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        convert(damage(published.ram()))


def test_tied_tensors_must_be_equal() -> None:
    state = published.tag2text()
    key = "tag_encoder.encoder.layer.0.crossattention.output.dense.weight"
    assert key in convert(state).tied
    with pytest.raises(ModelError, match="one tensor in Tag2Text"):
        convert(state | {key: state[key] + 1})


@pytest.mark.parametrize("tags", [4, 6, 255])
def test_another_number_of_tags_is_refused(tags: int) -> None:
    with pytest.raises(ModelError, match=f"scores 5 tags.*has {tags}"):
        convert(published.ram(), tags=tags)
    assert convert(published.ram(descriptions=7), tags=5, descriptions=7).config.descriptions == 7


class Attack:
    """What a file that runs code when it is read holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was-run"),)


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": published.ram(), "extra": Attack()}, "zipped.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Attack()))
    for name in ("zipped.pth", "plain.pth"):
        with pytest.raises(ModelError, match=f"{name}.*could run code"):
            read_published(Path(name))
    assert not Path("was-run").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.3, 0.999])
def test_a_cut_file_is_refused(suffix: str, kept: float, tmp_path: Path) -> None:
    path = whole(published.ram(), tmp_path)
    if suffix == ".safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(published.ram(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ModelError, match=r"cut.*download it again"):
        read_published(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"weights", "neither a torch file"),
        (b"<html>not found</html>", "web page.*download the file itself"),
        (b"\x80\x04garbage that is no pickle", "cut or damaged|could run code"),
    ],
)
def test_other_files_are_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ModelError, match=says):
        read_published(tmp_path / "file.pth")


@pytest.mark.parametrize("inside", [{"model": {"a": 1}}, [1, 2], {"epoch": 3}, {}])
def test_files_without_a_state_dict_are_refused(inside: Any, tmp_path: Path) -> None:
    torch.save(inside, tmp_path / "file.pth")
    with pytest.raises(ModelError, match=r"expected \{'model': state dict\}"):
        read_published(tmp_path / "file.pth")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        read_published(tmp_path / "none.pth")


def test_strict_thresholds_are_to_be_exceeded(tmp_path: Path) -> None:
    entries = [
        Entry(name, "object", threshold=least) for name, least in (("a", 0.65), ("b", 1.0), ("c", 0.0))
    ]
    scores = np.float32([0.65, 1.0, 0.0])
    Vocabulary(entries, strict=True).save(tmp_path / "v.jsonl")
    strict = Vocabulary.load(tmp_path / "v.jsonl")
    for vocabulary in (strict, strict.with_thresholds([0.65, 1.0, 0.0])):
        assert vocabulary.strict and vocabulary.select(scores) == ()
        above = vocabulary.select(np.nextafter(scores, np.float32(1)))
        assert [tag.name for tag in above] == ["a", "c"], "no score exceeds 1"
        assert len(vocabulary.select(scores, threshold=0.0)) == 3, "a threshold of one's own is to be reached"
    assert len(Vocabulary(entries).select(scores)) == 3


# -- folders -----------------------------------------------------------------------------------------


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    converted = convert(published.ram())
    vocabulary = numbered_tags(converted, name="v")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="other things than a model"):
        save_converted(converted, vocabulary, tmp_path / "full", name="m")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]
    with pytest.raises(UsageError, match="is a file"):
        save_converted(converted, vocabulary, tmp_path / "full" / "letter.txt", name="m")
    for _ in range(2):  # over a model of before
        save_converted(converted, vocabulary, tmp_path / "new", name="m")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = convert(published.ram())

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("taglens.models.checkpoint.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_converted(converted, numbered_tags(converted, name="v"), tmp_path / "new", name="m")
    assert not (tmp_path / "new").exists()


def test_a_vocabulary_of_another_length_is_refused() -> None:
    with pytest.raises(ModelError, match="scores 5 tags"):
        vocabulary_of(convert(published.ram()), Vocabulary([Entry("dog", "object")]))


def test_a_converted_model_reads_no_text(tmp_path: Path) -> None:
    converted = convert(published.ram())
    save_converted(converted, numbered_tags(converted, name="v"), tmp_path / "model", name="m")
    tagger = Tagger.from_pretrained(tmp_path / "model", device="cpu")
    assert not tagger.reads_text
    with pytest.raises(TaglensError, match="reads no text"):
        tagger.typed(["corgi"])


# -- full size ---------------------------------------------------------------------------------------


def test_a_model_of_full_size_is_converted_and_tags() -> None:
    """Swin-L at 384 px, 4,585 tags of 51 texts: 330 million numbers, converted and asked about a photograph."""
    data = pytest.importorskip("skimage.data")
    state = published.ram(published.SWIN_L, tags=4585, labels=512, width=768, ffn=3072)
    converted = convert(state)
    del state
    assert sum(value.numel() for value in converted.state.values()) > 329e6
    vocabulary = vocabulary_of(converted, numbered_tags(converted, name="numbered")).vocabulary
    tagger = Tagger(TorchEngine(converted.model(), device="cpu"), vocabulary, ref="large", side=384)
    (prediction,) = tagger(data.astronaut(), threshold=0.0)
    assert prediction.tags is not None and len(prediction.tags) == 4585
    assert np.isfinite([tag.score for tag in prediction.tags]).all()
    assert len({tag.score for tag in prediction.tags}) > 1000
