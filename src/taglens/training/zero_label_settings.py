"""What decides a run that improves a captioner with pictures alone (ViZer), and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from taglens.errors import UsageError
from taglens.training.collapse import CaptionFigures, Limits, MapFigures
from taglens.training.zero_label import Judge, MapperConfig


@dataclass(frozen=True, slots=True)
class EnhanceConfig:
    """What decides a run, beside its host and its pictures.

    Attributes:
        steps: updates of stage 2; 0: as many as ``epochs`` over the pictures need. until: stop after so many of them;
            the run can go on later. 0: all.
        mapper: its size; mapper_epochs: over its pairs, which are looked at once, so that an epoch costs little.
        latent, contrast, tags, reward: weights of the signals; 0: without. ``latent`` and ``contrast`` need the
            mapper, ``tags`` and ``reward`` judges.
        drawn: captions a picture that the tags signal chooses from.
        sampled: own captions are drawn instead of the likeliest ones.
        centred: features count from their mean on; without it, as in the paper, most of a cosine is the mean.
        sees_picture: real captions are read with their pictures, too, when the mapper learns from them.
        held: pictures that are only looked at, at most a tenth.
        keep_last: keep the adapters of the last step instead of those with the best held-out score.
    """

    batch_size: int = 32
    epochs: float = 1.0
    steps: int = 0
    until: int = 0
    lr: float = 1e-4
    mapper_lr: float = 1e-3
    mapper_epochs: int = 4
    mapper: MapperConfig = field(default_factory=MapperConfig)
    latent: float = 1.0
    contrast: float = 0.0
    tags: float = 0.0
    reward: float = 0.0
    drawn: int = 4
    sampled: bool = False
    centred: bool = False
    sees_picture: bool = False
    held: int = 200
    seed: int = 0
    checkpoint_every: int = 100
    evaluate_every: int = 0
    keep_last: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise UsageError(f"a batch must hold 2 pictures or more, found {self.batch_size}")
        if self.steps < 0 or self.mapper_epochs < 1 or not 0.0 < self.epochs < float("inf"):
            raise UsageError(
                f"steps {self.steps} must be 0 or more, epochs {self.epochs} above 0, mapper_epochs "
                f"{self.mapper_epochs} 1 or more"
            )
        if self.lr <= 0 or self.mapper_lr <= 0:
            raise UsageError(f"rates must be above 0, found lr {self.lr} and mapper_lr {self.mapper_lr}")
        weights = {name: getattr(self, name) for name in ("latent", "contrast", "tags", "reward")}
        for name, weight in weights.items():
            if not 0.0 <= weight < float("inf"):
                raise UsageError(f"the weight of {name} must be 0 or more, found {weight}")
        if not any(weights.values()):
            raise UsageError(f"nothing to learn from: weigh one of {', '.join(weights)} above 0")
        if self.held < 1:
            raise UsageError(f"at least one picture must be held out, found {self.held}")

    @property
    def needs_mapper(self) -> bool:
        return bool(self.latent or self.contrast)


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """What finds captions good without labels, by the album's numbers.

    Attributes:
        score: the held-out score; name: what it is, for messages. tagger: whose tags are asked.
        tags, reward: what the signals of these names ask; None: they cannot be weighed.
    """

    score: Judge
    name: str
    tags: Judge | None = None
    reward: Judge | None = None
    tagger: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Figures of held-out pictures at one moment."""

    step: int
    captions: CaptionFigures
    mapped: MapFigures | None

    def to_dict(self) -> dict[str, float]:
        return self.captions.to_dict() | ({} if self.mapped is None else self.mapped.to_dict())


@dataclass(frozen=True, slots=True)
class Enhanced:
    """What a run came to.

    Attributes:
        adapter: the folder of the adapters that were kept.
        base, kept: figures on held-out pictures; ``kept.step`` 0: nothing was better than the base.
        stopped: why training was stopped before its end, or None.
    """

    adapter: Path
    base: Look
    kept: Look
    stopped: str | None
    pictures: int
    held: int
