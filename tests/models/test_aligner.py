"""The aligner: what it shares with the decoder, and what its vectors and logits may depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import small_aligner as small
from taglens.errors import ModelError
from taglens.models.aligner import Aligner, AlignerConfig
from taglens.models.captioner import Captioner

WIDTH = small.CAPTIONER.image_width


def parts() -> tuple[Captioner, Aligner]:
    return small.random_parts()


def texts(lengths: tuple[int, ...] = (7, 4, 2)) -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 20, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def logits(captioner: Captioner, aligner: Aligner, tokens: Tensor, tags: Tensor, seen: Tensor) -> Tensor:
    ids, mask = texts()
    state = captioner.start(captioner.encode(tags, seen, tokens), seen)
    return aligner.match(ids, mask, state.memory, state.memory_mask)


@torch.inference_mode()
def test_vectors_are_of_length_one_and_of_their_own_text() -> None:
    _, aligner = parts()
    ids, mask = texts()
    found = aligner.texts(ids, mask)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-6)
    # By itself, without what filled it up.
    alone = aligner.texts(ids[1:2, :4], mask[1:2, :4])
    assert torch.allclose(found[1], alone[0], atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3


@torch.inference_mode()
def test_a_pictures_vector_is_of_its_pooled_token() -> None:
    _, aligner = parts()
    tokens = torch.randn(2, 5, WIDTH)
    other = torch.cat((tokens[:, :1], torch.randn(2, 4, WIDTH)), 1)
    assert torch.equal(aligner.pictures(tokens), aligner.pictures(other))
    assert not torch.allclose(aligner.pictures(tokens), aligner.pictures(tokens.flip(0)))


@torch.inference_mode()
def test_matching_depends_on_the_picture_and_on_its_tags() -> None:
    captioner, aligner = parts()
    tokens, tags = torch.randn(3, 5, WIDTH), torch.randint(5, 20, (3, 6))
    seen = torch.ones_like(tags)
    found = logits(captioner, aligner, tokens, tags, seen)
    assert found.shape == (3,)
    assert (found - logits(captioner, aligner, tokens.flip(0), tags, seen)).abs().max() > 1e-3
    assert (found - logits(captioner, aligner, tokens, tags.flip(0), seen)).abs().max() > 1e-3


@torch.inference_mode()
def test_filled_up_tags_are_not_looked_at() -> None:
    captioner, aligner = parts()
    tokens, tags = torch.randn(3, 5, WIDTH), torch.randint(5, 20, (3, 6))
    seen = torch.ones_like(tags)
    seen[:, 4:] = 0
    changed = tags.clone()
    changed[:, 4:] = 9
    found = logits(captioner, aligner, tokens, tags, seen)
    assert torch.allclose(found, logits(captioner, aligner, tokens, changed, seen), atol=1e-5)
    shorter = logits(captioner, aligner, tokens, tags[:, :4], seen[:, :4])
    assert torch.allclose(found, shorter, atol=1e-5)


def test_all_but_self_attention_is_the_decoders_own() -> None:
    captioner, aligner = parts()
    theirs = {id(p) for p in captioner.parameters()}
    own = {name for name, p in aligner.named_parameters() if id(p) not in theirs}
    assert own == set(aligner.own_state())
    assert {name.split(".")[3] for name in own if name.startswith("bert.layers")} == {
        "self_attention",
        "self_norm",
    }
    captioner.decoder.layers[0].ffn[0].weight.data.fill_(3.0)
    assert bool((aligner.bert.layers[0].ffn[0].weight == 3.0).all())


def test_a_loaded_aligner_answers_as_the_saved_one() -> None:
    captioner, aligner = parts()
    other = Aligner(aligner.config, captioner).eval()
    other.load_state_dict(aligner.own_state(), strict=False)
    ids, mask = texts()
    assert torch.equal(other.texts(ids, mask), aligner.texts(ids, mask))


@pytest.mark.parametrize("wrong", [{"width": 0}, {"temperature": 0.0}, {"dropout": 1.0}])
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=next(iter(wrong))):
        AlignerConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="unknown to this release"):
        AlignerConfig.from_dict({"depth": 3})
