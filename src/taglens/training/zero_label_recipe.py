"""A run that improves a captioner with pictures alone (ViZer): look, teach the mapper, tune, watch, keep the best.

Joins a host, an album of pictures, judges and the two stages of `taglens.training.zero_label`. A run's folder holds
``run.json``, ``mapper/`` (stage 1), ``log.jsonl`` and ``state.pt`` (stage 2), ``best.pt``, and at the end
``adapter/`` and ``report.json``.
Shapes: N pictures, P pairs, D width of hidden states, C width of features.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor

from taglens.errors import ModelError, UsageError
from taglens.training import collapse
from taglens.training.collapse import CollapseError, MapFigures
from taglens.training.loop import STATE, LoopConfig, Progress
from taglens.training.recipes import note_settings
from taglens.training.zero_label import (
    BestOfDrawn,
    Latent,
    Mapper,
    Pairs,
    SelfCritical,
    Shown,
    Signal,
    batch_of,
    pool,
    teach_mapper,
    tune,
)
from taglens.training.zero_label_hosts import Drawn, Host, S, Texts
from taglens.training.zero_label_pictures import Album
from taglens.training.zero_label_settings import EnhanceConfig, Enhanced, Judges, Look

MAPPER, BEST, ADAPTER, REPORT = "mapper", "best.pt", "adapter", "report.json"
LEAST_PICTURES = 8
_AT_ONCE = 64
# A captioner of whose captions more are empty has nothing to start from.
_MOST_EMPTY = 0.1


def run(
    host: Host[S],
    album: Album[S],
    judges: Judges,
    config: EnhanceConfig,
    *,
    out: Path,
    captioned: Album[S] | None = None,
    captions: Sequence[Sequence[str]] = (),
    report: Callable[[Progress], None] | None = None,
) -> Enhanced:
    """Improve a host's adapters with an album's pictures, going on from ``out`` where the run was begun.

    Args:
        host: with fresh adapters; afterwards with those that were kept.
        captioned: pictures with ``captions`` each, whose captions teach the mapper (ViZer_GT); None: the host's own
            captions do (ViZer_G).

    Raises:
        UsageError: too few pictures, or a signal without its judge.
        ModelError: the captioner writes nothing, or the gradient stopped being finite.
        MismatchError: ``out`` holds a run of other settings, pictures or model.
    """
    work = Enhancement(host, album, judges, config)
    settings = work.settings() | {"captions": _digest(captions) if captioned is not None else None}
    for folder in (out, out / MAPPER):
        note_settings(folder, settings)
    work.require_words()
    mapper = None
    if config.needs_mapper:
        pairs = work.own_pairs() if captioned is None else work.told_pairs(captioned, captions)
        mapper = work.mapper(pairs, out=out / MAPPER, report=report)
    return work.tune(mapper, out=out, report=report, about=settings)


def require_pictures(album: Album[Any], config: EnhanceConfig) -> int:
    """How many of an album's pictures are held out. Raises UsageError where too few are there to learn from."""
    count = len(album)
    if count < LEAST_PICTURES:
        why = f" (the first that cannot: {album.unread[0].why})" if album.unread else ""
        raise UsageError(
            f"{count} pictures can be read of {count + len(album.unread)}; expected {LEAST_PICTURES} or more{why}"
        )
    held = max(1, min(config.held, count // 10))
    if count - held < config.batch_size:
        raise UsageError(
            f"{count - held} pictures are left to learn from and a batch holds {config.batch_size}; give more "
            "pictures or lower --batch-size"
        )
    return held


class Enhancement(Generic[S]):
    """The stages of a run over one album; `run` goes through them, an experiment may take them apart.

    Attributes:
        features: [N, C], what captions are to map onto; to be replaced by an experiment's controls.
        train, held: the pictures' numbers.
    """

    def __init__(self, host: Host[S], album: Album[S], judges: Judges, config: EnhanceConfig) -> None:
        self.host = host
        self.album = album
        self.judges = judges
        self.config = config
        held = require_pictures(album, config)
        order = torch.randperm(len(album), generator=torch.Generator().manual_seed(config.seed))
        self.held, self.train = order[:held].sort().values, order[held:].sort().values
        if config.until > self.steps:
            raise UsageError(f"until {config.until} is beyond the run's {self.steps} steps; give a lower one")
        for name in ("tags", "reward"):
            if getattr(config, name) and getattr(judges, name) is None:
                raise UsageError(
                    f"the signal {name} is weighed {getattr(config, name)} and nothing judges it"
                )
        mean = album.features[self.train.to(album.features.device)].mean(0)
        self.features = album.features - mean if config.centred else album.features

    @property
    def steps(self) -> int:
        return self.config.steps or max(
            1, round(self.config.epochs * (len(self.train) // self.config.batch_size))
        )

    def settings(self) -> dict[str, Any]:
        """What decides the outcome, as it is noted in the run's folder."""
        row = {key: value for key, value in asdict(self.config).items() if key not in _FREE}
        names = [str(path) for path in self.album.paths]
        return {
            **row,
            "base": f"{self.host.name}@{self.host.fingerprint}",
            "adapters": {name: list(value.shape) for name, value in self.host.parameters().items()},
            "adapter_scale": self.host.adapter_scale,
            "pictures": len(names),
            "pictures_sha256": _digest([[name] for name in names]),
            "score": self.judges.name,
            "tagger": self.judges.tagger,
        }

    # -- captions --------------------------------------------------------------------------------

    def written(self, numbers: Tensor) -> list[Texts]:
        """The likeliest captions of pictures, as many at once as fit."""
        return [self.host.write(self.album.at(part)) for part in _parts(numbers)]

    def require_words(self) -> None:
        """Raises ModelError where the captioner, without adapters, writes nothing for many pictures."""
        with self.host.adapters_off():
            texts = [text for each in self.written(self.held) for text in each.strings]
        empty = sum(not text.split() for text in texts)
        if empty > _MOST_EMPTY * len(texts):
            raise ModelError(
                f"{self.host.name} writes nothing about {empty} of {len(texts)} pictures: there is nothing to "
                "improve; teach it captions first: taglens train captions"
            )

    # -- stage 1 ---------------------------------------------------------------------------------

    def own_pairs(self) -> Pairs:
        """ViZer_G: the host's own captions of the pictures, read behind them."""
        hidden, features = [], []
        with torch.no_grad(), self.host.adapters_off():
            for numbers in _parts(self.train):
                seen = self.album.at(numbers)
                texts = self.host.write(seen)
                said = texts.mask.any(1)
                hidden.append(self._pooled(seen, texts)[said])
                features.append(self.features[numbers.to(self.features.device)][said])
        if not sum(map(len, hidden)):
            raise ModelError(
                f"{self.host.name} writes nothing about any of {len(self.train)} pictures: there is nothing to learn "
                "from; teach it captions first: taglens train captions"
            )
        return _pairs(hidden, features)

    def told_pairs(self, captioned: Album[S], captions: Sequence[Sequence[str]]) -> Pairs:
        """ViZer_GT: people's captions, read by themselves (V3) or, with ``sees_picture``, behind their pictures.

        Args:
            captions: of each of ``captioned``'s pictures.

        Raises:
            UsageError: there is no caption with a word that the host knows.
        """
        if len(captions) != len(captioned):
            raise UsageError(f"{len(captioned)} pictures and captions of {len(captions)}; expected as many")
        flat = [(number, text) for number, each in enumerate(captions) for text in each]
        targets = captioned.features
        if self.config.centred:
            targets = targets - targets.mean(0)
        hidden, features = [], []
        with torch.no_grad(), self.host.adapters_off():
            for start in range(0, len(flat), _AT_ONCE):
                part = flat[start : start + _AT_ONCE]
                texts = self.host.texts([text for _, text in part])
                numbers = torch.tensor([number for number, _ in part])
                seen = captioned.at(numbers) if self.config.sees_picture else None
                said = texts.mask.any(1)
                hidden.append(self._pooled(seen, texts)[said])
                features.append(targets[numbers.to(targets.device)][said])
        if not sum(map(len, hidden)):
            raise UsageError("no caption to teach the mapper with; give a file of captioned pictures")
        return _pairs(hidden, features)

    def _pooled(self, seen: S | None, texts: Texts) -> Tensor:
        return pool(self.host.hidden(seen, texts), texts.mask, last=self.config.mapper.last)

    def mapper(
        self,
        pairs: Pairs,
        *,
        out: Path,
        report: Callable[[Progress], None] | None = None,
    ) -> Mapper:
        """Stage 1, going on from ``out``: the mapper, frozen, where the host is."""
        config = self.config
        size = min(config.batch_size, len(pairs))
        steps = max(1, config.mapper_epochs * (len(pairs) // size))
        loop = _loop(config, steps=steps, lr=config.mapper_lr)
        with torch.no_grad(), self.host.adapters_off():
            held = [
                (self._pooled(self.album.at(part), texts).cpu(), part, texts) for part, texts in self._held()
            ]

        def evaluate(mapper: Mapper) -> dict[str, float]:
            with torch.no_grad():
                mapped = torch.cat([mapper(pooled) for pooled, _, _ in held])
            return self._map_figures(mapped).to_dict()

        shape = (self.host.hidden_width, self.host.vision_width)
        taught = teach_mapper(
            pairs, shape, config.mapper, loop, batch_size=size, out=out, evaluate=evaluate, report=report
        )
        return taught.to(self.host.device)

    def _held(self) -> list[tuple[Tensor, Texts]]:
        return [(part, self.host.write(self.album.at(part))) for part in _parts(self.held)]

    def _map_figures(self, mapped: Tensor) -> MapFigures:
        features = self.features.to(mapped.device)
        mean = features[self.train.to(mapped.device)].mean(0)
        return collapse.map_figures(mapped, features[self.held.to(mapped.device)], mean)

    # -- stage 2 ---------------------------------------------------------------------------------

    def look(self, mapper: Mapper | None, step: int) -> Look:
        """Figures on held-out pictures, with the adapters as they stand."""
        mapped: list[Tensor] = []
        strings: list[str] = []
        with torch.no_grad():
            for part, texts in self._held():
                strings += texts.strings
                if mapper is not None:
                    hidden = self.host.hidden(self.album.at(part), texts)
                    mapped.append(mapper(mapper.pooled(hidden, texts.mask)))
        scores = self.judges.score(self.held.tolist(), strings)
        captions = collapse.caption_figures(strings, float(scores.mean()))
        return Look(step, captions, self._map_figures(torch.cat(mapped)) if mapped else None)

    def signals(self, mapper: Mapper | None) -> list[tuple[Mapping[str, float], Signal[S]]]:
        """What is learned from, by the configuration's weights."""
        config, judges = self.config, self.judges
        found: list[tuple[Mapping[str, float], Signal[S]]] = []
        if mapper is not None:
            weights = {"latent": config.latent, "contrast": config.contrast}
            found.append((weights, Latent(mapper, contrast=bool(config.contrast))))
        if config.tags and judges.tags is not None:
            found.append(({"tags": config.tags}, BestOfDrawn(judges.tags, count=config.drawn)))
        if config.reward and judges.reward is not None:
            found.append(({"reward": config.reward}, SelfCritical(judges.reward)))
        return found

    def show(self, step: int) -> Shown[S]:
        """The pictures of one step, and what the host writes about them."""
        config = self.config
        chosen = batch_of(step, count=len(self.train), size=config.batch_size, seed=config.seed)
        numbers = self.train[chosen]
        seen = self.album.at(numbers)
        seed = (config.seed * 1_000_003 + step) % 2**31
        own = self.host.write(seen, drawn=Drawn(seed + 1) if config.sampled else None)
        return Shown(seen, numbers, self.features[numbers.to(self.features.device)], own, seed)

    def tune(
        self,
        mapper: Mapper | None,
        *,
        out: Path,
        report: Callable[[Progress], None] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Enhanced:
        """Stage 2, going on from ``out``, watched; writes the adapters that are kept, and the report."""
        config = self.config
        with self.host.adapters_off():
            base = self.look(mapper, 0)
        best = _Best(out / BEST)
        stopped = None
        loop = _loop(config, steps=self.steps, lr=config.lr, until=config.until)
        done = [0]

        def counted(step: int) -> Shown[S]:
            done[0] = step + 1
            return self.show(step)

        def evaluate() -> dict[str, float]:
            now = self.look(mapper, done[0])
            both = None if now.mapped is None or base.mapped is None else (base.mapped, now.mapped)
            collapse.require_sound(base.captions, now.captions, both, config.limits, step=now.step)
            best.offer(now, self.host.adapter_state(), always=config.keep_last)
            return now.to_dict()

        # The base is what everything has to be better than. Where there is no checkpoint the run begins anew, and
        # what lies there was left by one that was killed before its first: with other settings, maybe.
        if not ((out / STATE).exists() and (out / BEST).exists()):
            best.offer(base, self.host.adapter_state(), always=True)
        try:
            tune(self.host, counted, self.signals(mapper), loop, out=out, evaluate=evaluate, report=report)
        except CollapseError as error:
            stopped = str(error)
        kept, state = best.read()
        self.host.load_adapter_state(state)
        found = self.look(mapper, kept)
        row = {
            **(about or {}),
            "base_figures": base.to_dict(),
            "kept_figures": found.to_dict(),
            "kept_step": kept,
            "stopped": stopped,
            "unread": len(self.album.unread),
            "held": len(self.held),
        }
        self.host.save_adapter(out / ADAPTER, about=row)
        beside = out / (REPORT + ".part")
        beside.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
        beside.replace(out / REPORT)
        return Enhanced(out / ADAPTER, base, found, stopped, len(self.train), len(self.held))


class _Best:
    """The adapters with the best score so far, in a file, so that a run that goes on knows them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def offer(self, look: Look, state: Mapping[str, Tensor], *, always: bool) -> None:
        if not always and self._path.exists() and self._load()["score"] >= look.captions.score:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(self._path.name + ".part")
        kept = {name: value.cpu() for name, value in state.items()}
        torch.save({"score": look.captions.score, "step": look.step, "state": kept}, beside)
        beside.replace(self._path)

    def _load(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise ModelError(
                f"{self._path} is damaged; delete it and {STATE} beside it to start stage 2 anew"
            ) from error
        return found

    def read(self) -> tuple[int, dict[str, Tensor]]:
        """The step of it, and its adapters."""
        found = self._load()
        return int(found["step"]), found["state"]


# What changes nothing of what is learned.
_FREE = ("until", "checkpoint_every")


def _loop(config: EnhanceConfig, *, steps: int, lr: float, until: int = 0) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        until=until,
        lr=lr,
        warmup=steps // 20,
        weight_decay=0.01,
        average=0.0,
        seed=config.seed,
        log_every=max(1, min(20, steps // 10)),
        checkpoint_every=config.checkpoint_every,
        evaluate_every=config.evaluate_every or max(1, steps // 5),
    )


def _pairs(hidden: Sequence[Tensor], features: Sequence[Tensor]) -> Pairs:
    return Pairs(torch.cat(list(hidden)).cpu(), torch.cat(list(features)).cpu())


def _parts(numbers: Tensor) -> list[Tensor]:
    return [numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE)]


def _digest(lists: Sequence[Sequence[str]]) -> str:
    whole = "\n".join("\t".join(each) for each in lists)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]
