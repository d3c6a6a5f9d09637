"""CLIP's text tower: both releases' files, the same numbers computed slowly by hand, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import clip_tower
from taglens.errors import ModelError
from taglens.models.clip_text import BUFFERS, SCALE, VISION, ClipTextConfig, convert_text, read_tower

END = clip_tower.PIECES - 1
# A text of each length there is, one that holds an end mark, one filled up with other numbers.
ROWS = [
    [END - 1, 5, 300, 7, END],
    [END - 1, 9, END, 3, END],
    [END - 1, END, 8, 8, 8],
    [END - 1, *[9] * 3, END],
]


def slow(state: dict[str, Tensor], ids: list[int], *, heads: int) -> np.ndarray:
    """One text, position by position and head by head, in numpy, under the hub's names."""
    w = {key: value.double().numpy() for key, value in state.items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    ids = ids[: ids.index(END) + 1]
    text = "text_model"
    words, places = (f"{text}.embeddings.{kind}_embedding.weight" for kind in ("token", "position"))
    x = [w[words][number] + w[places][place] for place, number in enumerate(ids)]
    depth = sum(key.endswith("layer_norm1.bias") for key in state)
    for number in range(depth):
        layer = f"{text}.encoder.layers.{number}"
        normed = [norm(f"{layer}.layer_norm1", row) for row in x]
        q, k, v = ([linear(f"{layer}.self_attn.{p}_proj", row) for row in normed] for p in "qkv")
        size = len(x[0]) // heads
        for place in range(len(x)):
            mixed = []
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                fit = np.array([q[place][part] @ k[seen][part] for seen in range(place + 1)]) / math.sqrt(
                    size
                )
                weights = np.exp(fit - fit.max())
                weights /= weights.sum()
                mixed.append(sum(a * v[seen][part] for seen, a in enumerate(weights)))
            x[place] = x[place] + linear(f"{layer}.self_attn.out_proj", np.concatenate(mixed))
        for place, row in enumerate(x):
            wide = linear(f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", row))
            x[place] = row + linear(f"{layer}.mlp.fc2", wide / (1 + np.exp(-1.702 * wide)))
    return w["text_projection.weight"] @ norm(f"{text}.final_layer_norm", x[-1])


@pytest.mark.parametrize(("width", "depth"), [(64, 2), (128, 3)])
def test_vectors_are_those_of_the_slow_way(width: int, depth: int) -> None:
    state = clip_tower.hub_state(width=width, depth=depth, projection=24)
    with torch.inference_mode():
        found = convert_text(state).model()(torch.tensor(ROWS)).numpy()
    wanted = np.stack([slow(state, row, heads=width // 64) for row in ROWS])
    assert np.abs(found - wanted).max() < 2e-4 * np.abs(wanted).max()


def test_both_releases_files_are_one_tower() -> None:
    hub = clip_tower.hub_state()
    ours, original = convert_text(hub), convert_text(clip_tower.original_state(hub))
    assert ours.config == original.config == ClipTextConfig(571, 77, 64, 2, 256, 512)
    assert ours.fingerprint() == original.fingerprint()
    assert ours.fingerprint() != convert_text(clip_tower.hub_state(seed=1)).fingerprint()
    assert all(torch.equal(value, original.state[key]) for key, value in ours.state.items())
    assert set(ours.dropped.values()) == set(original.dropped.values()) == {VISION, SCALE, BUFFERS}


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("narrow", [False, True])
def test_files_are_read_and_widened(kind: str, narrow: bool, tmp_path: Path) -> None:
    state = clip_tower.hub_state()
    if narrow:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    path = tmp_path / f"tower.{kind}"
    if kind == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    found = read_tower(path)
    assert all(value.dtype == torch.float32 for value in found.state.values())
    assert bool(found.notes) == narrow
    same = {key: value.float() for key, value in state.items() if value.is_floating_point()}
    assert found.fingerprint() == convert_text(same).fingerprint()


def without(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(key)


LAYER = "text_model.encoder.layers.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "expected CLIP's text tower"),
        (without("text_model.embeddings.token_embedding.weight"), "expected CLIP's text tower"),
        (without("text_projection.weight"), "project.weight is missing"),
        (without("text_model.embeddings.position_embedding.weight"), "positions is missing"),
        (without(f"{LAYER}.self_attn.k_proj.bias"), "missing"),
        (without(f"{LAYER}.mlp.fc2.weight"), "1 tensors of the text tower are missing: layers.1.down.weight"),
        (lambda s: s.update({"text_model.head.weight": torch.ones(2)}), "1 keys belong to no part"),
        (lambda s: s.update({"ln_final.weight": torch.ones(64)}), "1 keys belong to no part"),
        (lambda s: s[f"{LAYER}.mlp.fc1.bias"].fill_(math.nan), "no finite numbers"),
        (lambda s: s.update({f"{LAYER}.mlp.fc1.bias": torch.ones(3)}), "other shapes"),
        (
            lambda s: s.update({"text_model.final_layer_norm.bias": torch.ones(64).long()}),
            "no finite numbers",
        ),
    ],
)
def test_other_architectures_are_refused(change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    state = clip_tower.hub_state()
    change(state)
    with pytest.raises(ModelError, match=message):
        convert_text(state)


def test_a_width_without_whole_heads_is_refused() -> None:
    with pytest.raises(ModelError, match="multiple of 64, found 96"):
        convert_text(clip_tower.hub_state(width=96))


def test_files_that_are_damaged_or_run_code(tmp_path: Path) -> None:
    path = tmp_path / "tower.pt"
    torch.save(clip_tower.hub_state(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"tower\.pt is cut"):
        read_tower(path)
    with pytest.raises(ModelError, match="cannot read"):
        read_tower(tmp_path / "none.pt")
    torch.save({"other.weight": torch.ones(2)}, path)
    with pytest.raises(ModelError, match=r"tower\.pt: expected CLIP's text tower"):
        read_tower(path)


def test_a_programme_is_not_run(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "ViT-B-16.pt", "w") as file:
        file.writestr("ViT-B-16/constants.pkl", b"")
        file.writestr("ViT-B-16/data.pkl", b"")
    with pytest.raises(ModelError, match=r"TorchScript programme.*state_dict"):
        read_tower(tmp_path / "ViT-B-16.pt")
