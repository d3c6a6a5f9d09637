"""Teaching a tagger to write captions and to compare pictures with texts: a run from shards and plain captions.

A run is one phase, as in `taglens.training.recipes`, and begins with a model folder: a tagger's, or one that writes
already. Captions without pictures teach the language: their tags alone lead to them.
Shapes: V views, N pictures, P image tokens, C the encoder's width, K the tokens' width once projected.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from taglens.data.shards import ShardSet
from taglens.errors import UsageError
from taglens.inference.bundle import TEXT, checksum
from taglens.language.piece_learning import learn_pieces
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
from taglens.training import parallel
from taglens.training.loop import Progress, run_steps
from taglens.training.recipes import MODEL_FOLDER, note_settings, objective_settings
from taglens.training.text_reading import Prepared, Reader, told
from taglens.training.text_settings import CaptionerSizes, TextRunConfig, Texts
from taglens.training.text_steps import Trainer
from taglens.training.text_tasks import Tag2Text
from taglens.vocabulary import Vocabulary

# Encoded views of a run that is not finished.
VIEWS = "views"


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
    captioned = [text for source in sources for texts in told(source, "train") for text in texts]
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
    reader = Reader(start, model, vocabulary, pieces, config, prepared, keep=config.keep_views or out / VIEWS)
    say(
        f"{len(captioned):,} captions of pictures, {len(texts.plain):,} without, {len(texts.questions):,} questions, "
        f"{len(reader.text.pieces):,} word pieces"
    )
    seen = reader.corpus(sources, "train", views=config.views) if sources else None
    split = [source for source in sources if source.splits.get("val")]
    held = reader.corpus(split, "val", views=0) if split else None
    streams = reader.streams(sources, texts, seen)
    trainer = Trainer(model, reader, streams, () if seen is None else seen.views)
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
    if config.loop.until in (0, config.loop.steps):
        shutil.rmtree(out / VIEWS, ignore_errors=True)
    return out / MODEL_FOLDER


def side_of(folder: Path) -> int:
    """The side in pixels at which a model folder looks at pictures. Raises ModelError for no model folder."""
    return RecognizerConfig.from_dict(read_config(folder)["recognizer"]).side


def _copy(file: Path, folder: Path) -> None:
    if file.exists():
        shutil.copyfile(file, folder / file.name)


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
