"""Published state dicts (RAM++, RAM, Tag2Text) to ours: pure maps of keys and shapes.

Knows the key names of the original release and reads every size from the tensors. Refuses to know files
(`taglens.models.published`) and tags. Strict: each key is used, tied to one that is used, or dropped for a stated
reason; any other is an error.
Shapes: T tags, K descriptions, L label width, D decoder width, C encoder width, w window side, g grid side, A heads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taglens.errors import ModelError
from taglens.models.caption_weights import accounted, captioner_config, captioner_state, is_captioner_key
from taglens.models.captioner import Captioner, CaptionerConfig, SpecialPieces
from taglens.models.configs import (
    LARGEST_GRID,
    LARGEST_WINDOW,
    DecoderConfig,
    RecognizerConfig,
    SwinConfig,
    ViTConfig,
)
from taglens.models.recognizer import Recognizer, empty_recognizer
from taglens.models.resampling import resized_bias, resized_positions

# The decoder's heads leave no trace in the shapes; all published models have as many (Tag2Text 1.4).
DECODER_HEADS = 4
# A hand prompt and fifty texts (RAM++ 3.2): the table is flat, its shape alone does not say how many a tag has.
DESCRIPTIONS = 51
# Of a plain vision transformer the shapes tell neither; all published ones, base and large, have these.
VIT_HEAD_WIDTH, VIT_EPS = 64, 1e-6
RAM_PLUS, RAM, TAG2TEXT = "RAM++", "RAM", "Tag2Text"
_FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))

_SWIN = r"visual_encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_VIT = r"visual_encoder\.blocks\.(\d+)\."
_HEAD = r"tagging_head\.encoder\.layer\.(\d+)\."
# Their keys -> ours, whole keys but for the last word of layers that have a weight and a bias.
_LAYERS = {
    r"visual_encoder\.patch_embed\.proj": "encoder.patches",
    r"visual_encoder\.patch_embed\.norm": "encoder.patch_norm",
    _SWIN + r"norm1": r"encoder.stages.\1.blocks.\2.norm1",
    _SWIN + r"norm2": r"encoder.stages.\1.blocks.\2.norm2",
    _SWIN + r"attn\.qkv": r"encoder.stages.\1.blocks.\2.attention.qkv",
    _SWIN + r"attn\.proj": r"encoder.stages.\1.blocks.\2.attention.out",
    _SWIN + r"mlp\.fc1": r"encoder.stages.\1.blocks.\2.ffn.0",
    _SWIN + r"mlp\.fc2": r"encoder.stages.\1.blocks.\2.ffn.2",
    r"visual_encoder\.layers\.(\d+)\.downsample\.norm": r"encoder.stages.\1.merge.norm",
    r"visual_encoder\.layers\.(\d+)\.downsample\.reduction": r"encoder.stages.\1.merge.reduce",
    _VIT + r"(norm[12])": r"encoder.blocks.\1.\2",
    _VIT + r"attn\.qkv": r"encoder.blocks.\1.qkv",
    _VIT + r"attn\.proj": r"encoder.blocks.\1.out",
    _VIT + r"mlp\.fc1": r"encoder.blocks.\1.ffn.0",
    _VIT + r"mlp\.fc2": r"encoder.blocks.\1.ffn.2",
    r"visual_encoder\.norm": "encoder.norm",
    r"image_proj": "project",
    r"wordvec_proj": "decoder.label_in",
    _HEAD + r"crossattention\.self\.(query|key|value)": r"decoder.layers.\1.attention.\2",
    _HEAD + r"crossattention\.output\.dense": r"decoder.layers.\1.attention.out",
    _HEAD + r"crossattention\.output\.LayerNorm": r"decoder.layers.\1.norm1",
    _HEAD + r"intermediate\.dense": r"decoder.layers.\1.ffn.0",
    _HEAD + r"output\.dense": r"decoder.layers.\1.ffn.2",
    _HEAD + r"output\.LayerNorm": r"decoder.layers.\1.norm2",
    r"fc": "decoder.head",
}
_SINGLE = {
    _SWIN + r"attn\.relative_position_bias_table": r"encoder.stages.\1.blocks.\2.attention.table",
    r"visual_encoder\.cls_token": "encoder.first",
    r"visual_encoder\.pos_embed": "encoder.positions",
    r"label_embed": "bank.embeddings",
    r"label_embed\.weight": "bank.embeddings",
    r"reweight_scale": "bank.sharpness",
    r"fc\.W": "decoder.heads.weight",
    r"fc\.b": "decoder.heads.bias",
}
_RULES = [(re.compile(theirs + r"\.(weight|bias)"), ours) for theirs, ours in _LAYERS.items()]
_SINGLE_RULES = [(re.compile(theirs), ours) for theirs, ours in _SINGLE.items()]

_BUFFERS = re.compile(
    r"visual_encoder\..*\.(attn_mask|relative_position_index)"
    r"|(tag_encoder|text_decoder\.bert)\.embeddings\.position_ids"
)
_SHARED = re.compile(r"tag_encoder\.(encoder\.layer\.\d+\.(?:crossattention|intermediate|output)\..+)")
BUFFERS = "buffers that follow from the sizes"
UNUSED = "language layers that tagging does not use"
CAPTIONER = "the captioner: without the word pieces nothing can be written"


@dataclass(frozen=True, slots=True, eq=False)
class ConvertedCaptioner:
    """The writing half of Tag2Text: what `Captioner(config)` loads, strictly, the shared layers included."""

    config: CaptionerConfig
    state: dict[str, Tensor]

    def model(self, recognizer: Recognizer) -> Captioner:
        """The captioner, in eval mode, sharing layers with the converted ``recognizer``."""
        with torch.device("meta"):
            captioner = Captioner(self.config)
        captioner.load_state_dict(self.state, strict=True, assign=True)
        captioner.share_layers(list(recognizer.decoder.layers))
        return captioner.eval()


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """A published model in this project's terms.

    Attributes:
        family: RAM++, RAM or Tag2Text.
        state: what `Recognizer(config)` loads, strictly.
        used, tied: keys of the published file; tied ones repeat the numbers of used ones.
        dropped: key -> why.
        notes: what was changed on the way, in sentences.
        captioner: of Tag2Text, where the word pieces are known.
    """

    family: str
    config: RecognizerConfig
    state: dict[str, Tensor]
    used: tuple[str, ...]
    tied: tuple[str, ...]
    dropped: dict[str, str]
    notes: tuple[str, ...]
    captioner: ConvertedCaptioner | None = None

    def model(self) -> Recognizer:
        """The model, in eval mode, sharing the tensors of ``state``."""
        model = empty_recognizer(self.config)
        model.load_state_dict(self.state, strict=True, assign=True)
        return model.eval()


def convert(
    published: Mapping[str, Tensor],
    *,
    tags: int | None = None,
    descriptions: int = DESCRIPTIONS,
    side: int | None = None,
    pieces: SpecialPieces | None = None,
) -> Converted:
    """A published state dict as a configuration and a state dict of ours.

    Args:
        tags: how many tags the caller has names for; None: whatever the tensors say.
        descriptions: K, of RAM++ only.
        side: px; None: as trained. Another one changes Swin's windows, or the grid of a plain vision transformer, and
            interpolates their biases or positions.
        pieces: numbers of the pieces that Tag2Text's captioner reads and writes; None: it is left out.

    Raises:
        ModelError: another architecture (missing, unknown or ill-shaped keys are listed), tied tensors that differ,
            values that are not finite, a number of tags other than ``tags``, or a side that cannot be.
    """
    named = {key.replace("vision_multi", "tagging_head", 1): value for key, value in published.items()}
    family = family_of(named)
    used, tied, dropped, unknown = _sort_keys(named, family)
    captioner = None
    if family == TAG2TEXT and pieces is not None:
        captioner = _captioner(named, pieces)
    if unknown:
        raise ModelError(
            f"{len(unknown)} keys belong to no part of {family}: {_some(unknown)}; the file holds another "
            "architecture or another release's"
        )
    state, notes = _as_float(named, used)
    config = _config(named, family, tags=tags, descriptions=descriptions)
    state = _reshaped(state, config)
    if side is not None and side != config.side:
        config, state, note = _at_side(config, state, side)
        notes.append(note)
    _fill_in(state, config)
    _compare(state, config, family)
    every_used, every_tied = list(used), tied
    if captioner is not None:
        writes, repeats = accounted(named)
        every_used += [key for key in writes if key not in tied]
        every_tied = [*tied, *repeats]
        dropped = {key: why for key, why in dropped.items() if why != CAPTIONER}
    return Converted(
        family, config, state, tuple(every_used), tuple(every_tied), dropped, tuple(notes), captioner
    )


def _captioner(named: Mapping[str, Tensor], pieces: SpecialPieces) -> ConvertedCaptioner:
    config = captioner_config(
        named, pad=pieces.pad, end=pieces.end, start=pieces.start, tags=pieces.tags, pieces=pieces.count
    )
    return ConvertedCaptioner(config, captioner_state(named, config))


def family_of(published: Mapping[str, Tensor]) -> str:
    """RAM++, RAM or Tag2Text, by the keys that only it has. Raises ModelError for what is none of them."""
    keys = published.keys()
    if "visual_encoder.patch_embed.proj.weight" in keys:
        if "reweight_scale" in keys and "label_embed" in keys:
            return RAM_PLUS
        if "wordvec_proj.weight" in keys and "label_embed" in keys:
            return RAM
        if "fc.W" in keys and "label_embed.weight" in keys:
            return TAG2TEXT
    raise ModelError(
        "expected the key names of RAM, RAM++ or Tag2Text (visual_encoder.…, tagging_head.…, label_embed); found "
        f"{len(keys)} keys: {_some(sorted(keys))}; other models are not converted"
    )


def _ours(key: str) -> str | None:
    """Our name for a published key, None where we have none."""
    for rule, name in _RULES:
        if found := rule.fullmatch(key):
            return f"{found.expand(name)}.{found.group(found.lastindex or 1)}"
    for rule, name in _SINGLE_RULES:
        if found := rule.fullmatch(key):
            return found.expand(name)
    return None


def _sort_keys(
    named: Mapping[str, Tensor], family: str
) -> tuple[dict[str, str], list[str], dict[str, str], list[str]]:
    """Used (their key -> ours), tied, dropped (key -> why) and unknown keys."""
    used: dict[str, str] = {}
    tied, unknown = [], []
    dropped: dict[str, str] = {}
    for key, value in named.items():
        shared = _SHARED.fullmatch(key)
        twin = f"tagging_head.{shared.group(1)}" if shared else ""
        if _BUFFERS.fullmatch(key):
            dropped[key] = BUFFERS
        elif family != RAM_PLUS and twin in named:
            if not torch.equal(value, named[twin]):
                raise ModelError(f"{key} and {twin} are one tensor in {family}, and differ in this file")
            tied.append(key)
        elif family != RAM_PLUS and is_captioner_key(key):
            dropped[key] = CAPTIONER if family == TAG2TEXT else UNUSED
        elif (name := _ours(key)) is not None:
            used[key] = name
        else:
            unknown.append(key)
    return used, tied, dropped, unknown


def _as_float(named: Mapping[str, Tensor], used: Mapping[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    """The used tensors under our names, in fp32, all finite; and notes on what was widened."""
    state: dict[str, Tensor] = {}
    narrow: dict[torch.dtype, int] = {}
    damaged = []
    for theirs, ours in used.items():
        value = named[theirs]
        if value.dtype not in _FLOATS:
            raise ModelError(
                f"{theirs} holds {value.dtype}, expected floating-point weights of 16, 32 or 64 bits; give the file "
                "as its authors published it"
            )
        if value.dtype != torch.float32:
            narrow[value.dtype] = narrow.get(value.dtype, 0) + 1
        state[ours] = value.float()
        # Looked at as it is kept: doubles may be too large for it.
        if not torch.isfinite(state[ours]).all():
            damaged.append(theirs)
    if damaged:
        raise ModelError(
            f"{len(damaged)} tensors hold values that are not finite: {_some(damaged)}; download the file again"
        )
    return state, [f"{count} tensors of {kind} converted to float32" for kind, count in narrow.items()]


# -- sizes ---------------------------------------------------------------------------------------------


def _shape(named: Mapping[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    if key not in named:
        raise ModelError(f"{key} is missing: the file is incomplete, or holds another architecture")
    shape = tuple(named[key].shape)
    if len(shape) != dimensions:
        raise ModelError(f"{key} has shape {list(shape)}, expected {dimensions} dimensions")
    return shape


def _swin(named: Mapping[str, Tensor]) -> SwinConfig:
    width, _, patch, _ = _shape(named, "visual_encoder.patch_embed.proj.weight", 4)
    tables: dict[int, list[tuple[int, ...]]] = {}
    table = re.compile(_SWIN + r"attn\.relative_position_bias_table")
    for key in named:
        if found := table.fullmatch(key):
            tables.setdefault(int(found.group(1)), []).append(_shape(named, key, 2))
    stages = [tables[stage] for stage in sorted(tables)]
    rows = {shape[0] for stage in stages for shape in stage}
    if not stages or len(rows) != 1 or any(len(set(stage)) != 1 for stage in stages):
        raise ModelError(
            f"expected one size of window in all layers, found bias tables of {sorted(rows)} rows"
        )
    window = (math.isqrt(rows.pop()) + 1) // 2
    return SwinConfig(
        width=width,
        depths=tuple(len(stage) for stage in stages),
        heads=tuple(stage[0][1] for stage in stages),
        window=window,
        patch=patch,
    )


def _vit(named: Mapping[str, Tensor]) -> ViTConfig:
    width, _, patch, _ = _shape(named, "visual_encoder.patch_embed.proj.weight", 4)
    first = _shape(named, "visual_encoder.cls_token", 3)
    positions = _shape(named, "visual_encoder.pos_embed", 3)
    grid = math.isqrt(max(0, positions[1] - 1))
    if first != (1, 1, width) or positions != (1, 1 + grid**2, width) or not grid:
        raise ModelError(
            f"visual_encoder.cls_token {list(first)} and visual_encoder.pos_embed {list(positions)} are no class "
            f"token of {width} numbers, and positions for it and a square of patches"
        )
    if width % VIT_HEAD_WIDTH:
        raise ModelError(
            f"the plain vision transformer is {width} wide, expected a multiple of {VIT_HEAD_WIDTH}, the width of a "
            "published head"
        )
    return ViTConfig(
        width=width,
        depth=len({key.split(".")[2] for key in named if re.match(_VIT, key)}),
        heads=width // VIT_HEAD_WIDTH,
        patch=patch,
        grid=grid,
        layer_norm_eps=VIT_EPS,
    )


def _encoder(named: Mapping[str, Tensor]) -> SwinConfig | ViTConfig:
    swin, vit = (next((key for key in named if re.match(kind, key)), None) for kind in (_SWIN, _VIT))
    if swin and vit:
        raise ModelError(f"the file holds two encoders, Swin ({swin}) and a plain vision transformer ({vit})")
    return _vit(named) if vit else _swin(named)


def _config(
    named: Mapping[str, Tensor], family: str, *, tags: int | None, descriptions: int
) -> RecognizerConfig:
    encoder = _encoder(named)
    tagger = family == TAG2TEXT
    key = "label_embed.weight" if tagger else "label_embed"
    rows, label_width = _shape(named, key, 2)
    each = {RAM_PLUS: descriptions, RAM: 1, TAG2TEXT: 1}[family]
    if each < 1 or rows % each:
        raise ModelError(
            f"{key} has {rows} rows, which are not {each} descriptions for each of some tags; give how many a tag "
            "has: --descriptions K"
        )
    if tags is not None and rows // each != tags:
        kind = f" ({each} descriptions each)" if each > 1 else ""
        raise ModelError(
            f"the file scores {rows // each} tags{kind}, and the tag list has {tags}; give the list that it was "
            "trained with"
        )
    depth = len({key.split(".")[3] for key in named if re.match(_HEAD, key)})
    ffn, width = _shape(named, "tagging_head.encoder.layer.0.intermediate.dense.weight", 2)
    decoder = DecoderConfig(
        width=width,
        depth=depth,
        heads=DECODER_HEADS,
        ffn_width=ffn,
        input_norm=False,
        label_map=not tagger,
        own_heads=tagger,
    )
    return RecognizerConfig(
        encoder=encoder,
        tags=rows // each,
        decoder=decoder,
        token_width=encoder.out_width if tagger else _shape(named, "image_proj.weight", 2)[0],
        label_width=label_width,
        descriptions=0 if tagger else each,
        pooled_term=False,
        projected=not tagger,
        side=encoder.stride if isinstance(encoder, SwinConfig) else encoder.patch * encoder.grid,
    )


# -- tensors -------------------------------------------------------------------------------------------


def _reshaped(state: dict[str, Tensor], config: RecognizerConfig) -> dict[str, Tensor]:
    """The same under our shapes: the flat, class-major table of descriptions cut into tags; leading ones dropped.

    A plain vision transformer's class token carries its position from here on: no other is ever added to it.
    """
    if config.descriptions > 1:
        table = state["bank.embeddings"]
        state["bank.embeddings"] = table.view(config.tags, config.descriptions, config.label_width)
    for key in ("decoder.heads.weight", "decoder.heads.bias"):
        if key in state and state[key].shape[:1] == (1,):
            state[key] = state[key][0]
    if isinstance(config.encoder, ViTConfig):
        vit, table = config.encoder, state["encoder.positions"][0]
        state["encoder.first"] = state["encoder.first"][0, 0] + table[0]
        state["encoder.positions"] = table[1:].reshape(vit.grid, vit.grid, vit.width)
    return state


def _at_side(
    config: RecognizerConfig, state: dict[str, Tensor], side: int
) -> tuple[RecognizerConfig, dict[str, Tensor], str]:
    """The model for pictures of another side, and a note on what changed.

    Swin has as many windows as before, of another size; a plain vision transformer has another grid.
    """
    encoder = config.encoder
    assert isinstance(encoder, SwinConfig | ViTConfig)
    each = encoder.stride // encoder.window if isinstance(encoder, SwinConfig) else encoder.patch
    most = each * (LARGEST_WINDOW if isinstance(encoder, SwinConfig) else LARGEST_GRID)
    if not each <= side <= most or side % each:
        raise ModelError(
            f"a side of {side} px cannot be: expected a multiple of {each} up to {most} (published: 224, 384)"
        )
    size = side // each
    if isinstance(encoder, SwinConfig):
        wide = {
            key: resized_bias(value, size) if key.endswith(".attention.table") else value
            for key, value in state.items()
        }
        note = f"windows of {size} tokens instead of those trained: biases interpolated"
        return replace(config, encoder=replace(encoder, window=size), side=side), wide, note
    key = "encoder.positions"
    wide = state | {key: resized_positions(state[key], size).contiguous()}
    note = f"a grid of {size} patches a side instead of {encoder.grid}: positions interpolated"
    return replace(config, encoder=replace(encoder, grid=size), side=side), wide, note


def _fill_in(state: dict[str, Tensor], config: RecognizerConfig) -> None:
    """Add what the published files leave to code: pixel statistics, how many descriptions each tag has."""
    fresh = empty_recognizer(config).encoder.pixels
    state["encoder.pixels.mean"], state["encoder.pixels.std"] = fresh.mean, fresh.std
    if config.descriptions > 1:
        state["bank.counts"] = torch.full((config.tags,), config.descriptions, dtype=torch.long)


def _compare(state: Mapping[str, Tensor], config: RecognizerConfig, family: str) -> None:
    """Raises ModelError unless the state is what the configuration's model loads."""
    wanted = {key: tuple(value.shape) for key, value in empty_recognizer(config).state_dict().items()}
    if missing := sorted(wanted.keys() - state.keys()):
        raise ModelError(
            f"{len(missing)} tensors of {family} are missing (in this project's names): {_some(missing)}"
        )
    if extra := sorted(state.keys() - wanted.keys()):
        raise ModelError(f"{len(extra)} tensors have no place in this {family}: {_some(extra)}")
    ill = [
        f"{key} {list(state[key].shape)} instead of {list(shape)}"
        for key, shape in wanted.items()
        if tuple(state[key].shape) != shape
    ]
    if ill:
        raise ModelError(
            f"{len(ill)} tensors of {family} have other shapes than the rest asks for: {_some(ill)}"
        )


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
