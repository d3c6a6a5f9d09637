"""The published models' state dicts: which entries count, which repeat others, which follow from the sizes.

The stored models are described in the shared data's own format file; where there is no shared data at all the tests
are skipped, see `conftest`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from taglens.language.wordpiece import WordPiece
from taglens.models.captioner import SpecialPieces
from taglens.models.convert import BUFFERS, Converted, convert
from taglens.models.swin import relative_positions, shift_mask

PLUS_384, PLUS_224, RAM, TAG2TEXT = (
    "ram_plus_tiny_384",
    "ram_plus_tiny_224",
    "ram_tiny_384",
    "tag2text_tiny_384",
)
MODELS = (PLUS_384, PLUS_224, RAM, TAG2TEXT)
BUFFER = re.compile(r"visual_encoder\.layers\.(\d)\.blocks\.(\d)\.(attn_mask|attn\.relative_position_index)")
POSITIONS = ("tag_encoder.embeddings.position_ids", "text_decoder.bert.embeddings.position_ids")

State = dict[str, Tensor]


@pytest.fixture
def state(shared: Callable[[str], Path]) -> Callable[[str], State]:
    return lambda name: load_file(shared(f"golden/{name}/state.safetensors"))


@pytest.fixture
def meta(shared: Callable[[str], Path]) -> Callable[[str], dict[str, Any]]:
    return lambda name: json.loads(shared(f"golden/{name}/meta.json").read_text("utf-8"))


def alike(left: Converted, right: Converted) -> bool:
    return left.config == right.config and same(left.state, right.state)


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in right)


# -- buffers -----------------------------------------------------------------------------------------


def test_stored_buffers_are_dropped_and_nothing_else(state: Callable[[str], State]) -> None:
    whole = state(PLUS_224)
    buffers = {key for key in whole if BUFFER.fullmatch(key)}
    assert len(buffers) == 11
    converted = convert(whole)
    assert converted.dropped == dict.fromkeys(buffers, BUFFERS)
    assert alike(convert({key: value for key, value in whole.items() if key not in buffers}), converted)
    assert set(converted.used) == whole.keys() - buffers


def test_stored_positions_are_those_that_are_computed(state: Callable[[str], State]) -> None:
    stored = {key: value for key, value in state(PLUS_224).items() if key.endswith("relative_position_index")}
    assert len(stored) == 8
    for key, value in stored.items():
        assert torch.equal(value, relative_positions(7)), key


@pytest.mark.parametrize(("stage", "grid"), [(0, 56), (1, 28), (2, 14)])
def test_stored_masks_are_those_that_are_computed(
    stage: int, grid: int, state: Callable[[str], State]
) -> None:
    stored = state(PLUS_224)[f"visual_encoder.layers.{stage}.blocks.1.attn_mask"]
    assert stored.unique().tolist() == [-100.0, 0.0]
    assert torch.equal(stored, shift_mask(grid, grid, 7, device=torch.device("cpu"))[:, 0])


@pytest.mark.parametrize("name", MODELS)
def test_only_shifted_blocks_have_masks_and_the_last_stage_never_shifts(
    name: str, state: Callable[[str], State], meta: Callable[[str], dict[str, Any]]
) -> None:
    left_out = {key.split()[0] for key in meta(name)["state_keys_left_out"]}
    masked = {key for key in left_out | state(name).keys() if key.endswith("attn_mask")}
    assert masked == {f"visual_encoder.layers.{stage}.blocks.1.attn_mask" for stage in range(3)}


@pytest.mark.parametrize("name", [PLUS_384, RAM, TAG2TEXT])
def test_entries_that_were_left_out_change_nothing(
    name: str, state: Callable[[str], State], meta: Callable[[str], dict[str, Any]]
) -> None:
    whole = state(name)
    extra: State = {}
    for line in meta(name)["state_keys_left_out"]:
        key, shape = line.split(" ", 1)
        sizes = json.loads(shape)
        assert key not in whole
        if key in POSITIONS:
            extra[key] = torch.arange(64)[None]
        elif key.endswith("relative_position_index"):
            extra[key] = relative_positions(12)
        else:
            stage = int(BUFFER.fullmatch(key).group(1))  # type: ignore[union-attr]
            grid = 96 >> stage
            extra[key] = shift_mask(grid, grid, 12, device=torch.device("cpu"))[:, 0]
        assert list(extra[key].shape) == sizes
    assert len(extra) == (11 if name == PLUS_384 else 13)
    plain, converted = convert(whole), convert(whole | extra)
    assert alike(converted, plain)
    assert extra.keys() == converted.dropped.keys() - plain.dropped.keys()
    assert (converted.used, converted.tied) == (plain.used, plain.tied)


# -- repeated tensors --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [RAM, TAG2TEXT])
def test_two_layers_stand_twice(name: str, state: Callable[[str], State]) -> None:
    whole = state(name)
    converted = convert(whole)
    parts = r"(crossattention|intermediate|output)\..+"
    twice = {key for key in whole if re.fullmatch(rf"tag_encoder\.encoder\.layer\.[01]\.{parts}", key)}
    assert set(converted.tied) == twice and len(twice) == 32
    for key in twice:
        assert torch.equal(whole[key], whole[key.replace("tag_encoder", "tagging_head")])


@pytest.mark.parametrize("name", [RAM, TAG2TEXT])
def test_the_word_head_repeats_the_embeddings(name: str, state: Callable[[str], State]) -> None:
    whole, head = state(name), "text_decoder.cls.predictions"
    words = whole["text_decoder.bert.embeddings.word_embeddings.weight"]
    assert torch.equal(whole[f"{head}.decoder.weight"], words) and words.shape == (131, 96)
    assert torch.equal(whole[f"{head}.decoder.bias"], whole[f"{head}.bias"])


def special(pieces: WordPiece) -> SpecialPieces:
    return SpecialPieces(len(pieces), pieces.pad, pieces.sep, pieces.dec, pieces.enc)


def test_a_captioner_takes_what_was_left_out_without_it(
    state: Callable[[str], State], shared: Callable[[str], Path]
) -> None:
    whole = state(TAG2TEXT) | {key: torch.arange(64)[None] for key in POSITIONS}
    pieces = WordPiece.load(shared("golden/tokenizer/small_vocab.txt"))
    plain, converted = convert(whole), convert(whole, pieces=special(pieces))
    assert plain.captioner is None and converted.captioner is not None
    assert alike(plain, converted)
    told = [*converted.used, *converted.tied, *converted.dropped]
    assert sorted(told) == sorted(whole), "each key, and each once"
    assert len(converted.tied) == 34 and converted.dropped.keys() == set(POSITIONS)
    config = converted.captioner.config
    assert (config.start, config.tags, config.end, config.pad) == (129, 130, 3, 0)


# -- names and numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_old_name_of_the_head_is_known(name: str, state: Callable[[str], State]) -> None:
    whole = state(name)
    old = {key.replace("tagging_head", "vision_multi"): value for key, value in whole.items()}
    assert old.keys() != whole.keys() and alike(convert(old), convert(whole))


@pytest.mark.parametrize("name", MODELS)
def test_thresholds_and_contrastive_heads_are_not_among_the_weights(
    name: str, state: Callable[[str], State]
) -> None:
    parts = {key.split(".")[0] for key in state(name)}
    language = {"tag_encoder", "text_decoder"} if name in (RAM, TAG2TEXT) else set()
    plus = {"reweight_scale"} if name in (PLUS_384, PLUS_224) else set()
    texts = set() if name == TAG2TEXT else {"image_proj", "wordvec_proj"}
    assert parts == {"visual_encoder", "tagging_head", "label_embed", "fc"} | language | plus | texts


@pytest.mark.parametrize("name", [PLUS_384, PLUS_224])
@pytest.mark.parametrize("classes", [32, 16, 96])
def test_descriptions_are_class_major_whatever_their_number(
    classes: int, name: str, state: Callable[[str], State]
) -> None:
    whole = state(name)
    each = 32 * 51 // classes
    converted = convert(whole, descriptions=each)
    table = converted.state["bank.embeddings"]
    assert table.shape == (classes, each, 512) and converted.config.tags == classes
    assert torch.equal(table[1, 0], whole["label_embed"][each])
    assert torch.equal(table[-1, -1], whole["label_embed"][-1])
    assert converted.state["bank.counts"].tolist() == [each] * classes


def test_other_seeds_are_other_models(state: Callable[[str], State]) -> None:
    left, right = convert(state(PLUS_384)).state, convert(state(PLUS_224)).state
    assert left.keys() == right.keys()
    assert not torch.equal(left["decoder.head.weight"], right["decoder.head.weight"])
