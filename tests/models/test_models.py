"""The recogniser's parts: labels do not see each other, pictures do not see each other, shapes fit at any side."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from taglens.errors import ModelError
from taglens.models.alignment import AlignmentDecoder, CrossAttention
from taglens.models.configs import (
    PIXEL_MEAN,
    PIXEL_STD,
    ConvNetConfig,
    DecoderConfig,
    EncoderConfig,
    HybridConfig,
    RecognizerConfig,
)
from taglens.models.convnet import ConvNet, PixelNorm
from taglens.models.hybrid import Hybrid
from taglens.models.recognizer import Recognizer, build_encoder

BOTH = pytest.mark.parametrize("encoder", tiny.ENCODERS.values(), ids=tiny.ENCODERS)
# Those that take any side, and those whose first token is no class token.
CONVOLVES = pytest.mark.parametrize("encoder", [tiny.CONVNET, tiny.HYBRID], ids=["convnet", "hybrid"])
MEANS = {name: encoder for name, encoder in tiny.ENCODERS.items() if name != "vit"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def images(count: int = 2, side: int = tiny.SIDE) -> Tensor:
    return torch.rand(count, 3, side, side)


def alike(left: Tensor, right: Tensor, tolerance: float = 1e-5) -> bool:
    return left.shape == right.shape and bool((left - right).abs().max() <= tolerance)


# -- the assembled model -----------------------------------------------------------------------------


@BOTH
@torch.no_grad()
def test_permuting_tags_permutes_logits(encoder: EncoderConfig) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    model, other = tiny.recognizer(encoder), tiny.recognizer(encoder)
    other.bank.embeddings.copy_(model.bank.embeddings[order])
    other.pooled_bias.copy_(model.pooled_bias[order])
    given = images()
    found, permuted = model(given), other(given)
    assert alike(permuted.logits, found.logits[:, order])
    assert alike(permuted.pooled_logits, found.pooled_logits[:, order])
    assert not alike(permuted.logits, found.logits, 1e-2)


@pytest.mark.parametrize("pooled_term", [True, False])
@torch.no_grad()
def test_a_choice_of_tags_gives_their_columns(pooled_term: bool) -> None:
    model = tiny.recognizer(pooled_term=pooled_term)
    given, chosen = images(), torch.tensor([4, 1, 1, 0])
    whole, some = model(given), model(given, chosen)
    assert alike(some.logits, whole.logits[:, chosen])
    assert torch.equal(some.pooled, whole.pooled)
    if pooled_term:
        assert some.pooled_logits.shape == (2, 6), "the pooled term answers for every tag"
        assert torch.equal(some.pooled_logits, whole.pooled_logits)
    else:
        assert some.pooled_logits is None and whole.pooled_logits is None


@BOTH
@torch.no_grad()
def test_a_label_changes_only_its_own_logit(encoder: EncoderConfig) -> None:
    model, given = tiny.recognizer(encoder), images()
    before = model(given).logits.clone()
    model.bank.embeddings[2] += torch.randn(16)
    moved = (model(given).logits - before).abs()
    assert moved[:, 2].min() > 1e-3
    moved[:, 2] = 0
    assert moved.max() <= 1e-6


@BOTH
@torch.no_grad()
def test_a_batch_scores_like_its_images_alone(encoder: EncoderConfig) -> None:
    model, given = tiny.recognizer(encoder), images(3)
    together = model(given)
    for row, image in enumerate(given):
        alone = model(image[None])
        assert alike(alone.logits[0], together.logits[row])
        assert alike(alone.pooled[0], together.pooled[row])
    assert not alike(together.logits[0], together.logits[1], 1e-3), (
        "the images must not look alike to the model"
    )


@torch.no_grad()
def test_the_logit_is_the_decoders_and_the_pooled_terms_sum() -> None:
    model, given = tiny.recognizer(), images()
    found = model(given)
    tokens = model.project(model.encoder(given))
    decoder = model.decoder(model.bank.plain(), tokens)
    normed = model.pooled_norm(tokens[:, 0])
    for row in range(2):
        for tag in range(6):
            product = sum(float(a * b) for a, b in zip(normed[row], model.bank.embeddings[tag], strict=True))
            term = math.exp(float(model.pooled_scale)) * product + float(model.pooled_bias[tag])
            assert float(found.pooled_logits[row, tag]) == pytest.approx(term, abs=1e-4)
            assert float(found.logits[row, tag]) == pytest.approx(term + float(decoder[row, tag]), abs=1e-4)
    assert torch.equal(found.pooled, tokens[:, 0])


def test_every_parameter_learns() -> None:
    for encoder in tiny.ENCODERS.values():
        model = tiny.recognizer(encoder).train()
        model(images(4)).logits.square().sum().backward()
        for name, parameter in model.named_parameters():
            # A key's bias shifts all of a query's products alike, which softmax takes out again.
            if not name.endswith("key.bias"):
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_a_fresh_model_begins_with_low_probabilities() -> None:
    model = Recognizer(tiny.config(pooled_term=False)).eval()
    assert torch.sigmoid(model(images()).logits).max() < 0.3


# -- encoders ----------------------------------------------------------------------------------------


@CONVOLVES
@pytest.mark.parametrize("side", [8, 16, 32, 48, 37])
@torch.no_grad()
def test_any_side_gives_its_grid_of_tokens(encoder: EncoderConfig, side: int) -> None:
    model = tiny.recognizer(encoder)
    cells = math.ceil(side / encoder.stride) ** 2
    assert model.encoder(images(2, side)).shape == (2, 1 + cells, encoder.out_width)
    logits = model(images(2, side)).logits
    assert logits.shape == (2, 6) and bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("encoder", MEANS.values(), ids=MEANS)
@torch.no_grad()
def test_the_first_token_is_the_mean_of_the_others(encoder: EncoderConfig) -> None:
    tokens = tiny.recognizer(encoder).encoder(images())
    assert alike(tokens[:, 0], tokens[:, 1:].mean(1))
    assert tokens[:, 1:].std(1).max() > 1e-2, "a mean of equals would prove nothing"


@torch.no_grad()
def test_pixels_are_normalised_by_the_models_own_statistics() -> None:
    norm, given = PixelNorm(), images(1, 2)
    found = norm(given)
    for channel in range(3):
        expected = (given[:, channel] - PIXEL_MEAN[channel]) / PIXEL_STD[channel]
        assert alike(found[:, channel], expected)
    keys = tiny.recognizer().state_dict()
    assert {"encoder.pixels.mean", "encoder.pixels.std"} <= keys.keys()


def test_the_config_chooses_the_encoder() -> None:
    assert isinstance(build_encoder(tiny.CONVNET), ConvNet)
    assert isinstance(build_encoder(tiny.HYBRID), Hybrid)


# -- decoder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("input_norm", [True, False])
@torch.no_grad()
def test_labels_for_all_images_equal_labels_for_each(input_norm: bool) -> None:
    config = replace(tiny.DECODER, input_norm=input_norm)
    decoder = AlignmentDecoder(config, label_width=12, token_width=10).eval()
    labels, tokens = torch.randn(5, 12), torch.randn(3, 7, 10)
    shared = decoder(labels, tokens)
    assert shared.shape == (3, 5)
    assert alike(decoder(labels.expand(3, -1, -1), tokens), shared)
    # And where each image has labels of its own, each row is what it would be alone.
    own = torch.randn(3, 5, 12)
    found = decoder(own, tokens)
    for row in range(3):
        assert alike(decoder(own[row], tokens[row : row + 1])[0], found[row])


@torch.no_grad()
def test_attention_equals_its_loops() -> None:
    attention = CrossAttention(8, 6, heads=2)
    queries, tokens = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    found = attention(queries, tokens)
    width = 4
    for image in range(2):
        for label in range(3):
            mixed: list[float] = []
            for head in range(2):
                part = slice(head * width, (head + 1) * width)
                query = attention.query(queries[image, label])[part]
                keys = [attention.key(token)[part] for token in tokens[image]]
                values = [attention.value(token)[part] for token in tokens[image]]
                powers = [math.exp(float(query @ key) / math.sqrt(width)) for key in keys]
                for column in range(width):
                    products = zip(powers, values, strict=True)
                    mixed.append(sum(p * float(v[column]) for p, v in products) / sum(powers))
            assert alike(found[image, label], attention.out(torch.tensor(mixed)))


@torch.no_grad()
def test_the_order_of_tokens_does_not_matter_to_the_decoder() -> None:
    decoder = AlignmentDecoder(tiny.DECODER, label_width=12, token_width=10).eval()
    labels, tokens = torch.randn(5, 12), torch.randn(3, 7, 10)
    assert alike(decoder(labels, tokens.flip(1)), decoder(labels, tokens))


@torch.no_grad()
def test_normalised_tokens_count_by_their_direction_alone() -> None:
    """And the published form, without, has no parameter more."""
    labels, tokens = torch.randn(5, 12), torch.randn(3, 7, 10)
    for input_norm in (True, False):
        config = replace(tiny.DECODER, input_norm=input_norm)
        decoder = AlignmentDecoder(config, label_width=12, token_width=10).eval()
        assert alike(decoder(labels, tokens * 5 + 2), decoder(labels, tokens), 1e-4) == input_norm
        assert any("label_norm" in key or "token_norm" in key for key in decoder.state_dict()) == input_norm


# -- configurations ----------------------------------------------------------------------------------

WRONG: dict[str, Callable[[], Any]] = {
    "widths and depths differ": lambda: ConvNetConfig(widths=(8, 16), depths=(1,)),
    "no stage": lambda: ConvNetConfig(widths=(), depths=()),
    "width 0": lambda: ConvNetConfig(widths=(8, 0), depths=(1, 1)),
    "depth 0": lambda: ConvNetConfig(widths=(8, 8), depths=(1, 0)),
    "stem 0": lambda: ConvNetConfig(stem_width=0),
    "hybrid widths and depths differ": lambda: HybridConfig(widths=(8,), depths=(1, 1)),
    "hybrid heads": lambda: HybridConfig(attention_width=10, heads=4),
    "hybrid no heads": lambda: HybridConfig(heads=0),
    "hybrid no attention": lambda: HybridConfig(attention_depth=0),
    "decoder heads": lambda: DecoderConfig(width=10, heads=4),
    "decoder depth 0": lambda: DecoderConfig(depth=0),
    "decoder no ffn": lambda: DecoderConfig(ffn_width=0),
    "no tags": lambda: RecognizerConfig(encoder=tiny.CONVNET, tags=0),
    "unequal widths": lambda: RecognizerConfig(encoder=tiny.CONVNET, tags=1, token_width=8, label_width=16),
    "side below the stride": lambda: RecognizerConfig(encoder=tiny.CONVNET, tags=1, side=7),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_nonsense_is_refused_at_birth(make: Callable[[], Any]) -> None:
    with pytest.raises(ModelError):
        make()


def test_without_a_pooled_term_the_widths_are_free() -> None:
    config = RecognizerConfig(
        encoder=tiny.CONVNET, tags=2, decoder=tiny.DECODER, token_width=8, label_width=12, pooled_term=False
    )
    assert Recognizer(config).eval()(images()).logits.shape == (2, 2)


@BOTH
def test_a_configuration_survives_json(encoder: EncoderConfig) -> None:
    config = tiny.config(encoder)
    row = json.loads(json.dumps(config.to_dict()))
    assert RecognizerConfig.from_dict(row) == config
    assert type(RecognizerConfig.from_dict(row).encoder) is type(encoder)


def changed(**changes: Any) -> dict[str, Any]:
    return {**tiny.config().to_dict(), **changes}


def without(*path: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(json.dumps(tiny.config().to_dict()))
    part = row
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return row


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "another encoder": (changed(encoder={"type": "pyramid"}), "unknown encoder 'pyramid'.*convnet, hybrid"),
    "no type": (without("encoder", "type"), "type"),
    "no encoder": (without("encoder"), "encoder"),
    "no widths": (without("encoder", "widths"), "widths"),
    "no decoder": (without("decoder"), "decoder"),
    "no tags": (without("tags"), "tags"),
    "a later field": (changed(experts=4), "experts"),
    "a later decoder field": (changed(decoder={"width": 8, "gate": 1}), "gate"),
    "widths that are none": (changed(encoder={"type": "convnet", "widths": 8, "depths": [1]}), "incomplete"),
    "encoder that is none": (changed(encoder="convnet"), "incomplete"),
}


@pytest.mark.parametrize(("row", "named"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_configuration_is_named(row: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        RecognizerConfig.from_dict(row)


def test_reading_a_configuration_leaves_it_alone() -> None:
    row = tiny.config().to_dict()
    before = json.dumps(row)
    RecognizerConfig.from_dict(row)
    assert json.dumps(row) == before
