"""The models that captions are scored by: a BERT, a CLIP, or an aligner of this library; from folders on disk.

Knows transformers' folders and what goes in and out of these models; refuses to know what a score is made of
(`taglens.evaluation.caption_scores`). torch and transformers are imported when a folder is opened.
Shapes: L pieces of a text, D width of their vectors, B pictures, T texts, E width of the space they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from taglens import images
from taglens.errors import DataError, MissingExtraError, ModelError, UsageError
from taglens.evaluation.caption_scores import (
    Array,
    Match,
    Pieces,
    Rarity,
    best_match,
    clip_scores,
    cosines,
    mean_match,
    ref_clip_scores,
)
from taglens.evaluation.caption_words import words
from taglens.evaluation.datasets import CaptionedImage

if TYPE_CHECKING:
    from taglens.inference.tagger import Tagger

# The layer whose vectors BERTScore's authors found to agree most with people, by kind and number of layers.
LAYERS: Mapping[tuple[str, int], int] = {
    ("bert", 12): 9,
    ("bert", 24): 18,
    ("roberta", 12): 10,
    ("roberta", 24): 17,
    ("distilbert", 6): 5,
}
_KINDS = tuple(dict.fromkeys(kind for kind, _ in LAYERS))
# CLIPScore's authors put this before every sentence.
CLIP_PROMPT = "A photo depicts "
_AT_ONCE = 32
_MOST_PIECES = 512

_T = TypeVar("_T")


class BertPieces:
    """Texts to the vectors of their pieces, by one layer of a language model.

    Args:
        folder: a transformers folder of kind bert, roberta or distilbert.
        layer: 1 for the first; None: the one that `LAYERS` has for the kind.
        device: auto, cpu or cuda.

    Raises:
        MissingExtraError: transformers or torch is absent.
        ModelError: the folder is no such model, or not whole.
        UsageError: the model has no such layer, or it must be said.
    """

    def __init__(self, folder: Path, *, layer: int | None = None, device: str = "auto") -> None:
        package, self._device = _started(device)
        from taglens.models import transformers_folders as folders

        config = folders.config_of(folder)
        kind = config["model_type"]
        if kind not in _KINDS:
            raise ModelError(f"{folder} is a {kind}; BERTScore is computed with one of {', '.join(_KINDS)}")
        self._model = folders.read_weights(
            package.AutoModel, folder, needless=lambda name: name.startswith("pooler.")
        ).to(self._device)
        layers = int(self._model.config.num_hidden_layers)
        chosen = LAYERS.get((kind, layers)) if layer is None else layer
        if chosen is None:
            raise UsageError(
                f"{folder} is a {kind} of {layers} layers, for which nobody has said which one to use; say it with "
                f"--bertscore-layer, 1 to {layers}"
            )
        if not 1 <= chosen <= layers:
            raise UsageError(f"{folder} has layers 1 to {layers}, and no layer {chosen}")
        self._tokenizer = folders.tokenizer_of(folder)
        # Roberta's positions begin behind that of padding.
        first = int(self._model.config.pad_token_id) + 1 if kind == "roberta" else 0
        places = int(self._model.config.max_position_embeddings) - first
        self._longest = min(_MOST_PIECES, places, int(self._tokenizer.model_max_length))
        # Roberta tells a word that opens a text from one behind a space.
        self._opening = " " if kind == "roberta" else ""
        self.layer = chosen
        self.name = f"{folder.resolve().name}@{folders.fingerprint(folder)}"

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of each text's pieces, marks included, cut to the greatest length."""
        found: list[list[int]] = self._encoded(texts)["input_ids"] if len(texts) else []
        return found

    def __call__(self, texts: Sequence[str]) -> list[Pieces]:
        """The pieces of each text. Raises ModelError: their vectors are not finite."""
        import torch

        found: list[Pieces] = []
        for part in _parts(texts, _AT_ONCE):
            rows = self._encoded(part)
            padded = self._tokenizer.pad(
                {"input_ids": rows["input_ids"]}, return_tensors="pt", padding_side="right"
            )
            with torch.inference_mode():
                given = {
                    "input_ids": padded["input_ids"].to(self._device),
                    "attention_mask": padded["attention_mask"].to(self._device),
                }
                layers = self._model(**given, output_hidden_states=True).hidden_states
            vectors = layers[self.layer].float().cpu().numpy()
            if not np.isfinite(vectors).all():
                raise ModelError(f"{self.name} gives vectors that are not finite; copy it again")
            for row, ids in enumerate(rows["input_ids"]):
                marks = np.array(rows["special_tokens_mask"][row], np.bool_)
                found.append(Pieces(np.array(ids, np.int64), vectors[row, : len(ids)], marks))
        return found

    def _encoded(self, texts: Sequence[str]) -> Any:
        return self._tokenizer(
            [self._opening + text.strip() for text in texts],
            truncation=True,
            max_length=self._longest,
            return_special_tokens_mask=True,
        )


class Towers(Protocol):
    """What puts pictures and texts into one space."""

    @property
    def name(self) -> str: ...

    def pictures(self, files: Sequence[Path]) -> Array:
        """Vectors [B, E]. Raises ImageError for a picture that cannot be read."""
        ...

    def texts(self, texts: Sequence[str]) -> Array:
        """Vectors [T, E]."""
        ...


class ClipTowers:
    """A CLIP of transformers; arguments and errors as for `BertPieces`."""

    def __init__(self, folder: Path, *, device: str = "auto") -> None:
        package, self._device = _started(device)
        from taglens.models import transformers_folders as folders

        kind = folders.config_of(folder)["model_type"]
        if kind != "clip":
            raise ModelError(f"{folder} is a {kind}; CLIPScore is computed with a clip")
        self._model = folders.read_weights(package.CLIPModel, folder).to(self._device)
        # The kind that needs Pillow alone; the other needs torchvision.
        self._processor = folders.read(package.CLIPImageProcessorPil, folder)
        self._tokenizer = folders.tokenizer_of(folder)
        self._longest = int(self._model.config.text_config.max_position_embeddings)
        self.name = f"{folder.resolve().name}@{folders.fingerprint(folder)}"

    def pictures(self, files: Sequence[Path]) -> Array:
        import torch

        found = []
        for part in _parts(files, _AT_ONCE):
            pixels = [images.load(file).pixels for file in part]
            given = self._processor(pixels, return_tensors="pt", input_data_format="channels_last")
            with torch.inference_mode():
                seen = self._model.get_image_features(given["pixel_values"].to(self._device))
            found.append(seen.pooler_output.float().cpu().numpy())
        return self._joined(found)

    def texts(self, texts: Sequence[str]) -> Array:
        import torch

        found = []
        for part in _parts(texts, _AT_ONCE):
            given = self._tokenizer(
                [CLIP_PROMPT + text for text in part],
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            )
            with torch.inference_mode():
                read = self._model.get_text_features(
                    given["input_ids"].to(self._device), given["attention_mask"].to(self._device)
                )
            found.append(read.pooler_output.float().cpu().numpy())
        return self._joined(found)

    def _joined(self, parts: list[Array]) -> Array:
        if not parts:
            return np.zeros((0, int(self._model.config.projection_dim)), np.float32)
        found = np.concatenate(parts)
        if not np.isfinite(found).all():
            raise ModelError(f"{self.name} gives vectors that are not finite; copy it again")
        return found


class AlignerTowers:
    """The aligner of a model of this library. Raises UsageError: the model has none."""

    def __init__(self, tagger: Tagger) -> None:
        _ = tagger.alignment
        self._tagger = tagger
        self.name = tagger.ref

    def pictures(self, files: Sequence[Path]) -> Array:
        rows = []
        for row in self._tagger.embed(files):
            if row.vector is None:
                told = "" if row.error is None else f": {row.error.message}"
                raise DataError(f"{row.source} cannot be compared with its caption{told}")
            rows.append(row.vector)
        return np.stack(rows)

    def texts(self, texts: Sequence[str]) -> Array:
        return self._tagger.embed_text(texts)


class ModelScores:
    """Means of what models say of captions, whichever of the models there are.

    Pictures are looked at once, however often captions of them are scored.

    Args:
        pieces: for BERTScore; rare: pieces weigh by how few references hold them.
        clip: for CLIPScore and RefCLIPScore.
        aligner: for the mean cosine of picture and caption, which needs no reference. A caption without a word has 0.
    """

    def __init__(
        self,
        *,
        pieces: BertPieces | None = None,
        rare: bool = False,
        clip: Towers | None = None,
        aligner: Towers | None = None,
    ) -> None:
        self._pieces, self._rare, self._clip, self._aligner = pieces, rare, clip, aligner
        self._seen: dict[tuple[int, Path], Array] = {}

    @property
    def about(self) -> dict[str, str]:
        """Score -> what it was computed with."""
        found = {}
        if self._pieces is not None:
            weighed = ", rare pieces weigh more" if self._rare else ""
            found["BERTScore"] = f"{self._pieces.name}, layer {self._pieces.layer}{weighed}"
        if self._clip is not None:
            found["CLIPScore"] = self._clip.name
        if self._aligner is not None:
            found["picture_similarity"] = self._aligner.name
        return found

    def __call__(self, rows: Sequence[CaptionedImage], captions: Sequence[str]) -> dict[str, float]:
        """Name -> mean over pictures.

        Args:
            rows: the pictures, whose captions are the references.
            captions: one for each.

        Raises:
            UsageError: no pictures, or not as many captions.
            ImageError, DataError: a picture cannot be read; with a caption that was written earlier, say.
        """
        if not rows or len(rows) != len(captions):
            raise UsageError(f"{len(captions)} captions for {len(rows)} pictures; expected one for each")
        found: dict[str, float] = {}
        if self._pieces is not None:
            match = mean_match(_matches(self._pieces, rows, captions, rare=self._rare))
            found |= {
                "BERTScore-P": match.precision,
                "BERTScore-R": match.recall,
                "BERTScore-F1": match.f1,
            }
        if self._clip is not None:
            read = _once(captions, self._clip.texts)
            scores = clip_scores(self._look(self._clip, rows), read)
            references = [_once(texts, self._clip.texts) for texts in _each(rows)]
            found["CLIPScore"] = float(scores.mean())
            found["RefCLIPScore"] = float(ref_clip_scores(scores, read, references).mean())
        if self._aligner is not None:
            spoken = [number for number, text in enumerate(captions) if words(text)]
            total = 0.0
            if spoken:
                seen = self._look(self._aligner, [rows[number] for number in spoken])
                texts = _once([captions[number] for number in spoken], self._aligner.texts)
                total = float(cosines(seen, texts).sum())
            found["picture_similarity"] = total / len(rows)
        return found

    def _look(self, towers: Towers, rows: Sequence[CaptionedImage]) -> Array:
        files = list(dict.fromkeys(row.path for row in rows if (id(towers), row.path) not in self._seen))
        for file, vector in zip(files, towers.pictures(files) if files else (), strict=True):
            self._seen[id(towers), file] = vector
        return np.stack([self._seen[id(towers), row.path] for row in rows])


def _matches(
    pieces: BertPieces, rows: Sequence[CaptionedImage], captions: Sequence[str], *, rare: bool
) -> list[Match]:
    """Of each picture, some pictures at a time: pieces of all references together would fill the memory."""
    rarity = Rarity(pieces.ids([text for texts in _each(rows) for text in texts])) if rare else None
    found = []
    for part in _parts(list(zip(captions, _each(rows), strict=True)), _AT_ONCE):
        every = list(dict.fromkeys(text for caption, texts in part for text in (caption, *texts)))
        read = dict(zip(every, pieces(every), strict=True))
        found += [
            best_match(read[caption], [read[text] for text in texts], rarity=rarity)
            for caption, texts in part
        ]
    return found


def _each(rows: Iterable[CaptionedImage]) -> list[list[str]]:
    """Per picture its references, of those that hold a word; see `taglens.evaluation.captions.references`."""
    return [[text for text in row.captions if words(text)] for row in rows]


def _once(texts: Sequence[str], read: Callable[[Sequence[str]], Array]) -> Array:
    """Vectors [T, E] of texts, of which each different one is read once."""
    every = list(dict.fromkeys(texts))
    row = {text: number for number, text in enumerate(every)}
    found: Array = read(every)[[row[text] for text in texts]]
    return found


def _parts(of: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (of[start : start + size] for start in range(0, len(of), size))


def _started(device: str) -> tuple[Any, str]:
    """Transformers, and the torch device; both packages must be there."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(
                package, extra="vlm", purpose="scoring captions with a model of transformers"
            )
    from taglens.inference.engines import torch_device
    from taglens.models.transformers_folders import transformers

    return transformers(), torch_device(device)
