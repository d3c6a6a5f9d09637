"""What users receive: a tag, a prediction for one picture, and their JSON forms.

Knows the contract's row; knows nothing of models, files or arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from taglens.errors import ImageError, ImageErrorType

Kind = Literal["object", "scene", "attribute", "action", "typed"]


def significant(value: float) -> float:
    """A float with seven significant digits: short in JSON, and inside fp32's own precision."""
    return float(f"{value:.7g}")


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag found in a picture; ``score`` is a probability in [0, 1]."""

    id: str
    name: str
    kind: Kind
    score: float

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "kind": self.kind, "score": significant(self.score)}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a picture has no tags."""

    type: ImageErrorType
    message: str

    @classmethod
    def of(cls, error: ImageError) -> Failure:
        return cls(error.type, str(error))

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, "message": self.message}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One picture's row.

    Attributes:
        source: as the caller named it; bytes that are not UTF-8 stand as U+FFFD and ``source_bytes``
            then holds the name in base64.
        width, height: pixels, after EXIF turning; None on error.
        tags: by falling score, empty when nothing passes, None on error.
        model, vocabulary: ``name@fingerprint``.
        notes: what was done to the picture that its owner may want to know ("first frame of 12").
    """

    source: str
    width: int | None
    height: int | None
    tags: tuple[Tag, ...] | None
    model: str
    vocabulary: str
    caption: str | None = None
    notes: tuple[str, ...] = ()
    error: Failure | None = None
    source_bytes: str | None = None

    @property
    def names(self) -> list[str]:
        """The tags' names, best first; empty on error."""
        return [tag.name for tag in self.tags or ()]

    def to_dict(self) -> dict[str, Any]:
        """The contract's row."""
        row: dict[str, Any] = {"source": self.source}
        if self.source_bytes is not None:
            row["source_bytes"] = self.source_bytes
        row |= {
            "width": self.width,
            "height": self.height,
            "tags": None if self.tags is None else [tag.to_dict() for tag in self.tags],
            "caption": self.caption,
            "model": self.model,
            "vocabulary": self.vocabulary,
            "notes": list(self.notes),
            "error": None if self.error is None else self.error.to_dict(),
        }
        return row

    def to_json(self) -> str:
        return to_line(self.to_dict())


@dataclass(frozen=True, slots=True)
class Caption:
    """One sentence about a picture.

    Attributes:
        score: mean log-probability of its pieces, at most 0; only captions of one search compare.
        mentioned: tags of the guide that it says.
        unmet: tags that the user gave and that it does not say.
    """

    text: str
    score: float
    mentioned: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "score": significant(self.score),
            "mentioned": list(self.mentioned),
            "unmet": list(self.unmet),
        }


@dataclass(frozen=True, slots=True)
class Captioned:
    """One picture's row of captions.

    Attributes:
        captions: best first; None on error.
        guide_tags: what they were to be about, in the order in which the model read it; None on error.
        others: see `Prediction`.
    """

    source: str
    width: int | None
    height: int | None
    captions: tuple[Caption, ...] | None
    guide_tags: tuple[str, ...] | None
    model: str
    notes: tuple[str, ...] = ()
    error: Failure | None = None
    source_bytes: str | None = None

    @property
    def caption(self) -> str | None:
        """The best caption; None on error."""
        return self.captions[0].text if self.captions else None

    def to_dict(self) -> dict[str, Any]:
        """The contract's row."""
        row: dict[str, Any] = {"source": self.source}
        if self.source_bytes is not None:
            row["source_bytes"] = self.source_bytes
        best = self.captions[0] if self.captions else None
        row |= {
            "width": self.width,
            "height": self.height,
            "caption": self.caption,
            "captions": None if self.captions is None else [one.to_dict() for one in self.captions],
            "guide_tags": None if self.guide_tags is None else list(self.guide_tags),
            "unmet": None if best is None else list(best.unmet),
            "model": self.model,
            "notes": list(self.notes),
            "error": None if self.error is None else self.error.to_dict(),
        }
        return row

    def to_json(self) -> str:
        return to_line(self.to_dict())


# Made once: `json.dumps` with these settings makes one per call.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def to_line(row: Mapping[str, Any]) -> str:
    """One JSON line: UTF-8 kept, no NaN, no line break inside."""
    return _ENCODER.encode(row)
