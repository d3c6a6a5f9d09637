"""`Tagger`: pictures in, predictions out, one at a time or a million.

Decoding runs ahead of the engine in a few threads; results come in the order of the sources; a picture that cannot
be read becomes a row with its error and never stops the others.
Shapes: B batch, S side, T tags, K pooled width.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taglens import images
from taglens.errors import UsageError, VocabularyError
from taglens.inference.bundle import locate
from taglens.inference.engines import Engine, Output, finite
from taglens.inference.loading import load_parts
from taglens.inference.pictures import Picture, Ready, read_ahead
from taglens.inference.typed import Labels, OpenVocabulary
from taglens.results import Captioned, Failure, Prediction, Tag
from taglens.vocabulary import Entry, Vocabulary

# What writes, compares and answers is loaded when first asked for: tagging starts without it.
if TYPE_CHECKING:
    from taglens.inference.alignment import Alignment, Embedded
    from taglens.inference.answering import Answered, AnswerSearch, Pair
    from taglens.inference.captioning import CaptionWriter, Guided, Search

Array = npt.NDArray[np.float32]


class Tagger:
    """A model with its vocabulary, ready to tag.

    Calling it is lazy: rows come as they are made, and sources are drawn as they are needed.
    """

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        *,
        ref: str,
        side: int,
        open_vocabulary: OpenVocabulary | None = None,
        load_writer: Callable[[], CaptionWriter] | None = None,
        load_alignment: Callable[[Callable[[], CaptionWriter]], Alignment] | None = None,
        tag_weight: float | None = None,
    ) -> None:
        """
        Args:
            open_vocabulary: how to score tags outside ``vocabulary``; None where the model reads no text.
            load_writer: gives what writes captions, called once and when first needed; None where the model does not.
            load_alignment: gives what compares pictures with texts, likewise, once it is told how to get the writer.
            tag_weight: what matching tags weigh beside similarity in search; None: nobody has found out.
        """
        self.vocabulary = vocabulary
        self.ref = ref
        self.side = side
        self._engine = engine
        self._known = vocabulary
        self._open = open_vocabulary
        # Per tag of `vocabulary` its column among the engine's, or -1 for the next of the typed ones; None: as is.
        self._columns: npt.NDArray[np.intp] | None = None
        self._labels: Labels | None = None
        self.tag_weight = tag_weight
        self._load_writer = None if load_writer is None else cache(load_writer)
        self._load_alignment = None
        if load_alignment is not None:
            self._load_alignment = cache(partial(load_alignment, self._writer))

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] = "starter",
        *,
        engine: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        adapter: str | os.PathLike[str] | None = None,
    ) -> Tagger:
        """Load a shipped model by name, an exported bundle, or (with torch) a trained model folder.

        Args:
            engine: "onnx", "torch", or "auto": whatever the folder was written for.
            device: "auto", "cpu" or "cuda".
            threads: threads of the engine; None: all cores.
            adapter: the folder of an adapter for the captions of a trained model folder, as ``taglens train
                enhance`` writes it; tags, and comparing pictures with texts, stay as they are.

        Raises:
            ModelError: no such model, or its files are damaged.
            MismatchError: the vocabulary beside the model, or the adapter, belongs to another.
            UsageError: an engine, device or adapter that does not exist or does not fit the folder.
        """
        parts = load_parts(
            locate(name_or_folder),
            engine=engine,
            device=device,
            threads=threads,
            adapter=None if adapter is None else Path(adapter),
        )
        return cls(
            parts.engine,
            parts.vocabulary,
            ref=parts.ref,
            side=parts.side,
            open_vocabulary=parts.open_vocabulary,
            load_writer=parts.load_writer,
            load_alignment=parts.load_alignment,
            tag_weight=parts.tag_weight,
        )

    # -- other vocabularies ----------------------------------------------------------------------

    @property
    def reads_text(self) -> bool:
        """Whether tags outside the model's own vocabulary can be scored."""
        return self._open is not None

    def typed(self, names: Sequence[str]) -> Tagger:
        """The same model giving only these tags, each scored as text even where the vocabulary knows it.

        Raises:
            UsageError: the model reads no text, or a name holds no letter or digit.
            VocabularyError: a name stands twice.
        """
        vocabulary = Vocabulary([Entry(name, "typed") for name in names], name="typed")
        return self._with(vocabulary, [None] * len(vocabulary))

    def with_vocabulary(self, vocabulary: Vocabulary) -> Tagger:
        """The same model giving only these tags; a new object.

        A tag is matched by id, then by name or synonym; one that the model was not taught is scored as text, by its
        name and descriptions, where the model reads text. Names, synonyms, thresholds and hidden marks are the given
        vocabulary's own; a tag without a threshold there takes the model's.

        Raises:
            VocabularyError: a tag that the model was not trained on, and the model reads no text.
            UsageError: such a tag's name or description holds no letter or digit.
        """
        columns = [self._column(entry) for entry in vocabulary]
        strange = [entry.name for entry, column in zip(vocabulary, columns, strict=True) if column is None]
        if strange and self._open is None:
            more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
            raise VocabularyError(
                f"{self.ref} does not know {', '.join(repr(n) for n in strange[:5])}{more}: it scores the "
                f"{len(self._known)} tags it was trained on; list them with: taglens vocabulary show"
            )
        return self._with(vocabulary, columns)

    def guesses(self) -> list[str]:
        """Names of typed tags of which no word is known: their scores follow from spelling alone."""
        if self._open is None or self._columns is None:
            return []
        typed = [self.vocabulary[int(t)] for t in np.flatnonzero(self._columns < 0)]
        return self._open.guesses(typed)

    def _column(self, entry: Entry) -> int | None:
        """The engine's column for a tag, or None."""
        if entry.kind == "typed":
            return None
        if entry.id in self._known:
            return self._known.position(entry.id)
        found = (self._known.find(name) for name in (entry.name, *entry.synonyms))
        return next((column for column in found if column is not None), None)

    def _with(self, vocabulary: Vocabulary, columns: Sequence[int | None]) -> Tagger:
        typed = [entry for entry, column in zip(vocabulary, columns, strict=True) if column is None]
        if typed and self._open is None:
            raise UsageError(
                f"{self.ref} reads no text: it scores the {len(self._known)} tags it was trained on"
            )

        def stored(column: int | None) -> float | None:
            if column is not None:
                return self._known[column].threshold
            return None if self._open is None else self._open.threshold

        thresholds = [
            stored(column) if entry.threshold is None else entry.threshold
            for entry, column in zip(vocabulary, columns, strict=True)
        ]
        other = copy.copy(self)
        other.vocabulary = vocabulary.with_thresholds(thresholds)
        other._columns = np.array([-1 if column is None else column for column in columns], np.intp)
        other._labels = self._open.embed(typed) if typed and self._open is not None else None
        return other

    # -- tagging ---------------------------------------------------------------------------------

    def __call__(
        self,
        sources: Picture | Iterable[Picture],
        *,
        threshold: float | None = None,
        top: int | None = None,
        batch_size: int = 16,
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
        language: str | None = None,
        caption: bool = False,
    ) -> Iterator[Prediction]:
        """Tag pictures, in order.

        Args:
            sources: paths, encoded bytes, Pillow images or arrays; one of them or any iterable of them.
            threshold: lowest score given, 0 to 1; None takes the vocabulary's own per tag.
            top: at most this many tags, after the threshold; None or 0: no limit.
            batch_size: pictures per engine call.
            max_pixels: larger pictures are refused before they are decoded.
            language: give tags by their names in this language where the vocabulary has them; ids stay.
            caption: also a sentence, guided by the tags that reach their threshold.

        Raises:
            UsageError: at once, for an argument that cannot be meant, or a language without a name.
            ModelError: the model's scores are not finite.
        """
        select = self._select(threshold, top, language)
        guided = self._guided(None, threshold=threshold) if caption else None
        batches = self._batches(sources, batch_size=batch_size, max_pixels=max_pixels)
        return (row for group, output in batches for row in self._predictions(group, output, select, guided))

    @property
    def writes(self) -> bool:
        """Whether the model writes captions."""
        return self._load_writer is not None

    @property
    def caption_lengths(self) -> range:
        """The greatest lengths that captions may be given, in word pieces. Raises as `caption` does."""
        return self._writer().lengths

    def caption(
        self,
        sources: Picture | Iterable[Picture],
        *,
        tags: Sequence[str] | None = None,
        add_tags: bool = False,
        threshold: float | None = None,
        search: Search | None = None,
        must_mention: bool = False,
        batch_size: int = 16,
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
    ) -> Iterator[Captioned]:
        """Write sentences about pictures, in order, guided by tags (Tag2Text 1.4).

        Args:
            tags: what the captions are to be about, any words; None: what is recognised.
            add_tags: ``tags`` go before the recognised ones instead of replacing them.
            threshold: lowest score of a recognised tag; None takes the vocabulary's own per tag.
            must_mention: as in ``search``: every caption says all of ``tags``, or names those it could not as unmet.
            others: see `__call__`.

        Raises:
            UsageError: at once, for an argument that cannot be meant, or a model that writes no captions.
            ModelError: the model's scores are not finite, or its captioner's files are damaged.
        """
        if isinstance(tags, str):
            raise UsageError(f"tags {tags!r} is one text; give a list of names: [{tags!r}]")
        guided = self._guided(
            tags,
            threshold=threshold,
            search=search,
            must_mention=must_mention,
            recognise=tags is None or add_tags,
        )
        if add_tags and not guided.given:
            raise UsageError("add_tags says what to do with tags, and there are none")
        batches = self._batches(sources, batch_size=batch_size, max_pixels=max_pixels)
        return (row for group, output in batches for row in self._captioned(group, output, guided))

    def answer(
        self,
        asked: Pair | Iterable[Pair],
        *,
        tags: Sequence[str] | None = None,
        add_tags: bool = False,
        threshold: float | None = None,
        search: AnswerSearch | None = None,
        batch_size: int = 16,
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
    ) -> Iterator[Answered]:
        """Answer questions about pictures, in order, guided by tags (Tag2Text 1.10).

        Args:
            asked: (picture, question), one pair or any iterable; those in a row about one picture look at it once.
            tags: what the model reads beside a question, any words; None: what is recognised; none: nothing.
            others: see `caption`.

        Raises:
            UsageError: at once, for an argument that cannot be meant, or a model that answers no questions; as it is
                met, for a question without a word.
            ModelError: as `caption`.
        """
        if isinstance(tags, str):
            raise UsageError(f"tags {tags!r} is one text; give a list of names: [{tags!r}]")
        if add_tags and not tags:
            raise UsageError("add_tags says what to do with tags, and there are none")
        from taglens.inference.answering import Answering, AnswerSearch, by_picture

        answering = Answering(
            None if self._load_writer is None else self._load_writer(),
            self.vocabulary,
            ref=self.ref,
            given=tuple(tags or ()),
            threshold=_threshold(threshold),
            recognise=tags is None or add_tags,
            search=search or AnswerSearch(),
        )
        waiting: deque[tuple[str, ...]] = deque()
        batches = self._batches(by_picture(asked, waiting), batch_size=batch_size, max_pixels=max_pixels)
        return (
            row
            for group, output in batches
            for row in answering.rows(group, output, () if output is None else self._chosen(output), waiting)
        )

    def _guided(
        self,
        tags: Sequence[str] | None,
        *,
        threshold: float | None,
        search: Search | None = None,
        must_mention: bool = False,
        recognise: bool = True,
    ) -> Guided:
        from taglens.inference.captioning import Guided, Search

        search = search or Search()
        return Guided(
            self._writer(),
            self.vocabulary,
            known=self._known,
            given=tuple(tags or ()),
            threshold=_threshold(threshold),
            recognise=recognise,
            search=replace(search, must_mention=True) if must_mention else search,
        )

    def _writer(self) -> CaptionWriter:
        if self._load_writer is None:
            raise UsageError(
                f"{self.ref} gives tags and writes no captions; use a model that does, such as the starter or what "
                "taglens pull tag2text makes"
            )
        return self._load_writer()

    def _captioned(self, group: list[Ready], output: Output | None, guided: Guided) -> Iterator[Captioned]:
        found = iter(() if output is None else guided(output.tokens, self._chosen(output)))
        for ready in group:
            written = None if ready.error is not None else next(found)
            yield Captioned(
                source=ready.source.shown,
                source_bytes=ready.source.source_bytes,
                width=ready.width,
                height=ready.height,
                captions=None if written is None else written.captions,
                guide_tags=None if written is None else written.guide,
                model=self.ref,
                notes=ready.notes if written is None else (*ready.notes, *written.notes),
                error=None if ready.error is None else Failure.of(ready.error),
            )

    # -- one space for pictures and texts ----------------------------------------------------------

    @property
    def aligns(self) -> bool:
        """Whether pictures and texts stand in one space: `embed_text`, and search by free text."""
        return self._load_alignment is not None

    def embed(
        self,
        sources: Picture | Iterable[Picture],
        *,
        batch_size: int = 16,
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
        keep_tokens: bool = False,
    ) -> Iterator[Embedded]:
        """Pictures as unit vectors, in order, whose products are similarities; see `stacked` for one array.

        They compare with `embed_text`'s where the model `aligns`, and else with each other only.

        Args:
            keep_tokens: also the pictures' tokens, for `match`; large.
            others, and errors: see `__call__`.
        """
        from taglens.inference.alignment import embedded, unit, unread

        align = None if self._load_alignment is None else self.alignment.pictures
        batches = self._batches(sources, batch_size=batch_size, max_pixels=max_pixels)

        def embed(group: list[Ready], output: Output | None) -> Iterator[Embedded]:
            if output is None:
                return (unread(ready, self.ref) for ready in group)
            vectors = unit(output.pooled) if align is None else align(output.tokens)
            return embedded(
                group, vectors, self._chosen(output), output.tokens if keep_tokens else None, self.ref
            )

        return (row for group, output in batches for row in embed(group, output))

    def embed_text(self, texts: Sequence[str]) -> Array:
        """Texts as unit vectors [M, E] in the pictures' space.

        Raises:
            UsageError: the model has no such space, or a text holds nothing to look for.
        """
        if isinstance(texts, str):
            raise UsageError(f"texts {texts!r} is one text; give a list of them: [{texts!r}]")
        return self.alignment.texts(texts)

    @property
    def alignment(self) -> Alignment:
        """What compares pictures with texts. Raises UsageError where the model has no such part."""
        if self._load_alignment is None:
            cure = "search by tags instead" + (
                ", or ask for a text as a tag: tagger.typed([text])" if self.reads_text else ""
            )
            raise UsageError(
                f"{self.ref} has no aligner, which puts pictures and texts into one space; {cure}, or use a model "
                "that was trained with one"
            )
        return self._load_alignment()

    def ask(self, tokens: Array, texts: Sequence[str]) -> Array:
        """Scores [B, M] of texts as if they were tags, on pictures' tokens [B, N, C].

        Raises:
            UsageError: the model reads no text, or a text holds nothing to look for.
        """
        if self._open is None:
            raise UsageError(f"{self.ref} reads no text: it scores the tags it was trained on")
        vectors = self._open.text(texts)
        return self._open.ask(tokens, vectors[:, None], np.ones(len(vectors), np.int64))

    # -- what all of them need -----------------------------------------------------------------------

    def _select(
        self, threshold: float | None, top: int | None, language: str | None
    ) -> Callable[[Array], tuple[Tag, ...]]:
        """Scores [T] to tags. Raises UsageError for what cannot be meant."""
        # A few chosen tags may all lack a name in a language that their model has names in.
        if language is not None and language not in self._known.languages:
            self.vocabulary.require_language(language)
        return partial(
            self.vocabulary.select, threshold=_threshold(threshold), top=_top(top), language=language
        )

    def look(self, pixels: Array) -> Output:
        """What the engine makes of prepared pixels [B, 3, S, S] in [0, 1]. Raises ModelError: it is not finite."""
        return finite(self._engine(pixels), self.ref)

    def look_for(self, pixels: Array, columns: Sequence[int]) -> Output:
        """As `look`, with the scores [B, J] of some columns of `vocabulary`; far quicker where these are few.

        They are the same scores but for rounding.
        """
        wanted = np.asarray(columns, np.intp)
        own = wanted if self._columns is None else self._columns[wanted]
        some = getattr(self._engine, "some", None)
        output = None if some is None or (own < 0).any() else some(pixels, own)
        if output is None:
            output = self.look(pixels)
            return replace(output, scores=self._chosen(output)[:, wanted])
        return finite(output, self.ref)

    def vectors(self, output: Output) -> Array:
        """The unit vectors [B, E] of `look`'s answer; see `embed`."""
        from taglens.inference.alignment import unit

        return unit(output.pooled) if self._load_alignment is None else self.alignment.pictures(output.tokens)

    def tags_of(
        self,
        output: Output,
        *,
        threshold: float | None = None,
        top: int | None = None,
        language: str | None = None,
    ) -> list[tuple[Tag, ...]]:
        """The tags that `look`'s answer gives, picture by picture; arguments and errors as for `__call__`."""
        select = self._select(threshold, top, language)
        return [select(row) for row in self._chosen(output)]

    def sentences(self, output: Output, *, threshold: float | None = None) -> list[str]:
        """A caption for each picture of `look`'s answer; see `caption`."""
        guided = self._guided(None, threshold=threshold)
        return [written.captions[0].text for written in guided(output.tokens, self._chosen(output))]

    @property
    def knows(self) -> Vocabulary:
        """The model's own vocabulary, whose tags `Output.scores` are of, whatever was asked for since."""
        return self._known

    def scores(
        self, sources: Picture | Iterable[Picture], *, batch_size: int = 16
    ) -> Iterator[tuple[Path, Array | None]]:
        """Every tag's score [T] per picture, with its path; None where the picture could not be read."""
        batches = self._batches(sources, batch_size=batch_size)
        return (row for group, output in batches for row in self._scored(group, output))

    def _scored(self, group: list[Ready], output: Output | None) -> Iterator[tuple[Path, Array | None]]:
        rows = iter(() if output is None else self._chosen(output))
        for ready in group:
            yield ready.source.path, None if ready.error is not None else next(rows)

    def _predictions(
        self,
        group: list[Ready],
        output: Output | None,
        select: Callable[[Array], tuple[Tag, ...]],
        guided: Guided | None,
    ) -> Iterator[Prediction]:
        scores = () if output is None else self._chosen(output)
        tags = map(select, scores)
        found = iter(() if guided is None or output is None else guided(output.tokens, scores))
        for ready in group:
            well = ready.error is None
            written = next(found) if well and guided is not None else None
            yield Prediction(
                source=ready.source.shown,
                source_bytes=ready.source.source_bytes,
                width=ready.width,
                height=ready.height,
                tags=next(tags) if well else None,
                model=self.ref,
                vocabulary=self.vocabulary.ref,
                caption=None if written is None else written.captions[0].text,
                notes=ready.notes if written is None else (*ready.notes, *written.notes),
                error=None if ready.error is None else Failure.of(ready.error),
            )

    def _batches(
        self, sources: Any, *, batch_size: int, max_pixels: int = images.DEFAULT_MAX_PIXELS
    ) -> Iterator[tuple[list[Ready], Output | None]]:
        """Groups of pictures with what the engine says of those that could be read; None where none could."""
        groups = read_ahead(sources, batch_size=batch_size, side=self.side, max_pixels=max_pixels)

        def look(group: list[Ready]) -> tuple[list[Ready], Output | None]:
            pixels = [ready.pixels for ready in group if ready.pixels is not None]
            return group, self.look(np.stack(pixels)) if pixels else None

        return map(look, groups)

    def _chosen(self, output: Output) -> Array:
        """Scores [B, T] of the vocabulary's tags, typed ones among them."""
        if self._columns is None:
            return output.scores
        scores = output.scores[:, self._columns]
        if self._labels is not None and self._open is not None:
            asked = self._open.ask(output.tokens, self._labels.embeddings, self._labels.counts)
            scores[:, self._columns < 0] = asked
        return scores


def _threshold(threshold: float | None) -> float | None:
    """The threshold unchanged. Raises UsageError for one that is no probability."""
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise UsageError(f"threshold {threshold} is not between 0 and 1")
    return threshold


def _top(top: int | None) -> int | None:
    """The number unchanged. Raises UsageError for one below 0."""
    if top is not None and top < 0:
        raise UsageError(f"top {top} is below 0; 0 means no limit")
    return top
