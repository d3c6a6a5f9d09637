"""A captioner in a model folder: shared layers once, the same logits after loading, and nothing that does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import small_captioner as small
from taglens.errors import ModelError
from taglens.language.wordpiece import WordPiece
from taglens.models.captioner import SHARED_PARTS, Captioner, SpecialPieces
from taglens.models.checkpoint import (
    CAPTIONER,
    CONFIG,
    PIECES,
    WEIGHTS,
    captioner_from_pretrained,
    from_pretrained,
    save_pretrained,
    writes_captions,
)
from taglens.models.convert import BUFFERS, convert
from taglens.models.convert import CAPTIONER as LEFT_OUT
from taglens.models.published import save_converted

KEY = "decoder.layers.1.self_attention.query.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory) / "model"


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path) -> tuple[Captioner, torch.nn.Module]:
    model, _, _ = from_pretrained(folder)
    captioner = captioner_from_pretrained(folder, model)
    assert captioner is not None
    return captioner, model


@torch.inference_mode()
def logits(captioner: Captioner) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    words = captioner.config.words
    ids, caption = (torch.randint(0, words, (2, length), generator=rng) for length in (6, 9))
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    image = torch.randn(2, 5, captioner.config.image_width, generator=rng)
    memory = captioner.encode(ids, mask, image)
    return captioner.write(caption, memory, mask=torch.ones_like(caption), memory_mask=mask)


# -- there and back ----------------------------------------------------------------------------------


def test_what_was_converted_comes_back_bit_by_bit(whole: Path) -> None:
    converted = small.converted()
    assert converted.captioner is not None
    before = converted.captioner.model(converted.model())
    after, _ = load(whole)
    assert after.config == before.config and not after.training
    state = after.state_dict()
    assert state.keys() == before.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in before.state_dict().items())
    assert torch.equal(logits(after), logits(before))


def test_shared_layers_are_stored_once(whole: Path) -> None:
    stored, tagging = load_file(whole / CAPTIONER), load_file(whole / WEIGHTS)
    captioner, _ = load(whole)
    shared = captioner.state_dict().keys() - stored.keys()
    config = captioner.config
    assert (config.shared_layers, config.depth) == (2, 3)
    assert shared == {
        key
        for key in captioner.state_dict()
        for number in (0, 1)
        for part in SHARED_PARTS
        if key.startswith(f"encoder.layers.{number}.{part}.")
    }
    assert len(shared) == 32 and stored.keys() == captioner.own_state().keys()
    for key in shared:
        ours = key.replace("encoder.layers", "decoder.layers")
        assert torch.equal(captioner.state_dict()[key], tagging[ours]), key


def test_shared_layers_are_the_taggers_own(whole: Path) -> None:
    captioner, model = load(whole)
    theirs = dict(model.named_parameters())
    shared = 0
    for key, value in captioner.named_parameters():
        if any(f".layers.{number}.{part}." in key for number in (0, 1) for part in SHARED_PARTS):
            if not key.startswith("encoder."):
                continue
            other = theirs[key.replace("encoder.layers", "decoder.layers")]
            assert value is other and value.data_ptr() == other.data_ptr(), key
            shared += 1
    assert shared == 32
    before = logits(captioner)
    with torch.no_grad():
        theirs["decoder.layers.0.attention.value.bias"] += 1.0
    assert not torch.equal(logits(captioner), before)


def test_a_folder_written_again_keeps_everything(whole: Path, tmp_path: Path) -> None:
    model, vocabulary, name = from_pretrained(whole)
    captioner = captioner_from_pretrained(whole, model)
    pieces = (whole / PIECES).read_bytes()
    save_pretrained(model, vocabulary, tmp_path / "again", name=name, captioner=captioner, pieces=pieces)
    for file in (CAPTIONER, WEIGHTS):
        first, second = load_file(whole / file), load_file(tmp_path / "again" / file)
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert (tmp_path / "again" / PIECES).read_bytes() == pieces
    rows = [json.loads((place / CONFIG).read_text("utf-8")) for place in (whole, tmp_path / "again")]
    assert rows[0]["captioner"] == rows[1]["captioner"]


def test_a_captioner_and_its_words_are_saved_together(whole: Path, tmp_path: Path) -> None:
    model, vocabulary, name = from_pretrained(whole)
    captioner = captioner_from_pretrained(whole, model)
    with pytest.raises(ModelError, match="together"):
        save_pretrained(model, vocabulary, tmp_path / "m", name=name, captioner=captioner)
    with pytest.raises(ModelError, match="together"):
        save_pretrained(model, vocabulary, tmp_path / "m", name=name, pieces=b"x")
    assert not (tmp_path / "m").exists()


def test_a_tagger_alone_over_one_that_wrote_writes_no_more(folder: Path) -> None:
    save_converted(convert(small.state()), small.vocabulary(), folder, name="mute")
    model, _, _ = from_pretrained(folder)
    assert not writes_captions(folder) and captioner_from_pretrained(folder, model) is None


def test_no_captioner_in_the_configuration_is_none(folder: Path) -> None:
    model, _, _ = from_pretrained(folder)
    row = json.loads((folder / CONFIG).read_text("utf-8"))
    assert writes_captions(folder)
    del row["captioner"]
    (folder / CONFIG).write_text(json.dumps(row), "utf-8")
    assert not writes_captions(folder) and captioner_from_pretrained(folder, model) is None


# -- what is refused ---------------------------------------------------------------------------------


def changed(key: str, value: Tensor | None) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        state = load_file(path)
        if value is None:
            del state[key]
        else:
            state[key] = value
        save_file(state, path)

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "is missing"),
    "cut": (cut, "is damaged"),
    "another shape": (changed(KEY, torch.zeros(24, 23)), f"does not fit {CONFIG}: {KEY} "),
    "a tensor less": (changed(KEY, None), f"does not fit {CONFIG}: {KEY} "),
    "a tensor more": (changed("decoder.extra", torch.zeros(1)), f"does not fit {CONFIG}: decoder.extra "),
    "a shared one": (changed("encoder.layers.0.norm1.bias", torch.zeros(24)), "encoder.layers.0.norm1.bias"),
    "no number": (changed(KEY, torch.full((24, 24), torch.nan)), f"{KEY} holds values that are not finite"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_weights_are_refused_by_name(
    damage: Callable[[Path], object], told: str, folder: Path
) -> None:
    damage(folder / CAPTIONER)
    model, _, _ = from_pretrained(folder)  # tagging is not touched by it
    with pytest.raises(ModelError) as error:
        captioner_from_pretrained(folder, model)
    assert told in str(error.value) and CAPTIONER in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"depth": 2}, CAPTIONER),
        ({"words": 20}, "20"),
        ({"colour": 1}, "colour"),
        ({"shared_layers": 3}, "3"),
        ({"width": 36}, "cannot be shared"),
    ],
    ids=str,
)
def test_another_configuration_is_refused(change: dict[str, int], told: str, folder: Path) -> None:
    row = json.loads((folder / CONFIG).read_text("utf-8"))
    row["captioner"] |= change
    (folder / CONFIG).write_text(json.dumps(row), "utf-8")
    model, _, _ = from_pretrained(folder)
    with pytest.raises(ModelError, match=told):
        captioner_from_pretrained(folder, model)


# -- conversion --------------------------------------------------------------------------------------


def special(**changes: int) -> SpecialPieces:
    return replace(small.special(WordPiece(small.PIECES)), **changes)


@pytest.mark.parametrize("more", [-1, 1])
def test_words_of_another_number_are_refused(more: int) -> None:
    count = len(small.PIECES) + 2
    told = f"writes with {count} word pieces and {count + more} were given"
    with pytest.raises(ModelError, match=told):
        convert(small.state(), pieces=special(count=count + more))


def test_special_pieces_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(ModelError, match="outside a vocabulary"):
        convert(small.state(), pieces=special(end=500))


def test_every_key_is_accounted_for_once() -> None:
    buffers = {
        key: torch.arange(48)[None]
        for key in ("tag_encoder.embeddings.position_ids", "text_decoder.bert.embeddings.position_ids")
    }
    state = small.state() | buffers
    for pieces in (None, special()):
        converted = convert(state, pieces=pieces)
        assert sorted((*converted.used, *converted.tied, *converted.dropped)) == sorted(state)
        reasons = {BUFFERS} if pieces else {BUFFERS, LEFT_OUT}
        assert set(converted.dropped.values()) == reasons
        assert (converted.captioner is None) == (pieces is None)


BROKEN = "text_decoder.bert.encoder.layer.2.output.dense.weight"


@pytest.mark.parametrize(
    "value",
    [None, torch.zeros(24, 31), torch.full((24, 32), torch.inf)],
    ids=["missing", "another shape", "infinite"],
)
def test_a_captioner_that_does_not_fit_is_refused_only_where_it_is_wanted(value: Tensor | None) -> None:
    state = small.state()
    assert state[BROKEN].shape == (24, 32)
    if value is None:
        del state[BROKEN]
    else:
        state[BROKEN] = value
    assert convert(state).captioner is None
    with pytest.raises(ModelError, match=r"decoder\.layers\.2\.ffn\.2\.weight"):
        convert(state, pieces=special())


def test_half_precision_is_widened(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in small.state().items()}
    converted = convert(state, pieces=special())
    assert converted.captioner is not None
    assert {value.dtype for value in converted.captioner.state.values()} == {torch.float32}
    save_converted(converted, small.vocabulary(), tmp_path / "m", name="half", pieces=b"x")
    captioner, _ = load(tmp_path / "m")
    assert bool(torch.isfinite(logits(captioner)).all())
