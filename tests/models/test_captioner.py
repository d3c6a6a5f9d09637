"""The captioner without stored tensors: what padding, batches, the past and shared layers may change, and may not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from taglens.errors import ModelError
from taglens.inference.generation import Bounds, greedy
from taglens.models.alignment import DecoderLayer
from taglens.models.bert import BertConfig, causal, visible
from taglens.models.captioner import Captioner, CaptionerConfig, caption_losses

CONFIG = CaptionerConfig(
    image_width=12,
    words=30,
    positions=16,
    tag_length=8,
    width=16,
    depth=2,
    heads=4,
    ffn_width=24,
    shared_layers=1,
    end=3,
    start=28,
    tags=29,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def captioner(**changes: object) -> Captioner:
    return Captioner(replace(CONFIG, **changes)).eval()  # type: ignore[arg-type]


def inputs(pictures: int = 2, padded: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Tag pieces, their mask, image tokens; the last ``padded`` pieces are filled up."""
    ids, mask = torch.randint(4, 28, (pictures, 8)), torch.ones(pictures, 8, dtype=torch.long)
    if padded:
        ids[:, -padded:] = 0
        mask[:, -padded:] = 0
    return ids, mask, torch.randn(pictures, 5, 12)


def alike(left: Tensor, right: Tensor, tolerance: float = 1e-5) -> bool:
    return left.shape == right.shape and bool((left - right).abs().max() <= tolerance)


@torch.inference_mode()
def test_what_was_filled_up_does_not_reach_the_tags() -> None:
    model = captioner()
    ids, mask, image = inputs()
    other = ids.clone()
    other[:, -3:] = 7
    assert alike(model.encode(ids, mask, image)[:, :5], model.encode(other, mask, image)[:, :5])


@pytest.mark.parametrize("see_padding", [True, False])
@torch.inference_mode()
def test_padding_reaches_captions_only_where_the_configuration_says_so(see_padding: bool) -> None:
    model = captioner(see_padding=see_padding)
    ids, mask, image = inputs()
    caption = torch.randint(4, 28, (2, 6))
    full = model.write(caption, model.encode(ids, mask, image), mask=torch.ones(2, 6), memory_mask=mask)
    short, seen = ids[:, :5], mask[:, :5]
    cut = model.write(caption, model.encode(short, seen, image), mask=torch.ones(2, 6), memory_mask=seen)
    assert alike(full, cut) != see_padding
    step, _ = model.step(caption, model.start(model.encode(ids, mask, image), mask), torch.arange(2))
    assert alike(step, full[:, -1])


@torch.inference_mode()
def test_a_piece_sees_nothing_that_comes_after_it() -> None:
    model = captioner()
    ids, mask, image = inputs()
    memory = model.encode(ids, mask, image)
    caption = torch.randint(4, 28, (2, 6))
    other = caption.clone()
    other[:, 4:] = 5
    everything = torch.ones(2, 6)
    first, second = (model.write(one, memory, mask=everything, memory_mask=mask) for one in (caption, other))
    assert alike(first[:, :4], second[:, :4]) and not alike(first[:, 4:], second[:, 4:])


@torch.inference_mode()
def test_pictures_do_not_see_each_other() -> None:
    model = captioner()
    ids, mask, image = inputs(3)
    together = model.encode(ids, mask, image)
    for at in range(3):
        assert alike(together[at, None], model.encode(ids[at, None], mask[at, None], image[at, None]))
    prompts, bounds = np.full((3, 2), 28), Bounds(3, 12, 6)
    many = greedy(model.numpy_step, model.start(together, mask), prompts, bounds)
    for at in range(3):
        state = model.start(together[at, None], mask[at, None])
        assert greedy(model.numpy_step, state, prompts[:1], bounds)[0].ids == many[at].ids


@torch.inference_mode()
def test_half_the_precision_gives_nearly_the_same() -> None:
    model = captioner()
    ids, mask, image = inputs()
    caption = torch.randint(4, 28, (2, 6))

    def logits(memory: Tensor) -> Tensor:
        return model.write(caption, memory, mask=torch.ones(2, 6), memory_mask=mask).float()

    full = logits(model.encode(ids, mask, image))
    model.bfloat16()
    assert alike(logits(model.encode(ids, mask, image.bfloat16())), full, 0.05)


def test_masks() -> None:
    assert visible(torch.tensor([[1, 0]])).tolist() == [[[[0.0, -10000.0]]]]
    assert (causal(2, past=1)[0, 0] == 0).tolist() == [[True, True, False], [True, True, True]]


def test_shared_layers_are_the_very_same_tensors_with_heads_of_their_own() -> None:
    model = captioner()
    decoder = replace(tiny.DECODER, width=16, heads=2, ffn_width=24, input_norm=False)
    theirs = DecoderLayer(decoder, 12)
    model.share_layers([theirs])
    mine = model.encoder.layers[0]
    for part in ("attention.query.weight", "attention.out.bias", "norm1.weight", "ffn.2.bias", "norm2.bias"):
        assert mine.get_parameter(part) is theirs.get_parameter(part), part
    assert mine.get_submodule("attention").heads == 4 and theirs.attention.heads == 2
    apart = captioner().encoder.layers[0]
    assert mine.get_parameter("self_norm.weight") is not apart.get_parameter("self_norm.weight")
    with torch.no_grad():
        theirs.norm2.bias += 1.0
    assert bool((mine.get_parameter("norm2.bias") == theirs.norm2.bias).all())


def test_layers_that_cannot_be_shared_are_refused() -> None:
    wide = DecoderLayer(replace(tiny.DECODER, width=16, ffn_width=24), 13)
    with pytest.raises(
        ModelError, match=r"attention.key.weight cannot be shared: \(16, 12\) here, \(16, 13\) there"
    ):
        captioner().share_layers([wide])
    with pytest.raises(ModelError, match="0 layers to share, the configuration shares 1"):
        captioner().share_layers([])


def test_a_captioner_learns_to_say_two_sentences() -> None:
    model = Captioner(replace(CONFIG, dropout=0.0, label_smoothing=0.0)).train()
    ids, mask, image = inputs()
    captions = torch.tensor([[28, 5, 6, 7, 8, 9, 3], [28, 5, 9, 8, 3, 0, 0]])
    written = (captions != 0).long()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        logits = model.write(captions, model.encode(ids, mask, image), mask=written, memory_mask=mask)
        losses, learned = caption_losses(logits, captions, prompt=2, pad=0, label_smoothing=0.0)
        loss = losses.sum() / learned.sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    model.eval()
    with torch.inference_mode():
        state = model.start(model.encode(ids, mask, image), mask)
    found = greedy(model.numpy_step, state, np.array([[28, 5], [28, 5]]), Bounds(3, 12, 0))
    assert [one.ids for one in found] == [(28, 5, 6, 7, 8, 9, 3), (28, 5, 9, 8, 3)]


def test_losses_count_what_follows_the_prompt_and_nothing_else() -> None:
    logits, ids = torch.randn(2, 6, 30), torch.tensor([[28, 5, 6, 7, 8, 3], [28, 5, 6, 3, 0, 0]])
    losses, learned = caption_losses(logits, ids, prompt=3, pad=0, label_smoothing=0.1)
    assert learned.tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 0, 0]]
    assert bool((losses[learned == 0] == 0).all())
    for row, at in learned.nonzero().tolist():
        chances = logits[row, at].log_softmax(0)
        expected = -(0.9 * chances[ids[row, at + 1]] + 0.1 * chances.mean())
        assert float(losses[row, at]) == pytest.approx(float(expected), abs=1e-5)


def test_a_text_beyond_the_positions_is_refused() -> None:
    model = captioner()
    with pytest.raises(ModelError, match="17 pieces: this model has 16 positions"):
        model.decoder.embeddings(torch.zeros(1, 1, dtype=torch.long), past=16)


def test_memory_of_another_width_is_refused() -> None:
    ids, mask, _ = inputs()
    with pytest.raises(ModelError, match="11 wide, the model reads 12"):
        captioner().encode(ids, mask, torch.randn(2, 5, 11))


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 5},
        {"depth": 0},
        {"dropout": 1.0},
        {"tag_length": 17},
        {"tag_length": 1},
        {"shared_layers": 3},
        {"end": 30},
        {"pad": -1},
        {"tags": 28},
        {"label_smoothing": 1.0},
        {"image_width": 0},
    ],
    ids=str,
)
def test_nonsense_is_refused_at_birth(changes: dict[str, float]) -> None:
    with pytest.raises(ModelError):
        replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_a_norm_without_room_is_refused() -> None:
    with pytest.raises(ModelError, match="layer_norm_eps"):
        BertConfig(4, layer_norm_eps=0.0)


def test_configurations_survive_a_file() -> None:
    assert CaptionerConfig.from_dict(CONFIG.to_dict()) == CONFIG
    with pytest.raises(ModelError, match="unknown"):
        CaptionerConfig.from_dict({**CONFIG.to_dict(), "colour": 1})
