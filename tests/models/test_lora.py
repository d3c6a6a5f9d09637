"""Adapters: nothing until they learn, nothing when off, the same when merged, the same after loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import small_aligner as small
from taglens.errors import MismatchError, ModelError, UsageError
from taglens.models.captioner import Captioner
from taglens.models.lora import PARTS, Lora, LoraConfig, load_adapter, merge, save_adapter

CONFIG = LoraConfig(rank=3, alpha=6)


def captioner() -> Captioner:
    return small.random_parts()[0].requires_grad_(False)


def hidden(model: Captioner) -> Tensor:
    """What the decoder makes of two texts about two pictures, the first of them filled up."""
    chance = torch.Generator().manual_seed(3)
    ids = torch.randint(5, model.config.words, (2, 7), generator=chance)
    guides = torch.randint(5, model.config.words, (2, 6), generator=chance)
    seen = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    image = torch.randn(2, 5, model.config.image_width, generator=chance)
    memory = model.encode(guides, seen, image)
    return model.hidden(ids, memory, mask=torch.ones_like(ids), memory_mask=seen)


def stirred(model: Captioner, config: LoraConfig = CONFIG, *, seed: int = 0) -> Lora:
    lora = Lora(model, config, seed=seed)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in lora.parameters():
            value.copy_(torch.randn(value.shape, generator=chance) * 0.2)
    return lora


def test_fresh_adapters_change_nothing_and_off_gives_the_original_back_bit_for_bit() -> None:
    plain = hidden(captioner())
    model = captioner()
    lora = Lora(model, CONFIG)
    assert torch.equal(hidden(model), plain)
    for value in lora.parameters():
        torch.nn.init.normal_(value)
    assert not torch.allclose(hidden(model), plain, atol=1e-2)
    with lora.off():
        assert torch.equal(hidden(model), plain)
    assert not torch.allclose(hidden(model), plain, atol=1e-2)


def test_off_ends_with_an_error_too() -> None:
    model = captioner()
    lora = stirred(model)
    adapted = hidden(model)
    with pytest.raises(KeyError), lora.off():
        raise KeyError
    assert torch.equal(hidden(model), adapted)


@pytest.mark.parametrize("parts", [*((part,) for part in PARTS), PARTS])
def test_merged_is_adapted(parts: tuple[str, ...]) -> None:
    config = LoraConfig(rank=3, alpha=6, parts=parts)
    model = captioner()
    lora = stirred(model, config)
    merged = merge(captioner(), lora.named(), config)
    torch.testing.assert_close(hidden(merged), hidden(model), atol=2e-5, rtol=1e-4)
    with lora.off():
        assert not torch.allclose(hidden(merged), hidden(model), atol=1e-3)


def test_only_the_named_parts_change_and_the_tensors_names_stay() -> None:
    plain = captioner().state_dict()
    model = captioner()
    lora = stirred(model, LoraConfig(rank=3, alpha=6, parts=("self_attention",)))
    assert model.state_dict().keys() == plain.keys()
    merged = merge(captioner(), lora.named(), lora.config).state_dict()
    changed = {key for key, value in merged.items() if not torch.equal(value, plain[key])}
    leaves = [f"self_attention.{leaf}.weight" for leaf in ("query", "key", "value", "out")]
    assert changed == {f"decoder.layers.{number}.{leaf}" for number in (0, 1) for leaf in leaves}


def test_an_adapted_matrix_by_its_formula() -> None:
    model = captioner()
    layer = model.decoder.layers[1].get_submodule("ffn.0")
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    lora = Lora(model, CONFIG)
    before = layer(x)
    own = lora.named()
    down, up = (own[f"layers.1.ffn.0.{leaf}.weight"] for leaf in ("down", "up"))
    with torch.no_grad():
        up.normal_(generator=torch.Generator().manual_seed(1))
        twin = torch.stack([before[n] + 6 / 3 * (up @ (down @ x[n])) for n in range(4)])
    torch.testing.assert_close(layer(x), twin)


def test_the_seed_decides_the_first_values_and_leaves_chance_alone() -> None:
    first, again, other = (Lora(captioner(), CONFIG, seed=seed).named() for seed in (1, 1, 2))
    key = "layers.0.ffn.0.down.weight"
    assert torch.equal(first[key], again[key])
    assert not torch.equal(first[key], other[key])
    model, before = captioner(), torch.get_rng_state()
    Lora(model, CONFIG)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_reaches_adapters_alone() -> None:
    model = captioner()
    lora = stirred(model)
    hidden(model).square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in lora.parameters())
    assert all(value.grad is None for value in model.parameters())


def test_a_folder_keeps_every_bit(tmp_path: Path) -> None:
    lora = stirred(captioner())
    save_adapter(tmp_path / "a", lora.named(), CONFIG, base="abc", about={"steps": 3})
    found = load_adapter(tmp_path / "a")
    assert (found.config, found.base, found.trained) == (CONFIG, "abc", {"steps": 3})
    assert found.state.keys() == lora.named().keys()
    assert all(torch.equal(found.state[name], value) for name, value in lora.named().items())
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"config.json", "adapter.safetensors"}
    found.require("abc", what="small@abc")
    with pytest.raises(MismatchError, match=r"abc.*found def.*train enhance"):
        found.require("def", what="other@def")


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    prints = []
    for seed in (0, 0, 1):
        save_adapter(tmp_path / "a", stirred(captioner(), seed=seed).named(), CONFIG, base="x", about={})
        prints.append(load_adapter(tmp_path / "a").fingerprint)
    assert prints[0] == prints[1] != prints[2]
    # The same tensors do something else with another alpha, or beside another model.
    save_adapter(tmp_path / "a", stirred(captioner()).named(), LoraConfig(3, 12), base="x", about={})
    prints.append(load_adapter(tmp_path / "a").fingerprint)
    save_adapter(tmp_path / "a", stirred(captioner()).named(), CONFIG, base="y", about={})
    prints.append(load_adapter(tmp_path / "a").fingerprint)
    assert len(set(prints)) == 4


def _edit(folder: Path, **fields: object) -> None:
    row = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(row | fields))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is no adapter"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot read"),
        (lambda folder: _edit(folder, taglens_adapter=7), "no taglens adapter of format 1"),
        (lambda folder: _edit(folder, rank="many"), "incomplete or damaged"),
        (lambda folder: _edit(folder, parts=["head"]), "incomplete or damaged"),
        (lambda folder: (folder / "adapter.safetensors").unlink(), "is missing"),
        (lambda folder: (folder / "adapter.safetensors").write_bytes(b"no"), "damaged"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage: object, says: str) -> None:
    folder = tmp_path / "a"
    save_adapter(folder, stirred(captioner()).named(), CONFIG, base="abc", about={})
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ModelError, match=says):
        load_adapter(folder)


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path, stirred(captioner()).named(), CONFIG, base="abc", about={})
    state = load_file(tmp_path / "adapter.safetensors")
    state["layers.0.ffn.0.up.weight"][0, 0] = torch.nan
    save_file(state, tmp_path / "adapter.safetensors")
    with pytest.raises(ModelError, match="not finite"):
        load_adapter(tmp_path)


def test_adapters_of_other_sizes_are_not_merged() -> None:
    state = stirred(captioner()).named()
    with pytest.raises(MismatchError, match="does not fit"):
        merge(captioner(), state, LoraConfig(rank=2, alpha=6))
    with pytest.raises(MismatchError, match="absent"):
        merge(captioner(), state, LoraConfig(rank=3, alpha=6, parts=("ffn",)))


@pytest.mark.parametrize(
    "given",
    [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("inf")}, {"parts": ("head",)}, {"parts": ()}],
)
def test_nonsense_sizes_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        LoraConfig(**given)  # type: ignore[arg-type]
