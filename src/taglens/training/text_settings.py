"""What decides a run that teaches captions: settings, the sizes of a new captioner, the texts beside pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taglens.data.questions import Question
from taglens.training.loop import LoopConfig
from taglens.training.objectives import TagObjective
from taglens.training.text_data import GuideMix
from taglens.training.text_tasks import TextObjective


@dataclass(frozen=True, slots=True)
class CaptionerSizes:
    """Sizes of a captioner that starts anew; what they leave open follows from the tagger and the word pieces.

    Attributes:
        most_tags: recognised tags that guide a caption, the surest ones; see `CaptionerConfig.most_tags`.
        vectors: width of the vectors in which pictures and texts are compared.
        least: how often the captions must use a word that becomes a piece of its own.
    """

    width: int = 192
    depth: int = 2
    heads: int = 4
    ffn_width: int = 384
    tag_length: int = 40
    positions: int = 48
    most_tags: int = 10
    see_picture: bool = True
    dropout: float = 0.1
    label_smoothing: float = 0.1
    shared_layers: int = 0
    vectors: int = 256
    least: int = 20


@dataclass(frozen=True, slots=True)
class TextRunConfig:
    """One phase.

    Attributes:
        loop: ``only`` names parts of the joint model: recognizer, captioner, aligner. Without the recogniser, tagging
            stays as it is to the last bit.
        views: encode every picture so many times ahead, differently cropped and tinted, and train the rest on that
            (`taglens.training.cached`); 0: encode them in every step, as an encoder that learns needs it.
        sizes: of a captioner that the model to start from lacks.
        tagger: name or folder of the model whose tags guide captions as recognised ones; None: the one started from.
        keep_views: a folder for encoded views, which other runs over the same pictures find there; None: the run's
            own, until it is finished. It decides nothing but time.
        store_scale: pictures are kept in memory at this multiple of the training side, so that crops keep detail.
        tagging: the tagging objective, where ``weights`` gives "tag" one above 0.
    """

    loop: LoopConfig
    batch_size: int = 64
    mix: GuideMix = field(default_factory=GuideMix)
    weights: Mapping[str, float] = field(default_factory=lambda: dict(TextObjective().weights))
    matched: int = 0
    views: int = 8
    sizes: CaptionerSizes = field(default_factory=CaptionerSizes)
    tagger: str | None = None
    keep_views: Path | None = None
    store_scale: float = 1.25
    tagging: TagObjective = field(default_factory=TagObjective)


@dataclass(frozen=True, slots=True)
class Texts:
    """What is learned beside captioned pictures.

    Attributes:
        plain: captions about no picture.
        questions: about the pictures of the sources, with answers; others are left out.
    """

    plain: Sequence[str] = ()
    questions: Sequence[Question] = ()

    def said(self) -> Iterator[str]:
        """The questions and their answers."""
        for each in self.questions:
            yield from (each.question, *(each.answers or ()))
