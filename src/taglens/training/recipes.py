"""What the starter model was trained with, as plain values, and the assembly of a run from shard folders.

A run is one phase: one side, one rate, one mixture of sources. The starter takes several, each starting from the
model of the one before; the commands stand in the model card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from taglens.data.batches import BatchStream, PictureSet, decode_set
from taglens.data.shards import ShardSet
from taglens.errors import MismatchError, UsageError
from taglens.evaluation.metrics import average_precisions
from taglens.inference.bundle import TEXT, checksum
from taglens.language.descriptions import prompts
from taglens.language.text_encoder import TextEncoder
from taglens.models.checkpoint import WEIGHTS, keeps_closed_term, save_pretrained, start_from
from taglens.models.configs import (
    ConvNetConfig,
    EncoderConfig,
    HybridConfig,
    RecognizerConfig,
    SwinConfig,
    ViTConfig,
)
from taglens.models.label_bank import DescriptionBank
from taglens.models.recognizer import Recognizer
from taglens.training import cached, parallel
from taglens.training.augment import plain
from taglens.training.loop import STATE, LoopConfig, Progress, train
from taglens.training.objectives import TagObjective
from taglens.vocabulary import Vocabulary

ENCODERS: Mapping[str, EncoderConfig] = {
    "convnet": ConvNetConfig(),
    "hybrid": HybridConfig(),
    "swin": SwinConfig(),
    "vit": ViTConfig(),
}
MODEL_FOLDER, SETTINGS = "model", "run.json"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One phase.

    Attributes:
        shares: source name -> share of the draws; empty: by size.
        fresh_parts: parts that are not taken over from the model that training starts from.
        text: reads the label embeddings from the vocabulary's names and descriptions and embeds captions; None: label
            embeddings are learned, captions are not used.
        views: encode every picture so many times ahead and train the rest on that (`training.cached`); 0: do not.
        store_scale: pictures are kept in memory at this multiple of the training side, so that crops keep detail.
    """

    loop: LoopConfig
    batch_size: int = 64
    shares: Mapping[str, float] = field(default_factory=dict)
    objective: TagObjective = field(default_factory=TagObjective)
    encoder: EncoderConfig = field(default_factory=ConvNetConfig)
    text: TextEncoder | None = None
    views: int = 0
    store_scale: float = 1.25
    fresh_parts: tuple[str, ...] = ()

    @property
    def stored_side(self) -> int:
        return round(self.loop.side * self.store_scale)


def open_sources(folders: Sequence[Path]) -> list[ShardSet]:
    """Open shard folders that share one vocabulary.

    Raises:
        UsageError: none given.
        MismatchError: two were built with different vocabularies.
    """
    if not folders:
        raise UsageError("nothing to train on: give at least one --shards FOLDER")
    sources = [ShardSet.open(folder) for folder in folders]
    first = sources[0].vocabulary
    for source in sources[1:]:
        if source.vocabulary.fingerprint != first.fingerprint:
            raise MismatchError(
                f"shard folders {sources[0].name} and {source.name} were built with different vocabularies",
                expected=first.ref,
                found=source.vocabulary.ref,
                cure="Build both with the same vocabulary file.",
            )
    return sources


def logits_of(
    model: Recognizer, pictures: PictureSet, *, side: int, batch_size: int = 64
) -> npt.NDArray[np.float32]:
    """Logits [N, T] of a decoded set, only resized to ``side``."""
    device = next(model.parameters()).device
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pictures), batch_size):
            pixels = torch.from_numpy(pictures.pixels[start : start + batch_size]).to(device)
            rows.append(model(plain(pixels, side)).logits.float().cpu().numpy())
    return np.concatenate(rows)


def mean_ap(scores: npt.NDArray[np.float32], pictures: PictureSet, *, least: int = 5) -> float:
    """mAP over the tags in reach of the source that at least ``least`` pictures have (and not all)."""
    counts = pictures.present.sum(0)
    columns = np.flatnonzero((counts >= least) & (counts < len(pictures)) & (pictures.absent_weight > 0))
    if not len(columns):
        return float("nan")
    return float(np.mean(average_precisions(scores[:, columns], pictures.present[:, columns])))


def run(
    sources: Sequence[ShardSet],
    config: RunConfig,
    *,
    out: Path,
    name: str,
    start: Path | None = None,
    device: str = "cpu",
    report: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Decode, train, save; returns the folder that `from_pretrained` reads.

    ``out/run.json`` says what the run is made of; a run that goes on must be made of the same.

    Validation splits, where a source has one, are scored with the averaged weights when the run ends and every
    ``evaluate_every`` steps; the figures go to the log.
    """
    vocabulary = sources[0].vocabulary
    known = {source.name for source in sources}
    unknown = sorted(set(config.shares) - known)
    if unknown:
        raise UsageError(f"a share is given for {unknown[0]!r}; the sources are {', '.join(sorted(known))}")
    if len(known) < len(sources):
        raise UsageError(
            "two shard folders have the same name, by which shares and figures are told apart: rename one"
        )
    # Before anything random: the same seed starts from the same weights.
    torch.manual_seed(config.loop.seed)
    model = _fresh(config, vocabulary, closed=start is not None and keeps_closed_term(start))
    if start is not None:
        fresh = start_from(model, start, vocabulary, fresh_parts=config.fresh_parts)
        say(f"starting from {start}; {len(fresh)} of {len(vocabulary)} tags are new")
    note_settings(out, _settings(sources, config, start))
    used = [source for source in sources if not config.shares or config.shares.get(source.name, 0) > 0]
    sets = [_decoded(source, vocabulary, "train", config.stored_side, config, say) for source in used]
    held = [
        _decoded(source, vocabulary, "val", config.loop.side, config, say)
        for source in used
        if source.splits.get("val")
    ]
    model.to(device)
    shares, look = dict(config.shares), None
    if config.views:
        sets, shares = _cached(model, sets, shares, config, say)
        look = cached.look

    def evaluate(candidate: Recognizer) -> dict[str, float]:
        side = config.loop.side
        return {s.name: mean_ap(logits_of(candidate, s, side=side), s) for s in held}

    stream = BatchStream(sets, batch_size=config.batch_size, seed=config.loop.seed, shares=shares or None)
    finished = train(
        model,
        stream,
        replace(config.objective, frequency=torch.from_numpy(stream.frequency())),
        config.loop,
        out=out,
        look=look,
        evaluate=evaluate if held else None,
        report=report,
    )
    if parallel.rank():
        return out / MODEL_FOLDER
    if config.text is not None:
        (out / MODEL_FOLDER).mkdir(parents=True, exist_ok=True)
        config.text.save(out / MODEL_FOLDER / TEXT)
    save_pretrained(finished, vocabulary, out / MODEL_FOLDER, name=name)
    return out / MODEL_FOLDER


def _settings(sources: Sequence[ShardSet], config: RunConfig, start: Path | None) -> dict[str, Any]:
    """What decides a run's outcome beside its loop's settings."""
    return {
        "shards": {source.name: source.plan.configuration for source in sources},
        "shares": dict(config.shares),
        "batch_size": config.batch_size,
        "objective": objective_settings(config.objective),
        "encoder": _fields(config.encoder),
        "init": None if start is None else checksum(start / WEIGHTS),
        "fresh": list(config.fresh_parts),
        "text_encoder": None if config.text is None else config.text.fingerprint,
        "views": config.views,
        "store_scale": config.store_scale,
    }


def objective_settings(objective: TagObjective) -> dict[str, Any]:
    """What was chosen of the objective; tags' frequencies follow from the sources."""
    return {key: value for key, value in _fields(objective).items() if key != "frequency"}


def note_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Write what decides a run's outcome into its folder, or compare it where the run goes on.

    Raises:
        MismatchError: the run was begun with something else; the message names what.
    """
    settings = json.loads(json.dumps(settings))
    path = out / SETTINGS
    if (out / STATE).exists() and path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(key for key in settings if begun.get(key) != settings[key])
        if other:
            raise MismatchError(
                f"{out} holds a run that was begun with other {', '.join(other)}",
                expected=", ".join(f"{key} {json.dumps(begun.get(key))}" for key in other),
                found=", ".join(json.dumps(settings[key]) for key in other),
                cure="Give the same settings to resume it, or another --out to start anew.",
            )
    if parallel.rank() == 0:
        out.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a frozen value, mappings as plain ones."""
    found = {each.name: getattr(value, each.name) for each in fields(value)}
    return {key: dict(field) if isinstance(field, Mapping) else field for key, field in found.items()}


def text_bank(vocabulary: Vocabulary, text: TextEncoder) -> DescriptionBank:
    """The label bank of a vocabulary: each tag's name and descriptions, embedded."""
    return DescriptionBank.ragged([torch.from_numpy(text(prompts(entry))) for entry in vocabulary])


def _fresh(config: RunConfig, vocabulary: Vocabulary, *, closed: bool) -> Recognizer:
    plain = RecognizerConfig(encoder=config.encoder, tags=len(vocabulary), side=config.loop.side)
    if config.text is None:
        return Recognizer(plain)
    bank = text_bank(vocabulary, config.text)
    width, most = config.text.width, bank.embeddings.shape[1]
    model = Recognizer(
        replace(plain, label_width=width, token_width=width, descriptions=most, closed_term=closed)
    )
    model.bank = bank
    return model


def _cached(
    model: Recognizer,
    sets: Sequence[PictureSet],
    shares: Mapping[str, float],
    config: RunConfig,
    say: Callable[[str], None],
) -> tuple[list[PictureSet], dict[str, float]]:
    """Every set encoded in several views, which divide its share among them."""
    found: list[PictureSet] = []
    divided: dict[str, float] = {}
    for pictures in sets:
        views = cached.encode(
            model,
            pictures,
            side=config.loop.side,
            views=config.views,
            config=config.loop.augment,
            seed=config.loop.seed,
        )
        say(f"{pictures.name}: {len(pictures):,} pictures encoded in {len(views)} views")
        found += views
        for view in views:
            divided[view.name] = shares.get(pictures.name, len(pictures)) / len(views)
    return found, divided


def _decoded(
    source: ShardSet,
    vocabulary: Vocabulary,
    split: str,
    side: int,
    config: RunConfig,
    say: Callable[[str], None],
) -> PictureSet:
    pictures = decode_set(source, vocabulary, split=split, side=side, embed=config.text)
    say(f"{source.name} {split}: {len(pictures):,} pictures at {side} px")
    return pictures
