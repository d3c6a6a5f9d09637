"""``taglens tag``: files, folders and patterns in, one row per picture out.

Knows the options. Refuses to know how a picture is tagged (`taglens.inference.tagger`), what an argument names
(`taglens.inference.sources`) and how rows are ordered, counted and shown (`taglens.cli.rows`).
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli.console import say
from taglens.cli.listing import MOST_TAGS, Listing
from taglens.cli.options import (
    AddTags,
    AsRows,
    BatchSize,
    Caption,
    Device,
    Engine,
    Language,
    MaxPixels,
    Model,
    Quiet,
    Sources,
    Tags,
    Threshold,
    Top,
    VocabularyFile,
)
from taglens.cli.rows import Tally, conclude, deliver, rows, show_json, watched
from taglens.errors import UsageError
from taglens.inference.sources import Found, Source, Unopened, expand
from taglens.results import Prediction

if TYPE_CHECKING:
    from taglens.inference.tagger import Tagger
    from taglens.vocabulary import Entry, Vocabulary

MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class TagOptions:
    """What ``taglens tag`` can be told; refuses what cannot be meant.

    Attributes:
        tags: names, synonyms or ids to choose among, or None for the model's own vocabulary; what the model was not
            taught is scored as text.
        add_tags: ``tags`` join the vocabulary instead of replacing it.
        language: tags are given by their names in it, and ``tags`` may be written in it; None: the vocabulary's own.
        threshold: None takes the model's stored ones.
        top: at most this many tags; None or 0: no limit.
        max_pixels: None takes the library's limit.
        threads: of the engine; None: all cores.
    """

    model: str = "starter"
    tags: tuple[str, ...] | None = None
    add_tags: bool = False
    vocabulary: Path | None = None
    language: str | None = None
    threshold: float | None = None
    top: int | None = None
    batch_size: int = 16
    max_pixels: int | None = None
    device: str = "auto"
    engine: str = "auto"
    threads: int | None = None
    caption: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise UsageError(f"--threshold must lie between 0 and 1, found {self.threshold:g}")
        if self.top is not None and self.top < 0:
            raise UsageError(f"--top must be 0 (no limit) or more, found {self.top}")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size must be 1 or more, found {self.batch_size}")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise UsageError(f"--max-pixels must be 1 or more, found {self.max_pixels}")
        if self.tags == ():
            raise UsageError('--tags names no tag; expected names with commas between them: --tags "dog,cat"')
        if self.add_tags and self.tags is None:
            raise UsageError('--add-tags says what to do with --tags; give both: --tags "dog,cat" --add-tags')
        if self.tags is not None and self.vocabulary is not None and not self.add_tags:
            raise UsageError(
                "--tags and --vocabulary both replace the vocabulary; give one, or join: --add-tags"
            )


def split_tags(text: str | None) -> tuple[str, ...] | None:
    """``"a, b"`` to names; empty pieces fall out; None stays None. A full-width comma divides as well."""
    if text is None:
        return None
    return tuple(piece.strip() for piece in text.replace("，", ",").split(",") if piece.strip())


def load_tagger(options: TagOptions) -> Tagger:
    """The model, restricted to the wanted tags.

    Raises:
        ModelError: no such model, or a folder that is none.
        UsageError: ``tags`` names what the model does not know.
        VocabularyError: so does the vocabulary file, or it cannot be read.
    """
    # Looked up here: the engine behind it is heavy, and a wrong option should not have to wait for it.
    from taglens.inference.tagger import Tagger

    tagger = Tagger.from_pretrained(
        options.model, engine=options.engine, device=options.device, threads=options.threads
    )
    wanted = wanted_vocabulary(tagger.vocabulary, options, open_set=tagger.reads_text)
    if wanted is not None:
        tagger = tagger.with_vocabulary(wanted)
        if guesses := tagger.guesses():
            names = ", ".join(repr(name) for name in guesses[:MOST_NAMED])
            more = f" and of {len(guesses) - MOST_NAMED} more tags" if len(guesses) > MOST_NAMED else ""
            say(f"note: no word of {names}{more} is known; what it scores is a guess from its spelling")
    if options.language is not None:
        _say_untranslated(tagger.vocabulary, options.language)
    return tagger


def _say_untranslated(vocabulary: Vocabulary, language: str) -> None:
    """Once, how many tags keep their own names."""
    shown = [entry for entry in vocabulary if not entry.hidden]
    without = sum(language not in entry.translations for entry in shown)
    if without:
        say(f"note: {without} of {len(shown)} tags have no name in {language!r} and keep their own")


def wanted_vocabulary(known: Vocabulary, options: TagOptions, *, open_set: bool) -> Vocabulary | None:
    """The vocabulary that the options ask for, or None where the model's own stays.

    Args:
        open_set: whether the model reads text; then a tag it does not know is a typed one, else an error.
    """
    from taglens.vocabulary import Entry, Vocabulary, normalise

    base = None if options.vocabulary is None else Vocabulary.load(options.vocabulary)
    if options.language is not None:
        # Before the tags: what they mean depends on it.
        (known if base is None else base).require_language(options.language)
    if options.tags is None:
        return base
    entries: dict[str, Entry] = {}
    unknown: list[str] = []
    for tag in options.tags:
        found = _known_tag(tag, known, base, options.language)
        entry = found or Entry(normalise(tag), "typed")
        # A hidden tag is never given, so that asking for it would silently find nothing.
        if entry.hidden or (found is None and not open_set):
            unknown.append(tag)
        entries.setdefault(entry.id, entry)
    if unknown:
        raise UsageError(_unknown_tags(unknown, known, options.language))
    if not options.add_tags:
        return Vocabulary(entries.values(), name=f"{known.name}-chosen")
    joined = known if base is None else base
    missing = [entry for entry in entries.values() if entry.id not in joined]
    if base is None and not missing:
        return None
    return joined.with_entries([*joined, *missing])


def _known_tag(tag: str, known: Vocabulary, base: Vocabulary | None, language: str | None) -> Entry | None:
    """The tag that an id, a name or a synonym means, or a name in ``language``; None where it is none of these."""
    if tag in known:
        return known[known.position(tag)]
    if language is not None and base is not None:
        column = base.find(tag, language=language)
        if column is not None:
            return base[column]
    column = known.find(tag, language=language)
    return None if column is None else known[column]


def _unknown_tags(unknown: list[str], known: Vocabulary, language: str | None) -> str:
    from taglens.vocabulary import normalise

    names = {
        normalise(name): name
        for entry in known
        if not entry.hidden
        for name in (*entry.synonyms, entry.name, entry.translations.get(language or "", entry.name))
    }
    parts = []
    for tag in unknown:
        near = [names[key] for key in difflib.get_close_matches(normalise(tag), names, n=3)]
        parts.append(f"{tag!r} ({'nearest: ' + ', '.join(near) if near else 'nothing near'})")
    given = sum(not entry.hidden for entry in known)
    return (
        f"--tags: this model does not give {', '.join(parts)}: choose among the {given} tags of {known.ref}, "
        "by name or synonym"
    )


def predictions(
    tagger: Tagger, found: Iterable[Found], options: TagOptions, *, tally: Tally
) -> Iterator[tuple[Prediction, Path]]:
    """One prediction per picture, with its path; see `taglens.cli.rows.rows`."""
    limits: dict[str, Any] = {} if options.max_pixels is None else {"max_pixels": options.max_pixels}
    if options.language is not None:
        limits["language"] = options.language
    if options.caption:
        limits["caption"] = True

    def tag(pictures: Iterator[Source]) -> Iterator[Prediction]:
        return tagger(
            pictures, threshold=options.threshold, top=options.top, batch_size=options.batch_size, **limits
        )

    def barred(item: Unopened) -> Prediction:
        return Prediction(
            source=item.source.shown,
            width=None,
            height=None,
            tags=None,
            model=tagger.ref,
            vocabulary=tagger.vocabulary.ref,
            error=item.failure,
            source_bytes=item.source.source_bytes,
        )

    return rows(found, tag, barred, tally=tally)


def card(tagger: Tagger) -> str:
    """The line that says which model gave the tags."""
    return f"Model {tagger.ref}, vocabulary {tagger.vocabulary.ref} with {len(tagger.vocabulary)} tags"


def run(
    sources: Sources,
    *,
    model: Model = "starter",
    tags: Tags = None,
    add_tags: AddTags = False,
    vocabulary: VocabularyFile = None,
    language: Language = None,
    threshold: Threshold = None,
    top: Top = None,
    caption: Caption = False,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    engine: Engine = "auto",
    max_pixels: MaxPixels = None,
    json: AsRows = False,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Also write a self-contained HTML page.")
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Say what is in pictures: one row each, in the order given.

    Folders are walked; what is hidden there, or no image, is skipped and counted.

    A picture that cannot be used gets a row that says why; the exit status is then 1.
    """
    options = TagOptions(
        model=model,
        tags=split_tags(tags),
        add_tags=add_tags,
        vocabulary=vocabulary,
        language=language,
        threshold=threshold,
        top=top,
        batch_size=batch_size,
        max_pixels=max_pixels,
        device=device,
        engine=engine,
        caption=caption,
    )
    tagger = load_tagger(options)
    tally = Tally()
    found, progress = watched(expand(sources), quiet=quiet)
    show = show_json if json else Listing(sys.stdout, most=MOST_TAGS if options.top is None else None).show
    stream = deliver(predictions(tagger, found, options, tally=tally), show, tally=tally, progress=progress)
    if page is None:
        for _ in stream:
            pass
    else:
        from taglens.collection.page import write_page

        write_page(stream, page, title="What is in these pictures", card=card(tagger))
    return conclude(tally, quiet=quiet, more="" if page is None else f"; page: {page}")
