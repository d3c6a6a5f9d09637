"""Our captioner beside the published one: every stored stage, loss, text and score of a tiny Tag2Text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from taglens.errors import ModelError
from taglens.inference.generation import Beams, Bounds, Written, beam_search, greedy
from taglens.language.caption_text import CaptionText
from taglens.language.wordpiece import Pieces, WordPiece
from taglens.models.caption_weights import captioner_config, captioner_state, is_captioner_key
from taglens.models.captioner import Captioner, CaptionState, caption_losses

FEATURES, LOGITS = 1e-4, 2e-4
PICTURES = {"img0": [0], "img1": [1], "batch2": [0, 1]}
RUNS = ("beam3_len30", "beam3_len50", "greedy_len30", "beam3_rep1.3", "beam5_min4", "user_tags")


@dataclass(frozen=True)
class Golden:
    """The stored model and what it gave."""

    model: Captioner
    text: CaptionText
    state: dict[str, Tensor]
    io: dict[str, Tensor]
    meta: dict[str, Any]

    def tags(self, lists: Sequence[str]) -> tuple[Tensor, Tensor]:
        return tensors([self.text.tags(one.split(" | ")) for one in lists])

    def start(self, lists: Sequence[str], pictures: list[int]) -> CaptionState:
        ids, mask = self.tags(lists)
        with torch.inference_mode():
            memory = self.model.encode(ids, mask, self.io["visual_encoder"][pictures])
            return self.model.start(memory, mask)


def tensors(pieces: Sequence[Pieces]) -> tuple[Tensor, Tensor]:
    return torch.tensor([one.ids for one in pieces]), torch.tensor([one.mask for one in pieces])


def alike(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= tolerance)


@pytest.fixture(scope="module")
def golden(shared: Callable[[str], Path]) -> Golden:
    state = load_file(shared("golden/tag2text_tiny_384/state.safetensors"))
    text = CaptionText(WordPiece.load(shared("golden/tokenizer/small_vocab.txt")))
    model = Captioner(captioner_config(state, heads=12, end=text.pieces.sep))
    model.load_state_dict(captioner_state(state, model.config), strict=True)
    return Golden(
        model.eval(),
        text,
        state,
        load_file(shared("golden/tag2text_tiny_384/io.safetensors")),
        json.loads(shared("golden/tag2text_tiny_384/meta.json").read_text("utf-8")),
    )


@pytest.fixture
def layers() -> Iterator[Callable[[nn.ModuleList], list[Tensor]]]:
    """``layers(stack)``: a list that the stack's outputs are put into as they come."""
    handles = []

    def watch(stack: nn.ModuleList) -> list[Tensor]:
        seen: list[Tensor] = []
        for layer in stack:
            handles.append(layer.register_forward_hook(lambda _, __, out: seen.append(out)))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


# -- what goes in ------------------------------------------------------------------------------------


def test_tag_lists_become_the_published_pieces(golden: Golden) -> None:
    ids, mask = golden.tags(golden.meta["tags"])
    # Stored three times each, once for every beam.
    assert torch.equal(ids.repeat_interleave(3, 0), golden.io["encoder_input_ids"])
    assert torch.equal(mask.repeat_interleave(3, 0), golden.io["encoder_attention_mask"])


def test_the_prompt_is_the_published_one(golden: Golden) -> None:
    assert golden.text.prompt == golden.meta["prompt"]
    assert len(golden.text.prompt_ids) == golden.meta["prompt_length"]
    assert [list(golden.text.prompt_ids)] * 2 == golden.meta["prompt_input_ids"]


def test_sizes_are_read_off_the_tensors(golden: Golden) -> None:
    config = golden.model.config
    assert (config.width, config.depth, config.ffn_width, config.image_width) == (96, 3, 192, 128)
    assert (config.words, config.positions, config.start, config.tags) == (131, 64, 129, 130)
    assert (golden.text.pieces.dec, golden.text.pieces.enc) == (config.start, config.tags)


# -- stages ------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_the_tag_encoder(golden: Golden, layers: Callable[[nn.ModuleList], list[Tensor]]) -> None:
    ids, mask = golden.io["encoder_input_ids"], golden.io["encoder_attention_mask"]
    seen = layers(golden.model.encoder.layers)
    found = golden.model.encode(ids, mask, golden.io["visual_encoder"].repeat_interleave(3, 0))
    assert len(seen) == 3
    for number, out in enumerate(seen):
        assert alike(out, golden.io[f"tag_encoder.layer_{number}"], FEATURES), number
    assert alike(found, golden.io["tag_encoder"], FEATURES)
    # What the stored prefix was written beside: the first beam of each picture.
    assert alike(found[::3], golden.io["decoder.encoder_hidden_states"], FEATURES)


@torch.inference_mode()
def test_the_caption_decoder(golden: Golden, layers: Callable[[nn.ModuleList], list[Tensor]]) -> None:
    ids, memory = golden.io["decoder.prefix_ids"], golden.io["decoder.encoder_hidden_states"]
    decoder = golden.model.decoder
    assert alike(decoder.embeddings(ids), golden.io["decoder.embeddings"], FEATURES)
    seen = layers(decoder.layers)
    logits = golden.model.write(ids, memory, mask=torch.ones_like(ids), memory_mask=torch.ones(2, 40))
    assert len(seen) == 3
    for number, out in enumerate(seen):
        assert alike(out, golden.io[f"decoder.layer_{number}"], FEATURES), number
    assert alike(seen[-1], golden.io["decoder.bert"], FEATURES)
    assert alike(logits, golden.io["decoder.prefix_logits"], LOGITS)


@pytest.mark.parametrize("first", [1, 4, 8])
@torch.inference_mode()
def test_steps_give_the_published_logits_too(first: int, golden: Golden) -> None:
    """A prefix at once, then piece by piece from kept keys and values, the rows changing places each time."""
    ids, expected = golden.io["decoder.prefix_ids"], golden.io["decoder.prefix_logits"]
    state = golden.model.start(golden.io["decoder.encoder_hidden_states"], torch.ones(2, 40))
    pictures = torch.tensor([1, 0, 1])
    logits, state = golden.model.step(ids[pictures, :first], state, pictures)
    assert alike(logits, expected[pictures, first - 1], LOGITS)
    turn = torch.tensor([1, 2, 0])
    for place in range(first, ids.shape[1]):
        pictures = pictures[turn]
        logits, state = golden.model.step(ids[pictures, place, None], state, turn)
        assert torch.equal(state.pictures, pictures)
        assert alike(logits, expected[pictures, place], LOGITS), place


@torch.inference_mode()
def test_the_training_loss(golden: Golden, shared: Callable[[str], Path]) -> None:
    names = shared("published/tag2text_ori_tag_list.txt").read_text("utf-8").splitlines()
    tags = [" | ".join(names[at] for at in row.nonzero()[:, 0]) for row in golden.io["train.tag"]]
    ids, mask = golden.tags(tags)
    captions, written = tensors(golden.text.captions(golden.meta["train_captions"]))
    memory = golden.model.encode(ids, mask, golden.io["visual_encoder"])
    logits = golden.model.write(captions, memory, mask=written, memory_mask=mask)
    prompt = len(golden.text.prompt_ids)
    expected = golden.meta["train_losses"]["loss_t2t"]

    def loss(smoothing: float) -> float:
        losses, learned = caption_losses(logits, captions, prompt=prompt, pad=0, label_smoothing=smoothing)
        assert losses.shape == learned.shape == (2, captions.shape[1] - 1)
        assert bool((losses[learned == 0] == 0).all())
        return float(losses.sum() / learned.sum())

    assert loss(golden.model.config.label_smoothing) == pytest.approx(expected, abs=1e-4)
    assert loss(0.0) != pytest.approx(expected, abs=1e-2), "smoothing is part of the published loss"


@torch.inference_mode()
def test_the_unused_captioner_of_a_tagger_has_its_training_loss(
    golden: Golden, shared: Callable[[str], Path]
) -> None:
    """RAM's release trains one too: over projected tokens, guided by the tags parsed from each caption."""
    folder = "golden/ram_tiny_384"
    state, io = (load_file(shared(f"{folder}/{name}.safetensors")) for name in ("state", "io"))
    meta = json.loads(shared(f"{folder}/meta.json").read_text("utf-8"))
    config = captioner_config(state, heads=12, end=golden.text.pieces.sep)
    model = Captioner(config).eval()
    model.load_state_dict(captioner_state(state, config), strict=True)
    lists = [" | ".join(meta["tag_list"][at] for at in row.nonzero()[:, 0]) for row in io["train.parse_tag"]]
    assert all(lists) and not torch.equal(io["train.parse_tag"], io["train.image_tag"])
    ids, mask = golden.tags(lists)
    captions, written = tensors(golden.text.captions(meta["train_captions"]))
    memory = model.encode(ids, mask, io["image_proj"])
    logits = model.write(captions, memory, mask=written, memory_mask=mask)
    prompt = len(golden.text.prompt_ids)
    losses, learned = caption_losses(
        logits, captions, prompt=prompt, pad=0, label_smoothing=config.label_smoothing
    )
    found = float(losses.sum() / learned.sum())
    assert found == pytest.approx(meta["train_losses"]["loss_t2t"], abs=2e-4)


# -- captions ----------------------------------------------------------------------------------------


def write(golden: Golden, run: dict[str, Any], pictures: list[int]) -> list[Written]:
    asked = dict(run["kwargs"])
    state = golden.start(asked.pop("tag_input", run["tags"]), pictures)
    beams = asked.pop("num_beams", 3)
    bounds = Bounds(end=golden.model.config.end, **asked)
    prompts = np.array([golden.text.prompt_ids] * len(pictures))
    if beams == 1:
        return greedy(golden.model.numpy_step, state, prompts, bounds)
    found = beam_search(golden.model.numpy_step, state, prompts, bounds, Beams(beams))
    return [best for (best,) in found]


@pytest.mark.parametrize(("pictures", "run"), list(product(PICTURES, RUNS)))
def test_captions(pictures: str, run: str, golden: Golden) -> None:
    stored = golden.meta["captions"][f"{pictures}.{run}"]
    found = write(golden, stored, PICTURES[pictures])
    width = max(len(one.ids) for one in found)
    assert [[*one.ids, *[0] * (width - len(one.ids))] for one in found] == stored["sequences"]
    assert [golden.text.read(one.ids) for one in found] == stored["captions"]
    if stored["scores"] is not None:
        assert [one.score for one in found] == pytest.approx(stored["scores"], abs=1e-5)


def test_no_stored_caption_is_left_out(golden: Golden) -> None:
    assert golden.meta["captions"].keys() == {f"{who}.{run}" for who, run in product(PICTURES, RUNS)}


# -- keys --------------------------------------------------------------------------------------------


def test_every_published_key_has_its_place(golden: Golden) -> None:
    theirs = {key for key in golden.state if is_captioner_key(key)}
    ours = golden.model.state_dict()
    assert len(theirs) == len(ours) + 2, "two tensors of the head stand twice"
    buffers = {
        key.split()[0]: torch.arange(64)[None]
        for key in golden.meta["state_keys_left_out"]
        if is_captioner_key(key)
    }
    assert len(buffers) == 2
    again = captioner_state(golden.state | buffers, golden.model.config)
    assert again.keys() == ours.keys() and all(torch.equal(again[key], ours[key]) for key in ours)


def test_the_unused_captioner_of_a_tagger_fits_too(shared: Callable[[str], Path]) -> None:
    state = load_file(shared("golden/ram_tiny_384/state.safetensors"))
    config = captioner_config(state, heads=12, end=3)
    assert config.image_width == 512
    Captioner(config).load_state_dict(captioner_state(state, config), strict=True)


KEY = "tag_encoder.encoder.layer.2.attention.self.query.weight"
BREAKS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "unknown": (
        lambda state: state.update({"tag_encoder.pooler.dense.bias": torch.ones(1)}),
        "unknown: tag_encoder.p",
    ),
    "unknown in the decoder": (
        lambda state: state.update({"text_decoder.extra": torch.ones(1)}),
        "unknown: text_d",
    ),
    "one layer too many": (
        lambda state: state.update({KEY.replace("layer.2", "layer.3"): torch.ones(1)}),
        "unknown: encoder.layers.3.self_attention.query.weight",
    ),
    "missing": (lambda state: state.pop(KEY), "missing: encoder.layers.2.self_attention.query.weight"),
    "shape": (lambda state: state.update({KEY: torch.ones(96, 95)}), "(96, 95) where (96, 96) fits"),
    "damaged": (
        lambda state: state.update({KEY: torch.full((96, 96), torch.nan)}),
        "not finite: encoder.layers.2.self_attention.query.weight",
    ),
    "head unlike words": (
        lambda state: state.update({"text_decoder.cls.predictions.decoder.weight": torch.ones(131, 96)}),
        "text_decoder.cls.predictions.decoder.weight and text_decoder.bert.embeddings",
    ),
    "shared layers unlike": (
        lambda state: state.update({"tagging_head.encoder.layer.1.output.dense.bias": torch.ones(96)}),
        "tagging_head.encoder.layer.1.output.dense.bias and tag_encoder",
    ),
}


@pytest.mark.parametrize(("change", "told"), BREAKS.values(), ids=BREAKS)
def test_a_key_that_does_not_fit_is_named(
    change: Callable[[dict[str, Tensor]], object], told: str, golden: Golden
) -> None:
    state = dict(golden.state)
    change(state)
    with pytest.raises(ModelError) as error:
        captioner_state(state, golden.model.config)
    assert told in str(error.value)


def test_no_captioner_at_all_is_named() -> None:
    with pytest.raises(ModelError, match=r"text_decoder.bert.embeddings.word_embeddings.weight is missing"):
        captioner_config({})
