"""Teaching a tagger to write captions and to compare pictures with texts: a run from shards and plain captions.

A run is one phase, as in `taglens.training.recipes`, and begins with a model folder: a tagger's, or one that writes
already. Captions without pictures teach the language: their tags alone lead to them.
Shapes: V views, N pictures, P image tokens, C the encoder's width, K the tokens' width once projected.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from taglens.data.batches import PictureSet, decode_set
from taglens.data.questions import Question
from taglens.data.shards import ShardSet
from taglens.errors import DataError, UsageError
from taglens.inference.bundle import TEXT, checksum
from taglens.inference.captioning import guiding
from taglens.inference.tagger import Tagger
from taglens.language.caption_text import CaptionText
from taglens.language.parser import parse_lines
from taglens.language.piece_learning import learn_pieces
from taglens.language.text_tags import TextTags
from taglens.language.word_lists import packaged
from taglens.language.wordpiece import WordPiece
from taglens.models.aligner import Aligner, AlignerConfig
from taglens.models.captioner import Captioner, CaptionerConfig
from taglens.models.checkpoint import (
    PIECES,
    WEIGHTS,
    aligner_from_pretrained,
    captioner_from_pretrained,
    from_pretrained,
    read_config,
    save_pretrained,
)
from taglens.models.configs import RecognizerConfig
from taglens.models.recognizer import Recognizer
from taglens.training import cached, parallel
from taglens.training.answer_data import AskedOf, numbered
from taglens.training.augment import augment
from taglens.training.augment import plain as plain_pictures
from taglens.training.loop import LoopConfig, Progress, run_steps
from taglens.training.objectives import TagObjective
from taglens.training.recipes import MODEL_FOLDER, note_settings, objective_settings
from taglens.training.text_data import (
    NO_PICTURE,
    AnswerStream,
    Captions,
    GuideMix,
    TextBatch,
    TextStream,
)
from taglens.training.text_tasks import Tag2Text, TextObjective, TextTensors
from taglens.vocabulary import Vocabulary

_AT_ONCE = 100
T = TypeVar("T")
Prepared = Callable[[str, int, int], None]


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


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Captioned pictures of one split.

    Attributes:
        views: the pictures; encoded ahead, a set of tokens for each view of them.
        captions: about them, in pieces.
    """

    views: Sequence[PictureSet]
    captions: Captions


def run(
    sources: Sequence[ShardSet],
    texts: Texts,
    config: TextRunConfig,
    *,
    start: Path,
    out: Path,
    name: str,
    device: str = "cpu",
    report: Callable[[Progress], None] | None = None,
    prepared: Prepared = lambda what, done, total: None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Prepare, train, save; returns the folder that `from_pretrained` reads.

    Args:
        sources: shard folders with captions; may be empty where there are plain captions.
        start: the model folder to begin with.
        prepared: told, before the first step, how much of what is done.

    Raises:
        UsageError: nothing to learn from, or several processes.
        DataError: a source has no captions.
        MismatchError: a source or the tagger has another vocabulary than the model; the run was begun otherwise.
    """
    if parallel.size() > 1:
        raise UsageError("captions are trained by one process: contrast compares all captions of a batch")
    if not sources and not texts.plain:
        raise UsageError("nothing to learn from: give shard folders with captions, or files of captions")
    if texts.questions and not sources:
        raise UsageError("questions are about pictures: give the shard folders that hold them, too")
    recognizer, vocabulary, _ = from_pretrained(start)
    for source in sources:
        vocabulary.require(source.vocabulary.fingerprint, what=f"the shard folder {source.name}")
    captioned = [text for source in sources for texts in _told(source, "train") for text in texts]
    # Before anything random: the same seed starts from the same weights.
    torch.manual_seed(config.loop.seed)
    written = [*captioned, *texts.plain, *texts.said()]
    model, pieces = _model(start, recognizer, vocabulary, written, config)
    if texts.questions:
        model.captioner.config = replace(model.captioner.config, answers=True)
    only = config.loop.only
    if model.captioner.config.shared_layers and only and "captioner" in only and "recognizer" not in only:
        raise UsageError(
            "the captioner shares layers with the tag decoder, which would change with them: train the recognizer, "
            "too, or begin with a tagger and no shared layers"
        )
    _note(out, sources, texts, config, start)
    model.to(device)
    reader = _Reader(start, model, vocabulary, pieces, config, prepared)
    say(
        f"{len(captioned):,} captions of pictures, {len(texts.plain):,} without, {len(texts.questions):,} questions, "
        f"{len(reader.text.pieces):,} word pieces"
    )
    seen = reader.corpus(sources, "train", views=config.views) if sources else None
    split = [source for source in sources if source.splits.get("val")]
    held = reader.corpus(split, "val", views=0) if split else None
    streams = reader.streams(sources, texts, seen)
    trainer = _Trainer(model, reader, streams, () if seen is None else seen.views)
    finished = run_steps(
        model,
        trainer.gradients,
        config.loop,
        out=out,
        evaluate=None if held is None else lambda each: trainer.judge(each, held),
        report=report,
    )
    save_pretrained(
        finished.recognizer,
        vocabulary,
        out / MODEL_FOLDER,
        name=name,
        captioner=finished.captioner,
        aligner=finished.aligner if finished.aligns else None,
        pieces=pieces,
        beside=lambda stage: _copy(start / TEXT, stage),
    )
    return out / MODEL_FOLDER


def side_of(folder: Path) -> int:
    """The side in pixels at which a model folder looks at pictures. Raises ModelError for no model folder."""
    return RecognizerConfig.from_dict(read_config(folder)["recognizer"]).side


def _copy(file: Path, folder: Path) -> None:
    if file.exists():
        shutil.copyfile(file, folder / file.name)


def _told(source: ShardSet, split: str) -> list[tuple[str, ...]]:
    """The captions of each picture of a split. Raises DataError where there is none at all."""
    told = [sample.captions for sample in source.samples(split)]
    if not any(told):
        raise DataError(f"shard folder {source.name} has no captions in its split {split!r}; leave it out")
    return told


def _model(
    start: Path,
    recognizer: Recognizer,
    vocabulary: Vocabulary,
    captions: Iterable[str],
    config: TextRunConfig,
) -> tuple[Tag2Text, bytes]:
    """The joint model and its file of word pieces: what the folder has of it, and the rest anew."""
    wants_aligner = any(config.weights.get(name) for name in ("itc", "itm"))
    captioner = captioner_from_pretrained(start, recognizer)
    if captioner is not None:
        pieces = (start / PIECES).read_bytes()
        aligner = aligner_from_pretrained(start, captioner)
        captioner.train()
    else:
        learned = learn_pieces(captions, (entry.name for entry in vocabulary), least=config.sizes.least)
        pieces = ("\n".join(learned) + "\n").encode()
        captioner, aligner = Captioner(_sizes(config.sizes, recognizer, WordPiece(learned))), None
        captioner.share_layers(list(recognizer.decoder.layers))
    if aligner is None and wants_aligner:
        aligner = Aligner(AlignerConfig(width=config.sizes.vectors), captioner)
    return Tag2Text(recognizer, captioner, aligner), pieces


def _sizes(sizes: CaptionerSizes, recognizer: Recognizer, words: WordPiece) -> CaptionerConfig:
    own = {key: value for key, value in asdict(sizes).items() if key not in ("vectors", "least")}
    return CaptionerConfig(
        **own,
        image_width=recognizer.config.token_width,
        words=len(words),
        pad=words.pad,
        end=words.sep,
        start=words.dec,
        tags=words.enc,
        see_padding=False,
    )


def _note(out: Path, sources: Sequence[ShardSet], texts: Texts, config: TextRunConfig, start: Path) -> None:
    """Write what decides a run's outcome beside its loop's settings, or compare it where the run goes on."""
    note_settings(
        out,
        {
            "shards": {source.name: source.plan.configuration for source in sources},
            "plain_captions": _digest(texts.plain),
            "questions": _digest([json.dumps(each.to_dict()) for each in texts.questions]),
            "batch_size": config.batch_size,
            "mix": asdict(config.mix),
            "weights": dict(config.weights),
            "matched": config.matched,
            "views": config.views,
            "sizes": asdict(config.sizes),
            "tagger": config.tagger,
            "store_scale": config.store_scale,
            "tagging": objective_settings(config.tagging),
            "init": checksum(start / WEIGHTS),
        },
    )


def _digest(lines: Sequence[str]) -> str | None:
    whole = "\n".join(lines).encode("utf-8", "surrogatepass")
    return hashlib.sha256(whole).hexdigest()[:16] if lines else None


class _Reader:
    """Captions as pieces and tags, pictures as pixels or tokens: all that a run learns from."""

    def __init__(
        self,
        start: Path,
        model: Tag2Text,
        vocabulary: Vocabulary,
        pieces: bytes,
        config: TextRunConfig,
        prepared: Prepared,
    ) -> None:
        self.config = config
        self._prepared = prepared
        self.text = CaptionText(
            WordPiece(pieces.decode().removesuffix("\n").split("\n")),
            length=model.captioner.config.tag_length,
        )
        self.names = [entry.name for entry in vocabulary]
        self._recognizer = model.recognizer
        self._vocabulary = vocabulary
        self._tags = TextTags(vocabulary, packaged(), parse_lines)
        self._tagger = Tagger.from_pretrained(config.tagger or start)
        self._most = model.captioner.config.most_tags
        vocabulary.require(self._tagger.vocabulary.fingerprint, what=f"the tagger {self._tagger.ref}")

    def said(self, captions: Sequence[str]) -> list[tuple[int, ...]]:
        """Per caption the columns of the tags that it says."""
        read = self._counted("captions read", captions, len(captions))
        return [tuple(sorted(tags)) for tags in self._tags(read)]

    def streams(
        self, sources: Sequence[ShardSet], texts: Texts, seen: Corpus | None
    ) -> list[TextStream | AnswerStream]:
        """What every step draws from, each an even part of the batch: captioned pictures, captions, questions."""
        config, text, names = self.config, self.text, self.names
        kinds = [seen is not None, bool(texts.plain), bool(texts.questions)]
        size, seed = config.batch_size // sum(kinds), config.loop.seed * 3
        found: list[TextStream | AnswerStream] = []
        if seen is not None:
            found.append(TextStream(seen.captions, text, names, batch_size=size, mix=config.mix, seed=seed))
        if texts.plain:
            plain = Captions.of(text, texts.plain, said=self.said(texts.plain))
            found.append(TextStream(plain, text, names, batch_size=size, mix=config.mix, seed=seed + 1))
        if texts.questions and seen is not None:
            found.append(
                AnswerStream(
                    _about(texts.questions, sources),
                    text,
                    names,
                    recognised=seen.captions.recognised,
                    batch_size=size,
                    none=config.mix.none,
                    seed=seed + 2,
                )
            )
        return found

    def corpus(self, sources: Sequence[ShardSet], split: str, *, views: int) -> Corpus:
        """The captioned pictures of shard folders, encoded ahead in several views or, with 0, as they are."""
        told = [texts for source in sources for texts in _told(source, split)]
        flat = [text for texts in told for text in texts]
        captions = Captions.of(
            self.text,
            flat,
            said=self.said(flat),
            pictures=[number for number, texts in enumerate(told) for _ in texts],
            recognised=list(self._counted("pictures tagged", self._recognised(sources, split), len(told))),
        )
        loop = self.config.loop
        side = loop.side if split == "val" else round(loop.side * self.config.store_scale)
        whole = _joined([decode_set(source, self._vocabulary, split=split, side=side) for source in sources])
        if not views:
            return Corpus([whole], captions)
        total = len(whole) * views
        encoded = cached.encode(
            self._recognizer,
            whole,
            side=loop.side,
            views=views,
            config=loop.augment,
            seed=loop.seed,
            progress=lambda done: self._prepared("views encoded", done, total),
        )
        return Corpus(encoded, captions)

    def _recognised(self, sources: Sequence[ShardSet], split: str) -> Iterator[tuple[int, ...]]:
        """Per picture the columns of the tags that guide a caption where the user gives none."""
        position = self._vocabulary.position
        for row in self._tagger(sample.image for source in sources for sample in source.samples(split)):
            tags = () if row.tags is None else guiding(row.tags, self._vocabulary, most=self._most)
            yield tuple(position(tag.id) for tag in tags)

    def _counted(self, what: str, items: Iterable[T], total: int) -> Iterator[T]:
        for done, item in enumerate(items, 1):
            yield item
            self._prepared(what, done, total)


def _about(questions: Sequence[Question], sources: Sequence[ShardSet]) -> list[AskedOf]:
    """The questions with the numbers of their pictures, which the sources name as the questions' file does.

    Raises:
        DataError: none is about any of them.
    """
    places = [sample.source for source in sources for sample in source.samples("train")]
    numbers = {place: number for number, place in enumerate(places)}
    paths = {
        os.path.abspath(each.path): numbers[each.image]  # noqa: PTH100 - as `numbered` looks for them
        for each in questions
        if each.image in numbers
    }
    return numbered(questions, paths)


def _joined(sets: Sequence[PictureSet]) -> PictureSet:
    """Several sets as one; an absent tag counts as far as in the least sure of them."""
    if len(sets) == 1:
        return sets[0]
    return PictureSet(
        "+".join(each.name for each in sets),
        np.concatenate([each.pixels for each in sets]),
        np.concatenate([each.present for each in sets]),
        np.minimum.reduce([each.absent_weight for each in sets]),
    )


class _Trainer:
    """Gradients of a step, and how well a model does on held-out pictures."""

    def __init__(
        self,
        model: Tag2Text,
        reader: _Reader,
        streams: Sequence[TextStream | AnswerStream],
        views: Sequence[PictureSet],
    ) -> None:
        config = reader.config
        self._model = model
        self._reader = reader
        self._streams = streams
        self._views = views
        self._objective = TextObjective(
            weights=config.weights, matched=config.matched, tagging=config.tagging
        )

    def gradients(self, step: int) -> tuple[dict[str, Tensor], int]:
        """Of all streams together; plain captions teach writing only."""
        loop, device = self._reader.config.loop, next(self._model.parameters()).device
        number = loop.seed * 1_000_003 + step
        # Dropout draws from torch's own generator: a resumed run must draw as the first would have.
        torch.manual_seed(number % 2**63)
        named: dict[str, Tensor] = {}
        batches = [stream.batch(step) for stream in self._streams]
        whole = sum(map(len, batches))
        for place, batch in enumerate(batches):
            generator = torch.Generator().manual_seed((number * 2 + place) % 2**63)
            with torch.autocast(device.type, torch.bfloat16, enabled=loop.precision == "bf16"):
                tokens = self._tokens(batch, generator)
                given = self._with_tags(TextTensors.of(batch, device=device), batch)
                found = self._objective.losses(self._model, tokens, given, generator=generator)
                total = self._objective.total(found) * (len(batch) / whole)
            total.backward()  # type: ignore[no-untyped-call]
            prefix = "plain_" if _about_nothing(batch) else "answer_" if batch.read is None else ""
            named |= {prefix + name: value.detach() for name, value in found.items()}
        return named, whole

    def judge(self, model: Tag2Text, held: Corpus) -> dict[str, float]:
        """What a thousand held-out captions say, guided by recognised tags.

        Returns:
            "lm": the writing loss. "R@10": how often a caption's picture is among the ten most similar ones of all;
            only where the model aligns.
        """
        size = min(_AT_ONCE, len(held.captions))
        stream = TextStream(
            held.captions,
            self._reader.text,
            self._reader.names,
            batch_size=size,
            mix=GuideMix(parsed=0.0, none=0.0),
        )
        device = next(model.parameters()).device
        pixels, side = held.views[0].pixels, self._reader.config.loop.side
        losses, found, told = 0.0, 0.0, 0
        with torch.inference_mode():
            parts = [
                model.recognizer.tokens(
                    plain_pictures(torch.from_numpy(pixels[at : at + size]).to(device), side)
                )
                for at in range(0, len(pixels), size)
            ]
            tokens = torch.cat(parts)
            for number in range(min(10, len(held.captions) // size)):
                batch = stream.batch(number)
                given = TextTensors.of(batch, device=device)
                own = torch.from_numpy(batch.pictures).to(device)
                memory = model.captioner.encode(given.guides, given.guide_mask, tokens[own])
                losses += float(self._objective.writing(model, memory, given)) * size
                told += size
                if model.aligns and given.read is not None and given.read_mask is not None:
                    texts = model.aligner.texts(given.read, given.read_mask)
                    similar = texts @ model.aligner.pictures(tokens).T
                    better = (similar > similar.gather(1, own[:, None])).sum(1)
                    found += float((better < 10).sum())
        return {"lm": losses / told} | ({"R@10": found / told} if model.aligns else {})

    def _tokens(self, batch: TextBatch, generator: torch.Generator) -> Tensor:
        """Tokens [B, P, K] of the pictures; zeros [B, 1, K] where captions are about none."""
        recognizer, config = self._model.recognizer, self._reader.config
        device = next(recognizer.parameters()).device
        if _about_nothing(batch):
            return torch.zeros(len(batch), 1, recognizer.config.token_width, device=device)
        if not config.views:
            pixels = torch.from_numpy(self._views[0].pixels[batch.pictures]).to(device)
            images = augment(pixels, config.loop.side, config.loop.augment, generator=generator)
            return recognizer.tokens(images.contiguous(memory_format=torch.channels_last))
        views = torch.randint(len(self._views), (len(batch),), generator=generator).tolist()
        chosen = [self._views[view].pixels[n] for view, n in zip(views, batch.pictures, strict=True)]
        projected: Tensor = recognizer.project(torch.from_numpy(np.stack(chosen)).to(device).float())
        return projected

    def _with_tags(self, given: TextTensors, batch: TextBatch) -> TextTensors:
        """With the pictures' tags, where tagging is learned, too."""
        if not self._reader.config.weights.get("tag") or _about_nothing(batch) or batch.read is None:
            return given
        pictures = self._views[0]
        present = pictures.present[batch.pictures].astype(np.float32)
        weights = np.where(present > 0, np.float32(1), pictures.absent_weight)
        device = given.own.device
        return replace(
            given, targets=torch.from_numpy(present).to(device), weights=torch.from_numpy(weights).to(device)
        )


def _about_nothing(batch: TextBatch) -> bool:
    return bool((batch.pictures == NO_PICTURE).all())
