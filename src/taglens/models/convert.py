"""Published state dicts (RAM++, RAM, the tagging half of Tag2Text) to ours: pure maps of keys and shapes.

Knows the key names of the original release and reads every size from the tensors. Refuses to know files
(`taglens.models.published`) and tags. Strict: each key is used, tied to one that is used, or dropped for a stated
reason; any other is an error.
Shapes: T tags, K descriptions, L label width, D decoder width, w window side, A heads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from taglens.errors import ModelError
from taglens.models.configs import DecoderConfig, RecognizerConfig, SwinConfig
from taglens.models.recognizer import Recognizer, empty_recognizer

# The decoder's heads leave no trace in the shapes; all published models have as many (Tag2Text 1.4).
DECODER_HEADS = 4
# A hand prompt and fifty texts (RAM++ 3.2): the table is flat, its shape alone does not say how many a tag has.
DESCRIPTIONS = 51
RAM_PLUS, RAM, TAG2TEXT = "RAM++", "RAM", "Tag2Text"

_SWIN = r"visual_encoder\.layers\.(\d+)\.blocks\.(\d+)\."
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
    r"label_embed": "bank.embeddings",
    r"label_embed\.weight": "bank.embeddings",
    r"reweight_scale": "bank.sharpness",
    r"fc\.W": "decoder.heads.weight",
    r"fc\.b": "decoder.heads.bias",
}
_RULES = [(re.compile(theirs + r"\.(weight|bias)"), ours) for theirs, ours in _LAYERS.items()]
_SINGLE_RULES = [(re.compile(theirs), ours) for theirs, ours in _SINGLE.items()]

_BUFFERS = re.compile(r"visual_encoder\..*\.(attn_mask|relative_position_index)")
_SHARED = re.compile(r"tag_encoder\.(encoder\.layer\.\d+\.(?:crossattention|intermediate|output)\..+)")
_LANGUAGE = re.compile(r"(tag_encoder|text_decoder)\..+")
BUFFERS = "buffers that follow from the sizes"
UNUSED = "language layers that tagging does not use"
CAPTIONER = "the captioner: only the tagging half is converted"


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """A published model in this project's terms.

    Attributes:
        family: RAM++, RAM or Tag2Text.
        state: what `Recognizer(config)` loads, strictly.
        used, tied: keys of the published file; tied ones repeat the numbers of used ones.
        dropped: key -> why.
        notes: what was changed on the way, in sentences.
    """

    family: str
    config: RecognizerConfig
    state: dict[str, Tensor]
    used: tuple[str, ...]
    tied: tuple[str, ...]
    dropped: dict[str, str]
    notes: tuple[str, ...]

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
) -> Converted:
    """A published state dict as a configuration and a state dict of ours.

    Args:
        tags: how many tags the caller has names for; None: whatever the tensors say.
        descriptions: K, of RAM++ only.
        side: px; None: as trained. Another one changes the windows, and interpolates their biases.

    Raises:
        ModelError: another architecture (missing, unknown or ill-shaped keys are listed), tied tensors that differ,
            values that are not finite, a number of tags other than ``tags``, or a side that cannot be.
    """
    named = {key.replace("vision_multi", "tagging_head", 1): value for key, value in published.items()}
    family = family_of(named)
    used, tied, dropped, unknown = _sort_keys(named, family)
    if unknown:
        raise ModelError(
            f"{len(unknown)} keys belong to no part of {family}: {_some(unknown)}; the file holds another "
            "architecture or another release's"
        )
    state, notes = _as_float(named, used)
    config = _config(named, family, tags=tags, descriptions=descriptions)
    state = _reshaped(state, config)
    if side is not None and side != config.side:
        config, state = _at_side(config, state, side)
        notes.append(f"windows of {_window(config)} tokens instead of those trained: biases interpolated")
    _fill_in(state, config)
    _compare(state, config, family)
    return Converted(family, config, state, tuple(used), tuple(tied), dropped, tuple(notes))


def family_of(published: Mapping[str, Tensor]) -> str:
    """RAM++, RAM or Tag2Text, by the keys that only it has. Raises ModelError for what is none of them."""
    keys = published.keys()
    if any(key.startswith("visual_encoder.blocks.") for key in keys):
        raise ModelError("the file's encoder is a plain vision transformer; only Swin encoders are converted")
    if "visual_encoder.patch_embed.proj.weight" in keys:
        if "reweight_scale" in keys and "label_embed" in keys:
            return RAM_PLUS
        if "wordvec_proj.weight" in keys and "label_embed" in keys:
            return RAM
        if "fc.W" in keys and "label_embed.weight" in keys:
            return TAG2TEXT
    raise ModelError(
        "expected the key names of RAM, RAM++ or Tag2Text (visual_encoder.…, tagging_head.…, label_embed); found "
        f"{len(keys)} keys: {_some(sorted(keys))}"
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
        elif family != RAM_PLUS and _LANGUAGE.fullmatch(key):
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
        if not value.is_floating_point():
            raise ModelError(f"{theirs} holds {value.dtype}, expected floating-point weights")
        if value.dtype != torch.float32:
            narrow[value.dtype] = narrow.get(value.dtype, 0) + 1
        if not torch.isfinite(value).all():
            damaged.append(theirs)
        state[ours] = value.float()
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


def _config(
    named: Mapping[str, Tensor], family: str, *, tags: int | None, descriptions: int
) -> RecognizerConfig:
    swin = _swin(named)
    tagger = family == TAG2TEXT
    key = "label_embed.weight" if tagger else "label_embed"
    rows, label_width = _shape(named, key, 2)
    each = {RAM_PLUS: descriptions, RAM: 1, TAG2TEXT: 1}[family]
    if each < 1 or rows % each:
        raise ModelError(f"{key} has {rows} rows, which are not {each} descriptions for each of some tags")
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
        encoder=swin,
        tags=rows // each,
        decoder=decoder,
        token_width=swin.out_width if tagger else _shape(named, "image_proj.weight", 2)[0],
        label_width=label_width,
        descriptions=0 if tagger else each,
        pooled_term=False,
        projected=not tagger,
        side=swin.stride,
    )


# -- tensors -------------------------------------------------------------------------------------------


def _reshaped(state: dict[str, Tensor], config: RecognizerConfig) -> dict[str, Tensor]:
    """The same under our shapes: the flat, class-major table of descriptions cut into tags; leading ones dropped."""
    if config.descriptions > 1:
        table = state["bank.embeddings"]
        state["bank.embeddings"] = table.view(config.tags, config.descriptions, config.label_width)
    for key in ("decoder.heads.weight", "decoder.heads.bias"):
        if key in state and state[key].shape[:1] == (1,):
            state[key] = state[key][0]
    return state


def _window(config: RecognizerConfig) -> int:
    assert isinstance(config.encoder, SwinConfig)
    return config.encoder.window


def _at_side(
    config: RecognizerConfig, state: dict[str, Tensor], side: int
) -> tuple[RecognizerConfig, dict[str, Tensor]]:
    """The model for pictures of another side: as many windows as before, of another size."""
    assert isinstance(config.encoder, SwinConfig)
    each = config.encoder.stride // config.encoder.window
    if side < each or side % each:
        raise ModelError(
            f"a side of {side} px cannot be: expected a multiple of {each} (published: 224, 384)"
        )
    window = side // each
    config = replace(config, encoder=replace(config.encoder, window=window), side=side)
    wide = {
        key: resized_bias(value, window) if key.endswith(".attention.table") else value
        for key, value in state.items()
    }
    return config, wide


def resized_bias(table: Tensor, window: int) -> Tensor:
    """A relative position bias [(2w - 1)^2, A] for windows of another side, read bicubically.

    Parity: the original release spaces its samples as a geometric series and fits splines through them; this is the
    plain interpolation of Swin's own release. Exact where the side stays.
    """
    old, new = math.isqrt(table.shape[0]), 2 * window - 1
    if old == new:
        return table
    square = table.T.reshape(1, table.shape[1], old, old)
    wide = F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return wide.flatten(2)[0].T.contiguous()


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
