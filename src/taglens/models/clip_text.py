"""CLIP's text tower: pieces of a text to its vector, the label space of RAM and RAM++ (RAM 2.2).

The module, and the map of both releases' keys to it; sizes are read from shapes. Knows the published files' names.
Refuses to know how text is cut (`taglens.language.clip_pieces`) and which prompts are asked about a tag.
Shapes: M texts, N pieces, V vocabulary, D width, H heads, L projected width, P positions.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.errors import ModelError
from taglens.models.published import read_published

# What the shapes do not say; the same in every published tower.
HEAD_WIDTH = 64
EPS = 1e-5

VISION = "the vision tower: pictures are read by the tagger's own encoder"
BUFFERS = "buffers and numbers that follow from the sizes"
SCALE = "the temperature between CLIP's own two towers"

_HUB_LAYER = r"text_model\.encoder\.layers\.(\d+)\."
_BLOCK = r"transformer\.resblocks\.(\d+)\."
_KIND = r"(weight|bias)"
# Their keys -> ours.
_RULES = {
    r"text_model\.embeddings\.token_embedding\.weight": "words.weight",
    r"text_model\.embeddings\.position_embedding\.weight": "positions",
    _HUB_LAYER + r"self_attn\.(q|k|v)_proj\." + _KIND: r"layers.\1.\2.\3",
    _HUB_LAYER + r"self_attn\.out_proj\." + _KIND: r"layers.\1.out.\2",
    _HUB_LAYER + r"layer_norm1\." + _KIND: r"layers.\1.norm1.\2",
    _HUB_LAYER + r"layer_norm2\." + _KIND: r"layers.\1.norm2.\2",
    _HUB_LAYER + r"mlp\.fc1\." + _KIND: r"layers.\1.up.\2",
    _HUB_LAYER + r"mlp\.fc2\." + _KIND: r"layers.\1.down.\2",
    r"text_model\.final_layer_norm\." + _KIND: r"norm.\1",
    r"text_projection\.weight": "project.weight",
    r"token_embedding\.weight": "words.weight",
    r"positional_embedding": "positions",
    _BLOCK + r"attn\.in_proj_" + _KIND: r"layers.\1.qkv.\2",
    _BLOCK + r"attn\.out_proj\." + _KIND: r"layers.\1.out.\2",
    _BLOCK + r"ln_1\." + _KIND: r"layers.\1.norm1.\2",
    _BLOCK + r"ln_2\." + _KIND: r"layers.\1.norm2.\2",
    _BLOCK + r"mlp\.c_fc\." + _KIND: r"layers.\1.up.\2",
    _BLOCK + r"mlp\.c_proj\." + _KIND: r"layers.\1.down.\2",
    r"ln_final\." + _KIND: r"norm.\1",
    r"text_projection": "projection",
}
_LEFT_OUT = {
    r"vision_model\..+|visual_projection\.weight|visual\..+": VISION,
    r"logit_scale": SCALE,
    r"text_model\.embeddings\.position_ids|attn_mask|input_resolution|context_length|vocab_size": BUFFERS,
}
_COMPILED = [(re.compile(theirs), ours) for theirs, ours in _RULES.items()]
_DROPPED = [(re.compile(theirs), why) for theirs, why in _LEFT_OUT.items()]


@dataclass(frozen=True, slots=True)
class ClipTextConfig:
    """Sizes of a tower; the published ViT-B/16's: 49,408 pieces, 77 positions, 12 layers of 512, projected to 512."""

    pieces: int
    positions: int
    width: int
    depth: int
    ffn_width: int
    projection: int

    def __post_init__(self) -> None:
        for name in ("pieces", "positions", "width", "depth", "ffn_width", "projection"):
            if getattr(self, name) < 1:
                raise ModelError(f"ClipTextConfig.{name} must be at least 1, found {getattr(self, name)}")
        if self.width % HEAD_WIDTH:
            raise ModelError(f"a text tower's width is a multiple of {HEAD_WIDTH}, found {self.width}")

    @property
    def heads(self) -> int:
        return self.width // HEAD_WIDTH


class ClipLayer(nn.Module):
    """Self-attention and feed-forward, each normalised before it is added."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.up = nn.Linear(width, config.ffn_width)
        self.down = nn.Linear(config.ffn_width, width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """[M, N, D]; ``hidden`` [N, N] is added to the scores."""
        m, n, d = x.shape
        parts = self.qkv(self.norm1(x)).view(m, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=hidden)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        wide = self.up(self.norm2(x))
        y: Tensor = x + self.down(wide * torch.sigmoid(1.702 * wide))
        return y


class ClipText(nn.Module):
    """Texts [M, N] of piece numbers to vectors [M, L], not normalised.

    Each piece sees those before it; the vector is read at the end mark, the highest number of the vocabulary, so that
    what fills a row up behind it does not count.
    """

    hidden: Tensor

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.pieces, config.width)
        self.positions = nn.Parameter(torch.zeros(config.positions, config.width))
        self.layers = nn.ModuleList([ClipLayer(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.project = nn.Linear(config.width, config.projection, bias=False)
        unseen = torch.full((config.positions, config.positions), float("-inf"), device="cpu").triu(1)
        self.register_buffer("hidden", unseen, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        n = ids.shape[1]
        x = self.words(ids) + self.positions[:n]
        hidden = self.hidden[:n, :n]
        for layer in self.layers:
            x = layer(x, hidden)
        end = ids.argmax(dim=-1)
        read = self.norm(x).gather(1, end[:, None, None].expand(-1, 1, x.shape[-1]))
        y: Tensor = self.project(read[:, 0])
        return y


@dataclass(frozen=True, slots=True, eq=False)
class ConvertedText:
    """A published tower in this project's terms.

    Attributes:
        state: what `ClipText(config)` loads, strictly, in fp32.
        dropped: key of the published file -> why.
        notes: what was changed on the way, in sentences.
    """

    config: ClipTextConfig
    state: dict[str, Tensor]
    dropped: dict[str, str]
    notes: tuple[str, ...] = ()

    def model(self) -> ClipText:
        """The tower, in eval mode, sharing the tensors of ``state``."""
        with torch.device("meta"):
            tower = ClipText(self.config)
        tower.load_state_dict(self.state, strict=True, assign=True)
        return tower.eval()

    def fingerprint(self) -> str:
        """64 hex digits of every number: vectors of two towers must never meet."""
        digest = hashlib.sha256()
        for key in sorted(self.state):
            value = self.state[key].contiguous()
            digest.update(f"{key} {list(value.shape)}\n".encode())
            digest.update(value.numpy().data)
        return digest.hexdigest()


def read_tower(path: Path) -> ConvertedText:
    """The text tower in a file of the hub's or the original release's form.

    Raises:
        ModelError: no such file, a damaged one, one that would run code, or one that holds another architecture.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            if any(name.endswith("/constants.pkl") for name in packed.namelist()):
                raise ModelError(
                    f"{path} is a TorchScript programme, of which reading runs code; give plain weights: the hub's "
                    "pytorch_model.bin or model.safetensors, or the programme's state_dict() saved by torch.save"
                )
    try:
        return convert_text(read_published(path))
    except ModelError as error:
        raise ModelError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def save_tower(tower: ConvertedText, path: Path) -> None:
    """Write the tower under our names. Raises OSError where the disk refuses."""
    try:
        save_file(tower.state, path)
    except SafetensorError as error:
        raise OSError(str(error)) from None


def load_tower(path: Path) -> ConvertedText:
    """What `save_tower` wrote. Raises ModelError when it is missing, damaged or not finite."""
    state = read_published(path)
    if any(not value.is_floating_point() or not torch.isfinite(value).all() for value in state.values()):
        raise ModelError(f"{path} holds values that are no finite numbers; convert or copy it again")
    state = {key: value.float() for key, value in state.items()}
    try:
        config = _config(state)
        _compare(state, config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return ConvertedText(config, state, {})


def convert_text(published: Mapping[str, Tensor]) -> ConvertedText:
    """A published state dict as sizes and a state dict of ours. Strict: every key is used or left out for a reason.

    Raises:
        ModelError: missing, unknown or ill-shaped keys, or values that are not finite.
    """
    state: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    unknown, narrow = [], 0
    for key, value in published.items():
        if (why := next((why for rule, why in _DROPPED if rule.fullmatch(key)), None)) is not None:
            dropped[key] = why
        elif (name := _ours(key)) is None or name in state:
            unknown.append(key)
        else:
            if not value.is_floating_point() or not torch.isfinite(value).all():
                raise ModelError(f"{key} holds values that are no finite numbers; download the file again")
            narrow += value.dtype != torch.float32
            state[name] = value.float().contiguous()
    if not state or "words.weight" not in state:
        raise ModelError(
            "expected CLIP's text tower (text_model.… and text_projection.weight, or token_embedding.weight and "
            f"transformer.resblocks.…), found {len(published)} keys: {_some(sorted(published))}"
        )
    if unknown:
        raise ModelError(f"{len(unknown)} keys belong to no part of a CLIP text tower: {_some(unknown)}")
    _join(state)
    config = _config(state)
    _compare(state, config)
    notes = (f"{narrow} tensors of the text tower converted to float32",) if narrow else ()
    return ConvertedText(config, state, dropped, notes)


def _ours(key: str) -> str | None:
    for rule, name in _COMPILED:
        if found := rule.fullmatch(key):
            return found.expand(name)
    return None


def _join(state: dict[str, Tensor]) -> None:
    """Bring both releases' forms to one: queries, keys and values in one tensor, the projection as a layer."""
    for key in [key for key in state if re.fullmatch(r"layers\.\d+\.q\.(weight|bias)", key)]:
        layer, _, kind = key.rpartition(".q.")
        parts = [f"{layer}.{part}.{kind}" for part in "qkv"]
        if all(part in state for part in parts):
            state[f"{layer}.qkv.{kind}"] = torch.cat([state.pop(part) for part in parts])
    if "projection" in state and state["projection"].ndim == 2:
        state["project.weight"] = state.pop("projection").T.contiguous()


def _config(state: Mapping[str, Tensor]) -> ClipTextConfig:
    def shape(key: str) -> tuple[int, int]:
        found = tuple(state[key].shape) if key in state else None
        if found is None or len(found) != 2:
            raise ModelError(
                f"{key} is {'missing' if found is None else f'of shape {list(found)}'}: no CLIP text tower"
            )
        return found

    pieces, width = shape("words.weight")
    depth = len({key.split(".")[1] for key in state if key.startswith("layers.")})
    return ClipTextConfig(
        pieces=pieces,
        positions=shape("positions")[0],
        width=width,
        depth=depth,
        ffn_width=shape("layers.0.up.weight")[0],
        projection=shape("project.weight")[0],
    )


def _compare(state: Mapping[str, Tensor], config: ClipTextConfig) -> None:
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in ClipText(config).state_dict().items()}
    if missing := sorted(wanted.keys() - state.keys()):
        raise ModelError(f"{len(missing)} tensors of the text tower are missing: {_some(missing)}")
    if extra := sorted(state.keys() - wanted.keys()):
        raise ModelError(f"{len(extra)} tensors have no place in this text tower: {_some(extra)}")
    ill = [key for key, found in wanted.items() if tuple(state[key].shape) != found]
    if ill:
        raise ModelError(
            f"{len(ill)} tensors of the text tower have other shapes than the rest asks for: {_some(ill)}"
        )


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
