"""An aligner in a model folder: what it shares stands once, the same numbers after loading, nothing that misfits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import small_aligner as small
from taglens.errors import ModelError
from taglens.models.aligner import Aligner
from taglens.models.captioner import Captioner
from taglens.models.checkpoint import (
    ALIGNER,
    CAPTIONER,
    CONFIG,
    aligner_from_pretrained,
    aligns,
    captioner_from_pretrained,
    from_pretrained,
    save_pretrained,
)

KEY = "bert.layers.1.self_attention.query.weight"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(small.made(tmp_path_factory) / "model", tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path) -> tuple[Captioner, Aligner]:
    model, _, _ = from_pretrained(folder)
    captioner = captioner_from_pretrained(folder, model)
    assert captioner is not None
    aligner = aligner_from_pretrained(folder, captioner)
    assert aligner is not None
    return captioner, aligner


@torch.inference_mode()
def answers(captioner: Captioner, aligner: Aligner) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, captioner.config.words, (3, 7), generator=rng)
    mask = (torch.arange(7) < torch.tensor([[7], [4], [2]])).long()
    tokens = torch.randn(3, 5, captioner.config.image_width, generator=rng)
    state = captioner.start(captioner.encode(ids, mask, tokens), mask)
    match = aligner.match(ids, mask, state.memory, state.memory_mask)
    return [aligner.pictures(tokens), aligner.texts(ids, mask), match]


def test_a_loaded_aligner_gives_the_same_numbers_and_shares_the_decoder(folder: Path) -> None:
    captioner, aligner = load(folder)
    for mine, theirs in zip(answers(captioner, aligner), answers(*small.random_parts()), strict=True):
        assert torch.equal(mine, theirs)
    assert aligner.bert.embeddings is captioner.decoder.embeddings
    assert not aligner.training
    stored = load_file(folder / ALIGNER)
    assert stored.keys() == aligner.own_state().keys()
    # Everything of it stands in one of the two files, nothing in both.
    own = {key for key in stored if key.startswith("bert.")}
    assert {key.split(".")[3] for key in own} == {"self_attention", "self_norm"}
    assert all(value.device.type == "cpu" for value in aligner.state_dict().values())


def test_a_folder_says_whether_it_aligns(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import small_captioner

    assert aligns(folder)
    other = small_captioner.made(tmp_path_factory) / "model"
    assert not aligns(other)
    captioner = captioner_from_pretrained(other, from_pretrained(other)[0])
    assert captioner is not None
    assert aligner_from_pretrained(other, captioner) is None


def test_an_aligner_is_not_saved_without_its_captioner(tmp_path: Path) -> None:
    _, aligner = small.random_parts()
    with pytest.raises(ModelError, match="save it together with that captioner"):
        save_pretrained(
            small.recognizer(), small.vocabulary(), tmp_path / "new", name="alone", aligner=aligner
        )
    assert not (tmp_path / "new").exists()


def changed(key: str, value: Tensor | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = load_file(folder / ALIGNER)
        state.pop(key, None)
        save_file({**state, **({} if value is None else {key: value})}, folder / ALIGNER)

    return change


def configured(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        row = json.loads((folder / CONFIG).read_text("utf-8"))
        row["aligner"] |= fields
        (folder / CONFIG).write_text(json.dumps(row), "utf-8")

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "another shape": (changed(KEY, torch.zeros(16, 15)), f"does not fit {CONFIG}: {KEY} "),
    "a tensor less": (changed(KEY, None), f"does not fit {CONFIG}: {KEY} "),
    "a shared tensor": (
        changed("bert.embeddings.norm.bias", torch.zeros(16)),
        f"does not fit {CONFIG}: bert.embeddings",
    ),
    "no number": (changed("text_out.bias", torch.full((8,), torch.nan)), "not finite"),
    "no file": (lambda folder: (folder / ALIGNER).unlink(), f"{ALIGNER} is missing"),
    "another width": (configured(width=9), "does not fit"),
    "no width": (configured(width=0), "at least 1, found 0"),
    "a later release": (configured(colour="red"), "unknown to this release"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_does_not_fit_is_named(case: str, folder: Path) -> None:
    damage, told = DAMAGE[case]
    damage(folder)
    model, _, _ = from_pretrained(folder)
    captioner = captioner_from_pretrained(folder, model)
    assert captioner is not None, "the captioner is whole"
    with pytest.raises(ModelError, match=told):
        aligner_from_pretrained(folder, captioner)


def test_the_captioners_file_is_not_made_larger(folder: Path) -> None:
    captioner, _ = load(folder)
    assert load_file(folder / CAPTIONER).keys() == captioner.own_state().keys()
