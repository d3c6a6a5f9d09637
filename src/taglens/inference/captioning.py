"""Sentences about pictures whose tokens and tags' scores are known.

Knows how a caption may be searched for and which tags guide it; joins the words (`taglens.language.caption_text`),
the search (`taglens.inference.generation`) and an engine. Knows nothing of files of pictures.
Shapes: B pictures, N image tokens, C their width, T tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taglens.errors import ModelError, UsageError
from taglens.inference.bundle import GUIDE, PIECES, WRITER, Bundle
from taglens.inference.caption_engines import CaptionEngine, OnnxCaptionEngine, TorchCaptionEngine
from taglens.inference.constrained import MOST_DEMANDS, Demand, Joints, constrained_search
from taglens.inference.generation import (
    Beams,
    Bounds,
    Sampling,
    Step,
    Written,
    beam_search,
    greedy,
    sample,
)
from taglens.language.caption_forms import demand, joints, plain
from taglens.language.caption_text import CaptionText
from taglens.language.mentioned import Text
from taglens.language.wordpiece import WordPiece
from taglens.results import Caption, Kind, Tag
from taglens.vocabulary import Vocabulary, normalise

if TYPE_CHECKING:
    from taglens.models.lora import Adapter
    from taglens.models.recognizer import Recognizer

Array = npt.NDArray[np.float32]

# Beside beams that must mention tags. A tag that does not suit the picture costs the same wherever it stands; by the
# mean, more words would make up for it, and captions would ramble on: three tags each, in an n-gram model of
# Flickr8k's captions, gave 21 words a caption by the mean and 12 by this; people write 11.
LENGTH_POWER = 0.5


@dataclass(frozen=True, slots=True)
class Search:
    """How captions are searched for; the defaults are those of the published models (Tag2Text 1.4).

    Attributes:
        beams: open texts a picture; 1 takes the likeliest piece, again and again.
        sampling: draw instead; None: do not.
        number: captions a picture, best first; at most ``beams``, unless they are drawn.
        min_length, max_length: pieces, the prompt of four ("[DEC] a picture of") included.
        repetition_penalty: above 1, pieces that stand already are made less likely.
        must_mention: write so that each of the user's tags is said, by name or synonym, in a form that fits, as far
            as the greatest length allows; at most `taglens.inference.constrained.MOST_DEMANDS` tags. ``beams`` then
            counts for each number of pieces that are lacking, and shorter captions go before longer ones of nearly
            the same mean.
    """

    beams: int = 3
    sampling: Sampling | None = None
    number: int = 1
    min_length: int = 10
    max_length: int = 30
    repetition_penalty: float = 1.0
    must_mention: bool = False

    def __post_init__(self) -> None:
        if self.must_mention and self.sampling is not None:
            raise UsageError("what must be mentioned is searched for and cannot be drawn; give one")
        if self.beams < 1:
            raise UsageError(f"beams must be 1 or more, found {self.beams}")
        if self.number < 1:
            raise UsageError(f"number must be 1 or more, found {self.number}")
        if self.sampling is None and self.number > self.beams:
            raise UsageError(
                f"{self.number} captions a picture need as many beams, found {self.beams}; raise the beams, or sample"
            )
        self.bounds(end=0)  # refuses what cannot be meant

    def bounds(self, *, end: int) -> Bounds:
        return Bounds(end, self.max_length, self.min_length, self.repetition_penalty)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One caption found: its words, and its score as `taglens.inference.generation.Written` has it."""

    text: str
    score: float


class CaptionWriter:
    """A captioner with its words.

    Args:
        positions: most pieces of a caption that the engine can write.
        most_tags: see `guiding`.
        answers: whether it was taught to answer questions, too (`taglens.inference.answering`).
    """

    def __init__(
        self,
        engine: CaptionEngine[Any],
        text: CaptionText,
        *,
        positions: int,
        most_tags: int = 0,
        answers: bool = False,
    ) -> None:
        self.most_tags = most_tags
        self.answers = answers
        self._engine = engine
        self._text = text
        self._positions = positions
        self._joints: Joints | None = None  # takes a look at every piece

    def read_of(self, tags: Sequence[str]) -> int:
        """How many of the tags, from the first, the model reads whole: lists are cut at a number of pieces."""
        return self._text.whole_tags(tags)

    @property
    def text(self) -> CaptionText:
        """Its words."""
        return self._text

    @property
    def step(self) -> Step[Any]:
        """What writes a piece more, from what `look` begins with."""
        return self._engine.step

    @property
    def lengths(self) -> range:
        """The greatest lengths that can be asked for, in pieces: a piece more than the prompt, to all positions."""
        return range(len(self._text.prompt_ids) + 1, self._positions + 1)

    def check(self, search: Search) -> None:
        """Raises UsageError for longer captions than the model can write, or none longer than its prompt."""
        if search.max_length not in self.lengths:
            raise UsageError(
                f"max_length {search.max_length} cannot be: captions of this model have {self.lengths[0]} to "
                f"{self.lengths[-1]} pieces, its prompt of {len(self._text.prompt_ids)} included"
            )

    def demand(self, names: Sequence[str], kind: Kind | None = None) -> Demand:
        """The ways to say one of a tag's names, in pieces; none where the model cannot write any."""
        return demand(self._text.pieces, names, kind)

    def write(
        self,
        tokens: Array,
        guides: Sequence[Sequence[str]],
        search: Search,
        *,
        demands: Sequence[Demand] = (),
    ) -> list[list[Sentence]]:
        """Captions of each picture, best first.

        Args:
            tokens: [B, N, C], as the model's recogniser gives them.
            guides: per picture the tags that the captions are to be about.
            demands: what every caption is to say where the search has ``must_mention``, see `demand`.

        Raises:
            UsageError: see `check`.
            ModelError: the model's scores are not finite.
        """
        self.check(search)
        state = self.look(tokens, guides)
        prompts = np.tile(np.array(self._text.prompt_ids, np.int64), (len(guides), 1))
        if search.must_mention:
            found = self._constrained(state, prompts, search, demands)
        else:
            found = self._search(state, prompts, search)
        return [[Sentence(self._text.read(one.ids), one.score) for one in texts] for texts in found]

    def look(self, tokens: Array, guides: Sequence[Sequence[str]]) -> Any:
        """What the engine begins with: pictures by their tokens [B, N, C], each with tags to look at it with."""
        if len(tokens) != len(guides):
            raise ModelError(f"{len(tokens)} pictures and {len(guides)} lists of tags")
        pieces = [self._text.tags(tags) for tags in guides]
        ids = np.array([one.ids for one in pieces], np.int64)
        mask = np.array([one.mask for one in pieces], np.int64)
        return self._engine.start(ids, mask, np.ascontiguousarray(tokens))

    def _search(self, state: Any, prompts: npt.NDArray[np.int64], search: Search) -> list[list[Written]]:
        step, bounds = self._engine.step, search.bounds(end=self._text.pieces.sep)
        if search.sampling is not None:
            drawn = [
                sample(
                    step, state, prompts, bounds, replace(search.sampling, seed=search.sampling.seed + more)
                )
                for more in range(search.number)
            ]
            # The likeliest of them first; of equals, the one drawn first.
            return [sorted(each, key=lambda one: -one.score) for each in map(list, zip(*drawn, strict=True))]
        if search.beams == 1:
            return [[one] for one in greedy(step, state, prompts, bounds)]
        return beam_search(step, state, prompts, bounds, Beams(search.beams, search.number))

    def _constrained(
        self, state: Any, prompts: npt.NDArray[np.int64], search: Search, demands: Sequence[Demand]
    ) -> list[list[Written]]:
        if self._joints is None:
            self._joints = Joints(*joints(self._text.pieces))
        power = LENGTH_POWER if any(demands) else 1.0
        found = constrained_search(
            self._engine.step,
            state,
            prompts,
            search.bounds(end=self._text.pieces.sep),
            [demands] * len(prompts),
            self._joints,
            Beams(search.beams, search.number, length_penalty=power),
        )
        return [[_by_mean(one.text, power) for one in answers] for answers in found]


def _by_mean(text: Written, power: float) -> Written:
    """The text with its mean log-probability in place of its sum divided by a power of its length."""
    return replace(text, score=text.score * (len(text.ids) - text.ended) ** (power - 1.0))


def bundled_writer(bundle: Bundle, *, device: str, threads: int | None) -> CaptionWriter:
    """The captioner of a bundle that has one. Raises ModelError when its files are damaged or do not fit."""
    parts = bundle.captioner
    if parts is None:
        raise ModelError(f"{bundle.ref} has no captioner")
    bundle.verify_captioner()
    folder = bundle.folder
    engine = OnnxCaptionEngine(
        folder / GUIDE, folder / WRITER, see_padding=parts.see_padding, device=device, threads=threads
    )
    text = _text(folder / PIECES, length=parts.tag_length, pieces=parts.pieces)
    return CaptionWriter(
        engine, text, positions=parts.positions, most_tags=parts.most_tags, answers=parts.answers
    )


def trained_writer(
    folder: Path, model: Recognizer, *, device: str, adapter: Adapter | None = None
) -> CaptionWriter:
    """The captioner of a model folder that has one, with an adapter for it; ``model`` is the folder's own.

    Raises ModelError as above, MismatchError for an adapter of other sizes.
    """
    from taglens.models.checkpoint import captioner_from_pretrained

    captioner = captioner_from_pretrained(folder, model)
    if captioner is None:
        raise ModelError(f"{folder} has no captioner")
    if adapter is not None:
        from taglens.models.lora import merge

        captioner = merge(captioner, adapter.state, adapter.config)
    config = captioner.config
    text = _text(folder / PIECES, length=config.tag_length, pieces=config.words)
    engine = TorchCaptionEngine(captioner, device=device)
    return CaptionWriter(
        engine, text, positions=config.positions, most_tags=config.most_tags, answers=config.answers
    )


def _text(path: Path, *, length: int, pieces: int) -> CaptionText:
    words = WordPiece.load(path)
    if len(words) != pieces:
        raise ModelError(
            f"{path} has {len(words):,} pieces, [DEC] and [ENC] included, and the captioner writes with {pieces:,}; "
            "put the model's own vocab.txt there"
        )
    return CaptionText(words, length=length)


def guiding(found: Sequence[Tag], vocabulary: Vocabulary, *, most: int) -> list[Tag]:
    """Those of the tags recognised in a picture that guide its captions.

    Args:
        found: by falling score.
        most: at most so many, the surest, and none that another of them implies: "dog" says "animal". 0: all of
            them, in the vocabulary's order, which is how the published models read them.
    """
    if not most:
        return sorted(found, key=lambda tag: vocabulary.position(tag.id))
    columns = {tag.id: vocabulary.position(tag.id) for tag in found if tag.id in vocabulary}
    implied = {
        column for own in columns.values() for column in vocabulary.with_parents([own]) if column != own
    }
    return [tag for tag in found if columns.get(tag.id) not in implied][:most]


def with_given(given: Sequence[str], recognised: Sequence[str]) -> tuple[str, ...]:
    """The user's tags, then those recognised; each once where there are any of the user's."""
    return distinct((*given, *recognised)) if given else tuple(recognised)


@dataclass(frozen=True, slots=True)
class Described:
    """A picture's captions, best first, the tags that guided them, and what its owner may want to know."""

    captions: tuple[Caption, ...]
    guide: tuple[str, ...]
    notes: tuple[str, ...]


class Guided:
    """Writes captions guided by tags: the user's, those recognised, or both.

    Args:
        vocabulary: what the columns of the scores mean, with the thresholds at which a tag is recognised.
        known: where synonyms of the user's tags are looked up.
        given: the user's tags, any words; they are read first.
        threshold: in place of the tags' own.
        recognise: whether recognised tags guide the captions at all.

    Raises:
        UsageError: as `CaptionWriter.check`; ``must_mention`` without tags of the user, or with too many.
    """

    def __init__(
        self,
        writer: CaptionWriter,
        vocabulary: Vocabulary,
        *,
        known: Vocabulary,
        given: tuple[str, ...] = (),
        threshold: float | None = None,
        recognise: bool = True,
        search: Search = Search(),
    ) -> None:
        writer.check(search)
        self.given = distinct(given)
        self._writer = writer
        self._vocabulary = vocabulary
        self._known = known
        self._threshold = threshold
        self._recognise = recognise
        self._search = search
        self._demands = self._asked() if search.must_mention else ()

    def _asked(self) -> tuple[Demand, ...]:
        """What every caption must say: the user's tags."""
        if not self.given:
            raise UsageError(
                "captions must mention your tags, and there are none; give some, or leave them free"
            )
        if len(self.given) > MOST_DEMANDS:
            raise UsageError(
                f"a caption can be made to mention at most {MOST_DEMANDS} tags, found {len(self.given)}; "
                "give fewer, or leave captions free to leave some out"
            )
        return tuple(self._writer.demand(self._names(tag), self._kind(tag)) for tag in self.given)

    def __call__(self, tokens: Array, scores: Sequence[Array] | Array) -> list[Described]:
        """Captions of pictures by their tokens [B, N, C] and the tags' scores [B, T]."""
        guides = [self._guide(row) for row in scores]
        found = self._writer.write(tokens, guides, self._search, demands=self._demands)
        return [
            Described(tuple(self._caption(one, guide) for one in sentences), guide, self._notes(guide))
            for guide, sentences in zip(guides, found, strict=True)
        ]

    def _guide(self, scores: Array) -> tuple[str, ...]:
        recognised: list[str] = []
        if self._recognise:
            found = self._vocabulary.select(scores, threshold=self._threshold)
            chosen = guiding(found, self._vocabulary, most=self._writer.most_tags)
            recognised = [tag.name for tag in chosen]
        return with_given(self.given, recognised)

    def _notes(self, guide: tuple[str, ...]) -> tuple[str, ...]:
        read = self._writer.read_of(guide)
        if read == len(guide):
            return ()
        return (f"{read} of {len(guide)} guide tags were read whole: the model has no room for more",)

    def _caption(self, found: Sentence, guide: tuple[str, ...]) -> Caption:
        text = Text(found.text)
        said = {tag for tag in guide if text.mentions(self._names(tag))}
        return Caption(
            found.text,
            found.score,
            mentioned=tuple(tag for tag in dict.fromkeys(guide) if tag in said),
            unmet=tuple(tag for tag in self.given if tag not in said),
        )

    def _names(self, tag: str) -> tuple[str, ...]:
        """A tag's name, as it is and as pieces spell it, and its synonyms, where the model knows it."""
        column = self._known.find(tag)
        known = () if column is None else (self._known[column].name, *self._known[column].synonyms)
        return tuple(dict.fromkeys(name for each in (tag, *known) for name in (each, plain(each))))

    def _kind(self, tag: str) -> Kind | None:
        column = self._known.find(tag)
        return None if column is None else self._known[column].kind


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, as it was first written."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(normalise(name), name)
    return tuple(first.values())
