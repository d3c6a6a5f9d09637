"""Published weights with a plain vision transformer: the numbers of a slow twin that reads the published keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import published_weights as published
import tiny
from taglens.errors import ModelError
from taglens.inference.export import export
from taglens.inference.tagger import Tagger
from taglens.models.checkpoint import from_pretrained
from taglens.models.configs import PIXEL_MEAN, PIXEL_STD, VIT_B, ViTConfig
from taglens.models.convert import convert
from taglens.models.published import numbered_tags, save_converted, vocabulary_of
from taglens.training.objectives import Asked, TagObjective

State = dict[str, Tensor]

VIT = published.VIT_SMALL
SIDE = VIT["grid"] * VIT["patch"]
CLASS, PLACES = "visual_encoder.cls_token", "visual_encoder.pos_embed"


def small(family: str) -> State:
    if family == "Tag2Text":
        return published.tag2text(VIT)
    return published.ram(VIT, plus=family == "RAM++")


FAMILIES = pytest.mark.parametrize("family", ["RAM++", "RAM", "Tag2Text"])


# -- the twin ----------------------------------------------------------------------------------------


def norm(x: Tensor, state: State, name: str, eps: float) -> Tensor:
    middle = x - x.mean(-1, keepdim=True)
    spread = (middle * middle).mean(-1, keepdim=True)
    return middle / (spread + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """[N, C], [M, C], [M, C] to [N, C], a head at a time."""
    d = q.shape[1] // heads
    found = []
    for head in range(heads):
        cut = slice(head * d, (head + 1) * d)
        found.append(torch.softmax(q[:, cut] @ k[:, cut].T / math.sqrt(d), dim=-1) @ v[:, cut])
    return torch.cat(found, dim=1)


def twin_tokens(state: State, picture: Tensor) -> Tensor:
    """Tokens [1 + N, C] of a picture [3, S, S] in [0, 1]; the class token first."""
    ours = {key.removeprefix("visual_encoder."): value for key, value in state.items()}
    patch = ours["patch_embed.proj.weight"].shape[-1]
    pixels = (picture - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    grid = pixels.shape[1] // patch
    rows = [ours["cls_token"][0, 0]]
    for i in range(grid):
        for j in range(grid):
            square = pixels[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            each = (ours["patch_embed.proj.weight"] * square).sum((1, 2, 3))
            rows.append(each + ours["patch_embed.proj.bias"])
    places, trained = ours["pos_embed"][0], math.isqrt(ours["pos_embed"].shape[1] - 1)
    if trained != grid:
        table = places[1:].T.reshape(1, -1, trained, trained)
        wide = F.interpolate(table, size=(grid, grid), mode="bicubic", align_corners=False)
        places = torch.cat([places[:1], wide[0].flatten(1).T])
    x = torch.stack(rows) + places
    block = 0
    while f"blocks.{block}.norm1.weight" in ours:
        name = f"blocks.{block}"
        q, k, v = linear(norm(x, ours, f"{name}.norm1", 1e-6), ours, f"{name}.attn.qkv").chunk(3, dim=1)
        x = x + linear(attend(q, k, v, x.shape[1] // 64), ours, f"{name}.attn.proj")
        hidden = gelu(linear(norm(x, ours, f"{name}.norm2", 1e-6), ours, f"{name}.mlp.fc1"))
        x = x + linear(hidden, ours, f"{name}.mlp.fc2")
        block += 1
    return norm(x, ours, "norm", 1e-6)


def twin_logits(state: State, picture: Tensor) -> Tensor:
    """[T]."""
    tokens = twin_tokens(state, picture)
    if "fc.W" in state:
        x = state["label_embed.weight"]
    else:
        tokens = linear(tokens, state, "image_proj")
        labels = state["label_embed"]
        if "reweight_scale" in state:
            pooled = tokens[0] / tokens[0].norm()
            mixed = []
            for first in range(0, len(labels), 51):
                texts = labels[first : first + 51]
                mixed.append(torch.softmax(state["reweight_scale"].exp() * texts @ pooled, dim=0) @ texts)
            labels = torch.stack(mixed)
        x = linear(labels, state, "wordvec_proj").clamp(min=0)
    for layer in range(2):
        name = f"tagging_head.encoder.layer.{layer}"
        q = linear(x, state, f"{name}.crossattention.self.query")
        k, v = (linear(tokens, state, f"{name}.crossattention.self.{part}") for part in ("key", "value"))
        seen = linear(attend(q, k, v, 4), state, f"{name}.crossattention.output.dense")
        x = norm(seen + x, state, f"{name}.crossattention.output.LayerNorm", 1e-12)
        hidden = gelu(linear(x, state, f"{name}.intermediate.dense"))
        x = norm(linear(hidden, state, f"{name}.output.dense") + x, state, f"{name}.output.LayerNorm", 1e-12)
    if "fc.W" in state:
        return (state["fc.W"][0] * x).sum(-1) + state["fc.b"][0]
    return linear(x, state, "fc")[:, 0]


def alike(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return found.shape == wanted.shape and float((found - wanted).abs().max()) <= tolerance


# -- numbers -----------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("side", [SIDE, 12, 28])
@torch.no_grad()
def test_tokens_and_logits_are_those_of_the_twin(family: str, side: int) -> None:
    state = small(family)
    converted = convert(state, side=side)
    assert (converted.family, converted.config.side) == (family, side)
    assert any("positions interpolated" in note for note in converted.notes) == (side != SIDE)
    model = converted.model()
    pictures = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    tokens, logits = model.encoder(pictures), model(pictures).logits
    for number, picture in enumerate(pictures):
        assert alike(tokens[number], twin_tokens(state, picture), 2e-5)
        assert alike(logits[number], twin_logits(state, picture), 5e-5)
    assert not alike(logits[:1], logits[1:], 1e-3)
    # Swin's pooled token is a mean of the others; this one is not.
    assert not alike(tokens[:, 0], tokens[:, 1:].mean(1), 1e-2)


@torch.no_grad()
def test_small_variances_meet_the_published_eps() -> None:
    state = small("RAM")
    for key in (
        CLASS,
        PLACES,
        "visual_encoder.patch_embed.proj.weight",
        "visual_encoder.patch_embed.proj.bias",
    ):
        state[key] = state[key] * 0.01
    picture = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    encoder = convert(state).model().encoder
    wanted = twin_tokens(state, picture)
    assert alike(encoder(picture[None])[0], wanted, 2e-5)
    encoder.blocks[0].norm1.eps = 1e-5
    assert not alike(encoder(picture[None])[0], wanted, 1e-2)


@torch.no_grad()
def test_half_precision_gives_nearly_the_same() -> None:
    state = small("RAM++")
    halves = {key: value.half() for key, value in state.items()}
    converted = convert(halves)
    assert {value.dtype for value in converted.state.values()} == {torch.float32, torch.int64}
    picture = torch.rand(3, SIDE, SIDE)
    found = converted.model()(picture[None]).logits[0]
    assert alike(found, twin_logits({key: value.float() for key, value in halves.items()}, picture), 5e-5)


# -- keys and sizes ----------------------------------------------------------------------------------


@FAMILIES
def test_every_key_is_accounted_for(family: str) -> None:
    state = small(family)
    converted = convert(state)
    told = [*converted.used, *converted.tied, *converted.dropped]
    assert sorted(told) == sorted(state)
    assert all(key in converted.used for key in state if key.startswith("visual_encoder."))
    assert converted.config.encoder == ViTConfig(
        width=128, depth=2, heads=2, patch=4, grid=4, layer_norm_eps=1e-6
    )


def test_the_published_size_is_read_from_the_shapes() -> None:
    with torch.device("meta"):
        shapes = published.vit_shapes(**published.VIT_B)
        encoder = {key: torch.empty(shape) for key, shape in shapes.items()}
    # Only the shapes are of that size: the numbers are one, repeated.
    whole = {key: torch.full((), 0.1).expand(value.shape) for key, value in encoder.items()}
    rest = {key: value for key, value in small("RAM").items() if not key.startswith("visual_encoder.")}
    rest["image_proj.weight"] = torch.full((), 0.1).expand(12, 768)
    config = convert(rest | whole).config
    assert config.encoder == VIT_B and config.side == 384
    assert convert(rest | whole, side=224).config.encoder.grid == 14


def without(key: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if name != key}


def given(**tensors: Tensor) -> Callable[[State], State]:
    return lambda state: state | {f"visual_encoder.{key}": value for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without(CLASS), "cls_token is missing"),
        (without(PLACES), "pos_embed is missing"),
        (without("visual_encoder.patch_embed.proj.weight"), "expected the key names"),
        (without("visual_encoder.blocks.1.attn.qkv.bias"), "blocks.1.qkv.bias"),
        (without("visual_encoder.norm.weight"), "encoder.norm.weight"),
        (given(cls_token=torch.zeros(1, 128)), "expected 3 dimensions"),
        (given(cls_token=torch.zeros(1, 2, 128)), r"\[1, 2, 128\].*no class token of 128"),
        (given(pos_embed=torch.zeros(1, 16, 128)), r"\[1, 16, 128\].*square of patches"),
        (given(pos_embed=torch.zeros(1, 1, 128)), "square of patches"),
        (given(pos_embed=torch.zeros(1, 17, 64)), "square of patches"),
        (given(pos_embed=torch.full((1, 17, 128), math.nan)), "not finite: visual_encoder.pos_embed"),
        (lambda state: state | {"visual_encoder.head.weight": torch.zeros(2, 2)}, "1 keys belong to no part"),
        (
            lambda state: state | {"visual_encoder.layers.0.blocks.0.norm1.weight": torch.zeros(2)},
            "two encoders, Swin",
        ),
        (
            lambda state: state | {"visual_encoder.patch_embed.norm.weight": torch.zeros(2)},
            "have no place in this RAM: encoder.patch_norm",
        ),
        (
            lambda state: state | {"visual_encoder.blocks.3.norm1.weight": torch.zeros(128)},
            r"encoder.blocks.2.*missing|missing.*encoder.blocks.2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(damage: Callable[[State], State], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        convert(damage(small("RAM")))


def test_heads_of_another_width_are_refused() -> None:
    with pytest.raises(ModelError, match="96 wide, expected a multiple of 64"):
        convert(published.ram({**VIT, "width": 96}, plus=False))


@pytest.mark.parametrize("side", [0, 2, 18])
def test_sides_that_leave_part_of_a_patch_are_refused(side: int) -> None:
    with pytest.raises(ModelError, match=rf"side of {side} px cannot be: expected a multiple of 4"):
        convert(small("RAM"), side=side)


# -- what becomes of it ------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("side", [SIDE, 24])
def test_folders_and_bundles_answer_like_the_twin(family: str, side: int, tmp_path: Path) -> None:
    state = small(family)
    converted = convert(state, side=side)
    vocabulary = vocabulary_of(converted, numbered_tags(converted, name="numbered")).vocabulary
    save_converted(converted, vocabulary, tmp_path / "model", name="plain")
    again, _, _ = from_pretrained(tmp_path / "model")
    assert again.config == converted.config
    export(again, vocabulary, tmp_path / "bundle", name="plain", half=False)
    picture = tiny.pixels(1, side=side)[0]
    wanted = torch.sigmoid(twin_logits(state, torch.from_numpy(picture).permute(2, 0, 1) / 255)).numpy()
    for kind, tolerance in (("model", 5e-5), ("bundle", 1e-3)):
        tagger = Tagger.from_pretrained(tmp_path / kind, device="cpu")
        ((_, scores),) = tagger.scores([picture])
        assert scores is not None and np.abs(scores - wanted).max() <= tolerance


def test_a_converted_model_learns_on() -> None:
    """Four pictures, four tags: what was wrong before is right after, in all parts of the encoder."""
    model = convert(published.tag2text(VIT, tags=4)).model().train()
    pixels = torch.from_numpy(tiny.pixels(4, side=SIDE)).permute(0, 3, 1, 2) / 255
    no_texts = torch.zeros(0, 16), torch.arange(0), torch.zeros(0, 0)
    asked = Asked(torch.eye(4), torch.ones(4, 4), *no_texts, None)
    objective = TagObjective(tags_per_step=0, weights={"tag": 1.0})
    before = {key: value.clone() for key, value in model.encoder.named_parameters()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(50):
        loss = objective.losses(model, model.tokens(pixels), asked, generator=torch.Generator())["tag"]
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        logits = model.eval()(pixels).logits
    assert logits.argmax(1).tolist() == logits.argmax(0).tolist() == [0, 1, 2, 3]
    assert not [key for key, value in model.encoder.named_parameters() if torch.equal(value, before[key])]
